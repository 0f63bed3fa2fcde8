"""The command that asks what a model values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from valign.cli.options import (
    ANSWERS,
    DATA,
    MEASURE,
    OUTPUT,
    STATISTICS,
    Device,
    Dtype,
    Force,
    Json,
    MaxCost,
    PriceGenerated,
    PriceRead,
    Seed,
    option,
)
from valign.cli.progress import Watch
from valign.cli.shared import errors, print_json, refuse_given, refuse_loading, say
from valign.errors import UsageError

if TYPE_CHECKING:
    from valign.pipeline.profile import Outcome

DEFAULT = "smollm2-135m-instruct"


Against = Annotated[
    str | None, option(STATISTICS, help="A second model: says which of the two holds which value higher, paired.")
]
ValueGoal = Annotated[
    str | None,
    option(DATA, help="The value goal to compare with: a target's name, schwartz10:..., or a file. Default: all named ones, "
           "drawn beside hhh_like."),
]  # fmt: skip
Forms = Annotated[
    list[str] | None,
    option(MEASURE, help="How it is asked: likelihood (letters by their probability), generation (letters it writes), dilemmas "
           "(free answers read by the value evaluator). May be repeated. Default: likelihood; endpoints: generation."),
]  # fmt: skip
Situations = Annotated[
    str | None, option(DATA, help="Situations to respond to; form dilemmas. Default: builtin:dilemmas.")
]
Items = Annotated[
    Path | None, option(DATA, help="A JSONL file of items in place of the built-in portraits.", metavar="FILE")
]
Instrument = Annotated[
    str | None, option(MEASURE, help="The questionnaire whose item numbers FILE holds: pvq40, pvq21, mfq30.")
]
Personas = Annotated[
    int,
    option(MEASURE, min=0, help="So many everyday persons answer (36 at most; from 30 on the circle of correlations is "
           "checked); 0: the model as itself, in all 12 option orders."),
]  # fmt: skip
Retest = Annotated[
    bool, option(MEASURE, "--retest/--no-retest", help="Ask every item again in other words (doubles the time).")
]
ReportOut = Annotated[
    Path | None,
    option(OUTPUT, help="Also write result.json, samples.jsonl and a report here; the same command continues there."),
]
MaybeSamples = Annotated[int | None, option(ANSWERS, min=1, help="Responses per situation; form dilemmas. Default: 1.")]
Longest = Annotated[int | None, option(ANSWERS, min=1, help="Longest response in tokens; form dilemmas. Default: 64.")]
QuickLook = Annotated[
    int | None, option(DATA, min=1, help="At most so many items per value and keying, or situations: a quick look.")
]


def profile(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model whose values are measured.")] = DEFAULT,
    against: Against = None,
    goal: ValueGoal = None,
    form: Forms = None,
    data: Situations = None,
    items: Items = None,
    instrument: Instrument = None,
    personas: Personas = 0,
    retest: Retest = True,
    out: ReportOut = None,
    samples: MaybeSamples = None,
    max_new_tokens: Longest = None,
    limit: QuickLook = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    max_cost: MaxCost = None,
    price_read: PriceRead = None,
    price_generated: PriceGenerated = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """What does MODEL value? A profile with intervals, and whether it can be trusted."""
    with errors(as_json):
        from valign.models.policy import Sampling
        from valign.pipeline.policies import LoadOptions
        from valign.pipeline.profile import Asked, profile_from_names
        from valign.pipeline.spending import budget_of

        forms = tuple(dict.fromkeys(form or (["dilemmas"] if data is not None else [])))
        if instrument is not None and "dilemmas" not in forms:
            refuse_given(context, ["limit"], "a questionnaire is asked whole, or its scales have no score")
        refuse_loading(context, model, against)
        if force and out is None:
            raise UsageError("nothing is written that could be started again", where="--force", how="add --out FOLDER")
        _refuse(forms, data, samples, max_new_tokens, items, instrument, personas, retest)
        sampling = Sampling(n=samples or 1, max_new_tokens=max_new_tokens or 64, temperature=0.7, seed=seed)
        asked = Asked(
            forms, goal, data or "builtin:dilemmas", str(items or ""), instrument or "", personas, limit, retest, sampling
        )
        options = LoadOptions(device, dtype, budget=budget_of(max_cost, price_read, price_generated, out))
        with Watch(quiet=as_json) as watch:
            found = profile_from_names(
                model, asked, against=against, out=out, options=options, force=force, on_event=watch
            )
        if as_json:
            print_json({"schema": 1, "results": [r.to_json() for r in found.results]})
            return
        _show(found, goal or "hhh_like")
        for name, path in found.paths.items():
            say(f"{name}: {path}")


def _show(found: Outcome, goal: str) -> None:
    """The tables, on standard output."""
    from rich.console import Console

    from valign.evaluation.metrics.circle import POSITIONS
    from valign.pipeline.goals import make_goal
    from valign.report.profile_text import free_text, profile_text, shifts_text

    screen, wanted = Console(highlight=False), make_goal(goal)
    theory: Any = wanted.theory  # type: ignore[attr-defined]
    parts = []
    for one in found.models:
        for profile in one.profiles.values():
            known = set(profile.sheet.dimensions) <= set(theory.ids) or set(profile.sheet.dimensions) == set(POSITIONS)
            parts += profile_text(profile, theory if known else None, wanted.id)
        if any(r.metric == "value.V" and r.variant == "profile" for r in one.measured.results):
            parts += free_text(one.id, one.measured.results, theory, wanted.id)
    names = [m.id for m in found.models]
    for form, shifts in found.shifts.items():
        parts += shifts_text(names[0], names[1], form, shifts, theory)
    for part in parts:
        screen.print(part)


def _refuse(
    forms: tuple[str, ...],
    data: str | None,
    samples: int | None,
    max_new_tokens: int | None,
    items: Path | None,
    instrument: str | None,
    personas: int,
    retest: bool,
) -> None:
    """An option that would be ignored is an error."""
    free, asked = "dilemmas" in forms, not forms or set(forms) - {"dilemmas"}
    for name, given in (("--data", data), ("--samples", samples), ("--max-new-tokens", max_new_tokens)):
        if given is not None and not free:
            raise UsageError(f"{name} belongs to free answers", where=name, how="add --form dilemmas")
    for name, used in (("--items", items), ("--instrument", instrument), ("--personas", personas), ("--no-retest", not retest)):
        if used and not asked:
            raise UsageError(f"{name} belongs to items rated on a scale", where=name, how="add --form likelihood")
