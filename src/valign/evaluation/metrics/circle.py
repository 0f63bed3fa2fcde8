"""Schwartz's circle: does a profile, or the structure of many, follow the order of the ten values (5.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
STEPS = 9  # conformity and tradition share a wedge
POSITIONS = {"SD": 0, "ST": 1, "HE": 2, "AC": 3, "PO": 4, "SE": 5, "CO": 6, "TR": 6, "BE": 7, "UN": 8}


def angles(names: Sequence[str], positions: Mapping[str, int] | None = None, steps: int = STEPS) -> Array:
    """(K,) angle 2π·step/9 of each value in radians."""
    table = POSITIONS if positions is None else positions
    return np.asarray([2 * np.pi * table[name] / steps for name in names])


class Sinusoid(NamedTuple):
    """Fit of one profile; null_r2 is what exchangeable values give on average: print it beside."""

    r2: float
    amplitude: float
    peak_degrees: float
    null_r2: float


def sinusoid(
    profile: Mapping[str, float], positions: Mapping[str, int] | None = None, steps: int = STEPS
) -> Sinusoid:
    """Least squares of a profile on 1, cos θ, sin θ. A constant profile has R² nan."""
    theta, y = angles(list(profile), positions, steps), np.array(list(profile.values()), float)
    design = np.column_stack([np.ones_like(theta), np.cos(theta), np.sin(theta)])
    weights = np.linalg.lstsq(design, y, rcond=None)[0]
    residual, total = y - design @ weights, y - y.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = float(1 - np.divide(residual @ residual, total @ total))
    peak = float(np.degrees(np.arctan2(weights[2], weights[1])) % 360)
    return Sinusoid(r2, float(np.hypot(weights[1], weights[2])), peak, 2 / (len(y) - 1))


def structure(values: ArrayLike, theta: ArrayLike) -> float:
    """Correlation of the values' observed correlations with cos(θ_k - θ_l). values (respondents, K)."""
    return _structure(np.corrcoef(np.asarray(values, float).T), np.asarray(theta, float))


def structure_p(values: ArrayLike, theta: ArrayLike, draws: int = 2000, seed: int = 0) -> float:
    """Share of permutations of the value labels that fit at least as well: (1 + hits)/(1 + draws)."""
    table, angle = np.corrcoef(np.asarray(values, float).T), np.asarray(theta, float)
    observed, rng = _structure(table, angle), np.random.default_rng(seed)
    hits = sum(
        _structure(table, angle[rng.permutation(len(angle))]) >= observed - 1e-12 for _ in range(draws)
    )
    return (1 + hits) / (1 + draws)


def _structure(correlations: Array, theta: Array) -> float:
    pairs = np.triu_indices(len(theta), 1)
    expected = np.cos(theta[:, None] - theta[None, :])[pairs]
    return float(np.corrcoef(correlations[pairs], expected)[0, 1])


def fits(profiles: ArrayLike, theta: ArrayLike) -> Array:
    """(b,) R² of `sinusoid` for many profiles at once; profiles (b, K), theta (K,) radians. NaN for a constant profile."""
    y, angle = np.asarray(profiles, float), np.asarray(theta, float)
    design = np.column_stack([np.ones_like(angle), np.cos(angle), np.sin(angle)])
    residual, total = y - y @ np.linalg.pinv(design).T @ design.T, y - y.mean(-1, keepdims=True)
    scatter = (total**2).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(scatter > 1e-18, 1 - (residual**2).sum(-1) / scatter, np.nan))
