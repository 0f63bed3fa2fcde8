"""Alignment tax: what share of the ability above chance was lost, on the same items (8.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from valign.evaluation.metrics.scale import weighted_mean
from valign.evaluation.statistics import clustered_se


def signed_tax(base: float, aligned: float, chance: float) -> float | None:
    """t = (base - aligned)/(base - chance); negative for a gain; None where the base has nothing above
    chance.
    """
    return None if base == chance else (base - aligned) / (base - chance)


class ItemTax(NamedTuple):
    """Tax of one benchmark from paired items. identifiable: the base is more than 2 SE above chance."""

    signed: float | None
    se_difference: float | None
    identifiable: bool


def item_tax(
    base: ArrayLike, aligned: ArrayLike, chance: float, clusters: Sequence[str] | None = None
) -> ItemTax:
    """Tax of one benchmark; base and aligned (n,) are scores of the same items in the same order."""
    b, a = np.asarray(base, float), np.asarray(aligned, float)
    mean, se = clustered_se(b, clusters)
    _, se_difference = clustered_se(b - a, clusters)
    return ItemTax(
        signed_tax(mean, float(a.mean()), chance), se_difference, se is not None and mean - chance > 2 * se
    )


class Tax(NamedTuple):
    """Weighted mean of signed taxes, the same clipped to [0, 1], and what is kept."""

    signed: float
    tax: float
    retention: float


def aggregate(signed: Sequence[float], weights: Sequence[float] | None = None) -> Tax:
    """T = clip(Σ w_b t_b / Σ w_b, 0, 1). Clipping each benchmark first would turn noise into tax."""
    mean = weighted_mean(signed, weights)
    tax = min(1.0, max(0.0, mean))
    return Tax(mean, tax, 1 - tax)
