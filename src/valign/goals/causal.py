"""A structural model of values: pushing one moves the others, and a push that knows it reaches the target (COUPLE).

The model is linear: do(v_k = a) moves every other value j by R_jk (a - v_k), R the relation matrix with ones on its
diagonal. Always true here: with R = 1 (no relations) everything is as if the parts were independent. The matrix is a
start from a theory's circle, measured from samples, or the user's own; it describes how values move together in the
model that answers, not what a person ought to value.
"""

from __future__ import annotations

import numpy as np

from valign.errors import DataError, require
from valign.goals.base import Array

RIDGE = 0.05  # circles have opposite values with R near -1: without it the inverse would push without limit


def check_relation(relation: Array, n: int, where: str = "relation") -> Array:
    """The matrix as (n, n) float64. Raises `DataError` for another shape, NaN, or a diagonal that is not 1."""
    r = np.asarray(relation, np.float64)
    if r.shape != (n, n):
        raise DataError(f"must be {n} rows of {n} numbers, not shape {r.shape}", where=where)
    if not np.isfinite(r).all() or not np.allclose(np.diag(r), 1):
        raise DataError("must hold finite numbers, with 1 on the diagonal", where=where)
    return r


def intervene(values: Array, k: int, level: float, relation: Array) -> Array:
    """(..., K) values after do(v_k = level): v_k is level, and each v_j moves by R_jk (level - v_k)."""
    v = np.asarray(values, np.float64)
    return np.asarray(v + (level - v[..., k : k + 1]) * np.asarray(relation)[:, k])


def moved(values: Array, pushes: Array, relation: Array) -> Array:
    """(..., K) values after all pushes at once: v + R u."""
    return np.asarray(np.asarray(values, np.float64) + np.asarray(pushes) @ np.asarray(relation).T)


def pushes_for(effect: Array, relation: Array, ridge: float = RIDGE) -> Array:
    """(K,) pushes u whose total effect R u is nearest to `effect`: argmin |R u - effect|² + ridge |u|²."""
    require(ridge >= 0, "ridge", ridge, "0 or more")
    r = np.asarray(relation, np.float64)
    return np.asarray(np.linalg.solve(r.T @ r + ridge * np.eye(len(r)), r.T @ np.asarray(effect, np.float64)))


def measured_relation(scores: Array) -> Array:
    """(K, K) regression slopes of values on each other over samples (n, K): R_jk = cov(j, k) / var(k), cut to [-1, 1].

    What moves together in the samples; a cause only as far as nothing else moves both. A constant value relates to none.
    """
    x = np.asarray(scores, np.float64)
    x = x[~np.isnan(x).any(1)]
    require(len(x) >= 3, "samples", len(x), "at least 3 that every part scores")
    cov = np.atleast_2d(np.cov(x, rowvar=False))
    var = np.diag(cov)
    slopes = np.divide(cov, var[None, :], out=np.zeros_like(cov), where=var[None, :] > 1e-12)
    out = np.clip(slopes, -1.0, 1.0)
    np.fill_diagonal(out, 1.0)
    return np.asarray(out)
