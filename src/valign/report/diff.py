"""What changed between two reports (or result files), by metric and variant.

Two models are compared item by item where both files hold the items; where they do not, the difference is
shown and nothing is said about noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from valign.errors import DataError
from valign.evaluation.statistics import benjamini_hochberg
from valign.report.paired import difference
from valign.report.sections import all_results
from valign.report.subject import Row

ALPHA = 0.05  # a change is called one below it
Kind = Literal[
    "better", "worse", "moved", "within noise", "undecided", "no difference", "same", "only before", "only after"
]


@dataclass(frozen=True)
class Change:
    """One metric of one policy in two files.

    difference   after minus before              interval   its paired interval's JSON, None where items are
                 missing
    kind         better or worse: the paired interval leaves 0 and the adjusted p is at most .05, and the direction says
                 which; "no difference": the interval lies inside the margin; "moved": changed, but not compared item by item,
                 or to the other side of a target; "undecided": of a comparison that is looked at more than once, nothing yet
    p, p_adjusted  of the paired comparison, raw and by Benjamini-Hochberg over all comparisons of the two files
    mde          smallest difference that such a comparison finds in 4 of 5 cases
    """

    subject: str
    metric: str
    variant: str
    unit: str
    direction: str
    before: float | None
    after: float | None
    difference: float | None
    interval: Row | None
    kind: Kind
    in_a: bool = True
    in_b: bool = True
    p: float | None = None
    p_adjusted: float | None = None
    mde: float | None = None


def diff(
    a: Mapping[str, Any], b: Mapping[str, Any], margins: Mapping[str, float] | None = None, planned: int | None = None
) -> list[Change]:
    """Changes from `a` to `b`: two report JSONs, two result.json documents, or one of each.

    margins   {metric: largest difference that does not matter}
    planned   clusters that are expected in all: intervals and p then hold at every look on the way there
    Policies are matched by id; where each file has one policy only, these two are. Raises `DataError` for
    other JSON.
    """
    before, after = _rows(a, "a"), _rows(b, "b")
    ids = [{k[0] for k in rows} for rows in (before, after)]
    if len(ids[0]) == len(ids[1]) == 1:
        name = f"{ids[0].pop()} → {ids[1].pop()}"
        before, after = ({(name, *k[1:]): r for k, r in rows.items()} for rows in (before, after))
    limits = margins or {}
    keys = dict.fromkeys([*before, *after])
    return _corrected([_change(k, before.get(k), after.get(k), limits.get(k[1]), planned) for k in keys], planned)


def _corrected(changes: list[Change], planned: int | None) -> list[Change]:
    """Two files share dozens of metrics, and one in twenty leaves 0 by luck: what counts as changed knows of all."""
    tested = [c.p for c in changes if c.p is not None]
    found = iter(benjamini_hochberg(tested)) if tested else iter(())
    out = []
    for c in changes:
        if c.p is None:
            out.append(c)
            continue
        p = float(next(found))
        lucky = c.kind in ("better", "worse") and p > ALPHA
        out.append(replace(c, p_adjusted=p, kind=_open(planned) if lucky else c.kind))
    return out


def _rows(document: Mapping[str, Any], which: str) -> dict[tuple[str, str, str], Row]:
    if "headline" in document and "sections" in document:
        results = list(all_results(document).values())
    elif isinstance(document.get("results"), list):
        results = document["results"]
    else:
        raise DataError(
            "neither a report nor a file of results", where=which, how='it needs "sections" or "results"'
        )
    return {
        (r["subject"], r["metric"], r["variant"]): r
        for r in results
        if not r["subject"].startswith("baseline:")
    }


def _change(
    key: tuple[str, str, str], before: Row | None, after: Row | None, margin: float | None, planned: int | None
) -> Change:
    one = after or before or {}
    x, y = (r.get("value") if r else None for r in (before, after))
    delta = y - x if x is not None and y is not None else None
    paired = difference(after, before, margin=margin, planned=planned) if before and after and delta is not None else None
    if paired and delta == 0 and not paired.get("se"):
        paired = None  # not one item moved: nothing to test
    ends = paired.get("interval") if paired else None
    if paired and paired.get("value") is not None:
        delta = paired["value"]  # over the items that both have
    kind = _kind(before, after, x, y, delta, ends, one["direction"])
    if planned is not None and (kind == "within noise" or (paired is not None and ends is None)):
        kind = _open(planned)
    inside = paired is not None and paired["conclusion"] == "no difference"
    return Change(
        *key,
        one["unit"],
        one["direction"],
        x,
        y,
        delta,
        ends,
        "no difference" if inside else kind,
        before is not None,
        after is not None,
        paired.get("p") if paired else None,
        mde=paired.get("mde") if paired else None,
    )


def _open(planned: int | None) -> Kind:
    """What is said of a difference that was not found: of the last look, or of one of several."""
    return "within noise" if planned is None else "undecided"


def _kind(
    before: Row | None,
    after: Row | None,
    x: float | None,
    y: float | None,
    delta: float | None,
    ends: Row | None,
    direction: str,
) -> Kind:
    if before is None or after is None:
        return "only after" if before is None else "only before"
    if x == y and ends is None:
        return "same"
    if ends is None or delta is None or x is None or y is None:
        return "moved"
    if ends["low"] <= 0 <= ends["high"]:
        return "within noise"
    if direction.startswith("target:"):
        goal = float(direction.removeprefix("target:"))
        if (x - goal) * (y - goal) < 0:
            return "moved"  # to the other side: the difference is found, that it is nearer or farther is not
        return "better" if abs(y - goal) < abs(x - goal) else "worse"
    return "better" if (delta > 0) == (direction == "up") else "worse"
