"""Pushing a finished sample set toward a proxy: best-of-n and exponential tilting, from the samples of one law. [F06]

Both reweight N samples of each prompt; nothing is drawn again. Best-of-n weights are exact over all subsets of n; Gibbs
weights e^{s·proxy} are self-normalized and fade where few samples carry them: `effective` says how many still do.
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valign.errors import require
from valign.theory.best_of_n import TIE

Array = NDArray[np.float64]


def best_of_n_weights(proxy: ArrayLike, n: int) -> Array:
    """(N,) chance that a sample is the best by `proxy` of n drawn without replacement; ties share equally.

    Σ w · gold is the unbiased estimate of E[gold of the best of n]. Raises `ValignError` unless 1 <= n <= N.
    """
    p = np.asarray(proxy, float)
    size = len(p)
    require(1 <= n <= size, "n", n, f"between 1 and the {size} samples")
    order = np.argsort(p, kind="stable")
    total = comb(size, n)
    # exact integers first: the binomials overflow float64 long before their ratio does
    ranked = np.array([comb(i, n - 1) / total for i in range(size)])
    level = np.cumsum(np.diff(p[order], prepend=p[order[0]]) > TIE)
    shared = np.bincount(level, weights=ranked) / np.bincount(level)
    out = np.empty(size)
    out[order] = shared[level]
    return out


def gibbs_weights(proxy: ArrayLike, strength: float) -> Array:
    """(N,) e^{s·proxy}, normalized."""
    x = strength * np.asarray(proxy, float)
    w = np.exp(x - x.max())
    return np.asarray(w / w.sum())


def gibbs_kl(proxy: ArrayLike, strength: float) -> float:
    """KL(π_s‖π_0) = s·E_s[proxy] - log Z in nats, estimated with the same weights; never above log N."""
    p = np.asarray(proxy, float)
    x = strength * p
    log_z = float(x.max() + np.log(np.exp(x - x.max()).mean()))
    return float(gibbs_weights(p, strength) @ x) - log_z


def effective(weights: ArrayLike) -> float:
    """1/Σw²: how many equally weighted samples say as much; N for equal weights."""
    w = np.asarray(weights, float)
    return float(1 / (w @ w))


def weighted_covariance(a: ArrayLike, b: ArrayLike, weights: ArrayLike) -> float:
    """Σ w (a - ā)(b - b̄) / (1 - Σ w²): unbiased for equal weights."""
    x, y, w = (np.asarray(v, float) for v in (a, b, weights))
    spread = 1 - float(w @ w)
    return float(w @ ((x - w @ x) * (y - w @ y))) / spread if spread > 1e-12 else 0.0
