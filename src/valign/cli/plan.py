"""The command before a run: how many items, samples and votes a comparison needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from valign.cli.shared import Json, errors, print_json, say


def plan_eval(
    pilots: Annotated[
        list[Path] | None, typer.Argument(help="Two result.json (or folders) of a small run of both models on the same items.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="The pilot's number to plan for: NAME or NAME/VARIANT.")] = None,
    difference: Annotated[float | None, typer.Option(help="The smallest difference that matters, in the metric's unit.")] = None,
    n: Annotated[int | None, typer.Option("--n", help="Items at hand: what difference can they find?")] = None,
    variance: Annotated[float | None, typer.Option(help="Variance over items of the true difference (no pilot).")] = None,
    noise: Annotated[float | None, typer.Option(help="With it: variance of one sample, of both models together.")] = None,
    accuracy: Annotated[float | None, typer.Option(help="For shares of right answers: what both models reach about.")] = None,
    correlation: Annotated[float | None, typer.Option(help="With it: how their item scores correlate.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers drawn per item and model.")] = 1,
    per_cluster: Annotated[float | None, typer.Option(help="Items per cluster (template, prompt, scenario).")] = None,
    icc: Annotated[float | None, typer.Option(help="Correlation of two items of a cluster, or of two votes on an item.")] = None,
    win_rate: Annotated[float | None, typer.Option(help="Plan human votes instead: the win rate to tell from one half.")] = None,
    votes: Annotated[int | None, typer.Option(help="With it: votes per item.")] = None,
    alpha: Annotated[float, typer.Option(help="Two-sided level: how often a difference may be found where none is.")] = 0.05,
    power: Annotated[float, typer.Option(help="How often a difference that is there is to be found.")] = 0.8,
    tests: Annotated[int, typer.Option(help="Planned comparisons that share the level (Holm's strictest step).")] = 1,
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
