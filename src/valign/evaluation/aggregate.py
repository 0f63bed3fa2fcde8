"""From items to a Result: its interval, what unscored items could change, its place on the scale.

The one place that applies table 1.2 of evaluation notes. A metric that is no mean of its items passes its
statistic, a function of item weights, and gets a cluster bootstrap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from valign.evaluation import statistics as stats
from valign.evaluation.metrics.scale import component, noise_floor
from valign.evaluation.record import Anchors, Cluster, Item, ItemStatistic, Result, cluster_notes, interval_of
from valign.evaluation.statistics import Array, Estimate

SMALL = 100  # below this many 0/1 items, or
RARE = 10  # with fewer successes or failures than this, a t interval misleads: Wilson
SHARES = {"up": Anchors(1.0, 0.0), "down": Anchors(0.0, 1.0)}
NO_WIDTH = "everything scored alike: the interval has no width and says nothing about other items"


def summarize(
    items: Sequence[Item],
    *,
    metric: str,
    variant: str,
    subject: str,
    level: str,
    unit: str = "share",
    direction: str = "up",
    anchors: Anchors | None = None,
    cluster_unit: str = "item",
    statistic: ItemStatistic | None = None,
    bootstrap: bool = False,
    jackknife: bool = False,
    provenance: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    scaled: bool = True,
) -> Result:
    """The Result of a list of items.

    anchors     None: 0 and 1 for a share, open ends for any other unit, whose best and worst nobody said
    statistic   None: the weighted mean of the scores. Otherwise its value at weights 1; nan means undefined
    bootstrap   resample although the metric is a mean (τ: its items are no plain shares)
    jackknife   the statistic is a coefficient of reliability: leave clusters out instead of resampling them
    scaled      also place the value between the anchors (where both exist)
    The order of the items changes nothing; no scored item gives value None.
    """
    if anchors is None:
        anchors = SHARES.get(direction, Anchors()) if unit == "share" else Anchors()
    kept = sorted(items, key=lambda i: i.id)
    scored = [i for i in kept if i.score is not None]
    unscored = Counter(i.reason for i in kept if i.reason is not None)
    common: dict[str, Any] = {
        "metric": metric,
        "variant": variant,
        "subject": subject,
        "level": level,
        "unit": unit,
        "direction": direction,
        "anchors": anchors,
        "n": len(scored),
        "n_unscored": dict(sorted(unscored.items())),
        "items": tuple(kept),
        "provenance": dict(provenance or {}),
    }
    if not scored:
        return Result(
            **common, value=None, cluster=Cluster(cluster_unit, 0), notes=(*notes, "nothing was scored")
        )
    estimate, method = estimate_items(
        scored, statistic, bootstrap, None if direction.startswith("target:") else anchors.span, jackknife
    )
    value = None if np.isnan(estimate.value) else estimate.value
    more = cluster_notes(estimate.clusters)
    if estimate.low is not None and estimate.low == estimate.high:
        more.append(NO_WIDTH)
    if value is None:
        estimate, more = (
            Estimate(estimate.value, None, None, None, estimate.clusters),
            [*more, "undefined on these items"],
        )
    placed = place(value, direction, anchors) if scaled and value is not None else None
    if placed is not None and direction.startswith("target:"):
        more += folded_notes(estimate, float(direction.removeprefix("target:")))
    return Result(
        **common,
        value=value,
        se=estimate.se,
        interval=interval_of(estimate, method),
        scaled=placed,
        cluster=Cluster(cluster_unit, estimate.clusters),
        bounds=bounds(scored, sum(unscored.values()), anchors) if statistic is None else None,
        notes=(*notes, *more),
    )


def folded_notes(estimate: Estimate, fold: float) -> list[str]:
    """What must be read beside a distance from `fold`: it is never 0 by luck, and an interval over the fold shows no bias."""
    if estimate.se is None or estimate.low is None or estimate.high is None:
        return []
    floor = f"without any bias its distance from {fold:g} would be {noise_floor(estimate.se):.3g} on average"
    covers = estimate.low <= fold <= estimate.high
    return [floor + (f"; the interval covers {fold:g}: no bias is shown" if covers else "")]


def estimate_items(
    scored: Sequence[Item],
    statistic: ItemStatistic | None = None,
    bootstrap: bool = False,
    span: tuple[float, float] | None = None,
    jackknife: bool = False,
) -> tuple[Estimate, str]:
    """(estimate, name of the interval's method) of scored items, by table 1.2.

    span   lowest and highest score there can be: where all clusters are alike the t interval would have no width, and
           the exact end for clusters that were not seen takes its place (0/1 scores need no span)
    jackknife  see `summarize`
    """
    clusters = [i.cluster for i in scored]
    scores = np.array([i.score for i in scored], float)
    weights = np.array([i.weight for i in scored], float)
    if statistic is not None:
        chosen = statistic
        if jackknife:
            return stats.jackknife_cluster(lambda w: chosen(scored, w * weights), len(scored), clusters), "jackknife"
        return stats.bootstrap_cluster(
            lambda w: chosen(scored, w * weights), len(scored), clusters
        ), "bootstrap_cluster"
    if bootstrap:
        mean = stats.mean_statistic(scores)
        return stats.bootstrap_cluster(
            lambda w: mean(w * weights), len(scored), clusters
        ), "bootstrap_cluster"
    estimate = stats.t_cluster(scores, clusters, weights)
    if _is_small_share(scores, weights) and len(scores) > 1 and estimate.clusters == len(scores):
        low, high = stats.wilson(float(scores.sum()), len(scores))
        return estimate._replace(low=low, high=high), "wilson"
    ends = (0.0, 1.0) if np.isin(scores, (0.0, 1.0)).all() else span
    if ends is not None and ends[0] <= scores.min() and scores.max() <= ends[1] and stats.is_alike(estimate, scores):
        low, high = stats.alike_interval(estimate.value, *ends, estimate.clusters)
        return estimate._replace(low=low, high=high), "exact"
    return estimate, "t_cluster"


def bounds(scored: Sequence[Item], unscored: int, anchors: Anchors) -> tuple[float, float] | None:
    """The mean if all unscored items were worst or best (weight 1 each); None if none is unscored or an end
    is open.
    """
    if not unscored or anchors.best is None or anchors.worst is None:
        return None
    total = sum(i.weight * (i.score or 0.0) for i in scored)
    mass = sum(i.weight for i in scored) + unscored
    ends = [(total + unscored * end) / mass for end in (anchors.worst, anchors.best)]
    return min(ends), max(ends)


def place(value: float, direction: str, anchors: Anchors) -> float | None:
    """Where `value` lies on the gap axis; None without two anchors. Metrics with a target are folded about
    it.
    """
    best, worst = anchors.best, anchors.worst
    if best is None or worst is None:
        return None
    if not direction.startswith("target:"):
        return component(value, best, worst)
    fold = float(direction.removeprefix("target:"))
    return component(value, abs(best - fold), abs(worst - fold), fold)


def _is_small_share(scores: Array, weights: Array) -> bool:
    if not np.isin(scores, (0.0, 1.0)).all() or not (weights == 1).all():
        return False
    wins = int(scores.sum())
    return len(scores) < SMALL or min(wins, len(scores) - wins) < RARE
