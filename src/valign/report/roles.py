"""Which Result is M, which is V, T, KL and reward, and where each stands on the gap axis (evaluation notes
2.1).

The report knows the few numbers of its headline by the names of their metrics; all others are shown as what
they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from valign.errors import require
from valign.report.subject import Row


@dataclass(frozen=True)
class Role:
    """A place in the headline.

    metrics   names of Results that may take it, best first     title, gap_title  in words, of the value and
              of its gap
    better    "down" or "up"                                    gap  how the value maps to the gap axis, None:
              not at all
    """

    id: str
    title: str
    gap_title: str
    better: str
    gap: str | None
    metrics: tuple[str, ...]
    meaning: str


ROLES = {
    r.id: r
    for r in (
        Role(
            "M",
            "misalignment M",
            "misalignment M",
            "down",
            "same",
            ("misalignment.M", "misalignment.components"),
            "share of response pairs ordered against the goal: 0 as the goal orders, 0.5 a coin, 1 reversed",
        ),
        Role(
            "V",
            "value alignment V",
            "value gap 1 − V",
            "up",
            "one minus",
            ("value.V", "survey.S"),
            "nearness of the shown values to the target: 1 equal, 0 the opposite in every dimension",
        ),
        Role(
            "T",
            "alignment tax T",
            "alignment tax T",
            "down",
            "same",
            ("tax.T",),
            "share of the ability above chance that was lost: 0 nothing, 1 all",
        ),
        Role(
            "KL",
            "KL from base",
            "",
            "down",
            None,
            ("kl.policy_reference",),
            "how far the policy moved from its reference, nats per response",
        ),
        Role(
            "reward",
            "reward",
            "",
            "up",
            None,
            ("reward.mean", "goal.utility"),
            "mean utility of its own responses under the goal",
        ),
    )
}
OF_BENCHMARKS = replace(
    ROLES["M"], metrics=("misalignment.components", "misalignment.M"),
    meaning="weighted mean of the places on the goal's benchmarks: 0 best on each of them, 1 worst on each",
)  # fmt: skip
COMPARED = ("T", "KL")  # numbers of a policy against the base
PRIMARY = {"order": "M", "components": "M", "profile": "V", "distribution": "V", "structure": "V"}


def primary_role(primary: str) -> Role:
    """The role that a goal's named primary is read from. Raises `ValignError` for an unknown primary."""
    require(primary in PRIMARY, "primary", primary, f"one of {', '.join(PRIMARY)}")
    return roles_for(primary)[PRIMARY[primary]]


def roles_for(primary: str) -> Mapping[str, Role]:
    """The roles of a report with this primary: where that is `components`, M is read from the goal's benchmarks."""
    return {**ROLES, "M": OF_BENCHMARKS} if primary == "components" else ROLES


def assign(
    results: Mapping[str, Sequence[Row]], level: str | None, primary: str = "order"
) -> dict[str, dict[str, Row]]:  # fmt: skip
    """{subject: {role id: Result}}: one metric and variant for all subjects, because others cannot be
    compared.

    Of several that fit, the goal's own level wins, then the one that most subjects have, then the order of
    `metrics`, then the first one measured.
    """
    out: dict[str, dict[str, Row]] = {subject: {} for subject in results}
    for role in roles_for(primary).values():
        fits: dict[tuple[str, str, str], dict[str, Row]] = {}
        for subject, rows in results.items():
            for r in rows:
                if r["metric"] in role.metrics:
                    fits.setdefault((r["level"], r["metric"], r["variant"]), {}).setdefault(subject, r)
        if fits:
            best = min(fits, key=lambda k: (k[0] != level, -len(fits[k]), role.metrics.index(k[1])))
            for subject, r in fits[best].items():
                out[subject][role.id] = r
            if (
                role.id == "KL"
            ):  # a policy whose KL is only bounded still has a place; its cell names the variant
                for found in fits.values():
                    for subject, r in found.items():
                        out[subject].setdefault(role.id, r)
    return out


def is_baseline(result: Mapping[str, Any]) -> bool:
    """Whether a Result is of no policy: its subject is written "baseline: <what>"."""
    return str(result["subject"]).startswith("baseline:")


def cell(result: Mapping[str, Any] | None) -> Row:
    """What a table shows of a Result: value, unit, interval, n, unscored, notes."""
    if result is None:
        return {
            "value": None,
            "unit": "share",
            "interval": None,
            "n": 0,
            "unscored": 0,
            "variant": None,
            "notes": [],
        }
    return {
        "value": result.get("value"),
        "unit": result.get("unit", "share"),
        "interval": result.get("interval"),
        "n": result.get("n", 0),
        "unscored": sum((result.get("n_unscored") or {}).values()),
        "variant": result.get("variant"),
        "notes": list(result.get("notes") or ()),
    }


def place_cell(role: str, result: Mapping[str, Any] | None, *, base: bool) -> Row:
    """`cell`, and with "reference" whether the policy is what others are compared with, so that no such number exists.

    A Result without a value is no reference: it was measured, and is unscored.
    """
    return {**cell(result), "reference": base and result is None and role in COMPARED}


def gap(role: Role, result: Mapping[str, Any]) -> Row:
    """{"gap", "low", "high"} on the gap axis: 0 nothing left to do. Not clipped; the drawing is."""
    ends = result.get("interval") or {}
    place = [result.get("value"), ends.get("low"), ends.get("high")]
    if role.gap == "one minus":
        place = [None if x is None else 1 - x for x in (place[0], place[2], place[1])]
    return dict(zip(("gap", "low", "high"), place, strict=True))


def ticks(role: Role, results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Anchors on the gap axis: {"at", "label"}; best is 0 by definition."""
    marks: list[Row] = [{"at": 0.0, "label": "best"}]
    if role == OF_BENCHMARKS:
        return [*marks, {"at": 1.0, "label": "worst"}]
    if role.id == "M":
        return [*marks, {"at": 0.5, "label": "coin"}, {"at": 1.0, "label": "reversed"}]
    neutral = next(
        (r["anchors"]["chance"] for r in results if (r.get("anchors") or {}).get("chance") is not None), None
    )
    if role.id == "V" and neutral is not None:
        marks.append({"at": 1 - neutral, "label": "shows no value"})
    return [*marks, {"at": 1.0, "label": "opposite" if role.id == "V" else "all lost"}]
