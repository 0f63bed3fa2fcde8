"""Policy-gradient arithmetic: advantages, clipping, aggregation, the KL controller,
and what a KL estimator does in a loss.

Rewards are (..., G) for a group of G rollouts, tokens (rows, T) with a mask of response tokens. Numbers
only: no model and no automatic differentiation. Each function is one choice that public implementations
make differently, so it has one name.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from valign.theory.laws import Array, as_array

Std = Literal["unbiased", "biased", "none"]
Reduce = Literal["token_mean", "sequence_mean", "constant_length", "sum"]

KL_LOSS_ROWS = ("k2_seq", "k2_token", "k3_seq", "k3_token", "ratio_k1", "ratio_k3")
KL_ROWS = ("in_reward", *KL_LOSS_ROWS, "none")


def group_advantage(rewards: ArrayLike, std: Std = "unbiased", eps: float = 1e-4) -> Array:
    """(R - mean)/(std + ε) over the last axis; std "none" only centres (2402.03300; without std 2503.20783).

    All-equal groups give exactly 0. Centring shrinks the expected gradient by 1 - 1/G; dividing by std
    biases it by design.
    """
    r = as_array(rewards)
    centred = r - r.mean(-1, keepdims=True)
    # a mean of equal numbers can be off by one rounding, which a tiny std would blow up
    centred = np.where(np.ptp(r, axis=-1, keepdims=True) == 0, 0.0, centred)
    if std == "none":
        return centred
    if std not in ("unbiased", "biased"):
        raise ValueError(f"group_advantage: std = {std!r} is none of 'unbiased', 'biased', 'none'")
    ddof = 1 if std == "unbiased" else 0
    return as_array(centred / (r.std(-1, ddof=ddof, keepdims=True) + eps))


def rloo_advantage(rewards: ArrayLike) -> Array:
    """R_i - mean_{j≠i} R_j = G/(G-1)(R_i - mean), last axis, G >= 2; unbiased (2402.14740)."""
    r = as_array(rewards)
    n = r.shape[-1]
    if n < 2:
        raise ValueError("rloo_advantage: a group needs at least two rollouts")
    return as_array(n / (n - 1) * (r - r.mean(-1, keepdims=True)))


def remax_advantage(rewards: ArrayLike, greedy_reward: ArrayLike) -> Array:
    """R_i - R(greedy response) (2310.10505)."""
    return as_array(rewards) - as_array(greedy_reward)


def opo_advantage(rewards: ArrayLike, lengths: ArrayLike) -> Array:
    """R_i - Σ n_j R_j / Σ n_j: the length-weighted baseline (2505.23585)."""
    r, n = as_array(rewards), as_array(lengths)
    return as_array(r - np.sum(n * r, -1, keepdims=True) / n.sum(-1, keepdims=True))


def gdpo_advantage(rewards: ArrayLike, eps: float = 1e-4) -> Array:
    """Σ_k (R_k - mean)/(std + ε), each reward on its own scale; rewards (rewards, ..., G) (2601.05242)."""
    return as_array(group_advantage(rewards, "unbiased", eps).sum(axis=0))


def batch_norm_advantage(rewards: ArrayLike, eps: float = 1e-8) -> Array:
    """(R - group mean)/(biased std over the whole batch of centred rewards + ε); (groups, G) (2501.03262)."""
    r = as_array(rewards)
    centred = r - r.mean(-1, keepdims=True)
    return as_array(centred / (centred.std() + eps))


def overlong_penalty(lengths: ArrayLike, max_length: float, buffer: float) -> Array:
    """0 up to L-C tokens, falling linearly to -1 at L, -1 beyond (2503.14476)."""
    return np.clip((max_length - buffer - as_array(lengths)) / buffer, -1.0, 0.0)


def kl_shaped_rewards(policy: ArrayLike, reference: ArrayLike, score: float, beta: float) -> Array:
    """r_t = -β log(π/π_ref)_t, plus the score at the last response token, the stop token included;
    (T,) (2203.02155).
    """
    rewards = -beta * (as_array(policy) - as_array(reference))
    rewards[-1] += score
    return rewards


def return_to_go(rewards: ArrayLike, gamma: float = 1.0) -> Array:
    """G_t = Σ_{s>=t} γ^{s-t} r_s over the last axis."""
    out = as_array(rewards).copy()
    for t in reversed(range(out.shape[-1] - 1)):
        out[..., t] += gamma * out[..., t + 1]
    return out


def gae(rewards: ArrayLike, values: ArrayLike, gamma: float = 1.0, lam: float = 0.95) -> tuple[Array, Array]:
    """(advantages, returns), last axis is time:
    δ_t = r_t + γV_{t+1} - V_t, A_t = δ_t + γλA_{t+1}, return = A + V.

    The value after the end is 0 (1506.02438).
    """
    r, v = as_array(rewards), as_array(values)
    after = np.concatenate([v[..., 1:], np.zeros_like(v[..., :1])], axis=-1)
    advantages = return_to_go(r + gamma * after - v, gamma * lam)
    return advantages, advantages + v


def whiten(values: ArrayLike, mask: ArrayLike | None = None, std: Std = "biased", eps: float = 1e-8) -> Array:
    """(x - mean)/√(var + ε) with statistics over masked entries, 0 elsewhere. The mean is removed, always."""
    x = as_array(values)
    kept = np.ones(x.shape, dtype=bool) if mask is None else as_array(mask) > 0
    inside = x[kept]
    ddof = 1 if std == "unbiased" else 0
    return np.where(kept, (x - inside.mean()) / np.sqrt(inside.var(ddof=ddof) + eps), 0.0)


def adaptive_kl(beta: float, kl: float, target: float, n: int, horizon: int) -> float:
    """β ← β (1 + clip(KL/target - 1, ±.2) n/horizon) (1909.08593)."""
    return float(beta * (1 + np.clip(kl / target - 1, -0.2, 0.2) * n / horizon))


def clipped_loss(
    policy: ArrayLike,
    old: ArrayLike,
    advantage: ArrayLike,
    eps_low: float = 0.2,
    eps_high: float = 0.2,
    dual: float | None = None,
) -> Array:
    """-min(ρA, clip(ρ, 1-ε_lo, 1+ε_hi)A) per token (1707.06347);
    `dual` caps it at -dual·A where A < 0 (1912.09729).
    """
    ratio, a = np.exp(as_array(policy) - as_array(old)), as_array(advantage)
    loss = -np.minimum(ratio * a, np.clip(ratio, 1 - eps_low, 1 + eps_high) * a)
    return loss if dual is None else np.where(a < 0, np.minimum(loss, -dual * a), loss)


def is_unclipped(
    ratio: ArrayLike,
    advantage: ArrayLike,
    eps_low: float = 0.2,
    eps_high: float = 0.2,
    dual: float | None = None,
) -> Array:
    """1 where the surrogate still has a gradient:
    not (A>0, ρ>1+ε_hi), not (A<0, ρ<1-ε_lo), not (A<0, ρ>dual).
    """
    rho, a = np.broadcast_arrays(as_array(ratio), as_array(advantage))
    cut = ((a > 0) & (rho > 1 + eps_high)) | ((a < 0) & (rho < 1 - eps_low))
    if dual is not None:
        cut |= (a < 0) & (rho > dual)
    return as_array(~cut)


def sequence_ratio(policy: ArrayLike, old: ArrayLike, mask: ArrayLike) -> Array:
    """s_i = e^{mean_t log ρ_t}, (rows, 1) (GSPO, 2507.18071)."""
    m = as_array(mask)
    log_ratio = np.sum((as_array(policy) - as_array(old)) * m, -1, keepdims=True)
    return as_array(np.exp(log_ratio / m.sum(-1, keepdims=True)))


def truncated_importance(trainer: ArrayLike, sampler: ArrayLike, cap: float) -> Array:
    """min(π_trainer/π_sampler, cap) per token; multiplies the loss and carries no gradient."""
    return np.minimum(np.exp(as_array(trainer) - as_array(sampler)), cap)


def value_loss(
    values: ArrayLike, old_values: ArrayLike, returns: ArrayLike, clip: float | None = 0.2
) -> float:
    """½ mean max((V-R)², (V_old + clip(V-V_old, ±c) - R)²); clip None keeps the plain square."""
    v, old, target = as_array(values), as_array(old_values), as_array(returns)
    plain = (v - target) ** 2
    if clip is None:
        return float(0.5 * plain.mean())
    near = (old + np.clip(v - old, -clip, clip) - target) ** 2
    return float(0.5 * np.maximum(plain, near).mean())


def token_weights(mask: ArrayLike, reduce: Reduce, max_length: float | None = None) -> Array:
    """The weight of each token in the reduced loss, (rows, T); the loss is Σ weight · token loss.

    token_mean 1/Σm; sequence_mean 1/(rows · n_i); constant_length 1/(rows · max_length) (2503.20783); sum 1.
    """
    m = as_array(mask)
    if reduce == "token_mean":
        return as_array(m / m.sum())
    if reduce == "sequence_mean":
        return as_array(m / m.sum(-1, keepdims=True) / len(m))
    if reduce == "constant_length":
        if max_length is None:
            raise ValueError("token_weights: constant_length needs max_length")
        return m / (len(m) * max_length)
    if reduce == "sum":
        return m
    raise ValueError(f"token_weights: reduce = {reduce!r} is not a known reduction")


def aggregate(
    token_loss: ArrayLike, mask: ArrayLike, reduce: Reduce, max_length: float | None = None
) -> float:
    """Σ token_weights · token_loss; masked tokens do not matter whatever they hold."""
    weights = token_weights(mask, reduce, max_length)
    return float(np.sum(weights * np.where(weights > 0, as_array(token_loss), 0.0)))


def kl_loss_value(
    row: str, policy: ArrayLike, reference: ArrayLike, sampler: ArrayLike | None = None
) -> Array:
    """The loss term of one row of the KL table for one sampled response, tokens on the last axis,
    shape (...).

    policy, reference (..., T) per-token log-probs; sampler: detached policy log-probs (default: policy,
    ratio 1).
    """
    _require_row(row)
    d = as_array(reference) - as_array(policy)
    ratio = np.exp(np.sum(as_array(policy) - as_array(policy if sampler is None else sampler), -1))
    total = d.sum(-1)
    rows = {
        "k2_seq": total**2 / 2,
        "k2_token": np.sum(d**2 / 2, -1),
        "k3_seq": np.expm1(total) - total,
        "k3_token": np.sum(np.expm1(d) - d, -1),
        "ratio_k1": ratio * -total,
        "ratio_k3": ratio * (np.expm1(total) - total),
    }
    return as_array(rows[row])


def kl_coefficients(row: str, policy: ArrayLike, reference: ArrayLike, beta: float = 1.0) -> Array:
    """Per-token coefficients c_t of β times one KL row at the policy that drew the samples, (..., T).

    With d_t = log π_ref - log π:  in_reward Σ_{s>=t} d_s;  k2_seq Σ d;  k2_token d_t;  k3_seq e^{Σd} - 1;
    k3_token e^{d_t} - 1;  ratio_k1 Σd - 1;  ratio_k3 Σd;  none 0. Refuses "k1": its expected gradient is
    exactly 0.
    """
    d = as_array(reference) - as_array(policy)
    total = np.broadcast_to(d.sum(-1, keepdims=True), d.shape)
    if row == "none":
        return np.zeros_like(d)
    if row == "in_reward":
        return beta * return_to_go(d)
    _require_row(row)
    rows = {
        "k2_seq": total,
        "k2_token": d,
        "k3_seq": np.expm1(total),
        "k3_token": np.expm1(d),
        "ratio_k1": total - 1,
        "ratio_k3": total,
    }
    return as_array(beta * rows[row])


def _require_row(row: str) -> None:
    if row == "k1":
        raise ValueError(
            "kl = 'k1' as a loss term has expected gradient 0: nothing is regularized; use 'in_reward'"
        )
    if row not in KL_LOSS_ROWS:
        raise ValueError(f"kl = {row!r} is none of {', '.join(KL_ROWS)}")
