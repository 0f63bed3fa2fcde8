"""Agreement of several raters beyond chance: Krippendorff's α, with missing ratings (6.8)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def krippendorff(units: ArrayLike, metric: str = "nominal") -> float | None:
    """α = 1 - D_o / D_e over units (n_units, n_raters), NaN = not rated; units with one rating do not count.

    metric   nominal, ordinal, interval or ratio: how far two ratings lie apart
    None where nothing can disagree: fewer than two ratings share a unit, or all ratings are the same.
    Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011).
    """
    x = np.asarray(units, np.float64)
    known = ~np.isnan(x)
    x, known = x[known.sum(1) > 1], known[known.sum(1) > 1]
    if not known.any():
        return None
    values = np.unique(x[known])
    counts = np.stack([(x == v).sum(1) for v in values], axis=1).astype(np.float64)  # (units, values)
    rated = counts.sum(1)
    coincidence = (counts.T / (rated - 1)) @ counts - np.diag((counts / (rated - 1)[:, None]).sum(0))
    totals = coincidence.sum(1)
    distance = METRICS[metric](values, totals)
    expected = float(totals @ distance @ totals) / (totals.sum() - 1)
    if expected == 0:
        return None
    return float(1 - (coincidence * distance).sum() / expected)


def _nominal(values: Array, totals: Array) -> Array:
    return np.asarray(values[:, None] != values[None, :], np.float64)


def _ordinal(values: Array, totals: Array) -> Array:
    upto = np.cumsum(totals)
    low = np.minimum.outer(np.arange(len(values)), np.arange(len(values)))
    high = np.maximum.outer(np.arange(len(values)), np.arange(len(values)))
    between = upto[high] - upto[low] + totals[low]  # ratings from the lower value to the higher one, both included
    between = np.where(low == high, 0.0, between - (totals[low] + totals[high]) / 2)
    return np.asarray(between**2)


def _interval(values: Array, totals: Array) -> Array:
    return np.asarray((values[:, None] - values[None, :]) ** 2)


def _ratio(values: Array, totals: Array) -> Array:
    total = values[:, None] + values[None, :]
    gap = values[:, None] - values[None, :]
    return np.asarray(np.divide(gap, total, out=np.zeros_like(gap), where=total != 0) ** 2)


METRICS: dict[str, Callable[[Array, Array], Array]] = {
    "nominal": _nominal, "ordinal": _ordinal, "interval": _interval, "ratio": _ratio,
}  # fmt: skip
