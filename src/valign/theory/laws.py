"""Laws over finite sets: softmax, the logistic function, entropy, and the sampling law of a generator.

Everything is float64 and acts on the last axis, so one row and a table of prompts go through the same code.
Stable forms only: nothing here overflows at any finite input. Divergences between two laws are in
`divergence`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


def as_array(values: ArrayLike) -> Array:
    """`values` as a float64 array; the door through which every list enters."""
    return np.asarray(values, dtype=np.float64)


def log_sum_exp(values: ArrayLike) -> Array:
    """log Σ_k e^{v_k} over the last axis, shape (...,); rows that are entirely -inf give -inf."""
    v = as_array(values)
    top = np.max(v, axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return as_array(np.log(np.exp(v - top).sum(axis=-1)) + top[..., 0])


def log_softmax(logits: ArrayLike) -> Array:
    """logits minus their log-sum-exp, same shape: log-probabilities in nats."""
    z = as_array(logits)
    return z - log_sum_exp(z)[..., None]


def softmax(logits: ArrayLike) -> Array:
    """e^{z_k} / Σ e^{z_j} over the last axis, same shape."""
    return np.exp(log_softmax(logits))


def log_or_floor(probabilities: ArrayLike) -> Array:
    """log p with log 0 = -inf and no warning, same shape."""
    with np.errstate(divide="ignore"):
        return np.log(as_array(probabilities))


def log_sigmoid(x: ArrayLike) -> Array:
    """log σ(x) = -log(1 + e^{-x}), exact at both ends: log σ(-100) = -100."""
    return -np.logaddexp(0.0, -as_array(x))


def sigmoid(x: ArrayLike) -> Array:
    """σ(x) = 1 / (1 + e^{-x}), same shape, no overflow."""
    return np.exp(log_sigmoid(x))


def entropy(law: ArrayLike) -> Array:
    """H(p) = -Σ p log p in nats over the last axis, with 0 log 0 = 0."""
    p = as_array(law)
    return as_array(-np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1))


def expectation(law: ArrayLike, values: ArrayLike) -> Array:
    """E_p[f] = Σ p f over the last axis."""
    return as_array(np.sum(as_array(law) * as_array(values), axis=-1))


def covariance(law: ArrayLike, first: ArrayLike, second: ArrayLike) -> Array:
    """Cov_p(f, g) over the last axis, centred first so that large offsets do not cancel badly."""
    f, g = as_array(first), as_array(second)
    f = f - expectation(law, f)[..., None]
    return expectation(law, f * (g - expectation(law, g)[..., None]))


def score_rows(law: ArrayLike) -> Array:
    """Row y holds ∇_θ log p(y) for p = softmax(θ): e_y - p. Shape (K, K)."""
    p = as_array(law)
    return np.eye(p.size) - p[None, :]


def sampling_law(
    logits: ArrayLike, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0
) -> Array:
    """The law a generator draws from: logits/temperature, softmax, truncation, renormalization,
    in this order.

    logits (..., V); top_p keeps the smallest set whose mass reaches top_p, the crossing token included
    (1904.09751); top_k = 0 is off; min_p keeps p >= min_p * max p (2407.01082). Returns probabilities, same
    shape.
    """
    if temperature <= 0 or not 0 < top_p <= 1 or top_k < 0 or not 0 <= min_p <= 1:
        raise ValueError(
            "sampling_law: temperature > 0, 0 < top_p <= 1, top_k >= 0 and 0 <= min_p <= 1 are required"
        )
    p = softmax(as_array(logits) / temperature)
    order = np.argsort(-p, axis=-1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=-1)
    keep = np.ones(p.shape, dtype=bool)
    if top_p < 1:
        keep &= (np.cumsum(ranked, axis=-1) - ranked) < top_p
    if top_k:
        keep &= np.arange(p.shape[-1]) < top_k
    keep &= ranked >= min_p * ranked[..., :1]
    kept = np.zeros_like(p)
    np.put_along_axis(kept, order, np.where(keep, ranked, 0.0), axis=-1)
    return as_array(kept / kept.sum(axis=-1, keepdims=True))
