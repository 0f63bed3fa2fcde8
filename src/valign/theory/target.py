"""The one target: π*(y|x) ∝ π_ref(y|x) e^{r(x,y)/β}, what it is worth, and the reward any policy implies.

`Target` states it for any policy; `GibbsTarget` computes it when all responses of a prompt can be listed.
Arrays carry responses on the last axis and prompts on the axis before it; values are per prompt, never
averaged here. Generation and model scoring belong to higher rooms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from valign.theory.divergence import FDivergence, kl
from valign.theory.laws import (
    Array,
    as_array,
    covariance,
    expectation,
    log_or_floor,
    log_softmax,
    log_sum_exp,
    sigmoid,
    softmax,
)

Score = Callable[[Any, Any], float]


@dataclass(frozen=True)
class Constraint:
    """E[cost] <= limit with multiplier λ >= 0, in units of reward per unit of cost."""

    cost: Score
    limit: float
    multiplier: float = 0.0

    def __post_init__(self) -> None:
        if self.multiplier < 0:
            raise ValueError(f"Constraint: multiplier = {self.multiplier} must not be negative")


@dataclass(frozen=True)
class Target:
    """Goal, reference and strength: π* ∝ π_ref e^{(r - Σ λ_k c_k)/β}.

    goal         r(x, y), a callable
    reference    log π_ref(y|x), a callable in nats
    beta         KL strength > 0; 1/β is "strength"
    constraints  costs with their multipliers, see `constrained` for how λ is found
    """

    goal: Score
    reference: Score
    beta: float
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        _require_beta(self.beta)

    def reward(self, x: Any, y: Any) -> float:
        """r(x, y) - Σ λ_k c_k(x, y)."""
        return self.goal(x, y) - sum(c.multiplier * c.cost(x, y) for c in self.constraints)

    def log_weight(self, x: Any, y: Any) -> float:
        """log of the unnormalized density of π* against π_ref: reward / β."""
        return self.reward(x, y) / self.beta

    def over(self, x: Any, responses: Sequence[Any]) -> GibbsTarget:
        """The target of one prompt whose responses are all listed;
        the reference is renormalized over the list.
        """
        log_reference = log_softmax([self.reference(x, y) for y in responses])
        reward = as_array([self.reward(x, y) for y in responses])
        return GibbsTarget(log_reference, reward, self.beta, tuple(responses))


@dataclass(frozen=True)
class GibbsTarget:
    """π* on listed responses.

    log_reference  (..., N) log π_ref in nats, normalized over the last axis
    reward         (..., N) r
    beta           > 0
    responses      the N responses as token sequences; only `soft_value` needs them
    """

    log_reference: Array
    reward: Array
    beta: float
    responses: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        _require_beta(self.beta)
        if self.log_reference.shape != self.reward.shape:
            raise ValueError(
                f"GibbsTarget: {self.log_reference.shape} reference and {self.reward.shape} reward differ"
            )
        if np.max(np.abs(log_sum_exp(self.log_reference))) > 1e-6:
            raise ValueError("GibbsTarget: log_reference is not normalized over its last axis")

    def log_gibbs(self) -> Array:
        """log π*, (..., N)."""
        return log_softmax(self.log_reference + self.reward / self.beta)

    def gibbs(self) -> Array:
        """π*, (..., N)."""
        return np.exp(self.log_gibbs())

    def log_z(self) -> Array:
        """log Z(x) = log E_ref e^{r/β}, (...)."""
        return log_sum_exp(self.log_reference + self.reward / self.beta)

    def optimum(self) -> Array:
        """J* = β log Z, (...)."""
        return self.beta * self.log_z()

    def J(self, policy: ArrayLike) -> Array:
        """J(q) = E_q r - β KL(q‖π_ref), (...); q are probabilities (..., N)."""
        return objective(policy, np.exp(self.log_reference), self.reward, self.beta)

    def implicit_reward(self, policy: ArrayLike) -> Array:
        """β log(q/π_ref), (..., N): the reward q is optimal for, up to a function of the prompt."""
        return self.beta * (log_or_floor(policy) - self.log_reference)

    def at_strength(self, strength: float) -> Array:
        """π* at 1/β = strength; strength 0 is the reference."""
        return at_strength(np.exp(self.log_reference), self.reward, strength)

    def soft_value(self, prefix: Sequence[Any]) -> Array:
        """V(s) = β log E_ref[e^{r/β} | y starts with s], (...); V(()) = J*, V(y) = r(y) for a whole response.

        Raises KeyError when no listed response starts with `prefix`.
        """
        head = tuple(prefix)
        inside = np.array([tuple(y[: len(head)]) == head for y in self.responses], dtype=bool)
        if not inside.any():
            raise KeyError(f"no listed response starts with {head}")
        below = self.log_reference[..., inside]
        return self.beta * (log_sum_exp(below + self.reward[..., inside] / self.beta) - log_sum_exp(below))


def _require_beta(beta: float) -> None:
    if not beta > 0:
        raise ValueError(f"beta = {beta}: the KL strength must be a positive number")


def gibbs(reference: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """π_ref e^{r/β} / Z over the last axis (theory notes, section 2)."""
    _require_beta(beta)
    return softmax(log_or_floor(reference) + as_array(reward) / beta)


def at_strength(reference: ArrayLike, reward: ArrayLike, strength: float) -> Array:
    """Gibbs law at strength s = 1/β; defined at s = 0 as well."""
    return softmax(log_or_floor(reference) + strength * as_array(reward))


def log_partition(reference: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """log Z = log Σ π_ref e^{r/β} over the last axis."""
    _require_beta(beta)
    return log_sum_exp(log_or_floor(reference) + as_array(reward) / beta)


def objective(policy: ArrayLike, reference: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """J(q) = E_q r - β KL(q‖π_ref) over the last axis."""
    return expectation(policy, reward) - beta * kl(policy, reference)


def strength_slope(
    reference: ArrayLike, reward: ArrayLike, strength: float, gold: ArrayLike | None = None
) -> Array:
    """dE_{π_s}[gold]/ds = Cov_{π_s}(gold, r); with gold = r (the default) it is Var_{π_s}(r) >= 0."""
    law = at_strength(reference, reward, strength)
    return covariance(law, reward if gold is None else gold, reward)


def win_probability(reward: ArrayLike, opponent: ArrayLike) -> Array:
    """p*(y ≻ μ) = E_{y'~μ} σ(r(y) - r(y')) under Bradley-Terry, (N,); reward (N,), opponent μ (N,)."""
    r = as_array(reward)
    return sigmoid(r[:, None] - r[None, :]) @ as_array(opponent)


def ipo_target(
    reference: ArrayLike, reward: ArrayLike, tau: float, opponent: ArrayLike | None = None
) -> Array:
    """IPO's own optimum π_ref e^{p*(y≻μ)/τ} / Z (2310.12036, Theorem 1), (N,);
    μ defaults to the reference.
    """
    return gibbs(reference, win_probability(reward, reference if opponent is None else opponent), tau)


def filtered(reference: ArrayLike, reward: ArrayLike, threshold: float) -> Array:
    """π_ref 1[r >= τ] / Z: what RAFT and ReST fit, the Gibbs limit of an indicator reward.
    Raises if nothing survives.
    """
    kept = as_array(reference) * (as_array(reward) >= threshold)
    mass = kept.sum(axis=-1, keepdims=True)
    if np.any(mass <= 0):
        raise ValueError(f"filtered: no response reaches {threshold} for at least one prompt")
    return as_array(kept / mass)


def value_distance(values: ArrayLike, target: ArrayLike, scale: float = 2.0) -> Array:
    """√(mean_k (v_k - t_k)²) / scale over the last axis; r = -distance aligns in value space."""
    return as_array(np.sqrt(np.mean((as_array(values) - as_array(target)) ** 2, axis=-1)) / scale)


def f_divergence_optimum(reference: ArrayLike, reward: ArrayLike, beta: float, kind: FDivergence) -> Array:
    """argmax_q E_q r - β E_ref f(q/π_ref), (N,): the law with r = β f'(q/π_ref) + const.

    The constant is found by bracketing: the mass Σ π_ref (f')^{-1}((r-c)/β) falls in c, from inf to 0.
    """
    q, r = as_array(reference), as_array(reward)
    _require_beta(beta)
    behind = r.max() - r

    def law_at(level: float) -> Array:
        # a bounded slope must stay below its bound: `level` is the log of what the best response keeps
        if np.isfinite(kind.slope_bound):
            return q * kind.inverse(kind.slope_bound - (behind + np.exp(level)) / beta)
        return q * kind.inverse(-(behind + level) / beta)

    span = float(behind.max()) + 60 * beta
    bracket = (-25.0, float(np.log(span))) if np.isfinite(kind.slope_bound) else (-span, span)
    level = brentq(lambda v: float(np.log(law_at(v).sum())), *bracket, xtol=1e-14, rtol=1e-15, maxiter=500)
    law = law_at(level)
    return as_array(law / law.sum())
