"""What a score costs: the mean height of a curve of score against cost, and the cost of a target (8.3). [F08]

Costs are positive numbers of one unit (labels, tokens, seconds, bytes); curves are read on the logarithm of cost.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valign.errors import require

Array = NDArray[np.float64]


def curve(cost: ArrayLike, score: ArrayLike) -> tuple[Array, Array]:
    """(log cost, score), both (n,), sorted by cost; scores of equal costs are averaged.

    Raises `ValignError` for unequal lengths and for a cost that is not positive.
    """
    c, s = np.asarray(cost, float), np.asarray(score, float)
    require(c.ndim == 1 and c.shape == s.shape and len(c) > 0, "score", s.shape, f"one per cost ({c.shape})")
    require(bool((c > 0).all()), "cost", float(c.min()), "positive: curves are read on its logarithm")
    x, where = np.unique(np.log(c), return_inverse=True)
    return x, np.bincount(where, weights=s) / np.bincount(where)


def mean_height(cost: ArrayLike, score: ArrayLike, low: float | None = None, high: float | None = None) -> float | None:
    """∫ score d(log cost) / log(high/low): the trapezoid between two costs, by default the curve's own ends.

    None where the curve does not reach over [low, high] or the range has no width.
    """
    x, y = curve(cost, score)
    a = x[0] if low is None else math.log(low)
    b = x[-1] if high is None else math.log(high)
    if a < x[0] - 1e-12 or b > x[-1] + 1e-12 or b - a <= 1e-12:
        return None
    inside = (x > a) & (x < b)
    points = np.concatenate([[a], x[inside], [b]])
    return float(np.trapezoid(np.interp(points, x, y), points) / (b - a))


def cost_to_target(cost: ArrayLike, score: ArrayLike, target: float, *, rising: bool = True) -> float | None:
    """The least cost at which the curve, linear in log cost, reaches `target`; None if it never does.

    rising   a score is better the higher it is; False: the lower
    """
    x, y = curve(cost, score)
    if not rising:
        y, target = -y, -target
    if y[0] >= target:
        return float(math.exp(x[0]))
    for i in range(1, len(x)):
        if y[i] >= target:
            share = (target - y[i - 1]) / (y[i] - y[i - 1])
            return float(math.exp(x[i - 1] + share * (x[i] - x[i - 1])))
    return None


def common_range(costs: list[ArrayLike]) -> tuple[float, float] | None:
    """(low, high) over which all curves reach; None where there is no such range."""
    low = max(float(np.min(c)) for c in costs)
    high = min(float(np.max(c)) for c in costs)
    return (low, high) if high > low else None
