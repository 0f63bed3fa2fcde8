"""Runs of one method that differ in their training seed alone: pooled, with the seeds as the sample.

A report lists each run; what it says of the *method* comes from here, and a ranking from few seeds carries a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from valign.errors import ValignError
from valign.evaluation.measure.recompute import statistic_of
from valign.evaluation.result import Result
from valign.evaluation.seeds import MIN_SEEDS, compare_seeds
from valign.report.roles import Role
from valign.report.subject import Row, SubjectReport
from valign.report.words import change


def families(subjects: Sequence[SubjectReport]) -> dict[str, list[SubjectReport]]:
    """{method: its runs}, the base left out; a subject without a group is a method of its own."""
    out: dict[str, list[SubjectReport]] = {}
    for s in subjects:
        if not s.base:
            out.setdefault(s.group or f"\0{s.id}", []).append(s)
    return {(runs[0].name if key.startswith("\0") else key): runs for key, runs in out.items()}


def few_seeds(subjects: Sequence[SubjectReport]) -> list[str]:
    """Methods that were trained, with fewer seeds in all their runs together than a ranking needs."""
    counts = {name: sum(s.seeds for s in runs) for name, runs in families(subjects).items()}
    return [name for name, count in counts.items() if 0 < count < MIN_SEEDS]


def pooled(
    subjects: Sequence[SubjectReport],
    roles: Mapping[str, Mapping[str, Row]],
    role: Role,
    base: str | None,
    statistic: Any = None,
    margin: float | None = None,
) -> list[Row]:
    """One difference to the base per method with several runs: the JSON of `compare_seeds` and "method", "runs".

    Items stay with the runs. A method whose runs cannot be compared item by item is left out.
    """
    start = roles.get(base or "", {}).get(role.id)
    out = []
    for name, runs in families(subjects).items():
        rows = [roles[s.id].get(role.id) for s in runs]
        if start is None or len(runs) < 2 or not all(r and isinstance(r.get("items"), list) and r["items"] for r in rows):
            continue
        try:
            trained, begun = [Result.from_json(r) for r in rows if r], Result.from_json(start)
            known = statistic or statistic_of(begun, trained[0])
            found = compare_seeds(trained, begun, name=name, subset=True, statistic=known, margin=margin)
        except ValignError:
            continue  # no means, other metrics: the runs' own rows say what is known
        if found.result.n:
            row = {k: v for k, v in found.to_json().items() if k not in ("items", "provenance")}
            out.append({**row, "method": name, "runs": [s.id for s in runs]})
    return out


def sentence(row: Mapping[str, Any], role: Role) -> str:
    """What may be said of a method over its training seeds."""
    seeds, said = len(row["runs"]), change(row, role)
    head = f"Over {seeds} training seeds {row['method']} changed {role.title} by {said}"
    match row["conclusion"]:
        case "better" | "worse":
            p = f", p = {row['p_adjusted']:.2g} after correction" if row.get("p_adjusted") is not None else ""
            return f"{head}: {row['conclusion']} beyond the luck of the seed{p}."
        case "no difference":
            return f"{head}: no difference that matters."
    return f"{head}: not told apart from the luck of the seed."
