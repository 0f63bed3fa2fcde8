"""`valign goal standardize`: a goal of several parts gets the numbers that put them on one scale."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from valign.cli.options import ANSWERS, DATA, OUTPUT, Device, Dtype, Json, Limit, MaxNewTokens, Seed, option
from valign.cli.progress import Watch
from valign.cli.shared import errors, print_json, refuse_loading, say


def standardize(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="A goal file of level composite.")],
    data: Annotated[str, option(DATA, help="Prompts: a file, builtin:NAME or hub:OWNER/NAME.")],
    out: Annotated[Path, option(OUTPUT, help="The goal file to write.")],
    model: Annotated[str, option(DATA, help="The reference, whose samples give the scale.")] = "smollm2-135m-instruct",
    samples: Annotated[int, option(ANSWERS, help="Responses per prompt; a constraint needs several.", min=1)] = 4,
    max_new_tokens: MaxNewTokens = 64,
    limit: Limit = 64,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Measure mean and sd of a goal's parts (and its constraints' multipliers, its relations) on samples of a model."""
    with errors(as_json):
        from valign.models.policy import Sampling
        from valign.pipeline.policies import LoadOptions
        from valign.pipeline.standardize import standardize_from_names

        refuse_loading(context, model)
        sampling = Sampling(n=samples, max_new_tokens=max_new_tokens, seed=seed)
        with Watch(quiet=as_json) as watch:
            ready = standardize_from_names(
                file, model, data, out, sampling, limit=limit, options=LoadOptions(device, dtype), on_event=watch
            )
        content = ready.to_json()
        if as_json:
            print_json({"out": str(out), **{k: content[k] for k in ("standard", "constraints", "relation") if k in content}})
            return
        for name, (mean, sd) in content["standard"].items():
            say(f"{name}: mean {mean:.3f}, sd {sd:.3f}")
        for c in content.get("constraints", []):
            say(f"{c['goal']['id']}: cost at most {c['limit']:g}, multiplier {c['multiplier']:.3f}")
        say(f"written: {out}")
