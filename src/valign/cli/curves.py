"""Commands over many runs or checkpoints: efficiency, value-risk; and which methods a situation allows: choose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from valign.cli.instruments import show
from valign.cli.progress import Watch
from valign.cli.shared import Device, Dtype, Force, GoalOption, Json, Limit, MaxNewTokens, Model, Out, Seed, errors, print_json, say, single
from valign.errors import UsageError


def efficiency(
    model: Model,
    method: Annotated[list[str], typer.Option("--method", help="A method, with settings: dpo,beta=0.2. At least three to compare.")],
    data: Annotated[list[str], typer.Option("--data", help="Training data; all sizes are cut from one order of it.")],
    test: Annotated[list[str], typer.Option("--test", help="Held-out groups that every point is measured on.")],
    out: Out,
    sizes: Annotated[str, typer.Option(help="Numbers of groups, three or more: 8,16,32.")] = "8,16,32",
    goal: GoalOption = None,
    headline: Annotated[
        str, typer.Option(help="METRIC or METRIC:VARIANT of the score; default goal.utility, without a goal preference.accuracy:sum.")
    ] = "",
    target: Annotated[float | None, typer.Option(help="The score whose cost is wanted; default: half way to the best.")] = None,
    samples: Annotated[int, typer.Option(help="Judged responses per held-out prompt.", min=1)] = 1,
    max_new_tokens: MaxNewTokens = 64,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """What a score costs with each method: labels, training and rollout tokens, seconds, peak memory."""
    with errors(as_json):
        from valign.models.policy import Sampling
        from valign.pipeline.efficiency import efficiency_from_names
        from valign.pipeline.policies import LoadOptions

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
        raise UsageError(f"{text!r} is no list of whole numbers", where="--sizes", how="for example --sizes 8,16,32") from error
