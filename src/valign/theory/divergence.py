"""Distances between laws, the information quantities built from them, and the three KL estimators.

All in nats, over the last axis unless a docstring says otherwise. What an estimator does as a *loss term*
is a different question, answered in `policy_gradient`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from valign.theory.laws import Array, as_array, entropy, log_or_floor


def kl(first: ArrayLike, second: ArrayLike) -> Array:
    """KL(p‖q) = Σ p (log p - log q) in nats; 0 where p = 0, inf where q = 0 < p."""
    p, q = as_array(first), as_array(second)
    with np.errstate(invalid="ignore"):
        return as_array(np.sum(np.where(p > 0, p * (log_or_floor(p) - log_or_floor(q)), 0.0), axis=-1))


def kl_from_logs(first: ArrayLike, second: ArrayLike) -> Array:
    """KL(p‖q) from log-probabilities (..., N); no precision is lost for outcomes far below 1e-308."""
    log_p, log_q = as_array(first), as_array(second)
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        return as_array(np.sum(np.where(p > 0, p * (log_p - log_q), 0.0), axis=-1))


@dataclass(frozen=True)
class FDivergence:
    """One convex f with f(1) = 0, D = E_q f(p/q), and what the optimum and f-DPO need from it.

    value       f(u)
    slope       f'(u)
    curvature   u f''(u), the factor by which f-DPO multiplies DPO's coefficient
    inverse     u as a function of f'(u)
    slope_bound supremum of f' (inf when unbounded): the inverse exists below it
    """

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    curvature: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    slope_bound: float


def alpha_divergence(alpha: float) -> FDivergence:
    """f' = (1 - u^{-α})/α for α in (0, 1) (2309.16240, its table of f');
    α → 0 is the reverse KL, α → 1 the forward KL.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha_divergence: alpha = {alpha} must lie strictly between 0 and 1")
    return FDivergence(
        value=lambda u: (u - 1) / alpha - (u ** (1 - alpha) - 1) / (alpha * (1 - alpha)),
        slope=lambda u: (1 - u**-alpha) / alpha,
        curvature=lambda u: u**-alpha,
        inverse=lambda v: (1 - alpha * v) ** (-1 / alpha),
        slope_bound=1 / alpha,
    )


F_DIVERGENCES: dict[str, FDivergence] = {
    "reverse_kl": FDivergence(
        value=lambda u: u * np.log(u),
        slope=lambda u: np.log(u) + 1,
        curvature=lambda u: np.ones_like(u),
        inverse=lambda v: np.exp(v - 1),
        slope_bound=np.inf,
    ),
    "forward_kl": FDivergence(
        value=lambda u: -np.log(u),
        slope=lambda u: -1 / u,
        curvature=lambda u: 1 / u,
        inverse=lambda v: -1 / v,
        slope_bound=0.0,
    ),
    "jensen_shannon": FDivergence(
        value=lambda u: u * np.log(u) - (u + 1) * np.log((u + 1) / 2),
        slope=lambda u: np.log(2 * u / (1 + u)),
        curvature=lambda u: 1 / (1 + u),
        inverse=lambda v: np.exp(v) / (2 - np.exp(v)),
        slope_bound=float(np.log(2)),
    ),
    "alpha_half": alpha_divergence(0.5),
}


def f_divergence(policy: ArrayLike, reference: ArrayLike, kind: FDivergence) -> Array:
    """E_ref f(π/π_ref) over the last axis; both laws strictly positive."""
    p, q = as_array(policy), as_array(reference)
    return as_array(np.sum(q * kind.value(p / q), axis=-1))


def jsd(first: ArrayLike, second: ArrayLike, weight: float = 0.5) -> Array:
    """b KL(p‖m) + (1-b) KL(q‖m), m = b p + (1-b) q, b = `weight` in (0, 1) (2306.13649);
    at most log 2 at b = 1/2.
    """
    if not 0 < weight < 1:
        raise ValueError(f"jsd: weight = {weight} must lie strictly between 0 and 1")
    p, q = as_array(first), as_array(second)
    mixture = weight * p + (1 - weight) * q
    return weight * kl(p, mixture) + (1 - weight) * kl(q, mixture)


def generalized_jsd(laws: ArrayLike, weights: ArrayLike) -> float:
    """Σ_i α_i KL(p_i‖p_M) with p_M = Σ α_i p_i; equals H(p_M) - Σ α_i H(p_i).
    laws (M, K), weights (M,) sum to 1.
    """
    p, a = as_array(laws), as_array(weights)
    return float(a @ kl(p, (a @ p)[None, :]))


def mutual_information(joint: ArrayLike) -> float:
    """I(V;y) = H(V) + H(y) - H(V, y) for a joint table; the last axis is y, all the others together are V."""
    table = as_array(joint)
    flat = table.reshape(-1, table.shape[-1])
    return float(entropy(flat.sum(1)) + entropy(flat.sum(0)) - entropy(flat.ravel()))


def total_correlation(joint: ArrayLike) -> float:
    """TC(V) = Σ_k H(v_k) - H(V) for a joint table whose axes are v_1..v_m; 0 iff independent."""
    table = as_array(joint)
    axes = range(table.ndim)
    marginals = [table.sum(axis=tuple(b for b in axes if b != a)) for a in axes]
    return float(sum(float(entropy(m)) for m in marginals) - float(entropy(table.ravel())))


def information_gain(joint: ArrayLike) -> float:
    """Σ_k I(v_k;y) - I(V;y) for a table with axes v_1..v_m, y; equals TC(V) - TC(V|y) and can be negative.

    The quantity that PICACO and IROTE maximize (2507.16679, 2508.08719).
    """
    table = as_array(joint)
    values = range(table.ndim - 1)
    single = [mutual_information(table.sum(axis=tuple(b for b in values if b != a))) for a in values]
    return float(sum(single) - mutual_information(table))


def conditional_total_correlation(joint: ArrayLike) -> float:
    """TC(V|y) = Σ_y p(y) TC(V | y); axes v_1..v_m, y."""
    table = as_array(joint)
    mass = table.sum(axis=tuple(range(table.ndim - 1)))
    return float(sum(m * total_correlation(table[..., k] / m) for k, m in enumerate(mass) if m > 0))


def k1(policy_log_prob: ArrayLike, reference_log_prob: ArrayLike) -> Array:
    """-d with d = log π_ref - log π at samples of π; unbiased for KL(π‖π_ref). Same shape as the inputs."""
    return as_array(policy_log_prob) - as_array(reference_log_prob)


def k2(policy_log_prob: ArrayLike, reference_log_prob: ArrayLike) -> Array:
    """d²/2: low variance, biased as a value."""
    return k1(policy_log_prob, reference_log_prob) ** 2 / 2


def k3(policy_log_prob: ArrayLike, reference_log_prob: ArrayLike) -> Array:
    """e^d - 1 - d: unbiased and never negative. Not clamped: a clamp would bias it silently."""
    d = -k1(policy_log_prob, reference_log_prob)
    return np.expm1(d) - d
