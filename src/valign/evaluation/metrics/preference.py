"""Preference accuracy: how often the chosen response wins, by log-probability or by implicit reward (3.2).

A margin is (score of the chosen) - (score of the rejected). `sum` margins are what training sees; `mean`
margins divide each log-probability by its tokens and show what length does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def credit(margins: ArrayLike) -> Array:
    """1 for a positive margin, 1/2 for none, 0 for a negative one; same shape."""
    return np.asarray((np.sign(np.asarray(margins, float)) + 1) / 2)


def accuracy(margins: ArrayLike) -> float | None:
    """Share of positive margins, ties one half; None without any."""
    m = np.asarray(margins, float)
    return float(credit(m).mean()) if m.size else None


def log_prob_margin(
    chosen: ArrayLike, rejected: ArrayLike, chosen_tokens: ArrayLike = 1, rejected_tokens: ArrayLike = 1
) -> Array:
    """log π(chosen)/n_c - log π(rejected)/n_r; leave the token counts at 1 for the sum."""
    return _array(chosen) / _array(chosen_tokens) - _array(rejected) / _array(rejected_tokens)


def implicit_reward_margin(
    chosen: ArrayLike, rejected: ArrayLike, reference_chosen: ArrayLike, reference_rejected: ArrayLike,
    beta: float, chosen_tokens: ArrayLike = 1, rejected_tokens: ArrayLike = 1,
) -> Array:  # fmt: skip
    """β[(log π - log π_ref)(chosen)/n_c - (log π - log π_ref)(rejected)/n_r]; counts 1 give the training
    margin.
    """
    return beta * log_prob_margin(
        _array(chosen) - _array(reference_chosen), _array(rejected) - _array(reference_rejected),
        chosen_tokens, rejected_tokens,
    )  # fmt: skip


def _array(x: ArrayLike) -> Array:
    return np.asarray(x, float)
