"""Limits on costs: most of the goal's utility subject to E c_k <= d_k.

Always true here: a multiplier is 0 where its limit is slack; the expectation is over the target π ∝ π_ref exp(r_λ / β),
r_λ = r - Σ λ_k (c_k - d_k), estimated on several samples of the reference per prompt (2310.12773 and the theory room's
`constrained_optimum`, whose exact law this is when the samples are all responses).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from valign.errors import DataError, require
from valign.goals.base import Array, Goal

TOLERANCE = 0.01  # of a limit's distance to the reference's mean cost: more than that above it counts as missed
MAX_MULTIPLIER = 1e4


@dataclass(frozen=True)
class Constraint:
    """A cost with its limit: E c <= limit. The cost is minus the utility of `goal` (kept rules cost little).

    sign   -1: cost = -utility (the default; a goal says what is good); 1: the goal's number is itself the cost
    """

    goal: Goal
    limit: float
    sign: float = -1.0
    multiplier: float | None = None

    def __post_init__(self) -> None:
        require(np.isfinite(self.limit), f"{self.goal.id}.limit", self.limit, "a number")
        require(self.sign in (-1.0, 1.0), f"{self.goal.id}.sign", self.sign, "-1 or 1")
        require(self.multiplier is None or self.multiplier >= 0, "multiplier", self.multiplier, "0 or more")

    @property
    def id(self) -> str:
        return self.goal.id


@dataclass(frozen=True)
class Fitted:
    """multipliers (K,); costs (K,): E c under the target that they give; before (K,): under the reference target λ = 0."""

    multipliers: Array
    costs: Array
    before: Array


def fit_multipliers(rewards: Sequence[Array], costs: Sequence[Array], limits: Array, beta: float) -> Fitted:
    """Least multipliers that meet all limits: the minimum of the convex dual  mean β log mean exp(r_λ / β).

    rewards  (n_i,) per prompt          costs  (n_i, K) per prompt: samples of the reference, unscored ones left out
    Raises `DataError` where the samples hold no way to meet a limit.
    """
    require(beta > 0, "beta", beta, "above 0")
    kept = [(r, c) for r, c in zip(rewards, costs, strict=True) if len(r)]
    if not kept:
        raise DataError("no response is scored by the goal and all its costs", where="constraints")
    d = np.asarray(limits, np.float64)

    def law(lam: Array) -> tuple[float, Array]:
        value, mean = 0.0, np.zeros(len(d))
        for r, c in kept:
            z = (r - (c - d) @ lam) / beta
            top = z.max()
            e = np.exp(z - top)
            value += beta * (top + np.log(e.mean()))
            mean += (e[:, None] * c).sum(0) / e.sum()
        return value / len(kept), mean / len(kept)

    def dual(lam: Array) -> tuple[float, Array]:
        value, mean = law(lam)
        return value, d - mean

    bounds = [(0.0, MAX_MULTIPLIER)] * len(d)
    found = minimize(dual, np.zeros(len(d)), jac=True, method="L-BFGS-B", bounds=bounds,
                     options={"gtol": 1e-10, "ftol": 1e-15, "maxiter": 2000})  # fmt: skip
    lam = np.asarray(found.x)
    mean, before = law(lam)[1], law(np.zeros(len(d)))[1]
    slack = TOLERANCE * np.maximum(np.abs(before - d), 1e-9)
    if (mean > d + slack).any():
        k = int(np.argmax(mean - d))
        raise DataError(f"cost {k + 1} stays at {mean[k]:.3g}, above its limit {d[k]:.3g}, whatever the multiplier",
                        where="constraints", how="more samples per prompt, or a limit that some response meets")  # fmt: skip
    return Fitted(lam, mean, before)
