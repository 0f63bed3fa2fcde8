"""How people's feedback is drawn from their utility, and how a utility is fitted back from it.

Each likelihood is a log-probability in nats, finite at any finite margin. Utilities of pairs and rankings
matter only up to a constant per prompt; the fits return them centred. Which loss of a policy a likelihood
leads to is in `coefficients`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import log_ndtr

from valign.theory.laws import (
    Array,
    Ints,
    as_array,
    log_or_floor,
    log_sigmoid,
    log_softmax,
    log_sum_exp,
    sigmoid,
)


def bradley_terry(margin: ArrayLike, temperature: float = 1.0) -> Array:
    """log P(i ≻ j) = log σ((U_i - U_j)/τ); margin = U_i - U_j."""
    return log_sigmoid(as_array(margin) / temperature)


def davidson(first: ArrayLike, second: ArrayLike, nu: float) -> Array:
    """log P of (first wins, second wins, tie), shape (..., 3):
    e^{U_i}, e^{U_j}, ν e^{(U_i+U_j)/2}, normalized.

    ν >= 0 is the tie propensity (Davidson 1970); ν = 0 is Bradley-Terry.
    """
    if nu < 0:
        raise ValueError(f"davidson: nu = {nu} must not be negative")
    u, v = np.broadcast_arrays(as_array(first), as_array(second))
    tie = (u + v) / 2 + float(log_or_floor(nu))
    return log_softmax(np.stack([u, v, tie], axis=-1))


def thurstone(margin: ArrayLike) -> Array:
    """log P(i ≻ j) = log Φ((U_i - U_j)/√2): case V with unit noise; d = 1 gives P = .760250."""
    return as_array(log_ndtr(as_array(margin) / np.sqrt(2.0)))


def plackett_luce(utilities: ArrayLike) -> Array:
    """log Π_k e^{U_k} / Σ_{i>=k} e^{U_i} for items listed best first on the last axis, shape (...)."""
    u = as_array(utilities)
    steps = [u[..., k] - log_sum_exp(u[..., k:]) for k in range(u.shape[-1] - 1)]
    return np.sum(np.stack(steps, axis=-1), axis=-1) if steps else np.zeros(u.shape[:-1])


def best_of_k(utilities: ArrayLike) -> Array:
    """log P(item 0 is chosen among K): the first factor of Plackett-Luce, shape (...)."""
    return log_softmax(utilities)[..., 0]


def demonstration(log_base: ArrayLike, utilities: ArrayLike, beta: float) -> Array:
    """log p_H(y) for all y: Boltzmann-rational p_H ∝ π_0 e^{U/β_H}, shape (..., N);
    π_0 uniform or the reference.
    """
    return log_softmax(as_array(log_base) + as_array(utilities) / beta)


def gaussian_score(score: ArrayLike, utility: ArrayLike, noise: float) -> Array:
    """log density of a score U + N(0, s²), s = `noise` > 0."""
    z = (as_array(score) - as_array(utility)) / noise
    return as_array(-0.5 * z**2 - np.log(noise) - 0.5 * np.log(2 * np.pi))


def ordered_logit(utility: ArrayLike, cuts: ArrayLike) -> Array:
    """log P of each Likert level, shape (..., len(cuts)+1):
    level k between cut k-1 and cut k on the logistic scale.
    """
    edges = as_array(cuts)
    if np.any(np.diff(edges) <= 0):
        raise ValueError("ordered_logit: cuts must rise strictly")
    u = as_array(utility)[..., None]
    ones = np.ones(u.shape)
    below = np.concatenate([0 * ones, sigmoid(edges - u), ones], axis=-1)
    return log_or_floor(np.diff(below, axis=-1))


def good_label(utility: ArrayLike, reference_point: ArrayLike) -> Array:
    """log P(good) = log σ(U - z(x))."""
    return log_sigmoid(as_array(utility) - as_array(reference_point))


def regret_preference(better: ArrayLike, worse: ArrayLike, gamma: float = 1.0) -> Array:
    """log σ(Σ_t γ^t A(w)_t - Σ_t γ^t A(l)_t), A = α log π per step, time on the last axis (2310.13639)."""

    def discounted(advantages: ArrayLike) -> Array:
        a = as_array(advantages)
        return a @ gamma ** np.arange(a.shape[-1])

    return log_sigmoid(discounted(better) - discounted(worse))


def verdict(rule_score: ArrayLike) -> Array:
    """log P(rule broken) = log σ(s_rule(x, y))."""
    return log_sigmoid(rule_score)


def noisy(probability: ArrayLike, epsilon: float, kind: Literal["uniform", "flip"]) -> Array:
    """Probability of a label from a careless labeller: (1-ε)P + ε/2 (uniform) or (1-ε)P + ε(1-P) (flip)."""
    if not 0 <= epsilon <= 1:
        raise ValueError(f"noisy: epsilon = {epsilon} must be a share between 0 and 1")
    p = as_array(probability)
    if kind == "uniform":
        return (1 - epsilon) * p + epsilon / 2
    if kind == "flip":
        return (1 - epsilon) * p + epsilon * (1 - p)
    raise ValueError(f"noisy: kind = {kind!r} is neither 'uniform' nor 'flip'")


def reward_bt_loss(chosen: ArrayLike, rejected: ArrayLike, margin: ArrayLike = 0.0) -> Array:
    """-log σ(U_w - U_l - m); 100 at U_w - U_l = -100, never inf (1706.03741; margin 2307.09288)."""
    return -log_sigmoid(as_array(chosen) - as_array(rejected) - as_array(margin))


def reward_bt_gradient(chosen: ArrayLike, rejected: ArrayLike, margin: ArrayLike = 0.0) -> Array:
    """d loss / d U_w = -σ(-(U_w - U_l - m))."""
    return -sigmoid(-(as_array(chosen) - as_array(rejected) - as_array(margin)))


def bt_excess_risk(human: ArrayLike, agent: ArrayLike, law: ArrayLike | None = None) -> float:
    """E_{i,j~μ} KL(Bern σ(ΔU_H) ‖ Bern σ(ΔU_A)): what reward learning minimizes; 0 iff M1 = 0.
    Utilities (N,).
    """
    u, v = as_array(human), as_array(agent)
    mu = np.full(u.size, 1 / u.size) if law is None else as_array(law)
    du, dv = u[:, None] - u[None, :], v[:, None] - v[None, :]
    each = sigmoid(du) * (log_sigmoid(du) - log_sigmoid(dv)) + sigmoid(-du) * (
        log_sigmoid(-du) - log_sigmoid(-dv)
    )
    return float(mu @ each @ mu)


def fit_bradley_terry(chosen: Ints, rejected: Ints, items: int) -> Array:
    """Maximum-likelihood utilities (items,), centred, from index arrays (n,) of winners and losers."""
    return _fit_pairs(chosen, rejected, items, log_sigmoid, lambda d: sigmoid(-d))


def fit_thurstone(chosen: Ints, rejected: Ints, items: int) -> Array:
    """The same under Thurstone case V."""
    root = np.sqrt(2.0)

    def slope(d: Array) -> Array:
        # φ(d/√2)/(√2 Φ(d/√2)), by logs: the ratio stays finite where Φ underflows
        log_density = -0.25 * d**2 - 0.5 * np.log(2 * np.pi)
        return as_array(np.exp(log_density - thurstone(d)) / root)

    return _fit_pairs(chosen, rejected, items, thurstone, slope)


def fit_plackett_luce(rankings: Ints, items: int) -> Array:
    """Maximum-likelihood utilities (items,), centred, from rankings (n, K) of item indices, best first."""
    rows = np.asarray(rankings)

    def loss(u: Array) -> tuple[float, Array]:
        listed, gradient = u[rows], np.zeros(items)
        for k in range(rows.shape[1] - 1):
            share = np.exp(log_softmax(listed[:, k:]))
            np.add.at(gradient, rows[:, k:], share)
            np.add.at(gradient, rows[:, k], -1.0)
        return float(-plackett_luce(listed).sum()) / len(rows), gradient / len(rows)

    return _maximize(loss, items)


def _fit_pairs(
    chosen: Ints,
    rejected: Ints,
    items: int,
    log_prob: Callable[[Array], Array],
    slope: Callable[[Array], Array],
) -> Array:
    # counts first: the likelihood depends on the data only through how often i beat j
    wins = np.zeros((items, items))
    np.add.at(wins, (np.asarray(chosen), np.asarray(rejected)), 1.0)
    wins /= max(1.0, float(wins.sum()))

    def loss(u: Array) -> tuple[float, Array]:
        gap = u[:, None] - u[None, :]
        pull = wins * slope(gap)
        return float(-(wins * log_prob(gap)).sum()), pull.sum(0) - pull.sum(1)

    return _maximize(loss, items)


def _maximize(loss: Callable[[Array], tuple[float, Array]], items: int) -> Array:
    found = minimize(
        loss,
        np.zeros(items),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": 1e-9, "ftol": 1e-15, "maxiter": 2000},
    )
    return as_array(found.x - found.x.mean())
