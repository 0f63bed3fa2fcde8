"""Coefficients of the losses on single responses or tokens:
imitation, weighted imitation, good/bad labels, negatives, edits.

log_prob and reference are summed log-probs in nats unless a docstring says "per token". h = log π/π_ref.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from valign.theory.laws import Array, as_array, sigmoid, softmax


def sft(log_prob: ArrayLike) -> Array:
    """1 on every response token, the stop token included. Quark adds a full-vocabulary KL term to it."""
    return np.ones_like(as_array(log_prob))


def reward_weighted_sft(
    log_prob: ArrayLike, reward: ArrayLike, *, beta: float, log_z: ArrayLike | None = None
) -> Array:
    """e^{r/β}/Z; without log Z self-normalized, e^{r_i/β} / mean_j e^{r_j/β} over the last axis."""
    r = as_array(reward)
    if log_z is None:
        return np.broadcast_to(softmax(r / beta) * r.shape[-1], as_array(log_prob).shape).copy()
    return np.exp(r / beta - as_array(log_z))


def fdpg(
    log_prob: ArrayLike,
    log_target: ArrayLike,
    *,
    slope: Callable[[Array], Array] | None = None,
    baseline: float = 1.0,
) -> Array:
    """π*/π - baseline (forward KL, the default); any other f: -f'(π/π*) (2302.08215). Samples from π."""
    log_ratio = as_array(log_prob) - as_array(log_target)
    return np.exp(-log_ratio) - baseline if slope is None else -slope(np.exp(log_ratio))


def alol(
    log_prob: ArrayLike, reference: ArrayLike, advantage: ArrayLike, *, clip: float | None = None
) -> Array:
    """(π/π_ref) max(A, 0), the ratio clipped to 1 ± clip when given and detached (2305.14718)."""
    ratio = np.exp(as_array(log_prob) - as_array(reference))
    if clip is not None:
        ratio = np.clip(ratio, 1 - clip, 1 + clip)
    return ratio * np.maximum(as_array(advantage), 0.0)


def alol_ref_free(log_prob: ArrayLike, advantage: ArrayLike) -> Array:
    """max(A, 0)."""
    return np.broadcast_to(np.maximum(as_array(advantage), 0.0), as_array(log_prob).shape).copy()


def ilql_awac(log_prob: ArrayLike, q_value: ArrayLike, value: ArrayLike, *, beta_a: float) -> Array:
    """e^{β_a(Q-V)} per token: the AWAC head of ILQL (2206.11871); β_a = 0 is behaviour cloning."""
    weight = np.exp(beta_a * (as_array(q_value) - as_array(value)))
    return np.broadcast_to(weight, as_array(log_prob).shape).copy()


def kto(
    log_prob: ArrayLike,
    reference: ArrayLike,
    good: ArrayLike,
    *,
    beta: float,
    z0: float,
    lam_d: float = 1.0,
    lam_u: float = 1.0,
) -> Array:
    """good: λ_D βσ(z)σ(-z), z = β(h - z0); bad: -λ_U βσ(z)σ(-z), z = β(z0 - h); z0 detached (2402.01306)."""
    z = beta * (as_array(log_prob) - as_array(reference) - z0)
    slope = beta * sigmoid(z) * sigmoid(-z)  # even in z: one expression for both labels
    return np.where(as_array(good) > 0, lam_d * slope, -lam_u * slope)


def npo(log_prob: ArrayLike, reference: ArrayLike, *, beta: float) -> Array:
    """-2π^β/(π^β + π_ref^β) = -2σ(βh) (2404.05868); tends to -1 as β → 0."""
    return -2 * sigmoid(beta * (as_array(log_prob) - as_array(reference)))


def gradient_ascent(log_prob: ArrayLike) -> Array:
    """-1: unbounded below, a stop rule is required."""
    return -np.ones_like(as_array(log_prob))


def unlikelihood(log_prob: ArrayLike, tagged: ArrayLike = 1.0) -> Array:
    """Per token: -p/(1-p) on tagged tokens, +1 on the others (1908.04319)."""
    lp = as_array(log_prob)
    return np.where(as_array(tagged) > 0, np.exp(lp) / np.expm1(lp), 1.0)


def cut(log_prob: ArrayLike, tagged: ArrayLike, *, alpha: float = 1.0, gamma: float = 1.0) -> Array:
    """Per token: -α p^γ p/(1-p) on tokens the judgement marks, with p^γ detached;
    +1 on the others (2312.14591).
    """
    lp = as_array(log_prob)
    return np.where(as_array(tagged) > 0, alpha * np.exp(gamma * lp) * np.exp(lp) / np.expm1(lp), 1.0)


def figa(changed: ArrayLike, *, draft: bool, alpha: float = 1.0, beta_f: float = 0.5) -> Array:
    """Per token: +α on inserted or replaced tokens of the revision,
    -β_F on deleted or replaced ones of the draft, else 0.

    `changed` marks them (the revision's end token included by the caller) (2311.04072).
    """
    return (-beta_f if draft else alpha) * as_array(changed)
