"""What one checked identity looks like, and the random tabular setting all of them share.

A residual is a largest absolute difference over 20 seeds; a violation counts only how far an inequality is
broken. Figures without a bound are reported, not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import minimize

from valign.theory.laws import Array, as_array, softmax
from valign.theory.target import gibbs

BETA, TAU, OUTCOMES, SEEDS = 0.7, 0.3, 9, 20
ALGEBRA, AUTOGRAD, NUMERIC, VIOLATION = 1e-10, 1e-9, 1e-6, 1e-12
VOCABULARY, STEPS = 3, 3  # the small tree: 27 sequences


@dataclass(frozen=True)
class IdentityResult:
    """One line of the check.

    id         "I9a": the number in the theory notes, section 14, and a letter for its part
    statement  the identity in one line
    residual   largest absolute residual, or largest violation of an inequality; nan never passes
    bound      the largest allowed residual; None for a figure that is only reported
    ok         residual <= bound (for a figure: its stated condition)
    note       what else was seen
    """

    id: str
    statement: str
    residual: float
    bound: float | None
    ok: bool
    note: str = ""

    @property
    def number(self) -> int:
        """The number in the theory notes: 9 for "I9a"."""
        digits = "".join(c for c in self.id.split(".")[0] if c.isdigit())
        return int(digits)


def judged(
    id_: str, statement: str, bound: float, residuals: Iterable[Any], note: str = ""
) -> IdentityResult:
    """The worst of `residuals` (arrays or numbers, absolute) against `bound`; no residual at all fails."""
    seen = [float(np.max(np.abs(as_array(r)))) for r in residuals]
    worst = float("nan") if not seen or any(np.isnan(seen)) else max(seen)
    return IdentityResult(id_, statement, worst, bound, worst <= bound, note)


def violated(
    id_: str, statement: str, excesses: Iterable[Any], note: str = "", bound: float = VIOLATION
) -> IdentityResult:
    """How far left - right exceeds 0 at worst; `excesses` are left - right for left <= right."""
    return judged(id_, statement, bound, (np.maximum(as_array(e), 0.0) for e in excesses), note)


def reported(id_: str, statement: str, value: float, holds: bool, note: str = "") -> IdentityResult:
    """A figure with the condition it must meet."""
    return IdentityResult(id_, statement, float(value), None, bool(holds), note)


@dataclass(frozen=True)
class Setting:
    """Random laws and utilities of one seed over K = 9 outcomes."""

    seed: int
    reference: Array = field(init=False)
    reward: Array = field(init=False)
    second: Array = field(init=False)
    logits: Array = field(init=False)
    mu: Array = field(init=False)
    star: Array = field(init=False)
    rng: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 14])
        reward = rng.normal(size=OUTCOMES)
        reference = softmax(rng.normal(size=OUTCOMES))
        drawn = {
            "reference": reference,
            "reward": reward,
            "second": rng.normal(size=OUTCOMES),
            "logits": rng.normal(size=OUTCOMES),
            "mu": softmax(rng.normal(size=OUTCOMES)),
            "star": gibbs(reference, reward, BETA),
            "rng": rng,
        }
        for name, value in drawn.items():
            object.__setattr__(self, name, value)

    @property
    def policy(self) -> Array:
        """softmax of the free logits."""
        return softmax(self.logits)


def settings(seeds: int = SEEDS) -> Iterator[Setting]:
    """The seeds 0..seeds-1, freshly drawn."""
    return (Setting(seed) for seed in range(seeds))


def tensor(values: Any, grad: bool = False) -> Any:
    """A float64 torch tensor; torch is imported here and only here, where autograd is the comparison."""
    import torch

    return torch.tensor(np.asarray(values), dtype=torch.float64, requires_grad=grad)


def gradient(loss: Any, at: Array) -> Array:
    """∇ loss at `at` by automatic differentiation; loss maps a tensor to a scalar tensor."""
    point = tensor(at, grad=True)
    value = loss(point)
    if not value.requires_grad:
        return np.zeros_like(at)
    value.backward()
    return as_array(point.grad.numpy())


def minimizer(loss: Any, start: Array) -> Array:
    """argmin of a smooth loss of logits: BFGS with automatic gradients,
    then Newton steps on the flat bottom.
    """
    from torch.autograd import functional

    curvature: Any = functional.hessian

    def value_and_gradient(z: Array) -> tuple[float, Array]:
        point = tensor(z, grad=True)
        value = loss(point)
        value.backward()
        return float(value.detach()), point.grad.numpy()

    z = as_array(minimize(value_and_gradient, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x)
    for _ in range(3):
        hessian = curvature(loss, tensor(z)).numpy()
        # the pseudo-inverse leaves out the direction that softmax ignores
        z = z - np.linalg.pinv(hessian, rcond=1e-9, hermitian=True) @ value_and_gradient(z)[1]
    return z
