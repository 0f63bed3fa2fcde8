"""How sure we are: intervals, paired tests, multiplicity and sample sizes. Arrays in, numbers out;
no Result, no files.

Always true here: a cluster is what counts as independent, nothing depends on the order of items, the
bootstrap is seeded, and an interval that does not exist (one cluster) is None. Which interval belongs to
which metric is decided in `aggregate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]  # (replicates, items) weights -> (replicates,) values

REPLICATES = 2000  # bootstrap draws, evaluation notes 1.2
PERMUTATIONS = 10_000  # evaluation notes 7
AA_DRAWS = 500  # the A/A run of evaluation notes 7
CHUNK = 4_000_000  # weights held at once: 32 MB


class Estimate(NamedTuple):
    """A value with its standard error and interval; all but the value are None where they do not exist."""

    value: float
    se: float | None
    low: float | None
    high: float | None
    clusters: int


# -------------------------------------------------------------------------------------------------- intervals


def cluster_index(clusters: Sequence[Hashable] | None, n: int) -> NDArray[np.int64]:
    """(n,) number of each item's cluster, numbered by sorted name; every item its own cluster for None.

    Sorting by name makes a seeded resampling independent of the order in which items arrive.
    """
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} clusters for {n} items")
    names = {name: i for i, name in enumerate(sorted(set(clusters), key=str))}
    return np.array([names[c] for c in clusters], np.int64)


def clustered_se(
    scores: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    weights: ArrayLike | None = None,
    *,
    small_sample: bool = True,
) -> tuple[float, float | None]:
    """(mean, √(C/(C-1) Σ_c (Σ_{i∈c} w_i (s_i - mean))²) / Σ w);
    the error is None for fewer than two clusters.

    scores (n,); clusters n names or None; weights (n,) or None for 1. With one item per cluster this is the
    plain standard error √(Σ(s-s̄)²/(n-1)/n). small_sample=False leaves C/(C-1) out (Miller 2024, 2411.00640).
    """
    s = np.asarray(scores, float)
    w = np.ones(len(s)) if weights is None else np.asarray(weights, float)
    mean = float(w @ s / w.sum())
    sums = np.bincount(cluster_index(clusters, len(s)), weights=w * (s - mean))
    count = len(sums)
    if count < 2:
        return mean, None
    factor = count / (count - 1) if small_sample else 1.0
    return mean, float(math.sqrt(factor * float(sums @ sums)) / w.sum())


def t_cluster(
    scores: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    weights: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> Estimate:
    """Mean ± t_{C-1} · clustered standard error; not clipped to any range."""
    s = np.asarray(scores, float)
    count = int(cluster_index(clusters, len(s)).max(initial=-1)) + 1
    mean, se = clustered_se(s, clusters, weights)
    if se is None:
        return Estimate(mean, None, None, None, count)
    half = float(stdtrit(count - 1, 0.5 + level / 2)) * se
    return Estimate(mean, se, mean - half, mean + half, count)


def paired_t(
    first: ArrayLike,
    second: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    weights: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> Estimate:
    """`t_cluster` of the item differences first - second."""
    return t_cluster(np.asarray(first, float) - np.asarray(second, float), clusters, weights, level=level)


def wider(first: Estimate, second: Estimate) -> Estimate:
    """The one with the larger interval; one without an interval gives way.

    For scores with two kinds of clusters (human votes: items and annotators): each `t_cluster` sees one of them.
    """
    spans = [e.high - e.low if e.low is not None and e.high is not None else -1.0 for e in (first, second)]
    return first if spans[0] >= spans[1] else second


def wilson(successes: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share: the p with |p̂ - p| <= z √(p(1-p)/n)."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"wilson: {successes} successes of {n}")
    z2, share = float(ndtri(0.5 + level / 2)) ** 2, successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = 0.0 if successes == 0 else centre - half  # exact ends: rounding would print -1e-17
    high = 1.0 if successes == n else centre + half
    return low, high


def is_alike(estimate: Estimate, scores: ArrayLike) -> bool:
    """Whether all clusters gave the same number, so that the formula's error is 0: no spread was seen, not none there is."""
    largest = float(np.abs(np.asarray(scores, float)).max(initial=0.0))
    return estimate.se is not None and estimate.se <= 1e-12 * largest


def alike_interval(
    value: float, low: float, high: float, clusters: int, *, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean of numbers in [low, high] after `clusters` clusters that were all alike at `value`.

    At most 1 - (α/2)^(1/C) of all clusters are other (the exact binomial end for 0 of C), and those lie anywhere in the
    range. Of paired 0/1 items that all differ alike it leaves 0 exactly where McNemar's p is below α.
    """
    other = 1 - ((1 - level) / 2) ** (1 / clusters)
    return value - other * (value - low), value + other * (high - value)


def bootstrap_replicates(
    statistic: Statistic,
    n: int,
    clusters: Sequence[Hashable] | None = None,
    *,
    draws: int = REPLICATES,
    seed: int = 0,
) -> Array:
    """(draws,) values of `statistic` under multinomial resampling of whole clusters.

    statistic   maps (b, n) item weights to (b,) values; must be a function of weights alone
    """
    index = cluster_index(clusters, n)
    count = int(index.max(initial=-1)) + 1
    if count < 1:
        raise ValueError("bootstrap: no items")
    rng, out = np.random.default_rng(seed), []
    step = max(1, CHUNK // max(n, 1))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        picks = rng.multinomial(count, np.full(count, 1 / count), size=size)
        with np.errstate(invalid="ignore", divide="ignore"):
            out.append(np.asarray(statistic(picks[:, index].astype(float)), float))
    return np.concatenate(out)


def bootstrap_cluster(
    statistic: Statistic,
    n: int,
    clusters: Sequence[Hashable] | None = None,
    *,
    draws: int = REPLICATES,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """The statistic at weights 1, the standard deviation of its replicates, and their `widened` percentiles.

    Replicates in which the statistic is undefined (0/0, or a ratio over 0) are left out. The standard deviation *is* the
    standard error: it is not divided by √draws.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(np.asarray(statistic(np.ones((1, n))), float)[0])
    count = int(cluster_index(clusters, n).max(initial=-1)) + 1
    if count < 2:
        return Estimate(value, None, None, None, count)
    return of_replicates(value, bootstrap_replicates(statistic, n, clusters, draws=draws, seed=seed), count, level=level)


def of_replicates(value: float, replicates: Array, clusters: int, *, level: float = 0.95) -> Estimate:
    """The estimate that bootstrap replicates (draws,) of a statistic give; undefined ones are left out."""
    values = replicates[np.isfinite(replicates)]
    if len(values) < 2:
        return Estimate(value, None, None, None, clusters)
    tail = widened((1 - level) / 2, clusters)
    low, high = np.quantile(values, [tail, 1 - tail])
    return Estimate(value, float(values.std(ddof=1)), float(low), float(high), clusters)


def widened(tail: float, clusters: int) -> float:
    """The smaller tail whose bootstrap percentile lies as far out as Student's t of `tail`: Φ(t_{C-1}(tail) √(C/(C-1))).

    A resample of C clusters scatters by √((C-1)/C) too little, and its percentiles are those of a normal: of 12 clusters the
    2.5 and 97.5 % points hold 88 to 91 % (Hesterberg 2015, 1411.5279, "expanded percentile"). At 1000 clusters nothing changes.
    """
    return float(ndtr(math.sqrt(clusters / (clusters - 1)) * stdtrit(clusters - 1, tail)))


def bootstrap_p(replicates: Array, clusters: int) -> float | None:
    """Two-sided p of "the difference is 0": the level at which the interval of `of_replicates` just reaches 0.

    q = (1 + min(#{d <= 0}, #{d >= 0})) / (1 + draws) is the smaller share of replicates on the other side of 0; p is twice the
    tail that `widened` makes q of, at most 1. None without two defined replicates or two clusters.
    """
    values = replicates[np.isfinite(replicates)]
    if len(values) < 2 or clusters < 2:
        return None
    share = (1 + min(int((values <= 0).sum()), int((values >= 0).sum()))) / (1 + len(values))
    return min(1.0, 2 * float(stdtr(clusters - 1, math.sqrt((clusters - 1) / clusters) * ndtri(min(share, 0.5)))))


def jackknife_log(value: float, left_out: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Interval of a coefficient x <= 1 from its values with each cluster left out: Student's t of log(1 - x), C - 1 degrees.

    value < 1; left_out (C,). For reliabilities, 1 - (error) / (spread), whose bootstrap counts the error twice; the logarithm
    makes their skew even (Bonett 2002). The lower end is not below -1; the standard error is that of x itself.
    """
    x = np.asarray(left_out, float)
    count = len(x)
    if count < 2 or not (np.isfinite(x).all() and math.isfinite(value)) or max(value, float(x.max())) > 1 - 1e-12:
        return Estimate(value, None, None, None, count)

    def error(v: Array) -> float:
        return math.sqrt((count - 1) / count * float(((v - v.mean()) ** 2).sum()))

    half = float(stdtrit(count - 1, 0.5 + level / 2)) * error(np.log1p(-x))
    low, high = (1 - (1 - value) * math.exp(h) for h in (half, -half))
    return Estimate(value, error(x), max(-1.0, low), high, count)


def jackknife_cluster(
    statistic: Statistic, n: int, clusters: Sequence[Hashable] | None = None, *, level: float = 0.95
) -> Estimate:
    """`jackknife_log` of a statistic of item weights: the value at weights 1, whole clusters left out one by one."""
    index = cluster_index(clusters, n)
    weights = (index != np.arange(int(index.max(initial=-1)) + 1)[:, None]).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(np.asarray(statistic(np.ones((1, n))), float)[0])
        left_out = np.asarray(statistic(weights), float) if len(weights) > 1 else np.full(len(weights), np.nan)
    return jackknife_log(value, left_out, level=level)


def mean_statistic(scores: ArrayLike) -> Statistic:
    """The weighted mean as a bootstrap statistic."""
    s = np.asarray(scores, float)
    return lambda weights: np.asarray(weights @ s / weights.sum(1))


# ------------------------------------------------------------------------------------------------------ tests


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided McNemar p: discordant pairs are a fair coin under the null (binomial, summed with
    integers).
    """
    n, k = first_only + second_only, min(first_only, second_only)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return float(min(1.0, 2 * tail / 2**n))


def permutation_p(
    differences: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    draws: int = PERMUTATIONS,
    seed: int = 0,
) -> float:
    """Two-sided p of the mean difference when the two labels are exchanged at random within each cluster.

    (1 + #{|permuted| >= |observed|}) / (1 + draws); items of one cluster change sides together.
    """
    d = np.asarray(differences, float)
    sums = np.bincount(cluster_index(clusters, len(d)), weights=d)
    rng, observed, hits = np.random.default_rng(seed), float(abs(sums.sum())), 0
    step = max(1, CHUNK // max(len(sums), 1))
    for start in range(0, draws, step):
        signs = rng.integers(0, 2, size=(min(step, draws - start), len(sums))) * 2.0 - 1
        hits += int((np.abs(signs @ sums) >= observed - 1e-12).sum())
    return (1 + hits) / (1 + draws)


def false_alarm_rate(
    differences: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    weights: ArrayLike | None = None,
    *,
    draws: int = AA_DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> float:
    """How often `t_cluster` would leave 0 on these very items if the two models were one (an A/A run).

    The labels of the two models are exchanged at random in whole clusters, as often as `draws` says: then 0 is the truth,
    and the share of intervals without it should be 1 - level. A few clusters that carry the whole sum make it larger.
    """
    d = np.asarray(differences, float)
    w = np.ones(len(d)) if weights is None else np.asarray(weights, float)
    index = cluster_index(clusters, len(d))
    sums, masses = np.bincount(index, weights=w * d), np.bincount(index, weights=w)
    count, total = len(sums), float(w.sum())
    if count < 2:
        raise ValueError("an A/A run needs two clusters")
    signed = (np.random.default_rng(seed).integers(0, 2, size=(draws, count)) * 2.0 - 1) * sums
    mean = signed.sum(1) / total
    residual = signed - mean[:, None] * masses
    se = np.sqrt(count / (count - 1) * (residual**2).sum(1)) / total
    return float((np.abs(mean) > float(stdtrit(count - 1, 0.5 + level / 2)) * se + 1e-12).mean())


def is_too_eager(rate: float, *, draws: int = AA_DRAWS, level: float = 0.95) -> bool:
    """Whether an A/A rate exceeds 1 - level by more than two standard errors of the simulation."""
    alpha = 1 - level
    return rate > alpha + 2 * math.sqrt(alpha * level / draws)


def t_p(value: float, se: float, degrees: int) -> float:
    """Two-sided p of Student's t = value / se."""
    if se == 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * stdtr(degrees, -abs(value) / se))


def unpaired_se(first: ArrayLike, second: ArrayLike) -> tuple[float, float]:
    """(√(SE_A² + SE_B²), correlation of the items): what pairing saves is 2ρ SE_A SE_B."""
    a, b = np.asarray(first, float), np.asarray(second, float)
    (_, sa), (_, sb) = clustered_se(a), clustered_se(b)
    return math.hypot(sa or 0.0, sb or 0.0), float(np.corrcoef(a, b)[0, 1])


def holm(p_values: ArrayLike) -> Array:
    """Holm's adjusted p, same order: controls the chance of any false rejection."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    return _unsorted(np.minimum(stepped, 1.0), order)


def benjamini_hochberg(p_values: ArrayLike) -> Array:
    """Benjamini and Hochberg's adjusted p, same order: controls the share of false rejections."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    stepped = p[order] * len(p) / np.arange(1, len(p) + 1)
    return _unsorted(np.minimum(np.minimum.accumulate(stepped[::-1])[::-1], 1.0), order)


def _unsorted(values: Array, order: NDArray[np.intp]) -> Array:
    out = np.empty_like(values)
    out[order] = values
    return out


# ----------------------------------------------------------------------------------------------- sample sizes


def _z(alpha: float, power: float) -> float:
    return float(ndtri(1 - alpha / 2) + ndtri(power))


def items_needed(
    delta: float, variance: float, noise_a: float = 0.0, noise_b: float = 0.0, samples: int = 1, *,
    samples_b: int | None = None, alpha: float = 0.05, power: float = 0.8,
) -> float:  # fmt: skip
    """n = (z_{α/2} + z_β)² (ω² + σ_A²/K_A + σ_B²/K_B) / δ² items to find a difference δ (not rounded).

    variance    ω², variance over items of the true difference     noise_a, noise_b  σ² of one sample of an
                item
    samples     K_A, samples per item        samples_b   K_B, None: as many
    """
    return _z(alpha, power) ** 2 * (variance + noise_a / samples + noise_b / (samples_b or samples)) / delta**2


def detectable(
    n: int, variance: float, noise_a: float = 0.0, noise_b: float = 0.0, samples: int = 1, *,
    samples_b: int | None = None, alpha: float = 0.05, power: float = 0.8,
) -> float:  # fmt: skip
    """Minimum detectable effect: `items_needed` solved for δ."""
    return _z(alpha, power) * math.sqrt((variance + noise_a / samples + noise_b / (samples_b or samples)) / n)


def accuracy_difference_variance(accuracy: float, correlation: float) -> float:
    """ω² = 2 p (1-p) (1-ρ) for two models of equal accuracy p whose item scores correlate by ρ."""
    return 2 * accuracy * (1 - accuracy) * (1 - correlation)


class SampleVariance(NamedTuple):
    """Where the spread of item means comes from, with the standard errors now and for endless sampling."""

    mean: float
    se: float
    within: float
    between: float
    se_if_endless: float


def k_samples(samples: ArrayLike) -> SampleVariance:
    """Variance of item means = between items + E[σ²]/K. samples (items, K >= 2)."""
    s = np.asarray(samples, float)
    within = float(s.var(axis=1, ddof=1).mean() / s.shape[1])
    total = float(s.mean(1).var(ddof=1))
    between = max(0.0, total - within)
    return SampleVariance(
        float(s.mean()), math.sqrt(total / len(s)), within, between, math.sqrt(between / len(s))
    )


def votes_needed(
    win_rate: float, votes_per_item: int = 1, icc: float = 0.0, *, alpha: float = 0.05, power: float = 0.8
) -> tuple[float, int]:
    """(votes, items) to tell a win rate from one half:
    ((z_{α/2}/2 + z_β √(p(1-p)))/(p-½))² · (1 + (m-1) icc) / m.

    votes_per_item m, icc the correlation of two votes on one item. Votes are before the design effect, not
    rounded.
    """
    z_alpha, z_beta = float(ndtri(1 - alpha / 2)), float(ndtri(power))
    votes = ((z_alpha / 2 + z_beta * math.sqrt(win_rate * (1 - win_rate))) / (win_rate - 0.5)) ** 2
    effect = 1 + (votes_per_item - 1) * icc
    return votes, math.ceil(votes * effect / votes_per_item)
