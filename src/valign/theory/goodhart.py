"""When a proxy is pushed: how the gold utility moves, where it peaks, and the alarm that should ring before.

π_s = Gibbs(proxy) at strength s, dE_{π_s}[gold]/ds = Cov_{π_s}(gold, proxy). Averages over prompts are
plain means. The alarm sees rollouts only; the peak needs enumeration.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import norm

from valign.theory.divergence import kl
from valign.theory.laws import Array, as_array, expectation
from valign.theory.target import at_strength, strength_slope


@dataclass(frozen=True)
class GoldPoint:
    """One point of the over-optimization curve:
    strength 1/β, mean proxy, mean gold, KL(π_s‖π_ref) in nats.
    """

    strength: float
    proxy: float
    gold: float
    kl: float


def gold_point(reference: ArrayLike, proxy: ArrayLike, gold: ArrayLike, strength: float) -> GoldPoint:
    """Means over prompts at one strength; arrays (..., N)."""
    law = at_strength(reference, proxy, strength)
    means = [float(np.mean(v)) for v in (expectation(law, proxy), expectation(law, gold), kl(law, reference))]
    return GoldPoint(strength, means[0], means[1], means[2])


def gold_peak(
    reference: ArrayLike, proxy: ArrayLike, gold: ArrayLike, maximum: float = 50.0, grid: int = 500
) -> GoldPoint | None:
    """The first strength where Cov_{π_s}(gold, proxy), averaged over prompts, falls through zero;
    None if it never does.
    """

    def slope(strength: float) -> float:
        return float(np.mean(strength_slope(reference, proxy, strength, gold)))

    points = np.linspace(0.0, maximum, grid + 1)
    before = slope(0.0)
    for low, high in pairwise(points):
        after = slope(float(high))
        if before > 0 >= after:
            return gold_point(reference, proxy, gold, float(brentq(slope, low, high, xtol=1e-12)))
        before = after
    return None


def alarm_point(
    reference: ArrayLike, proxy: ArrayLike, gold: ArrayLike, ratio: float = 0.25, slope_ratio: float | None = None,
    maximum: float = 50.0, grid: int = 500,
) -> GoldPoint | None:  # fmt: skip
    """The first strength at which an exact alarm rings; None if it never does.

    It rings where c = Cov_{π_s}(gold, proxy) has fallen below `ratio` of its value at 0 and, with `slope_ratio`, the
    slope c / Var_{π_s}(proxy) of gold on proxy below `slope_ratio` of its own. The first condition alone rings for an
    honest proxy too: whatever policy concentrates loses covariance, and the slope is then still what it was.
    """
    start, spread = (float(np.mean(strength_slope(reference, proxy, 0.0, x))) for x in (gold, proxy))

    def excess(strength: float) -> float:
        c = float(np.mean(strength_slope(reference, proxy, strength, gold)))
        over = c - ratio * start
        if slope_ratio is None:
            return over
        variance = float(np.mean(strength_slope(reference, proxy, strength, proxy)))
        return max(over, c - slope_ratio * start / spread * variance)

    for low, high in pairwise(np.linspace(0.0, maximum, grid + 1)):
        if excess(float(high)) < 0:
            return gold_point(reference, proxy, gold, float(brentq(excess, low, high, xtol=1e-12)))
    return None


@dataclass(frozen=True)
class Alarm:
    """Estimated Cov(gold, proxy) on rollouts with its interval;
    `fires` when the upper end is below the threshold.
    """

    covariance: float
    low: float
    high: float
    fires: bool
    n: int


def covariance_alarm(gold: ArrayLike, proxy: ArrayLike, threshold: float = 0.0, level: float = 0.95) -> Alarm:
    """Within-prompt covariance of gold and proxy on rollouts (prompts, samples), samples >= 2, prompts >= 2.

    Each prompt gives one unbiased covariance; the interval is normal over prompts, so prompts are the unit.
    """
    g, p = as_array(gold), as_array(proxy)
    if g.ndim != 2 or g.shape != p.shape or min(g.shape) < 2:
        raise ValueError(
            f"covariance_alarm: need two equal tables (prompts >= 2, samples >= 2), got {g.shape}, {p.shape}"
        )
    centred = (g - g.mean(1, keepdims=True)) * (p - p.mean(1, keepdims=True))
    each = centred.sum(1) / (g.shape[1] - 1)
    half = float(norm.ppf(0.5 + level / 2)) * float(each.std(ddof=1)) / np.sqrt(len(each))
    value = float(each.mean())
    return Alarm(value, value - half, value + half, value + half < threshold, len(each))


def fit_square_root_law(kl_nats: ArrayLike, gold: ArrayLike, kind: str) -> tuple[float, float]:
    """(a, b) of gold ≈ d(a - b d) ("best_of_n") or d(a - b log d) ("rl"), d = √KL > 0,
    by least squares (2210.10760).
    """
    d, y = np.sqrt(as_array(kl_nats)), as_array(gold)
    shapes: dict[str, Array] = {"best_of_n": d, "rl": np.log(d)}
    if kind not in shapes:
        raise ValueError(f"fit_square_root_law: kind = {kind!r} is neither 'best_of_n' nor 'rl'")
    columns = np.stack([d, -d * shapes[kind]], axis=1)
    a, b = np.linalg.lstsq(columns, y, rcond=None)[0]
    return float(a), float(b)
