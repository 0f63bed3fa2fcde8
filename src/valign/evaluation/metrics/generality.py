"""How far a score holds elsewhere: the gap between i.i.d. items and a split, and what share is kept (8.4). [F09]"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from valign.errors import require
from valign.evaluation import statistics as stats


class Gap(NamedTuple):
    """gap = iid - split, with its interval and two-sided p; `retained` = split / iid, None where iid is 0."""

    iid: float
    split: float
    gap: stats.Estimate
    retained: float | None
    p: float


def paired_gap(iid: ArrayLike, split: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Gap:
    """The gap where the split's items were made from the i.i.d. ones; both (n,), in the same order. p: labels
    permuted within clusters."""
    a, b = np.asarray(iid, float), np.asarray(split, float)
    require(
        a.shape == b.shape and a.ndim == 1 and len(a) > 0, "split", b.shape, f"one score per i.i.d. item ({a.shape})"
    )
    return _gap(float(a.mean()), float(b.mean()), stats.paired_t(a, b, clusters), stats.permutation_p(a - b, clusters))


def unpaired_gap(
    iid: ArrayLike, split: ArrayLike,
    iid_clusters: Sequence[Hashable] | None = None, split_clusters: Sequence[Hashable] | None = None,
) -> Gap:  # fmt: skip
    """The gap between different items: √(SE² + SE²), Student t with Welch-Satterthwaite degrees of freedom."""
    a, b = stats.t_cluster(iid, iid_clusters), stats.t_cluster(split, split_clusters)
    value, clusters = a.value - b.value, a.clusters + b.clusters
    if a.se is None or b.se is None:
        return _gap(a.value, b.value, stats.Estimate(value, None, None, None, clusters), 1.0)
    se = float(np.hypot(a.se, b.se))
    if se == 0:
        return _gap(a.value, b.value, stats.Estimate(value, 0.0, value, value, clusters), float(value == 0))
    freedom = se**4 / (a.se**4 / (a.clusters - 1) + b.se**4 / (b.clusters - 1))
    half = float(stdtrit(freedom, 0.975)) * se
    p = 2 * float(stdtr(freedom, -abs(value) / se))
    return _gap(a.value, b.value, stats.Estimate(value, se, value - half, value + half, clusters), p)


def _gap(iid: float, split: float, estimate: stats.Estimate, p: float) -> Gap:
    return Gap(iid, split, estimate, split / iid if iid else None, p)


def decay(turns: ArrayLike, compliance: ArrayLike, dialogues: Sequence[Hashable]) -> stats.Estimate:
    """Least-squares slope of compliance per turn since the instruction, interval by resampling dialogues. [C11]

    turns, compliance  (n,), one row per answered turn        dialogues  n names
    """
    x, y = np.asarray(turns, float), np.asarray(compliance, float)
    require(x.shape == y.shape and len(x) > 0, "compliance", y.shape, f"one per turn ({x.shape})")

    def slope(w: stats.Array) -> stats.Array:
        total = w.sum(1)
        mean_x, mean_y = w @ x / total, w @ y / total
        return np.asarray((w @ (x * y) / total - mean_x * mean_y) / (w @ (x * x) / total - mean_x**2))

    return stats.bootstrap_cluster(slope, len(x), dialogues)
