"""Looking more than once: intervals that hold at every look, however often one looks and whenever one stops.

A 95 % interval looked at after every batch is wrong far more often than 5 %. A mixture interval pays for the looks in
advance: it is wider, and its promise covers all sample sizes at once. It has a name of its own (`always_valid`) and is
never printed as a t interval.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Literal

from numpy.typing import ArrayLike

from valign.errors import require
from valign.evaluation.conclusion import conclude
from valign.evaluation.result import Difference, interval_of
from valign.evaluation.statistics import Estimate, cluster_index, clustered_se, is_alike

METHOD: Literal["always_valid"] = "always_valid"
FIRST_LOOK = 20  # clusters: before, the variance is hardly known and the normal limit has not begun


def always_valid(
    differences: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    planned: int,
    level: float = 0.95,
) -> Estimate:
    """Mean difference with the normal-mixture confidence sequence at the present number of clusters.

    mean ± s √( 2 (Cρ²+1)/(C²ρ²) · log( √(Cρ²+1)/α ) ), s² = C·SE² the variance of one cluster's contribution
    (2103.06476, asymptotic form); ρ is set so that the interval is narrowest at `planned` clusters.
    differences (n,) in any order; clusters n names or None. Fewer than 20 clusters: no interval.
    """
    require(planned >= 1, "planned", planned, "the number of clusters one expects to need")
    require(0 < level < 1, "level", level, "between 0 and 1")
    count = int(cluster_index(clusters, len(list(differences))).max(initial=-1)) + 1  # type: ignore[arg-type]
    mean, se = clustered_se(differences, clusters)
    if se is None or count < FIRST_LOOK:
        return Estimate(mean, se, None, None, count)
    half = se * math.sqrt(count) * radius(count, planned, 1 - level)
    return Estimate(mean, se, mean - half, mean + half, count)


def at_every_look(found: Difference, planned: int) -> Difference:
    """A comparison with the interval and the p that hold at every look in place of those of a single one.

    planned   as in `always_valid`
    Neither is given, and nothing concluded, for fewer than 20 clusters, where all items differ alike, and for what is no
    mean of its items.
    """
    items = found.result.items
    scores, clusters = [i.score or 0.0 for i in items], [i.cluster for i in items]
    estimate = always_valid(scores, clusters, planned=planned) if items else None
    if (
        estimate is None or estimate.low is None or is_alike(estimate, scores)
        or found.test == "bootstrap" or any(i.weight != 1 for i in items)
    ):  # fmt: skip
        silent = replace(found.result, se=None, interval=None)
        return replace(found, result=silent, p=None, test="none", mde=None, conclusion="unknown")
    interval = interval_of(estimate, METHOD)
    assert estimate.se is not None
    return replace(
        found,
        result=replace(found.result, se=estimate.se, interval=interval),
        p=always_valid_p(estimate.value / estimate.se, estimate.clusters, planned),
        test=METHOD,
        mde=None,
        conclusion=conclude(interval, found.result.direction, found.margin),
    )


def always_valid_p(z: float, count: int, planned: int) -> float:
    """The least level at which the interval tuned for 5 % leaves 0: √(Cρ²+1) exp(-z² Cρ² / (2 (Cρ²+1))), at most 1.

    z   the mean over its standard error, from `count` clusters. Below a level it is so with at most that chance at any look.
    """
    mixed = count * tuned(planned) + 1
    return min(1.0, math.sqrt(mixed) * math.exp(-(z**2) * (mixed - 1) / (2 * mixed)))


def radius(count: int, planned: int, alpha: float = 0.05) -> float:
    """Half the width of the mixture interval at `count` observations of variance 1."""
    rho2 = tuned(planned, alpha)
    mixed = count * rho2 + 1
    return math.sqrt(2 * mixed / (count**2 * rho2) * math.log(math.sqrt(mixed) / alpha))


def tuned(planned: int, alpha: float = 0.05) -> float:
    """ρ² = (-2 log α + log(1 - 2 log α)) / planned: close to the narrowest interval at that many observations."""
    return (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / planned
