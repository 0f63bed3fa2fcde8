"""Correlations over checkpoints: rank and linear, with Fisher's interval and an exact or drawn permutation p (N20)."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from valign.errors import require

Array = NDArray[np.float64]
EXACT = 7  # up to 7! = 5040 orders are all looked at; above, so many are drawn:
DRAWS = 10_000
RANK_FACTOR = 1.06  # variance of Fisher's z of a rank correlation: 1.06/(n-3) (Fieller, Hartley and Pearson 1957)


class Correlation(NamedTuple):
    """value in [-1, 1]; None where one of the two does not vary. The interval needs n >= 4."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int


def pearson(x: ArrayLike, y: ArrayLike) -> float | None:
    """Σ (x-x̄)(y-ȳ) / √(Σ(x-x̄)² Σ(y-ȳ)²), both (n,); None where one does not vary."""
    a, b = _centred(x), _centred(y)
    require(a.shape == b.shape, "y", b.shape, f"one number per x ({a.shape})")
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 1e-300 else None


def spearman(x: ArrayLike, y: ArrayLike) -> float | None:
    """Pearson's correlation of the ranks, ties at their mean rank."""
    return pearson(rankdata(x), rankdata(y))


def fisher_interval(r: float, n: int, *, level: float = 0.95, factor: float = 1.0) -> tuple[float, float] | None:
    """tanh(atanh r ± z √(factor/(n-3))); None below n = 4. |r| = 1 has no width: the end is itself."""
    if n < 4:
        return None
    if abs(r) >= 1 - 1e-12:
        return (r, r)
    half = float(ndtri(0.5 + level / 2)) * math.sqrt(factor / (n - 3))
    z = math.atanh(r)
    return math.tanh(z - half), math.tanh(z + half)


def permutation_p(x: ArrayLike, y: ArrayLike, *, seed: int = 0) -> float | None:
    """Two-sided p of Spearman's correlation when the pairing is exchanged: over all orders up to n = 7, else drawn."""
    a, b = _centred(rankdata(x)), _centred(rankdata(y))
    observed = abs(float(a @ b))
    if not float(a @ a) or not float(b @ b):
        return None
    hits = np.abs(b[_orders(len(b), seed)] @ a) >= observed - 1e-9
    return float(hits.mean()) if len(a) <= EXACT else (1 + int(hits.sum())) / (1 + DRAWS)


@lru_cache(maxsize=4)
def _orders(n: int, seed: int) -> NDArray[np.int64]:
    """(orders, n): all orders up to n = 7, else `DRAWS` of them; a table of correlations uses the same ones."""
    if n <= EXACT:
        return np.array(list(permutations(range(n))))
    return np.random.default_rng(seed).random((DRAWS, n)).argsort(1)


def rank_correlation(x: ArrayLike, y: ArrayLike, *, level: float = 0.95) -> Correlation:
    """Spearman's correlation of two (n,) with its interval and p."""
    n = len(np.asarray(x, float))
    value = spearman(x, y)
    if value is None:
        return Correlation(None, None, None, None, n)
    found = fisher_interval(value, n, level=level, factor=RANK_FACTOR)
    low, high = found if found is not None else (None, None)
    return Correlation(value, low, high, permutation_p(x, y), n)


def _centred(x: ArrayLike) -> Array:
    a = np.asarray(x, float)
    require(a.ndim == 1 and len(a) > 1, "x", a.shape, "two or more numbers")
    return np.asarray(a - a.mean())
