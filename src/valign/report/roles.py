"""Which Result is M, which is V, T, KL and reward, and where each stands on the gap axis (spec/evaluation.md 2.1).

The report knows the few numbers of its headline by the names of their metrics; all others are shown as what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from valign.errors import require
from valign.report.subject import Row


@dataclass(frozen=True)
class Role:
    """A place in the headline.

    metrics   names of Results that may take it, best first     title, gap_title  in words, of the value and of its gap
    better    "down" or "up"                                    gap  how the value maps to the gap axis, None: not at all
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
        Role("M", "misalignment M", "misalignment M", "down", "same",
             ("misalignment", "order.misalignment", "goal.misalignment", "components.misalignment", "m"),
             "share of response pairs ordered against the goal: 0 as the goal orders them, 0.5 a coin, 1 reversed"),
        Role("V", "value alignment V", "value gap 1 − V", "up", "one minus",
             ("value_alignment", "value.alignment", "profile.alignment", "values.alignment", "v"),
             "nearness of the shown values to the target: 1 equal, 0 the opposite in every dimension"),
        Role("T", "alignment tax T", "alignment tax T", "down", "same",
             ("alignment_tax", "tax.aggregate", "tax", "t"),
             "share of the ability above chance that was lost: 0 nothing, 1 all; a negative tax is a gain"),
        Role("KL", "KL from base", "", "down", None,
             ("kl", "kl.reference", "kl_reference", "kl.sequence", "divergence.kl"),
             "how far the policy moved from its reference, nats per response"),
        Role("reward", "reward", "", "up", None,
             ("reward", "utility", "goal.utility", "reward.mean", "reward.goal"),
             "mean utility of its own responses under the goal"),
    )
}  # fmt: skip
PRIMARY = {"order": "M", "components": "M", "profile": "V", "distribution": "V", "structure": "V"}


def primary_role(primary: str) -> Role:
    """The role that a goal's named primary is read from. Raises `ValignError` for an unknown primary."""
    require(primary in PRIMARY, "primary", primary, f"one of {', '.join(PRIMARY)}")
    return ROLES[PRIMARY[primary]]


def assign(results: Sequence[Row], level: str | None) -> dict[str, Row]:
    """{role id: Result} of one subject. Where several fit, the goal's own level wins, then the order of `metrics`."""
    found = {}
    for role in ROLES.values():
        fits = [r for r in results if str(r["metric"]).lower() in role.metrics]
        if fits:
            found[role.id] = min(
                fits, key=lambda r: (r.get("level") != level, role.metrics.index(str(r["metric"]).lower()))
            )
    return found


def cell(result: Mapping[str, Any] | None) -> Row:
    """What a table shows of a Result: value, unit, interval, n, unscored, notes."""
    if result is None:
        return {"value": None, "unit": "share", "interval": None, "n": 0, "unscored": 0, "notes": []}
    return {
        "value": result.get("value"), "unit": result.get("unit", "share"), "interval": result.get("interval"),
        "n": result.get("n", 0), "unscored": sum((result.get("n_unscored") or {}).values()),
        "notes": list(result.get("notes") or ()),
    }  # fmt: skip


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
    if role.id == "M":
        return [*marks, {"at": 0.5, "label": "coin"}, {"at": 1.0, "label": "reversed"}]
    neutral = next((r["anchors"]["chance"] for r in results if (r.get("anchors") or {}).get("chance") is not None), None)
    if role.id == "V" and neutral is not None:
        marks.append({"at": 1 - neutral, "label": "shows no value"})
    return [*marks, {"at": 1.0, "label": "opposite" if role.id == "V" else "all lost"}]
