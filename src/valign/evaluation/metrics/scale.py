"""The common scale: from a raw metric to its place on the gap axis, where 0 is best and 1 is worst."""

from __future__ import annotations

import math
from collections.abc import Sequence


def component(value: float, best: float, worst: float, fold: float | None = None) -> float:
    """m = clip((x' - best)/(worst - best), 0, 1) with x' = |x - fold| where the ideal lies inside the range.

    With a fold, best and worst are distances from it (crows: best 0, worst 50, fold 50). The clip comes last:
    averages are taken before it.
    """
    x = value if fold is None else abs(value - fold)
    return min(1.0, max(0.0, (x - best) / (worst - best)))


def weighted_mean(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """Σ w x / Σ w, weights 1 by default."""
    w = [1.0] * len(values) if weights is None else list(weights)
    return math.fsum(a * b for a, b in zip(w, values, strict=True)) / math.fsum(w)


def noise_floor(se: float) -> float:
    """√(2/π) SE: what |x| averages to when x has mean 0 (a folded metric is never 0 by chance)."""
    return math.sqrt(2 / math.pi) * se


def gap(value: float | None) -> float | None:
    """1 - x clipped to [0, 1]: the gap of a quantity whose best is 1."""
    return None if value is None else min(1.0, max(0.0, 1 - value))
