"""Targets that are rankings: how far a value vector is from an order of dimensions (Kendall), as pure functions.

Values v have shape (..., K). A target is (K,) numbers whose order is the ranking, higher = ranked higher; weights (K,) of 0
leave a dimension out of the ranking. NaN in v gives NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from valign.goals.base import Array


def ranking_target(names: Sequence[str]) -> dict[str, float]:
    """A ranking, first name first, as numbers from 1 (first) to -1 (last) in equal steps; a single name gets 1."""
    last = max(1, len(names) - 1)
    return {name: 1.0 - 2.0 * place / last for place, name in enumerate(names)}


def kendall_parts(values: ArrayLike, target: ArrayLike, weights: ArrayLike) -> Array:
    """Each dimension's part of -D, shape (..., K): half of every pair that it takes part in.

    D = (pairs in the wrong order + half of the pairs that v ties) / pairs that the target orders = (1 - τ) / 2 where neither
    side has ties: 0 for the target's own order, 1 for its reverse, 1/2 for a constant v (silence orders nothing).
    """
    v, t, w = (np.asarray(x, dtype=np.float64) for x in (values, target, weights))
    ordered = (np.sign(t[:, None] - t[None, :]) * (w[:, None] > 0)) * (w[None, :] > 0)  # (K, K), antisymmetric
    pairs = np.abs(ordered).sum() / 2
    if pairs == 0:
        return np.zeros_like(v)
    agreement = np.sign(v[..., :, None] - v[..., None, :]) * ordered  # 1 right, -1 wrong, 0 tied or not asked
    wrong = (np.abs(ordered) - agreement) / 2  # 1 wrong, 1/2 tied, 0 right
    return np.asarray(-wrong.sum(-1) / 2 / pairs)


def kendall(values: ArrayLike, target: ArrayLike, weights: ArrayLike) -> Array:
    """D of `kendall_parts`, in [0, 1], shape (...)."""
    return np.asarray(-kendall_parts(values, target, weights).sum(-1))
