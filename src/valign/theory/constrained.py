"""The constrained optimum: most reward with E[cost] <= d, which is Gibbs(r - λc),
and the multiplier that reaches it.

Rewards and costs are (..., N) with the constraint on the mean over prompts. Exact when responses are
listed; the two dual steps at the end are what a training loop uses when they are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize

from valign.theory.divergence import kl
from valign.theory.laws import Array, as_array, expectation
from valign.theory.target import gibbs, log_partition

MAX_MULTIPLIER = 1e6  # beyond this the limit lies below the least cost the reference can reach


@dataclass(frozen=True)
class ConstrainedOptimum:
    """law (..., N); multiplier λ; mean cost, mean reward and mean KL(law‖π_ref) over prompts."""

    law: Array
    multiplier: float
    cost: float
    reward: float
    kl: float


def constrained_optimum(
    reference: ArrayLike, reward: ArrayLike, cost: ArrayLike, beta: float, limit: float
) -> ConstrainedOptimum:
    """argmax E r - β KL subject to mean E c <= limit: λ = 0 when slack, else by bisection (E c falls in λ).

    Raises ValueError when no law absolutely continuous with respect to the reference meets the limit.
    """

    def at(multiplier: float) -> ConstrainedOptimum:
        law = gibbs(reference, as_array(reward) - multiplier * as_array(cost), beta)
        means = [
            float(np.mean(v)) for v in (expectation(law, cost), expectation(law, reward), kl(law, reference))
        ]
        return ConstrainedOptimum(law, multiplier, means[0], means[1], means[2])

    return _smallest(at, lambda o: o.cost <= limit, f"mean cost <= {limit}")


def least_cost(
    reference: ArrayLike, reward: ArrayLike, cost: ArrayLike, beta: float, floor: float
) -> ConstrainedOptimum:
    """argmin E c + β KL subject to mean E r >= floor: Gibbs((λr - c)), the same family read the other way."""

    def at(multiplier: float) -> ConstrainedOptimum:
        law = gibbs(reference, multiplier * as_array(reward) - as_array(cost), beta)
        means = [
            float(np.mean(v)) for v in (expectation(law, cost), expectation(law, reward), kl(law, reference))
        ]
        return ConstrainedOptimum(law, multiplier, means[0], means[1], means[2])

    return _smallest(at, lambda o: o.reward >= floor, f"mean reward >= {floor}")


def _smallest(at, met, condition: str) -> ConstrainedOptimum:  # type: ignore[no-untyped-def]
    start: ConstrainedOptimum = at(0.0)
    if met(start):
        return start
    low, high = 0.0, 1.0
    while not met(at(high)):
        low, high = high, 2 * high
        if high > MAX_MULTIPLIER:
            raise ValueError(f"no law near the reference reaches {condition}: the limit is out of reach")
    while True:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            found: ConstrainedOptimum = at(high)
            return found
        low, high = (low, middle) if met(at(middle)) else (middle, high)


def several_constraints(
    reference: ArrayLike, reward: ArrayLike, costs: ArrayLike, beta: float, limits: ArrayLike
) -> tuple[Array, Array]:
    """(law (..., N), multipliers (K,)) for K constraints; costs (K, ..., N), limits (K,).

    Minimizes the convex dual  mean β log Z(λ) + λ·d  over λ >= 0; its gradient is d - E c.
    """
    c, d, r = as_array(costs), as_array(limits), as_array(reward)

    def tilted(multipliers: Array) -> Array:
        return r - np.tensordot(multipliers, c, axes=1)

    def dual(multipliers: Array) -> tuple[float, Array]:
        value = float(np.mean(beta * log_partition(reference, tilted(multipliers), beta)) + multipliers @ d)
        law = gibbs(reference, tilted(multipliers), beta)
        return value, d - as_array([float(np.mean(expectation(law, one))) for one in c])

    found = minimize(
        dual,
        np.zeros(len(d)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * len(d),
        options={"gtol": 1e-12, "ftol": 1e-16, "maxiter": 5000},
    )
    return gibbs(reference, tilted(found.x), beta), as_array(found.x)


def cost_slope(law: ArrayLike, cost: ArrayLike, beta: float) -> Array:
    """dE_{π_λ}[c]/dλ = -Var_{π_λ}(c)/β <= 0, shape (...)."""
    mean = expectation(law, cost)[..., None]
    return -expectation(law, (as_array(cost) - mean) ** 2) / beta


def dual_step(multiplier: float, rate: float, mean_cost: float, limit: float) -> float:
    """λ ← max(0, λ + η(E c - d))."""
    return max(0.0, multiplier + rate * (mean_cost - limit))


def log_dual_step(multiplier: float, rate: float, mean_cost: float, limit: float) -> float:
    """log λ ← log λ + η λ (E c - d): never leaves λ > 0 (2310.12773)."""
    if multiplier <= 0:
        raise ValueError(
            f"log_dual_step: multiplier = {multiplier} must be positive: the log form never leaves 0"
        )
    return float(multiplier * np.exp(rate * multiplier * (mean_cost - limit)))
