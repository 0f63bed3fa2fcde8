"""Results and what may be done with them: compare two models item by item, pool disjoint sets of items.

`record` says what a Result is; both are imported from here. Never possible: arithmetic between different
metrics, variants or directions, two separate intervals instead of a paired one, averages of averages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from valign.errors import ValignError, require
from valign.evaluation import statistics as stats
from valign.evaluation.conclusion import Conclusion, conclude, in_words, smallest_detectable
from valign.evaluation.record import (
    Anchors,
    Cluster,
    Interval,
    Item,
    ItemStatistic,
    Result,
    cluster_notes,
    interval_of,
    plain,
)

__all__ = [
    "Anchors",
    "Cluster",
    "Difference",
    "Interval",
    "Item",
    "ItemStatistic",
    "Result",
    "cluster_notes",
    "compare",
    "interval_of",
    "is_mean",
    "plain",
    "pool",
]


SAME = "every cluster shows the same difference: "  # and what follows for the interval
Test = Literal["mcnemar", "permutation", "bootstrap", "t", "always_valid", "none"]


@dataclass(frozen=True)
class Difference:
    """Two models on the same items.

    result      value = a - b with a paired interval; subject "a vs b"
    p           exact McNemar for 0/1 scores without clusters, a permutation of labels within clusters for other means,
                the bootstrap's for what is no mean, Student t over training seeds, that of the always-valid interval
                (`sequential.at_every_look`); None where undefined
    left_out    items that only one of the two has (subset=True)       unpaired  items unscored in either, by reason
    mde         smallest difference that such a comparison finds in 80 % of cases
    margin      largest difference that does not matter, as it was fixed before; None: none was
    conclusion  what may be said (see `conclusion`)
    p_adjusted  p after the correction for all comparisons of one family; adjustment names it ("" = none made)
    """

    result: Result
    p: float | None
    test: Test
    left_out: int
    unpaired: int
    mde: float | None = None
    margin: float | None = None
    conclusion: Conclusion = "unknown"
    p_adjusted: float | None = None
    adjustment: str = ""

    @property
    def words(self) -> str:
        """The conclusion as a clause for a reader."""
        return in_words(self.conclusion, self.margin, self.mde)

    def to_json(self) -> dict[str, Any]:
        """The result's JSON with what is said of it."""
        names = ("p", "test", "p_adjusted", "adjustment", "mde", "margin", "conclusion")
        return {**self.result.to_json(), **{k: getattr(self, k) for k in names}}


def compare(
    a: Result,
    b: Result,
    subset: bool = False,
    statistic: ItemStatistic | None = None,
    margin: float | None = None,
) -> Difference:
    """a minus b, item by item.

    subset      compare on the items that both have when the sets differ (otherwise they are refused)
    statistic   for metrics that are no mean of item scores: maps (items, (b, n) weights) to (b,) values
    margin      largest difference that does not matter: without one "no difference" is never the conclusion
    Raises `ValignError` for different metrics, variants or directions, for different items, and for a metric
    that is no mean when no statistic is given.
    """
    _same_metric(a, b)
    pairs, left_out = _join(a, b, subset)
    both = [(x, y) for x, y in pairs if x.score is not None and y.score is not None]
    unpaired = len(pairs) - len(both)
    notes = [f"{left_out} items are in one of the two only and were left out"] if left_out else []
    notes += [f"{unpaired} items are unscored in either model and left the pair"] if unpaired else []
    if statistic is None and not (is_mean(a) and is_mean(b)):
        raise ValignError(
            f"{a.metric} ({a.variant}) is not a mean of item scores",
            where="compare",
            how="pass its statistic",
        )
    estimate, p, test, more, method = _paired(both, statistic, None if a.direction.startswith("target:") else a.anchors.span)
    interval = interval_of(estimate, method)
    result = Result(
        metric=a.metric,
        variant=a.variant,
        subject=f"{a.subject} vs {b.subject}",
        level=a.level,
        value=estimate.value if both and math.isfinite(estimate.value) else None,
        unit=a.unit,
        direction=a.direction,
        n=len(both),
        n_unscored={"skipped": unpaired} if unpaired else {},
        se=estimate.se,
        interval=interval,
        cluster=Cluster(a.cluster.unit, estimate.clusters),
        items=tuple(
            replace(x, score=x.score - y.score)
            for x, y in both
            if x.score is not None and y.score is not None
        ),
        provenance={"a": plain(a.provenance, "a"), "b": plain(b.provenance, "b")},
        notes=(*notes, *more),
    )
    return Difference(
        result, p, test, left_out, unpaired, mde=smallest_detectable(estimate.se), margin=margin,
        conclusion=conclude(interval, a.direction, margin),
    )  # fmt: skip


def pool(results: Sequence[Result], statistic: ItemStatistic | None = None) -> Result:
    """One Result over the items of all: recomputed from items, never an average of averages.

    Items of different Results must have different ids. Refuses different metric, variant, direction, unit,
    level or subject, Results whose items were left in a file, and metrics that are no mean unless their
    `statistic` is given.
    """
    from valign.evaluation.aggregate import summarize

    require(len(results) > 0, "results", 0, "at least one Result")
    first = results[0]
    for other in results[1:]:
        _same_metric(first, other)
        for name in ("unit", "level", "subject"):
            require(
                getattr(first, name) == getattr(other, name),
                name,
                getattr(other, name),
                repr(getattr(first, name)),
            )
    for r in results:
        _has_items(r)
    items = [i for r in results for i in r.items]
    require(
        len({i.id for i in items}) == len(items),
        "items",
        "",
        "of different ids; the same item cannot be pooled twice",
    )
    if statistic is None and not all(is_mean(r) for r in results):
        raise ValignError(
            f"{first.metric} ({first.variant}) is not a mean", where="pool", how="pass its statistic"
        )
    notes = tuple(dict.fromkeys(n for r in results for n in r.notes))
    return summarize(
        items,
        metric=first.metric,
        variant=first.variant,
        subject=first.subject,
        level=first.level,
        unit=first.unit,
        direction=first.direction,
        anchors=first.anchors,
        cluster_unit=first.cluster.unit,
        statistic=statistic,
        provenance={"pooled": [plain(r.provenance, "provenance") for r in results]},
        notes=notes,
    )


def is_mean(result: Result) -> bool:
    """Whether the value is the weighted mean of the item scores (then items alone are enough to recompute
    it).
    """
    scored = result.scored_items
    if result.value is None or not scored:
        return True
    mean = np.average([i.score for i in scored if i.score is not None], weights=[i.weight for i in scored])
    return abs(float(mean) - result.value) <= 1e-9 * max(1.0, abs(result.value))


def _same_metric(a: Result, b: Result) -> None:
    for name in ("metric", "variant", "direction"):
        one, two = getattr(a, name), getattr(b, name)
        if one != two:
            raise ValignError(f"{name}s differ: {one!r} and {two!r} are not the same quantity", where=name)


def _has_items(result: Result) -> None:
    if not result.items and (result.items_file is not None or result.n):
        raise ValignError(
            f"the items of {result.metric} ({result.subject}) are not loaded", where="items",
            how="read the file with its items: read_results(path, items=True)",
        )  # fmt: skip


def _join(a: Result, b: Result, subset: bool) -> tuple[list[tuple[Item, Item]], int]:
    _has_items(a)
    _has_items(b)
    left, right = {i.id: i for i in a.items}, {i.id: i for i in b.items}
    for items, table in ((a.items, left), (b.items, right)):
        require(
            len(items) == len(table),
            "items",
            len(items),
            f"of different ids, but only {len(table)} are distinct",
        )
    alone = set(left) ^ set(right)
    if alone and not subset:
        raise ValignError(
            f"the two Results have different items: {len(alone)} are in one only (first: {min(alone)!r})",
            where="compare",
            how="evaluate both on the same items, or pass subset=True to compare the items they share",
        )
    return [(left[i], right[i]) for i in left if i in right], len(alone)


def _paired(
    both: Sequence[tuple[Item, Item]], statistic: ItemStatistic | None, span: tuple[float, float] | None
) -> tuple[stats.Estimate, float | None, Test, list[str], str]:
    """(estimate, p, test, notes, method of the interval). span: lowest and highest score there can be, where that is known."""
    if not both:
        nothing = stats.Estimate(0.0, None, None, None, 0)
        return nothing, None, "none", ["no item is scored in both"], "paired_t"
    clusters = [x.cluster for x, _ in both]
    if statistic is not None:
        return _resampled(both, clusters, statistic)
    a, b = (np.array([pair[k].score for pair in both], float) for k in (0, 1))
    weights = np.array([x.weight for x, _ in both])
    estimate = stats.paired_t(a, b, clusters, weights)
    notes = cluster_notes(estimate.clusters)
    binary = set(np.unique([a, b])) <= {0.0, 1.0}
    method = "paired_t"
    if stats.is_alike(estimate, np.r_[a, b]):
        ends = (0.0, 1.0) if binary else span
        inside = ends is not None and ends[0] <= min(a.min(), b.min()) and max(a.max(), b.max()) <= ends[1]
        estimate, method, said = _alike(estimate, ends[1] - ends[0] if ends is not None and inside else None)
        notes.append(said)
    if not notes:
        rate = stats.false_alarm_rate(a - b, clusters, weights)
        if stats.is_too_eager(rate):
            notes.append(f"A/A: with the two models' labels exchanged at random this interval leaves 0 in {rate:.0%} of "
                         "cases, not 5 %: trust the p rather than the interval")  # fmt: skip
    if binary and estimate.clusters == len(both) and (weights == 1).all():
        return estimate, stats.mcnemar(int((a > b).sum()), int((a < b).sum())), "mcnemar", notes, method
    # items of one cluster are no independent coins: their labels change sides together
    return estimate, stats.permutation_p(weights * (a - b), clusters), "permutation", notes, method


def _alike(estimate: stats.Estimate, largest: float | None) -> tuple[stats.Estimate, str, str]:
    """(estimate, method, note) where every cluster shows one and the same difference: t would give no width, and call it sure.

    largest   how far two scores of one item can lie apart; None: not known, then there is no interval
    """
    if largest is None:
        return estimate._replace(se=None, low=None, high=None), "paired_t", SAME + "no interval"
    low, high = stats.alike_interval(estimate.value, -largest, largest, estimate.clusters)
    return estimate._replace(low=low, high=high), "exact", SAME + "the interval is the exact one, for clusters that were not seen"


def _resampled(
    both: Sequence[tuple[Item, Item]], clusters: Sequence[str], statistic: ItemStatistic
) -> tuple[stats.Estimate, float | None, Test, list[str], str]:
    """The same for a metric that is no mean: one bootstrap of clusters gives interval and p."""
    first, second = [x for x, _ in both], [y for _, y in both]
    own = np.array([x.weight for x in first])

    def change(weights: stats.Array) -> stats.Array:
        return statistic(first, weights * own) - statistic(second, weights * own)

    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(np.asarray(change(np.ones((1, len(both)))), float)[0])
    count = len(set(clusters))
    if count < 2:
        return stats.Estimate(value, None, None, None, count), None, "none", cluster_notes(count), "bootstrap_cluster"
    replicates = stats.bootstrap_replicates(change, len(both), clusters)
    p = stats.bootstrap_p(replicates, count)
    estimate = stats.of_replicates(value, replicates, count)
    if stats.is_alike(estimate, replicates[np.isfinite(replicates)]):
        nothing = estimate._replace(se=None, low=None, high=None)
        return nothing, None, "none", [*cluster_notes(count), SAME + "no interval"], "bootstrap_cluster"
    return estimate, p, "bootstrap" if p is not None else "none", cluster_notes(count), "bootstrap_cluster"
