"""Which tokens moved the reward: credits that sum to it (8.5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def token_credit(log_probs: ArrayLike, reference: ArrayLike, beta: float) -> NDArray[np.float64]:
    """c_t = β(log π - log π_ref)_t; their sum is the implicit reward of the response."""
    return np.asarray(beta * (np.asarray(log_probs, float) - np.asarray(reference, float)))


def completeness_residual(credits: ArrayLike, reward: float) -> float:
    """reward - Σ credit: 0 for token credits, what removal credits leave unexplained."""
    return float(reward - np.sum(np.asarray(credits, float)))
