"""Coefficients of the pair losses in which the tokens of one response weigh differently; one pair at a time.

Inputs are per-token log-probs in nats, (T_w,) of the chosen and (T_l,) of the rejected response, stop token
included; the result has the same two shapes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from valign.theory.coefficients.pairs import Coefficients
from valign.theory.laws import Array, as_array, sigmoid


def wpo(
    policy_chosen: ArrayLike,
    policy_rejected: ArrayLike,
    reference_chosen: ArrayLike,
    reference_rejected: ArrayLike,
    sum_p2_chosen: ArrayLike,
    sum_p2_rejected: ArrayLike,
    *,
    beta: float,
) -> Coefficients:
    """DPO's times sg(min(1, Π e^{mean_t[log π - log Σ_v π(v)²]})) over both responses,
    per token (2406.11827).
    """
    w, l = as_array(policy_chosen), as_array(policy_rejected)  # noqa: E741
    confidence = np.mean(w - np.log(as_array(sum_p2_chosen))) + np.mean(l - np.log(as_array(sum_p2_rejected)))
    h = np.sum(w - as_array(reference_chosen)) - np.sum(l - as_array(reference_rejected))
    weight = beta * float(sigmoid(-beta * h)) * min(1.0, float(np.exp(confidence)))
    return np.full_like(w, weight), np.full_like(l, -weight)


def ld_dpo(
    policy_chosen: ArrayLike,
    policy_rejected: ArrayLike,
    reference_chosen: ArrayLike,
    reference_rejected: ArrayLike,
    *,
    beta: float,
    alpha: float,
) -> Coefficients:
    """DPO's times the token's weight: 1 up to the shorter length, α beyond (2409.06411)."""
    shared = min(as_array(policy_chosen).size, as_array(policy_rejected).size)
    return _weighted(
        policy_chosen,
        policy_rejected,
        reference_chosen,
        reference_rejected,
        beta,
        lambda n, _: np.where(np.arange(n) < shared, 1.0, alpha),
    )


def dense_dpo(
    policy_chosen: ArrayLike,
    policy_rejected: ArrayLike,
    reference_chosen: ArrayLike,
    reference_rejected: ArrayLike,
    corrected_chosen: ArrayLike,
    corrected_rejected: ArrayLike,
    *,
    beta: float,
    gamma: float,
) -> Coefficients:
    """DPO's times the token's weight: γ on corrected tokens, 1 elsewhere, over their sum (2312.00849)."""
    tags = (as_array(corrected_chosen), as_array(corrected_rejected))

    def normalized(_: int, side: int) -> Array:
        weight = np.where(tags[side] > 0, gamma, 1.0)
        return as_array(weight / weight.sum())

    return _weighted(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, normalized)


def dense_dpo_sum(
    policy_chosen: ArrayLike,
    policy_rejected: ArrayLike,
    reference_chosen: ArrayLike,
    reference_rejected: ArrayLike,
    corrected_chosen: ArrayLike,
    corrected_rejected: ArrayLike,
    *,
    beta: float,
    gamma: float,
) -> Coefficients:
    """The same without the division; γ = 1 is DPO."""
    tags = (as_array(corrected_chosen), as_array(corrected_rejected))
    return _weighted(
        policy_chosen,
        policy_rejected,
        reference_chosen,
        reference_rejected,
        beta,
        lambda _, side: np.where(tags[side] > 0, gamma, 1.0),
    )


def cpl(
    policy_chosen: ArrayLike, policy_rejected: ArrayLike, *, alpha: float, gamma: float, lam: float
) -> Coefficients:
    """w: +ασ(-Δ)γ^t, l: -λασ(-Δ)γ^t, Δ = α(Σγ^t log π_w - λ Σγ^t log π_l), per step (2310.13639)."""
    w, l = as_array(policy_chosen), as_array(policy_rejected)  # noqa: E741
    discount_w = as_array(gamma ** np.arange(w.size))
    discount_l = as_array(gamma ** np.arange(l.size))
    weight = alpha * float(sigmoid(-alpha * (discount_w @ w - lam * (discount_l @ l))))
    return weight * discount_w, -lam * weight * discount_l


def cpl_kl(
    policy_chosen: ArrayLike,
    policy_rejected: ArrayLike,
    reference_chosen: ArrayLike,
    reference_rejected: ArrayLike,
    *,
    alpha: float,
    gamma: float,
    lam: float,
) -> Coefficients:
    """CPL on log π/π_ref; with γ = λ = 1 it is DPO with β = α."""
    return cpl(
        as_array(policy_chosen) - as_array(reference_chosen),
        as_array(policy_rejected) - as_array(reference_rejected),
        alpha=alpha,
        gamma=gamma,
        lam=lam,
    )


def _weighted(
    policy_chosen: ArrayLike,
    policy_rejected: ArrayLike,
    reference_chosen: ArrayLike,
    reference_rejected: ArrayLike,
    beta: float,
    weigh: Callable[[int, int], Array],
) -> Coefficients:
    a = as_array(policy_chosen) - as_array(reference_chosen)
    b = as_array(policy_rejected) - as_array(reference_rejected)
    weight_w, weight_l = weigh(a.size, 0), weigh(b.size, 1)
    push = beta * float(sigmoid(-beta * (weight_w @ a - weight_l @ b)))
    return push * weight_w, -push * weight_l
