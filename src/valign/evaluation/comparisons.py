"""Many comparisons at once: every metric that two models share, with p values that know how many were looked at.

Few planned primaries: Holm (the chance of any false alarm). Tables of values x groups, or of every metric there is:
Benjamini and Hochberg (the share of false alarms among what is called a difference). Raw p stays beside the adjusted one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from valign.errors import ValignError
from valign.evaluation.measure.recompute import statistic_of
from valign.evaluation.record import ItemStatistic, Result
from valign.evaluation.result import Difference, compare, is_mean
from valign.evaluation.statistics import benjamini_hochberg, holm

Adjustment = Literal["holm", "benjamini_hochberg"]
CORRECTIONS = {"holm": holm, "benjamini_hochberg": benjamini_hochberg}
ALPHA = 0.05


def compare_all(
    a: Sequence[Result],
    b: Sequence[Result],
    *,
    primaries: Collection[str] = (),
    margins: Mapping[str, float] | None = None,
    statistics: Mapping[str, ItemStatistic] | None = None,
    subset: bool = False,
) -> list[Difference]:
    """a minus b in every metric and variant that both have, in the order of `a`.

    primaries   metrics ("misalignment.M") that were planned: adjusted among themselves by Holm; all others by
                Benjamini-Hochberg. margins and statistics by metric or "metric/variant"; a statistic that
                `statistic_of` knows need not be given
    Metrics that cannot be compared item by item (no items at hand, no statistic for what is no mean) are left out.
    Raises `ValignError` for different items without `subset`, and for a primary, margin or statistic that names nothing.
    """
    margins, statistics = margins or {}, statistics or {}
    table = {(r.metric, r.variant): r for r in b}
    pairs = [(r, table[r.metric, r.variant]) for r in a if (r.metric, r.variant) in table]
    _all_known([*primaries, *margins, *statistics], [x for x, _ in pairs])
    found: list[Difference] = []
    for x, y in pairs:
        statistic = _of(statistics, x) or statistic_of(x, y)
        if x.items and y.items and (statistic is not None or (is_mean(x) and is_mean(y))):
            found.append(compare(x, y, subset, statistic, _of(margins, x)))
    planned = [d.result.metric in primaries for d in found]
    first = iter(adjusted([d for d, p in zip(found, planned) if p], "holm"))
    rest = iter(adjusted([d for d, p in zip(found, planned) if not p], "benjamini_hochberg"))
    return [next(first) if p else next(rest) for p in planned]


def adjusted(found: Sequence[Difference], how: Adjustment) -> list[Difference]:
    """The same comparisons as one family: each that has a p also gets the adjusted one. Same order."""
    with_p = [d.p for d in found if d.p is not None]
    corrected = iter(CORRECTIONS[how](with_p)) if with_p else iter(())
    return [d if d.p is None else replace(d, p_adjusted=float(next(corrected)), adjustment=how) for d in found]


def is_found(difference: Difference, alpha: float = ALPHA) -> bool:
    """Whether the difference stands after the correction (before one: by its raw p)."""
    p = difference.p_adjusted if difference.p_adjusted is not None else difference.p
    return p is not None and p <= alpha


def _of(table: Mapping[str, Any], r: Result) -> Any:
    return table.get(f"{r.metric}/{r.variant}", table.get(r.metric))


def _all_known(names: Sequence[str], results: Sequence[Result]) -> None:
    known = {name for r in results for name in (r.metric, f"{r.metric}/{r.variant}")}
    if missing := [n for n in names if n not in known]:
        raise ValignError(f"both models lack {', '.join(missing)}", where="metric",
                          how=f"both have: {', '.join(sorted({r.metric for r in results})) or 'nothing'}")  # fmt: skip
