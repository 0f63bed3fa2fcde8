"""Paired differences of the headline numbers: each policy against the base, and the best against the rest.

Two policies are compared item by item or not at all; two separate intervals never decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from valign.errors import ValignError
from valign.evaluation.comparisons import CORRECTIONS, Adjustment
from valign.evaluation.conclusion import conclude, smallest_detectable
from valign.evaluation.measure.recompute import statistic_of
from valign.evaluation.result import Interval, Result, compare
from valign.evaluation.sequential import at_every_look
from valign.report.roles import Role
from valign.report.subject import Row


def difference(
    a: Row, b: Row, given: Sequence[Row] = (), statistic: Any = None, margin: float | None = None, planned: int | None = None
) -> Row | None:
    """a minus b as JSON: a Result with "p", "test", "flips", "mde", "margin" and "conclusion"; None where nothing pairs
    them.


    given   Results measured elsewhere; one of the same metric, variant and subjects is taken before anything
            is computed
    statistic  see `evaluation.compare`; for metrics that are no mean of their items and not known to `statistic_of`
    margin  largest difference that does not matter; conclusion: what may be said (see `evaluation.conclusion`)
    planned clusters that are expected in all, where more than one look is taken: interval and p then hold at every look
            (`evaluation.sequential`), and there is no mde
    flips   items on which a is higher, lower, equal     mde   smallest change found in 80 % of such tests
    """
    wanted = (a["metric"], a["variant"], f"{a['subject']} vs {b['subject']}")
    known = next((dict(g) for g in given if (g["metric"], g["variant"], g["subject"]) == wanted), None)
    row = known or _compare(a, b, statistic, planned)
    if row is None:
        return None
    items = row.pop("items", None)
    scores = [i["score"] for i in items if i.get("score") is not None] if isinstance(items, list) else []
    se = row.get("se")
    return {
        "p": None,
        "test": "none",
        "p_adjusted": None,
        **row,
        "mde": smallest_detectable(se) if planned is None else None,
        "margin": margin,
        "conclusion": conclude(Interval(**ends) if (ends := row.get("interval")) else None, row["direction"], margin),
        "flips": {
            "up": sum(s > 0 for s in scores),
            "down": sum(s < 0 for s in scores),
            "same": sum(s == 0 for s in scores),
        }
        if scores
        else None,
    }


def _compare(a: Row, b: Row, statistic: Any, planned: int | None) -> Row | None:
    if not (
        isinstance(a.get("items"), list) and isinstance(b.get("items"), list) and a["items"] and b["items"]
    ):
        return None
    one, other = Result.from_json(a), Result.from_json(b)
    try:
        found = compare(one, other, subset=True, statistic=statistic or statistic_of(one, other))
    except ValignError:
        return None  # no mean and no known statistic, or another metric: the pipeline must bring its own difference
    if found.result.n == 0:
        return None
    if planned is not None:
        found = at_every_look(found, planned)
    return {**found.result.to_json(), "p": found.p, "test": found.test}


def adjust(rows: Sequence[Row | None], how: Adjustment = "holm") -> None:
    """Write the adjusted p into the comparisons of one family that have a p: Holm's for the planned ones."""
    tested = [r for r in rows if r is not None and r.get("p") is not None]
    if tested:
        for row, p in zip(tested, CORRECTIONS[how]([r["p"] for r in tested]), strict=True):
            row["p_adjusted"] = float(p)


def verdict(row: Mapping[str, Any] | None, role: Role) -> str:
    """better, worse, none (the paired interval covers 0, or lies inside the margin) or unknown (no paired interval)."""
    ends = (row or {}).get("interval")
    if row is None or not ends or row.get("value") is None:
        return "unknown"
    if ends["low"] <= 0 <= ends["high"] or row.get("conclusion") == "no difference":
        return "none"
    return "better" if (row["value"] < 0) == (role.better == "down") else "worse"


def standing(roles: Mapping[str, Row], *, base: bool) -> dict[str, float | None]:
    """{axis: value, smaller is better}: what counts where policies are ranked by dominance, in the table and on the plane.

    Axes: the gaps M, 1 - V and T (evaluation notes 2.1), the reward that is missing, and the KL that it took. The base has
    lost nothing and moved nowhere, by definition. Time and memory are no axes: they are the machine's, not the policy's.
    """
    mine = {k: r.get("value") for k, r in roles.items()}
    gap, reward = mine.get("V"), mine.get("reward")
    return {
        "M": mine.get("M"),
        "1 - V": None if gap is None else 1 - gap,
        "reward": None if reward is None else -reward,
        "T": mine.get("T", 0.0 if base else None),
        "KL": mine.get("KL", 0.0 if base else None),
    }


def dominated(points: Mapping[str, Mapping[str, float | None]]) -> tuple[list[str], dict[str, list[str]]]:
    """(axes used, {id: ids that dominate it}): at least as good on every axis, better on one.

    points   {id: {axis: value}}, smaller is better. Only axes on which every point has a value are used; by
             point estimates, so a hair's breadth counts: it is a mark in a table, not a verdict
    """
    axes = [
        k
        for k in dict.fromkeys(k for p in points.values() for k in p)
        if all(p.get(k) is not None for p in points.values())
    ]
    place = {name: tuple(p[k] for k in axes) for name, p in points.items()}

    def beats(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    return axes, {one: [other for other in place if beats(place[other], place[one])] for one in place}
