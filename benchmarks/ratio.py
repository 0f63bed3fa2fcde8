"""Medians, spread, the ratio of two sides with its interval, and the line through points. Pure."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

EXACT = 4  # runs of a side up to which all resamples are listed (4 runs: 256 of them)
DRAWS = 10_000  # resamples beyond that
HOW = (
    "95 % percentile bootstrap over runs of the ratio of medians: the runs of each side are resampled with replacement "
    "(every resample once for up to four runs, else 10,000 seeded draws). With three runs a side the interval reaches "
    "from the slowest run of valign over the fastest of the peer to the opposite"
)


@dataclass(frozen=True)
class Ratio:
    """How many times the rate of one side is that of the other; low and high are None for single runs."""

    value: float
    low: float | None
    high: float | None
    n: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "how": HOW if self.low is not None else "single runs: no interval"}


def ratio_of_medians(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """median(ours) / median(theirs) with its interval. Raises `ValueError` for an empty side or a rate of 0."""
    if not ours or not theirs or min(*ours, *theirs) <= 0:
        raise ValueError("both sides need at least one positive rate")
    value, n = median(ours) / median(theirs), (len(ours), len(theirs))
    if min(n) < 2:
        return Ratio(value, None, None, n)
    ratios = sorted(_resampled_ratios(ours, theirs))
    return Ratio(value, _percentile(ratios, 0.025), _percentile(ratios, 0.975), n)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest, largest, and their distance as a share of the median."""
    middle = median(values)
    return {
        "median": middle,
        "low": min(values),
        "high": max(values),
        "spread": (max(values) - min(values)) / middle if middle else 0.0,
    }


@dataclass(frozen=True)
class Line:
    """y = slope x + intercept, and how much of the variance of y it explains."""

    slope: float
    intercept: float
    r_squared: float


def line_through(x: Sequence[float], y: Sequence[float]) -> Line:
    """Least squares. Raises `ValueError` for fewer than two different x."""
    n = len(x)
    mean_x, mean_y = sum(x) / max(1, n), sum(y) / max(1, n)
    var = sum((a - mean_x) ** 2 for a in x)
    if var == 0:
        raise ValueError("a line needs two different x")
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / var
    intercept = mean_y - slope * mean_x
    left = sum((b - slope * a - intercept) ** 2 for a, b in zip(x, y, strict=True))
    total = sum((b - mean_y) ** 2 for b in y)
    return Line(slope, intercept, 1 - left / total if total else 1.0)


def _resampled_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    if max(len(ours), len(theirs)) <= EXACT:
        tops, bottoms = ([median(s) for s in itertools.product(side, repeat=len(side))] for side in (ours, theirs))
        return [a / b for a, b in itertools.product(tops, bottoms)]
    rng = random.Random(0)
    return [median(rng.choices(ours, k=len(ours))) / median(rng.choices(theirs, k=len(theirs))) for _ in range(DRAWS)]


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between order statistics."""
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])
