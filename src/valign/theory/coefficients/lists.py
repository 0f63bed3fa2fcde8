"""Coefficients of the losses over ranked or rated lists;
one list at a time, c for every token of a response.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from valign.theory.laws import Array, as_array, sigmoid, softmax


def rrhf(
    log_probs: ArrayLike,
    lengths: ArrayLike,
    rewards: ArrayLike,
    *,
    rank_weight: float = 1.0,
    sft_reduce: str = "sum",
) -> Array:
    """(#pairs violated as the better - #violated as the worse)/n_y,
    and the SFT term on the best (2304.05302).

    log_probs, lengths, rewards (K,). A pair is violated when r_i < r_j and p̄_i > p̄_j; ties in r are
    skipped. sft_reduce "sum" puts +1 on the best response (the paper's token sum), "mean" puts 1/n.
    """
    n, r = as_array(lengths), as_array(rewards)
    mean = as_array(log_probs) / n
    violated = as_array((r[:, None] < r[None, :]) & (mean[:, None] > mean[None, :]))  # [worse, better]
    c = rank_weight * (violated.sum(0) - violated.sum(1)) / n
    best = int(np.argmax(r))
    c[best] += 1.0 if sft_reduce == "sum" else 1.0 / n[best]
    return as_array(c)


def pro(log_probs: ArrayLike, lengths: ArrayLike, rewards: ArrayLike, *, sft_weight: float = 0.0) -> Array:
    """Step k: winner (1/T_k)(1-P_k)/n_k, others -P_i/(T_i n_i), summed over k (2306.17492); list best first.

    1/T_i = r_k - r_i and 1/T_k = max_i (r_k - r_i). Pairs with equal rewards are dropped: their gap is 0.
    The optional SFT term is on the token sum of the first response.
    """
    r = as_array(rewards)
    gaps = [np.concatenate([[np.max(r[k] - r[k + 1 :])], r[k] - r[k + 1 :]]) for k in range(r.size - 1)]
    c = _stepwise(log_probs, lengths, gaps)
    c[0] += sft_weight
    return c


def plackett_luce(log_probs: ArrayLike, lengths: ArrayLike) -> Array:
    """PRO at temperature 1: step k winner (1-P_k)/n_k, others -P_i/n_i;
    list best first, scores are length means.
    """
    n = as_array(lengths)
    return _stepwise(log_probs, n, [np.ones(n.size - k) for k in range(n.size - 1)])


def stable_alignment(
    log_probs: ArrayLike,
    lengths: ArrayLike,
    ratings: ArrayLike,
    *,
    ratio: float = 0.5,
    margin: float = 1.0,
    scale: float = 7.0,
) -> Array:
    """best: (1 + ratio·v)/n; others: -ratio·v/(m n), v = 1[mean margin term > 0];
    the mean form (2305.16960).
    """
    best, others, terms = _contrast(log_probs, lengths, ratings, margin, scale)
    return _spread(
        lengths, best, others, np.full(terms.size, 1 / terms.size), ratio * float(terms.mean() > 0)
    )


def stable_alignment_max(
    log_probs: ArrayLike,
    lengths: ArrayLike,
    ratings: ArrayLike,
    *,
    ratio: float = 0.5,
    margin: float = 1.0,
    scale: float = 7.0,
) -> Array:
    """The same with the largest margin term in place of the mean: only that response is pushed down."""
    best, others, terms = _contrast(log_probs, lengths, ratings, margin, scale)
    return _spread(
        lengths,
        best,
        others,
        as_array(np.arange(terms.size) == np.argmax(terms)),
        ratio * float(terms.max() > 0),
    )


def d2o(
    self_log_ratios: ArrayLike, negative_log_ratio: float, *, beta: float, alpha: float
) -> tuple[Array, float]:
    """(self (K,), negative): (β/K)σ(-s) and -ασ(-s), s = (β/K)Σ self - α negative (2403.03419)."""
    own = as_array(self_log_ratios)
    weight = float(sigmoid(-(beta * own.mean() - alpha * negative_log_ratio)))
    return np.full_like(own, beta * weight / own.size), -alpha * weight


def _stepwise(log_probs: ArrayLike, lengths: ArrayLike, inverse_temperatures: list[Array]) -> Array:
    n = as_array(lengths)
    mean, c = as_array(log_probs) / n, np.zeros(n.size)
    for k, inverse in enumerate(inverse_temperatures):
        kept = inverse > 0
        if not kept[0]:
            continue
        share = np.zeros(inverse.size)
        share[kept] = softmax((mean[k:] * inverse)[kept])
        c[k:] -= inverse * share / n[k:]
        c[k] += inverse[0] / n[k]
    return c


def _contrast(
    log_probs: ArrayLike, lengths: ArrayLike, ratings: ArrayLike, margin: float, scale: float
) -> tuple[int, Array, Array]:
    nll, s = -as_array(log_probs) / as_array(lengths), as_array(ratings)
    best = int(np.argmax(s))
    others = as_array(np.delete(np.arange(s.size), best))
    rest = others.astype(np.int64)
    return best, others, nll[best] - nll[rest] + margin * (s[best] - s[rest]) / scale


def _spread(lengths: ArrayLike, best: int, others: Array, weights: Array, push: float) -> Array:
    n = as_array(lengths)
    c = np.zeros(n.size)
    c[best] = (1 + push) / n[best]
    rest = others.astype(np.int64)
    c[rest] = -push * weights / n[rest]
    return c
