"""Looking more than once: intervals that hold at every look, however often one looks and whenever one stops.

A 95 % interval looked at after every batch is wrong far more often than 5 %. A mixture interval pays for the looks in
advance: it is wider, and its promise covers all sample sizes at once. It has a name of its own (`always_valid`) and is
never printed as a t interval.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from numpy.typing import ArrayLike

from valign.errors import require
from valign.evaluation.statistics import Estimate, cluster_index, clustered_se

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


def radius(count: int, planned: int, alpha: float = 0.05) -> float:
    """Half the width of the mixture interval at `count` observations of variance 1."""
    rho2 = tuned(planned, alpha)
    mixed = count * rho2 + 1
    return math.sqrt(2 * mixed / (count**2 * rho2) * math.log(math.sqrt(mixed) / alpha))


def tuned(planned: int, alpha: float = 0.05) -> float:
    """ρ² = (-2 log α + log(1 - 2 log α)) / planned: close to the narrowest interval at that many observations."""
    return (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / planned
