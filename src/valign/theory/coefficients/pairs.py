"""Coefficients of the losses that compare a chosen with a rejected response.

Notation as in the papers: a = log π/π_ref of the chosen, b of the rejected response, h = a - b, Δ = βh;
n_w, n_l lengths. Every function returns detached numbers (chosen, rejected), positive where the loss raises
the log-probability.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from valign.theory.divergence import F_DIVERGENCES, FDivergence, alpha_divergence
from valign.theory.laws import Array, as_array, log_sigmoid, sigmoid

Coefficients = tuple[Array, Array]


@dataclass(frozen=True)
class Pairs:
    """n pairs: summed log-probs in nats (n,) and lengths in tokens (n,), the stop token counted."""

    policy_chosen: ArrayLike
    policy_rejected: ArrayLike
    reference_chosen: ArrayLike = 0.0
    reference_rejected: ArrayLike = 0.0
    length_chosen: ArrayLike = 1.0
    length_rejected: ArrayLike = 1.0
    w: Array = field(init=False, repr=False)  # log π of the chosen
    l: Array = field(init=False, repr=False)  # noqa: E741 - the papers' letter
    a: Array = field(init=False, repr=False)
    b: Array = field(init=False, repr=False)
    h: Array = field(init=False, repr=False)
    n_w: Array = field(init=False, repr=False)
    n_l: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        w, l = as_array(self.policy_chosen), as_array(self.policy_rejected)  # noqa: E741
        a, b = w - as_array(self.reference_chosen), l - as_array(self.reference_rejected)
        derived = {
            "w": w,
            "l": l,
            "a": a,
            "b": b,
            "h": a - b,
            "n_w": as_array(self.length_chosen),
            "n_l": as_array(self.length_rejected),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


def _both(c: Array) -> Coefficients:
    return c, -c


def dpo(pairs: Pairs, *, beta: float) -> Coefficients:
    """±βσ(-Δ) (2305.18290, below Eq. 7). Also one denoising step of Diffusion-DPO,
    with Gaussian log-probs.
    """
    return _both(beta * sigmoid(-beta * pairs.h))


def dpo_reference_free(pairs: Pairs, *, beta: float) -> Coefficients:
    """±βσ(-β(log π_w - log π_l)): DPO with a uniform reference."""
    return _both(beta * sigmoid(-beta * (pairs.w - pairs.l)))


def cdpo(pairs: Pairs, *, beta: float, eps: float) -> Coefficients:
    """±β[(1-ε)σ(-Δ) - εσ(Δ)]."""
    margin = beta * pairs.h
    return _both(beta * ((1 - eps) * sigmoid(-margin) - eps * sigmoid(margin)))


def robust_dpo(pairs: Pairs, *, beta: float, eps: float) -> Coefficients:
    """±β[(1-ε)σ(-Δ) + εσ(Δ)]/(1-2ε) (2403.00409)."""
    margin = beta * pairs.h
    return _both(beta * ((1 - eps) * sigmoid(-margin) + eps * sigmoid(margin)) / (1 - 2 * eps))


def odpo(pairs: Pairs, *, beta: float, offset: ArrayLike) -> Coefficients:
    """±βσ(-(Δ - offset)) (2402.10571)."""
    return _both(beta * sigmoid(as_array(offset) - beta * pairs.h))


def dpop(pairs: Pairs, *, beta: float, lam: float) -> Coefficients:
    """±βσ(-z) with z = β(h - λ max(0, -a)); the chosen one times 1 + λ where a < 0 (2402.13228)."""
    below = as_array(pairs.a < 0)
    weight = beta * sigmoid(-beta * (pairs.h - lam * np.maximum(0.0, -pairs.a)))
    return weight * (1 + lam * below), -weight


def rdpo(pairs: Pairs, *, beta: float, alpha: float) -> Coefficients:
    """±βσ(-(Δ + α(n_w - n_l))) (2403.19159)."""
    return _both(beta * sigmoid(-(beta * pairs.h + alpha * (pairs.n_w - pairs.n_l))))


def rpo(pairs: Pairs, *, beta: float, alpha: float) -> Coefficients:
    """DPO's, and +α/n_w on the chosen (2404.19733)."""
    chosen, rejected = dpo(pairs, beta=beta)
    return chosen + alpha / pairs.n_w, rejected


def sigmoid_norm(pairs: Pairs, *, beta: float) -> Coefficients:
    """w: βσ(-z)/n_w, l: -βσ(-z)/n_l, z = β(a/n_w - b/n_l) (2411.15124)."""
    weight = beta * sigmoid(-beta * (pairs.a / pairs.n_w - pairs.b / pairs.n_l))
    return weight / pairs.n_w, -weight / pairs.n_l


def hinge(pairs: Pairs, *, beta: float) -> Coefficients:
    """±β 1[Δ < 1] (2309.06657)."""
    return _both(beta * as_array(beta * pairs.h < 1))


def ipo_sum(pairs: Pairs, *, tau: float) -> Coefficients:
    """±2[1/(2τ) - h] (2310.12036, Eq. 17)."""
    return _both(2 * (0.5 / tau - pairs.h))


def ipo_mean(pairs: Pairs, *, tau: float) -> Coefficients:
    """w: 2[1/(2τ) - (a/n_w - b/n_l)]/n_w, l: the same, negative, /n_l."""
    pull = 2 * (0.5 / tau - (pairs.a / pairs.n_w - pairs.b / pairs.n_l))
    return pull / pairs.n_w, -pull / pairs.n_l


def fdpo(pairs: Pairs, *, beta: float, kind: FDivergence) -> Coefficients:
    """w: σ(-Δ_f)β u_w f''(u_w), l: -σ(-Δ_f)β u_l f''(u_l), Δ_f = β(f'(u_w) - f'(u_l)),
    u = π/π_ref (2309.16240).
    """
    u_w, u_l = np.exp(pairs.a), np.exp(pairs.b)
    weight = beta * sigmoid(-beta * (kind.slope(u_w) - kind.slope(u_l)))
    return weight * kind.curvature(u_w), -weight * kind.curvature(u_l)


def fdpo_forward_kl(pairs: Pairs, *, beta: float) -> Coefficients:
    """u f'' = 1/u."""
    return fdpo(pairs, beta=beta, kind=F_DIVERGENCES["forward_kl"])


def fdpo_js(pairs: Pairs, *, beta: float) -> Coefficients:
    """u f'' = 1/(1+u); written with log σ so that no ratio overflows."""
    weight = beta * sigmoid(-beta * (log_sigmoid(pairs.a) - log_sigmoid(pairs.b)))
    return weight * sigmoid(-pairs.a), -weight * sigmoid(-pairs.b)


def fdpo_alpha(pairs: Pairs, *, beta: float, alpha: float) -> Coefficients:
    """u f'' = u^{-α}, α in (0, 1)."""
    return fdpo(pairs, beta=beta, kind=alpha_divergence(alpha))


def chi_po(pairs: Pairs, *, beta: float, clip: float = np.inf) -> Coefficients:
    """u f'' = 1 + u with f' = u + log u (2407.13399); 0 once the margin β(f'(u_w)-f'(u_l)) leaves ±clip."""
    u_w, u_l = np.exp(pairs.a), np.exp(pairs.b)
    margin = beta * (u_w + pairs.a - u_l - pairs.b)
    weight = beta * sigmoid(-margin) * (np.abs(margin) < clip)
    return weight * (1 + u_w), -weight * (1 + u_l)


def simpo(pairs: Pairs, *, beta: float, gamma: float) -> Coefficients:
    """w: (β/n_w)σ(-z), l: -(β/n_l)σ(-z), z = β(p̄_w - p̄_l) - γ (2405.14734)."""
    weight = beta * sigmoid(gamma - beta * (pairs.w / pairs.n_w - pairs.l / pairs.n_l))
    return weight / pairs.n_w, -weight / pairs.n_l


def orpo(pairs: Pairs, *, lam: float) -> Coefficients:
    """w: [1 + λσ(-o)/(1-P_w)]/n_w, l: -λσ(-o)/((1-P_l)n_l), P = e^{p̄},
    o = logit P_w - logit P_l (2403.07691).
    """
    mean_w, mean_l = pairs.w / pairs.n_w, pairs.l / pairs.n_l
    miss_w, miss_l = -np.expm1(mean_w), -np.expm1(mean_l)  # 1 - P without cancellation
    weight = lam * sigmoid(-(mean_w - np.log(miss_w) - mean_l + np.log(miss_l)))
    return (1 + weight / miss_w) / pairs.n_w, -weight / miss_l / pairs.n_l


def cpo(pairs: Pairs, *, beta: float, lam: float = 1.0) -> Coefficients:
    """±βσ(-β(log π_w - log π_l)), plus λ on the chosen: its NLL as a token sum (2401.08417)."""
    chosen, rejected = dpo_reference_free(pairs, beta=beta)
    return chosen + lam, rejected


def slic_hf(pairs: Pairs, *, delta: float = 1.0) -> Coefficients:
    """±1[log π_w - log π_l < δ] (2305.10425). The regularizer adds λ on every token of y_ref."""
    return _both(as_array(pairs.w - pairs.l < delta))


def nca_pair(pairs: Pairs, *, beta: float) -> Coefficients:
    """w: β[σ(-r_w) - σ(r_w)/2], l: -(β/2)σ(r_l), r = β log-ratio (2402.05369)."""
    r_w, r_l = beta * pairs.a, beta * pairs.b
    return beta * (sigmoid(-r_w) - 0.5 * sigmoid(r_w)), -0.5 * beta * sigmoid(r_l)


def bco_pair(pairs: Pairs, *, beta: float, shift: float = 0.0) -> Coefficients:
    """w: βσ(-(r_w - δ)), l: -βσ(r_l - δ); δ = `shift`, a running mean of rewards (2404.04656)."""
    return beta * sigmoid(shift - beta * pairs.a), -beta * sigmoid(beta * pairs.b - shift)


def sppo_hard(pairs: Pairs, *, beta: float) -> Coefficients:
    """w: 2(1/(2β) - a), l: -2(1/(2β) + b) (2405.00675)."""
    return 2 * (0.5 / beta - pairs.a), -2 * (0.5 / beta + pairs.b)


def apo_zero(pairs: Pairs, *, beta: float) -> Coefficients:
    """w: βσ(r_w)σ(-r_w), l: -βσ(r_l)σ(-r_l) (2408.06266, Eq. 7)."""
    r_w, r_l = beta * pairs.a, beta * pairs.b
    return beta * sigmoid(r_w) * sigmoid(-r_w), -beta * sigmoid(r_l) * sigmoid(-r_l)


def apo_down(pairs: Pairs, *, beta: float) -> Coefficients:
    """w: β[σ(Δ)σ(-Δ) - σ(r_w)σ(-r_w)], l: -βσ(Δ)σ(-Δ) (2408.06266, Eq. 8)."""
    r_w, margin = beta * pairs.a, beta * pairs.h
    slope = beta * sigmoid(margin) * sigmoid(-margin)
    return slope - beta * sigmoid(r_w) * sigmoid(-r_w), -slope


def exo_pair(pairs: Pairs, *, beta: float, eps: float) -> Coefficients:
    """±βσ(Δ)σ(-Δ)[log((1-ε)/ε) - Δ], ε in (0, ½) (2402.00856, Eq. 16)."""
    if not 0 < eps < 0.5:
        raise ValueError(f"exo_pair: eps = {eps} must lie strictly between 0 and 0.5")
    margin = beta * pairs.h
    return _both(beta * sigmoid(margin) * sigmoid(-margin) * (np.log((1 - eps) / eps) - margin))


def discopop(pairs: Pairs, *, beta: float, tau: float) -> Coefficients:
    """±β[(1-m)σ(-Δ) + m e^{-Δ} - (m(1-m)/τ)(e^{-Δ} + log σ(Δ))], m = σ(Δ/τ) (2406.08414)."""
    margin = beta * pairs.h
    m, off = sigmoid(margin / tau), sigmoid(-margin / tau)
    # logs before the product: m(1-m)e^{-Δ} is 0 · inf at very negative margins
    mixed = np.exp(log_sigmoid(margin / tau) - margin)
    return _both(
        beta * (off * sigmoid(-margin) + mixed - (off * mixed + m * off * log_sigmoid(margin)) / tau)
    )


def aot_paired(pairs: Pairs, *, beta: float) -> Coefficients:
    """DPO on policy margins and reference margins, each sorted over the batch on its own (2406.05882)."""
    policy, reference = pairs.w - pairs.l, (pairs.w - pairs.a) - (pairs.l - pairs.b)
    order = np.argsort(policy, kind="stable")
    out = np.empty_like(policy)
    out[order] = beta * sigmoid(-beta * (policy[order] - np.sort(reference)))
    return _both(out)


def aot_unpaired(pairs: Pairs, *, beta: float) -> Coefficients:
    """DPO on sorted chosen log-ratios against sorted rejected ones (2406.05882)."""
    up, down = np.argsort(pairs.a, kind="stable"), np.argsort(pairs.b, kind="stable")
    weight = beta * sigmoid(-beta * (pairs.a[up] - pairs.b[down]))
    chosen, rejected = np.empty_like(pairs.a), np.empty_like(pairs.b)
    chosen[up], rejected[down] = weight, -weight
    return chosen, rejected


def modpo(pairs: Pairs, *, beta: float, w_this: float, w_rest: float, margin_rest: ArrayLike) -> Coefficients:
    """±(β/w)σ(-(Δ - w_rest · margin_rest)/w): one objective with the others as a margin (2310.03708)."""
    return _both(beta / w_this * sigmoid(-(beta * pairs.h - w_rest * as_array(margin_rest)) / w_this))


def tdpo1(pairs: Pairs, *, beta: float, kl_chosen: ArrayLike, kl_rejected: ArrayLike) -> Coefficients:
    """±βσ(-β(h - (K_l - K_w))): the sampled-token part;
    the gradient of K acts on the vocabulary (2404.11999).
    """
    return tdpo2(pairs, beta=beta, alpha=1.0, kl_chosen=kl_chosen, kl_rejected=kl_rejected)


def tdpo2(
    pairs: Pairs, *, beta: float, alpha: float, kl_chosen: ArrayLike, kl_rejected: ArrayLike
) -> Coefficients:
    """±βσ(-β(h - α(K_l - K_w))): the sampled-token part (2404.11999)."""
    return _both(beta * sigmoid(-beta * (pairs.h - alpha * (as_array(kl_rejected) - as_array(kl_chosen)))))


def xpo(pairs: Pairs, *, beta: float, alpha: float, chosen_is_reference: ArrayLike) -> Coefficients:
    """DPO's, and -α on every token of whichever response came from π_ref (2405.21046)."""
    from_reference = as_array(chosen_is_reference)
    chosen, rejected = dpo(pairs, beta=beta)
    return chosen - alpha * from_reference, rejected - alpha * (1 - from_reference)
