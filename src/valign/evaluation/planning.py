"""Before a run: how many items a difference needs, and what a number of items can show.

The one unknown is the spread of the item differences. It comes from a pilot (`pilot_of`: two result files of a small run),
or from an accuracy and a correlation, or it is stated.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from valign.errors import ValignError, require
from valign.evaluation import statistics as stats
from valign.evaluation.record import Result
from valign.evaluation.result import compare


@dataclass(frozen=True)
class Spread:
    """Where the variance of one item's difference (model A minus model B) comes from.

    between    ω², variance over items of the true difference     noise  σ_A² + σ_B², variance of one sample of each
    design     factor by which clusters inflate the variance of the mean: 1 + (m-1) icc, 1 without clusters
    origin     in words, for the reader
    """

    between: float
    noise: float = 0.0
    design: float = 1.0
    origin: str = "stated"

    def __post_init__(self) -> None:
        require(self.between >= 0 and math.isfinite(self.between), "variance", self.between, "0 or more")
        require(self.noise >= 0 and math.isfinite(self.noise), "noise", self.noise, "0 or more")
        require(self.design > 0 and math.isfinite(self.design), "design effect", self.design, "positive")
        require(self.between + self.noise > 0, "variance", 0, "positive: items that never differ need no plan")

    def at(self, samples: int = 1) -> float:
        """Effective variance of an item's difference with K samples of each model."""
        return self.design * (self.between + self.noise / samples)


class Options(NamedTuple):
    """The rule of decision: two-sided level, chance to find what is there, how many comparisons share the level."""

    alpha: float = 0.05
    power: float = 0.8
    tests: int = 1

    def checked(self) -> Options:
        require(0 < self.alpha < 1, "alpha", self.alpha, "between 0 and 1")
        require(self.alpha / 2 < self.power < 1, "power", self.power, "between alpha / 2 and 1")
        require(self.tests >= 1, "tests", self.tests, "at least 1")
        return self

    @property
    def level(self) -> float:
        """alpha of one comparison: Holm's first step, which the strictest of them must pass."""
        return self.alpha / self.tests


def items_for(delta: float, spread: Spread, samples: int = 1, options: Options = Options()) -> int:  # noqa: B008
    """Items needed to find a true difference `delta`, rounded up, at least 2."""
    require(delta > 0 and math.isfinite(delta), "difference", delta, "a positive number in the metric's unit")
    require(samples >= 1, "samples", samples, "at least 1")
    needed = stats.items_needed(delta, spread.at(samples), alpha=options.checked().level, power=options.power)
    return max(2, math.ceil(needed - 1e-9))


def found_with(n: int, spread: Spread, samples: int = 1, options: Options = Options()) -> float:  # noqa: B008
    """Smallest true difference that `n` items find."""
    require(n >= 2, "n", n, "at least 2")
    require(samples >= 1, "samples", samples, "at least 1")
    return stats.detectable(n, spread.at(samples), alpha=options.checked().level, power=options.power)


def samples_that_pay(spread: Spread) -> int:
    """K at which sampling noise is a tenth of the spread between items: more samples then buy almost nothing.

    1 where there is no noise; 0 where there is nothing but noise: then each sample counts as much as an item.
    """
    if spread.noise == 0:
        return 1
    return math.ceil(10 * spread.noise / spread.between) if spread.between > 0 else 0


def spread_of_shares(accuracy: float, correlation: float, design: float = 1.0) -> Spread:
    """ω² = 2 p (1-p) (1-ρ): two models of accuracy p whose right answers correlate by ρ over items."""
    require(0 < accuracy < 1, "accuracy", accuracy, "between 0 and 1")
    require(-1 <= correlation < 1, "correlation", correlation, "in [-1, 1)")
    omega2 = stats.accuracy_difference_variance(accuracy, correlation)
    return Spread(omega2, 0.0, design, f"accuracy {accuracy:g} of both, item scores correlated by {correlation:g}")


def design_effect(per_cluster: float, icc: float) -> float:
    """1 + (m - 1) icc: m items per cluster whose scores correlate by icc."""
    require(per_cluster >= 1, "items per cluster", per_cluster, "at least 1")
    require(0 <= icc <= 1, "icc", icc, "in [0, 1]")
    return 1 + (per_cluster - 1) * icc


def pilot_of(a: Result, b: Result) -> Spread:
    """The spread that a pilot shows: two models on the same items, scored by a mean.

    Items named "prompt#k" with more than one k per prompt are samples: the prompt is then the item, and the noise of a
    sample is told apart from the spread between prompts. Clusters enter as the design effect that the pilot shows.
    Raises `ValignError` for a pilot that cannot be compared, with fewer than two clusters, or without any difference.
    """
    found = compare(a, b, subset=True)
    if found.result.n < 2 or found.result.se is None:
        raise ValignError("the pilot has fewer than two independent items", where=a.metric, how="measure more items")
    one, two = _by_prompt(a), _by_prompt(b)
    shared = sorted(set(one) & set(two))
    k = min(min(len(one[i]), len(two[i])) for i in shared)
    means = np.array([np.mean(one[i]) - np.mean(two[i]) for i in shared])
    clusters = _clusters_of(a)
    _, se = stats.clustered_se(means, [clusters[i] for i in shared])
    plain = float(means.var(ddof=1)) if len(means) > 1 else 0.0
    if se is None or plain == 0:
        raise ValignError("the two models of the pilot never differ: there is no spread to plan with", where=a.metric,
                          how="state one: --variance, or --accuracy and --correlation")  # fmt: skip
    design = se**2 * len(means) / plain
    noise = _noise([one[i] for i in shared]) + _noise([two[i] for i in shared]) if k > 1 else 0.0
    between = max(0.0, plain - noise / k)
    many = f", {k} samples each" if k > 1 else ""
    grouped = f", {found.result.cluster.count} clusters" if len(set(clusters.values())) < len(shared) else ""
    return Spread(between, noise, design, f"a pilot of {len(shared)} items{many}{grouped}")


def _by_prompt(result: Result) -> dict[str, list[float]]:
    """Scores of each prompt's samples; where each prompt has one, of each item."""
    out: dict[str, list[float]] = defaultdict(list)
    for item in result.scored_items:
        assert item.score is not None
        out[prompt_of(item.id)].append(item.score)
    return dict(out)


def prompt_of(item_id: str) -> str:
    """ "situation 7#2" -> "situation 7": the prompt whose third sample this is."""
    head, sep, tail = item_id.rpartition("#")
    return head if sep and tail.isdigit() else item_id


def _clusters_of(result: Result) -> dict[str, str]:
    """The cluster of each prompt; a prompt's own samples are no cluster of several items."""
    return {prompt_of(i.id): i.cluster for i in result.items}


def _noise(rows: Sequence[Sequence[float]]) -> float:
    """E[σ²], variance of one sample, from prompts with more than one."""
    spread = [float(np.var(row, ddof=1)) for row in rows if len(row) > 1]
    return float(np.mean(spread)) if spread else 0.0
