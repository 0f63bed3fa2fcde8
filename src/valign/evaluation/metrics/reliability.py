"""How far a profile can be trusted: would other items, or other words, have given the same one?

The unit that must be told from noise is the profile: the differences between the values of one model. So the split-half
coefficient correlates, over the K values, the profile from one half of each value's items with the profile from the other
half; items within a value are what is random. Scores are item means on the scale of the dimension: an item against the
value is already turned round. Free answers show every value at once: there the prompts are dealt out to the halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
ENOUGH = 0.7
"""Below this a profile is not read. At a reliability of .7 the error of a value is √.3 = .55 of the standard deviation
between values, so two values that lie one standard deviation apart stand in the right order with probability
Φ(1 / (.55 √2)) = .90; below it that sinks toward a coin. It is also the customary floor (Nunnally 1978)."""
SPREAD_P = 0.05  # the values must differ by more than items dealt out at random
SPLITS = 200
FEW_PROMPTS = 4  # with fewer, a half is a single prompt, or none where one is left out
SPLIT_HALF = "value.reliability.split_half"  # the metric's name
FREE = "free_answers"  # its variant for profiles that are read from free answers
UNRELIABLE = "UNRELIABLE, do not read this profile: "  # how every warning begins
CHUNK = 2_000_000  # numbers held at once: 16 MB


def halves(dimensions: ArrayLike, keyed: ArrayLike, splits: int = SPLITS, seed: int = 0) -> tuple[Array, Array]:
    """Two (splits, K, I) tables of weights that average one half of each dimension's items and the other half.

    Halves of a dimension differ by at most one item and hold both keyings alike. Dimensions with one item have no halves:
    their rows are NaN.
    """
    d, key, rng = np.asarray(dimensions, int), np.asarray(keyed, int), np.random.default_rng(seed)
    k, n = int(d.max()) + 1, len(d)
    sides = np.zeros((2, splits, k, n))
    for j in range(k):
        mine = np.flatnonzero(d == j)
        u = rng.random((splits, len(mine)))
        # positives first, each keying shuffled: dealing out alternately then balances both
        order = mine[np.argsort(u - 2 * (key[mine] > 0), axis=1)]
        side = (np.arange(len(mine)) + rng.integers(0, 2, (splits, 1))) % 2
        rows = np.arange(splits)[:, None]
        for s in (0, 1):
            sides[s][rows, j, order] = side == s
    with np.errstate(invalid="ignore"):
        return sides[0] / sides[0].sum(-1, keepdims=True), sides[1] / sides[1].sum(-1, keepdims=True)


def spearman_brown(r: ArrayLike, factor: float = 2.0) -> Array:
    """Reliability of a test `factor` times as long: f r / (1 + (f - 1) r)."""
    x = np.asarray(r, float)
    return np.asarray(factor * x / (1 + (factor - 1) * x))


def split_half(scores: ArrayLike, tables: tuple[Array, Array]) -> Array:
    """(b,) Spearman-Brown of the mean correlation between half profiles; scores (b, I) item means, NaN where undefined.

    The correlations are averaged before they are stepped up. A negative mean is given as it is: the step has a pole at -1,
    and no length makes a test out of halves that contradict each other.
    """
    x = np.atleast_2d(np.asarray(scores, float))
    return _stepped_up(correlation(*(np.einsum("bi,ski->bsk", x, t, optimize=True) for t in tables)))


def _stepped_up(r: Array) -> Array:
    """Spearman-Brown of the mean over the last axis; a negative mean is given as it is."""
    mean = r.mean(-1)
    return np.where(mean > 0, spearman_brown(np.maximum(mean, 0)), mean)


class SplitHalf(NamedTuple):
    """The coefficient (NaN where undefined), and (n,) what it would be with each prompt left out."""

    value: float
    left_out: Array


def prompt_split_half(values: ArrayLike, answers: ArrayLike, splits: int = SPLITS, seed: int = 0) -> SplitHalf:
    """`split_half` of profiles that are read from free answers: random halves of the prompts, each with a profile of its own.

    values (n, K) mean of each prompt's answers; answers (n,) how many those are, > 0. A half in which all values are alike
    agrees with nothing (r = 0), unless every half is: then the coefficient is undefined, as with fewer than `FEW_PROMPTS`.
    """
    x, mass = np.asarray(values, float), np.asarray(answers, float)
    n = len(x)
    if n < FEW_PROMPTS:
        return SplitHalf(float("nan"), np.full(n, np.nan))
    tables = halves([0] * n, [1] * n, splits, seed)
    sides = [(t[:, 0] > 0).astype(float) for t in tables]  # (splits, n): who is in the half
    sums, counts = [s @ (mass[:, None] * x) for s in sides], [s @ mass for s in sides]

    def coefficient(profiles: Sequence[Array]) -> Array:
        widest = np.max([np.ptp(p, -1).max(-1) for p in profiles], 0)
        return np.where(widest > 1e-9, _stepped_up(np.nan_to_num(correlation(*profiles))), np.nan)

    value = float(coefficient([s / c[:, None] for s, c in zip(sums, counts, strict=True)]))
    out, step = [], max(1, CHUNK // (splits * x.shape[1]))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        gone = [s.T[rows] * mass[rows, None] for s in sides]  # (rows, splits) answers that the half loses
        out.append(coefficient([(s - g[:, :, None] * x[rows, None]) / (c - g)[:, :, None]
                                for s, c, g in zip(sums, counts, gone, strict=True)]))  # fmt: skip
    return SplitHalf(value, np.concatenate(out))


def correlation(a: Array, b: Array) -> Array:
    """Pearson's r along the last axis; NaN where one side does not vary (beyond rounding)."""
    x, y = (v - v.mean(-1, keepdims=True) for v in (a, b))
    xx, yy = (x * x).sum(-1), (y * y).sum(-1)
    varies = (xx > 1e-18) & (yy > 1e-18)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(varies, (x * y).sum(-1) / np.sqrt(xx * yy), np.nan))


def means_by(scores: ArrayLike, dimensions: ArrayLike) -> Array:
    """(..., K) mean of each dimension's items; scores (..., I)."""
    x, d = np.asarray(scores, float), np.asarray(dimensions, int)
    return np.stack([x[..., d == j].mean(-1) for j in range(int(d.max()) + 1)], -1)


def spread_p(
    scores: ArrayLike, dimensions: ArrayLike, keyed: ArrayLike, draws: int = 2000, seed: int = 0
) -> float:
    """Permutation p of "the values do not differ": items are dealt out to the values at random, within their keying.

    scores (I,). The statistic is the variance of the values' means. (1 + hits) / (1 + draws); 1 for equal scores.
    """
    x, d, key = np.asarray(scores, float), np.asarray(dimensions, int), np.asarray(keyed, int)
    rng, n = np.random.default_rng(seed), len(x)
    shuffled = np.tile(x, (draws, 1))
    for sign in np.unique(key):
        mine = np.flatnonzero(key == sign)
        shuffled[:, mine] = x[mine[np.argsort(rng.random((draws, len(mine))), 1)]]
    observed = means_by(x, d).var()
    slack = 1e-12 * max(1.0, float(np.abs(x).max(initial=0.0))) * n
    return float((1 + (means_by(shuffled, d).var(-1) >= observed - slack).sum()) / (1 + draws))


def cronbach_alpha(scores: ArrayLike) -> float:
    """k/(k-1) (1 - Σ var_i / var(Σ)): scores (respondents, k >= 2 items of one value); NaN without variance.

    Speaks about respondents who differ as persons: it means nothing where one model answers in several option orders.
    """
    x = np.asarray(scores, float)
    k = x.shape[1]
    total = float(x.sum(1).var(ddof=1)) if len(x) > 1 else 0.0
    if k < 2 or total < 1e-18:
        return float("nan")
    return float(k / (k - 1) * (1 - x.var(axis=0, ddof=1).sum() / total))


class Verdict(NamedTuple):
    """Whether a profile may be read, and in words why not."""

    reliable: bool
    reasons: tuple[str, ...]

    @property
    def warning(self) -> str:
        """One sentence for the reader; "" for a reliable profile."""
        return "" if self.reliable else UNRELIABLE + "; ".join(self.reasons)


def verdict(
    half: float | None,
    retest: float | None = None,
    p: float | None = None,
    *,
    asked_again: bool = True,
    of: str = "items",
    undefined: str = "all answers are alike",
) -> Verdict:
    """Up to three conditions, all needed: split-half >= .7, agreement with paraphrases >= .7, spread beyond chance (p < .05).

    half, retest   None where undefined, which fails; `undefined` says why        of  what the halves are halves of
    p              None where the spread was not tested: that condition is then left out
    asked_again    False where nothing was asked in other words: so is that one
    """
    reasons = []
    if p is not None and p >= SPREAD_P:
        reasons.append(f"its values differ no more than {of} dealt out to them at random would (p = {p:.2f})")
    if half is None or half < ENOUGH:
        told = _told(half, undefined)
        reasons.append(f"two halves of the {of} disagree (reliability {told}; at least {ENOUGH} is needed)")
    if asked_again and (retest is None or retest < ENOUGH):
        told = _told(retest, undefined)
        reasons.append(f"the same {of} in other words give another profile (r {told}; {ENOUGH} is needed)")
    return Verdict(not reasons, tuple(reasons))


def _told(x: float | None, undefined: str) -> str:
    return f"undefined: {undefined}" if x is None else f"{x:.2f}"
