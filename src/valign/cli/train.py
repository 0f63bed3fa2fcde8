"""Commands that align: demo, run, align, compare."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from valign.cli.options import (
    DATA,
    OUTPUT,
    STATISTICS,
    Alarm,
    AllowPickle,
    Audit,
    AuditSteps,
    Dev,
    Device,
    Dtype,
    Force,
    GoalOption,
    Gold,
    Json,
    Limit,
    MaxKl,
    Method,
    Methods,
    Model,
    Out,
    RewardOption,
    Seed,
    Seeds,
    Set,
    Strategy,
    Track,
    TrainingData,
    TrustCode,
    option,
)
from valign.cli.progress import Watch
from valign.cli.shared import errors, print_json, refuse_given, refuse_loading, result_line, say, settings, single
from valign.models.credentials import hidden, hide
from valign.models.endpoint.address import is_endpoint

DEFAULT_MODEL = "smollm2-135m-instruct"
RecipeData = Annotated[str | None, option(DATA, help="The data file, where the recipe says DATA.")]
RecipeOut = Annotated[Path | None, option(OUTPUT, help="Output folder; default: the recipe's.")]
Test = Annotated[str | None, option(DATA, help="Held-out data to measure on; default: a fifth of --data.")]
Margin = Annotated[
    float | None,
    option(STATISTICS, help="Largest change of the primary number that does not matter: less is no difference."),
]


def demo(out: Out = Path("runs/demo"), set_: Set = None, force: Force = False, as_json: Json = False) -> None:
    """Align the embedded model toward one value goal with one method of every family, and compare them."""
    with errors(as_json):
        _run("demo", out, set_, None, force, as_json)


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe: a YAML file, or the name of one that valign ships.")],
    data: RecipeData = None,
    out: RecipeOut = None,
    set_: Set = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Run a recipe: align with its method or methods, measure, report."""
    with errors(as_json):
        _run(recipe, out, set_, data, force, as_json)


def _run(
    recipe: str, out: Path | None, set_: Sequence[str] | None, data: str | None, force: bool, as_json: bool
) -> None:
    from valign.pipeline.compare import run_recipe
    from valign.pipeline.recipe import load_recipe

    loaded = load_recipe(recipe, set_ or (), data)
    folder = out or Path(loaded.out or f"runs/{loaded.name}")
    began = time.perf_counter()
    with Watch(quiet=as_json) as watch:
        done = run_recipe(loaded, folder, on_event=watch, force=force)
    _finish(done, as_json, time.perf_counter() - began)


def _finish(done: Any, as_json: bool, seconds: float) -> None:
    if as_json:
        print_json(done.report)
        return
    from rich.console import Console

    from valign.report.text import report_text

    screen = Console()
    # a table in a file or a pipe is not squeezed into the 80 columns of a terminal that is not there
    (screen if screen.is_terminal else Console(width=140)).print(report_text(done.report))
    say(f"\n{seconds:.0f} s in all")
    for name, path in done.paths.items():
        say(f"{name}: {path}")


def align(
    context: typer.Context,
    model: Model,
    method: Method,
    out: Out,
    data: TrainingData = None,
    goal: GoalOption = None,
    reward: RewardOption = None,
    set_: Set = None,
    dev: Dev = 0.0,
    gold: Gold = None,
    audit: Audit = None,
    audit_steps: AuditSteps = 0,
    alarm: Alarm = "warn",
    max_kl: MaxKl = None,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    track: Track = None,
    strategy: Strategy = "auto",
    force: Force = False,
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Align MODEL with one method; the output folder is a policy that every command accepts as MODEL, or a reward model
    that every --reward accepts."""
    with errors(as_json):
        from valign.engine.processes import start
        from valign.methods.table import method as method_named
        from valign.pipeline.door import align_from_names
        from valign.pipeline.instruments import guard_named, nobody
        from valign.pipeline.policies import LoadOptions
        from valign.pipeline.trackers import trackers

        if not method_named(method).trains:
            refuse_given(context, ["limit", "seed", "track"], f"{method} trains nothing: no data are read, no steps are made")
        refuse_loading(context, model)
        options = LoadOptions(device, dtype, allow_pickle, trust_remote_code)
        with start(strategy, device) as world, contextlib.ExitStack() as stack:
            listen = None
            if world.leads:
                watch = stack.enter_context(Watch(quiet=as_json))
                listen = stack.enter_context(trackers(track or (), out, watch))
            else:
                logging.getLogger("valign").setLevel(logging.ERROR)  # the leading process remarks the same
            aligned = align_from_names(
                model,
                method,
                out,
                data=data or (),
                goal=single(goal),
                reward=reward,
                settings=settings(set_),
                dev=dev,
                limit=limit,
                seed=seed,
                options=options,
                force=force,
                on_event=listen,
                world=world,
                guard=guard_named(gold, audit or (), every=audit_steps, action=alarm, max_kl=max_kl, limit=None,
                                  tell=listen or nobody),
            )  # fmt: skip
        if not world.leads:
            return
        _tell_aligned(aligned, model, out, as_json)


def _tell_aligned(aligned: Any, model: str, out: Path, as_json: bool) -> None:
    """Where it lies, and what comes next."""
    is_reward = aligned.made.card()["kind"] == "reward"
    if as_json:
        made = {"reward" if is_reward else "policy": str(out), "card": aligned.made.card(), "cost": aligned.cost.to_json()}
        if aligned.results:
            made["results"] = [r.to_json() for r in aligned.results]
        print_json(hidden({**made, "notes": list(aligned.notes)}))
        return
    for note in aligned.notes:
        say(note)
    if aligned.continued:
        say("this run was finished before; nothing was computed")
    for r in aligned.results:
        say(result_line(r))
    if is_reward:
        say(f"reward model: {out}")
        say(f"use it:       valign align {hide(model)} --method best_of_n --reward {out} --out DIR")
        return
    say(f"aligned policy: {out}")
    reference = "" if is_endpoint(model) else f" --reference {hide(model)}"  # an endpoint cannot score
    said = f"valign evaluate {out} --data FILE{reference} --out {out}/evaluation"
    say(f"measure it:     {said}")


def compare(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model to align.")] = DEFAULT_MODEL,
    methods: Methods = None,
    data: TrainingData = None,
    test: Test = None,
    goal: GoalOption = None,
    out: Out = Path("runs/compare"),
    limit: Limit = None,
    seed: Seed = 0,
    seeds: Seeds = 1,
    margin: Margin = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Align MODEL with several methods toward one goal, and compare what each reached and what it cost."""
    with errors(as_json):
        from valign.pipeline.compare import run_recipe
        from valign.pipeline.door import comparison_recipe

        refuse_loading(context, model)
        recipe = comparison_recipe(
            model,
            methods or (),
            data=data or (),
            test=test,
            goal=single(goal),
            limit=limit,
            seed=seed,
            device=device,
            dtype=dtype,
            seeds=seeds,
            margin=margin,
        )
        began = time.perf_counter()
        with Watch(quiet=as_json) as watch:
            done = run_recipe(recipe, out, on_event=watch, force=force)
        _finish(done, as_json, time.perf_counter() - began)
