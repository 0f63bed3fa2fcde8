"""The command before a run: how many items, samples and votes a comparison needs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from valign.cli.options import ANSWERS, MEASURE, STATISTICS, Json, option
from valign.cli.shared import errors, print_json, say

plan = partial(option, STATISTICS)
Pilots = Annotated[
    list[Path] | None, typer.Argument(help="Two result.json (or folders) of a small run of both models on the same items.")
]
Metric = Annotated[str | None, option(MEASURE, help="The pilot's number to plan for: NAME or NAME/VARIANT.")]
Difference = Annotated[float | None, plan(help="The smallest difference that matters, in the metric's unit.")]
N = Annotated[int | None, plan("--n", help="Items at hand: what difference can they find?")]
Variance = Annotated[float | None, plan(help="Variance over items of the true difference (no pilot).")]
Noise = Annotated[float | None, plan(help="With it: variance of one sample, of both models together.")]
Accuracy = Annotated[float | None, plan(help="For shares of right answers: what both models reach about.")]
Correlation = Annotated[float | None, plan(help="With it: how their item scores correlate.")]
SamplesOfEach = Annotated[
    int, option(ANSWERS, min=1, help="Answers drawn per item, as many of each model: a comparison pairs them one by one.")
]
PerCluster = Annotated[float | None, plan(help="Items per cluster (template, prompt, scenario).")]
Icc = Annotated[float | None, plan(help="Correlation of two items of a cluster, or of two votes on an item.")]
WinRate = Annotated[float | None, plan(help="Plan human votes instead: the win rate to tell from one half.")]
Votes = Annotated[int | None, plan(help="With it: votes per item.")]
Alpha = Annotated[float, plan(help="Two-sided level: how often a difference may be found where none is.")]
Power = Annotated[float, plan(help="How often a difference that is there is to be found.")]
Tests = Annotated[int, plan(help="Planned comparisons that share the level (Holm's strictest step).")]


def plan_eval(
    pilots: Pilots = None,
    metric: Metric = None,
    difference: Difference = None,
    n: N = None,
    variance: Variance = None,
    noise: Noise = None,
    accuracy: Accuracy = None,
    correlation: Correlation = None,
    samples: SamplesOfEach = 1,
    per_cluster: PerCluster = None,
    icc: Icc = None,
    win_rate: WinRate = None,
    votes: Votes = None,
    alpha: Alpha = 0.05,
    power: Power = 0.8,
    tests: Tests = 1,
    as_json: Json = False,
) -> None:
    """Before a run: items for a difference, or the smallest difference that a number of items finds."""
    with errors(as_json):
        from valign.evaluation.planning import Options
        from valign.pipeline.plan import Asked, plan_evaluation

        found = plan_evaluation(
            Asked(tuple(pilots or ()), metric, difference, n, variance, noise, accuracy, correlation, samples, per_cluster,
                  icc, win_rate, votes, Options(alpha, power, tests))
        )  # fmt: skip
        if as_json:
            print_json(found)
            return
        for line in found["lines"]:
            say(line)
