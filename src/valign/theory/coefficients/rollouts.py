"""Coefficients of the policy-gradient rows: samples come from the policy or from an older copy of it.

Per-token arrays are (rows, T) log-probs in nats with a mask; advantages are (rows,) or (rows, T); the
result is 0 outside the mask. Losses are summed over tokens: the reductions of the papers multiply by
`policy_gradient.token_weights`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from valign.theory import policy_gradient as pg
from valign.theory.laws import Array, as_array, sigmoid


def reinforce(
    policy: ArrayLike,
    reference: ArrayLike,
    mask: ArrayLike,
    reward: ArrayLike,
    *,
    beta: float = 0.0,
    baseline: ArrayLike = 0.0,
) -> Array:
    """r - β Σ_{s>=t} log(π/π_ref)_s - b per token, (rows, T): KL in the reward as return-to-go.

    reward, baseline (rows,). At β = 0 with reward = advantage it is the plain score-function estimator.
    """
    m = as_array(mask)
    later = pg.return_to_go(np.where(m > 0, as_array(policy) - as_array(reference), 0.0))
    return m * (_column(reward, m) - beta * later - _column(baseline, m))


def reinforce_sequence(
    log_prob: ArrayLike, reference: ArrayLike, reward: ArrayLike, *, beta: float, baseline: ArrayLike = 0.0
) -> Array:
    """r - βh - b: the response as one action, summed log-probs."""
    return as_array(reward) - beta * (as_array(log_prob) - as_array(reference)) - as_array(baseline)


def rloo(log_prob: ArrayLike, reference: ArrayLike, reward: ArrayLike, *, beta: float) -> Array:
    """R_i - mean_{j≠i} R_j with R = r - βh, groups on the last axis (2402.14740)."""
    return pg.rloo_advantage(reinforce_sequence(log_prob, reference, reward, beta=beta))


def remax(
    log_prob: ArrayLike,
    reference: ArrayLike,
    reward: ArrayLike,
    greedy_reward: ArrayLike,
    *,
    beta: float = 0.0,
) -> Array:
    """R - r(greedy response), R = r - βh (2310.10505)."""
    return reinforce_sequence(log_prob, reference, reward, beta=beta, baseline=greedy_reward)


def nash_md(log_prob: ArrayLike, reference: ArrayLike, win_probability: ArrayLike, *, beta: float) -> Array:
    """P(y ≻ y') - 1/2 - βh, y' from the geometric mixture of policy and reference (2312.00886)."""
    return reinforce_sequence(log_prob, reference, win_probability, beta=beta, baseline=0.5)


def ppo(
    policy: ArrayLike,
    old: ArrayLike,
    mask: ArrayLike,
    advantage: ArrayLike,
    *,
    eps_low: float = 0.2,
    eps_high: float = 0.2,
    dual: float | None = None,
) -> Array:
    """ρ_t A_t if unclipped, else 0 (1707.06347). DDPO applies it to denoising steps, NLPO to masked laws."""
    m = as_array(mask)
    ratio, a = np.exp(np.where(m > 0, as_array(policy) - as_array(old), 0.0)), _column(advantage, m)
    return m * ratio * a * pg.is_unclipped(ratio, a, eps_low, eps_high, dual)


def fine_grained(
    policy: ArrayLike,
    old: ArrayLike,
    reference: ArrayLike,
    values: ArrayLike,
    mask: ArrayLike,
    segment_rewards: ArrayLike,
    weights: ArrayLike,
    *,
    beta: float = 0.0,
    gamma: float = 1.0,
    lam: float = 0.95,
    eps_low: float = 0.2,
    eps_high: float = 0.2,
) -> Array:
    """PPO's with A = GAE of Σ_k w_k R_k - β log(π_old/π_ref) (2306.01693).

    segment_rewards (K, rows, T) holds each reward at the last token of its segment; weights (K,). Masks
    must be left-aligned.
    """
    m = as_array(mask)
    reward = np.tensordot(as_array(weights), as_array(segment_rewards), axes=1)
    reward = m * (reward - beta * (as_array(old) - as_array(reference)))
    advantage, _ = pg.gae(reward, m * as_array(values), gamma, lam)
    return ppo(policy, old, mask, advantage, eps_low=eps_low, eps_high=eps_high)


def grpo(
    policy: ArrayLike,
    old: ArrayLike,
    reference: ArrayLike,
    mask: ArrayLike,
    reward: ArrayLike,
    *,
    beta: float = 0.04,
    std: pg.Std = "unbiased",
    eps: float = 1e-4,
    eps_low: float = 0.2,
    eps_high: float = 0.2,
) -> Array:
    """ρ_t (R_i - mean)/std if unclipped, plus β(π_ref/π - 1)_t for the k3 term (2402.03300);
    one group, reward (rows,).
    """
    m = as_array(mask)
    c = ppo(policy, old, mask, pg.group_advantage(reward, std, eps), eps_low=eps_low, eps_high=eps_high)
    d = np.where(m > 0, as_array(reference) - as_array(policy), 0.0)
    return c + beta * m * np.expm1(d)


def dapo(
    policy: ArrayLike,
    old: ArrayLike,
    mask: ArrayLike,
    reward: ArrayLike,
    *,
    eps: float = 1e-4,
    eps_low: float = 0.2,
    eps_high: float = 0.28,
) -> Array:
    """GRPO's advantage, a higher upper clip, no KL (2503.14476)."""
    return ppo(
        policy, old, mask, pg.group_advantage(reward, "unbiased", eps), eps_low=eps_low, eps_high=eps_high
    )


def dr_grpo(
    policy: ArrayLike,
    old: ArrayLike,
    mask: ArrayLike,
    reward: ArrayLike,
    *,
    eps_low: float = 0.2,
    eps_high: float = 0.2,
) -> Array:
    """GRPO without std and without KL (2503.20783)."""
    return ppo(policy, old, mask, pg.group_advantage(reward, "none"), eps_low=eps_low, eps_high=eps_high)


def gdpo(
    policy: ArrayLike,
    old: ArrayLike,
    reference: ArrayLike,
    mask: ArrayLike,
    rewards: ArrayLike,
    *,
    beta: float = 0.04,
    eps: float = 1e-4,
    eps_low: float = 0.2,
    eps_high: float = 0.2,
) -> Array:
    """GRPO with each of the (K, rows) rewards normalized on its own, then summed (2601.05242)."""
    advantage = pg.gdpo_advantage(rewards, eps)
    m = as_array(mask)
    d = np.where(m > 0, as_array(reference) - as_array(policy), 0.0)
    return ppo(policy, old, mask, advantage, eps_low=eps_low, eps_high=eps_high) + beta * m * np.expm1(d)


def gspo(
    policy: ArrayLike,
    old: ArrayLike,
    mask: ArrayLike,
    advantage: ArrayLike,
    *,
    eps_low: float = 3e-4,
    eps_high: float = 3e-4,
) -> Array:
    """s_i A_i/n_i if unclipped, s_i = e^{mean_t log ρ_t}; advantage (rows,) (2507.18071)."""
    m = as_array(mask)
    return as_array(
        luspo(policy, old, mask, advantage, eps_low=eps_low, eps_high=eps_high) / m.sum(-1, keepdims=True)
    )


def luspo(
    policy: ArrayLike,
    old: ArrayLike,
    mask: ArrayLike,
    advantage: ArrayLike,
    *,
    eps_low: float = 3e-4,
    eps_high: float = 3e-4,
) -> Array:
    """s_i A_i if unclipped: GSPO times the length (2602.05261)."""
    m = as_array(mask)
    ratio, a = (
        pg.sequence_ratio(np.where(m > 0, as_array(policy), 0.0), np.where(m > 0, as_array(old), 0.0), m),
        _column(advantage, m),
    )
    return m * ratio * a * pg.is_unclipped(ratio, a, eps_low, eps_high)


def cispo(
    policy: ArrayLike, old: ArrayLike, mask: ArrayLike, advantage: ArrayLike, *, ratio_max: float
) -> Array:
    """sg(min(ρ_t, ratio_max)) A_t: truncated, never cut to 0 (2506.13585)."""
    m = as_array(mask)
    ratio = np.exp(np.where(m > 0, as_array(policy) - as_array(old), 0.0))
    return m * np.minimum(ratio, ratio_max) * _column(advantage, m)


def sapo(
    policy: ArrayLike,
    old: ArrayLike,
    mask: ArrayLike,
    advantage: ArrayLike,
    *,
    tau_pos: float = 1.0,
    tau_neg: float = 1.05,
) -> Array:
    """4σ(z)σ(-z) ρ_t A_t, z = τ(ρ-1), τ by the sign of A: a soft gate in place of the clip (2511.20347)."""
    m = as_array(mask)
    ratio, a = np.exp(np.where(m > 0, as_array(policy) - as_array(old), 0.0)), _column(advantage, m)
    z = np.where(a > 0, tau_pos, tau_neg) * (ratio - 1)
    return m * 4 * sigmoid(z) * sigmoid(-z) * ratio * a


def _column(values: ArrayLike, mask: Array) -> Array:
    v = as_array(values)
    return np.broadcast_to(v[..., None] if v.ndim == mask.ndim - 1 else v, mask.shape)
