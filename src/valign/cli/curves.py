"""Commands over many runs or checkpoints: efficiency, value-risk; and which methods a situation allows: choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from valign.cli.instruments import show
from valign.cli.options import (
    ANSWERS,
    DATA,
    MEASURE,
    METHOD,
    PLACE,
    Device,
    Dtype,
    Force,
    GoalOption,
    Json,
    Limit,
    MaxNewTokens,
    Model,
    Out,
    Samples,
    Seed,
    option,
)
from valign.cli.progress import Watch
from valign.cli.shared import errors, print_json, refuse_given, refuse_loading, say, single
from valign.errors import UsageError

if TYPE_CHECKING:
    from valign.evaluation.result import Result


Compared = Annotated[
    list[str],
    option(METHOD, "--method", help="A method; with settings: dpo,beta=0.2. May be repeated: three or more to compare."),
]
Training = Annotated[
    list[str], option(DATA, "--data", help="Training data: a file, builtin:NAME or hub:OWNER/NAME; a part of it: FILE#train. "
                      "May be repeated.")
]  # fmt: skip
Tests = Annotated[list[str], option(DATA, "--test", help="Held-out groups that every point is measured on. May be repeated.")]
Sizes = Annotated[
    str, option(METHOD, help="Numbers of groups, three or more, all cut from one order of the data: 8,16,32.")
]
Headline = Annotated[
    str,
    option(MEASURE, help="METRIC or METRIC:VARIANT of the score; default goal.utility, without a goal preference.accuracy:sum."),
]
Wanted = Annotated[
    float | None, option(MEASURE, help="The score whose cost is wanted; default: half way to the best.")
]


def efficiency(
    context: typer.Context,
    model: Model,
    method: Compared,
    data: Training,
    test: Tests,
    out: Out,
    sizes: Sizes = "8,16,32",
    goal: GoalOption = None,
    headline: Headline = "",
    target: Wanted = None,
    samples: Samples = 1,
    max_new_tokens: MaxNewTokens = 64,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """What a score costs with each method: labels, training and rollout tokens, seconds, added memory."""
    with errors(as_json):
        from valign.models.policy import Sampling
        from valign.pipeline.efficiency import efficiency_from_names
        from valign.pipeline.policies import LoadOptions

        if not goal:
            refuse_given(context, ["samples"], "without a goal no responses are judged", "name one: --goal GOAL")
        refuse_loading(context, model)
        with Watch(quiet=as_json) as watch:
            section, paths = efficiency_from_names(
                model, method, out, data=data, test=test, sizes=_numbers(sizes), goal=single(goal), headline=headline,
                target=target, limit=limit, seed=seed, force=force, on_event=watch,
                sampling=Sampling(n=samples, max_new_tokens=max_new_tokens, temperature=0.7, seed=seed),
                options=LoadOptions(device, dtype),
            )  # fmt: skip
        show(section, paths, as_json)


def _numbers(text: str) -> list[int]:
    try:
        return [int(x) for x in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no list of whole numbers", where="--sizes", how="for example --sizes 8,16,32"
        ) from error


def choose(
    feedback: Annotated[
        str,
        option(
            DATA,
            help="What is at hand: reward, pairs, rankings, unpaired, demonstrations, critiques, principles, values, scored_log."
        ),
    ],
    weights: Annotated[bool, option(PLACE, "--weights/--no-weights", help="Whether the model can be trained.")] = True,
    token_probs: Annotated[
        bool | None,
        option(
            PLACE,
            "--token-probs/--no-token-probs",
            help="Whether next-token distributions can be read; default: as --weights.",
        ),
    ] = None,
    copies: Annotated[int | None, option(PLACE, help="Full copies of the model that fit in memory.", min=0)] = None,
    memory: Annotated[
        float | None, option(PLACE, help="Memory in GB in place of --copies; needs --parameters.", min=0)
    ] = None,
    parameters: Annotated[float | None, option(PLACE, help="Parameters of the model: 135e6.", min=1)] = None,
    samples: Annotated[int, option(ANSWERS, help="Samples per prompt that are affordable.", min=1)] = 1,
    prompt_tokens: Annotated[int, option(ANSWERS, help="Extra prompt tokens that are affordable.", min=0)] = 0,
    measured: Annotated[
        Path | None, option(DATA, help="report.json of a comparison: its order goes before that by cost.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Which families of methods a situation allows, in what order to try them, and why the others are out."""
    with errors(as_json):
        from valign.evaluation.metrics.chooser import Situation
        from valign.pipeline.advice import advise, copies_that_fit, measured_gaps, situation_lines

        if (memory is None) != (parameters is None) or (memory is not None and copies is not None):
            raise UsageError(
                "memory is --copies, or --memory with --parameters",
                where="--memory",
                how="--memory 16 --parameters 135e6",
            )
        fit = copies if copies is not None else 1
        if memory is not None and parameters is not None:
            fit = copies_that_fit(memory * 1e9, parameters)
        situation = Situation(
            feedback, weights, weights if token_probs is None else token_probs, fit, samples, prompt_tokens
        )
        advice = advise(situation, measured_gaps(measured) if measured is not None else None)
        if as_json:
            print_json([a.to_json() for a in advice])
            return
        for line in situation_lines(advice):
            say(line)


def value_risk(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="result.json of each checkpoint, or the folder that holds it; four or more.")
    ],
    out: Out,
    base: Annotated[Path | None, option(DATA, help="result.json of the model that pushes are counted from.")] = None,
    risk: Annotated[
        list[str] | None,
        option(
            MEASURE,
            "--risk",
            help="A risk as valign evaluate --risk named it, or METRIC or METRIC:VARIANT. May be repeated. Default: all risks.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Does pushing a value raise a risk? Rank correlations over checkpoints, with Benjamini-Hochberg."""
    with errors(as_json):
        from valign.evaluation.measure.value_risk import value_risk as measure
        from valign.evaluation.results_file import read_results
        from valign.evaluation.section import RESULTS, write_section
        from valign.pipeline.instruments import costed

        def read(path: Path) -> list[Result]:
            return read_results(path / RESULTS if path.is_dir() else path, items=False)

        runs, start = {str(p): read(p) for p in checkpoints}, read(base) if base is not None else None
        section = costed(lambda: measure(runs, start, risk or ()))
        show(section, write_section(section, out), as_json)
