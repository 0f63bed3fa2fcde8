"""Commands that measure and show: evaluate, profile, generate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from valign.cli.differ import show
from valign.cli.options import (
    ANSWERS,
    STATISTICS,
    AllowPickle,
    Beta,
    Data,
    Device,
    Dtype,
    Force,
    GoalOption,
    Json,
    KlPrompts,
    Limit,
    Margins,
    MaxCost,
    MaxNewTokens,
    Model,
    Out,
    PriceGenerated,
    PriceRead,
    Reference,
    RewardOption,
    Risks,
    Samples,
    Seed,
    Temperature,
    TrustCode,
    Workers,
    option,
)
from valign.cli.progress import Watch
from valign.cli.shared import errors, print_json, refuse_given, refuse_loading, result_line, say, single, tell_idle
from valign.errors import UsageError

if TYPE_CHECKING:
    from valign.evaluation.result import Result

Against = Annotated[
    Path | None, option(STATISTICS, help="An earlier evaluation on the same data: also say what differs from it, paired.")
]
System = Annotated[str | None, option(ANSWERS, help="A system turn before the prompt.")]
Raw = Annotated[bool, option(ANSWERS, "--raw", help="Continue the text as it is: no chat template.")]
N = Annotated[int, option(ANSWERS, min=1, help="Samples per prompt.")]
TopP = Annotated[float, option(ANSWERS, help="The smallest set of tokens with this probability; 1: all.")]
TopK = Annotated[int, option(ANSWERS, min=0, help="The k most probable tokens; 0: all.")]


def evaluate(
    context: typer.Context,
    model: Model,
    data: Data,
    out: Out,
    reference: Reference = None,
    goal: GoalOption = None,
    reward: RewardOption = None,
    beta: Beta = 0.1,
    risk: Risks = None,
    samples: Samples = 1,
    max_new_tokens: MaxNewTokens = 64,
    temperature: Temperature = 0.7,
    against: Against = None,
    margin: Margins = None,
    kl_prompts: KlPrompts = 16,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustCode = False,
    workers: Workers = 0,
    max_cost: MaxCost = None,
    price_read: PriceRead = None,
    price_generated: PriceGenerated = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure MODEL on data: result.json and samples.jsonl in the output folder."""
    with errors(as_json):
        from valign.models.policy import Sampling
        from valign.pipeline import differences
        from valign.pipeline.door import evaluate_from_names
        from valign.pipeline.policies import LoadOptions
        from valign.pipeline.spending import budget_of

        _refuse_idle(context, reference, goal, kl_prompts)
        refuse_loading(context, model, reference)
        sampling = Sampling(n=samples, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        budget = budget_of(max_cost, price_read, price_generated, out, workers=workers)
        margins = differences.margins_of(margin)
        if margins and against is None:
            raise UsageError("a margin belongs to a comparison", where="--margin", how="--against FOLDER")
        if against is not None:
            differences.check_margins(against, margins)  # a wrong name is found before anything is computed
        options = LoadOptions(device, dtype, allow_pickle, trust_remote_code, budget)
        with Watch(quiet=as_json) as watch:
            measured, paths = evaluate_from_names(
                model,
                data,
                out,
                reference=reference,
                goal=single(goal),
                reward=reward,
                beta=beta,
                sampling=sampling,
                kl_prompts=kl_prompts,
                risks=risk or (),
                limit=limit,
                options=options,
                force=force,
                workers=workers,
                on_event=watch,
            )
        if not any("sampling" in r.provenance for r in measured.results):
            tell_idle(context, ["samples", "temperature", "max_new_tokens"], "the data ask for no text, and nothing was sampled")
        changes = differences.differences(against, out, margins) if against is not None else []
        if against is not None:
            paths = {**paths, "differences": differences.write_differences(changes, out)}
        if as_json:
            more = differences.as_json(changes) if against is not None else {}
            print_json({**more, "schema": 1, "results": [r.to_json() for r in measured.results]})
            return
        _tell(measured.results)
        if against is not None:
            show(changes)
        for name in ("results", "samples", "differences"):
            if name in paths:
                say(f"{name}: {paths[name]}")


def _refuse_idle(context: typer.Context, reference: str | None, goal: Sequence[str] | None, kl_prompts: int) -> None:
    """Options that were given and would do nothing."""
    if reference is None:
        idle = ("beta", "kl_prompts") if kl_prompts else ("beta",)
        refuse_given(context, idle, "nothing is compared with a reference", "name one: --reference MODEL")
    if not goal:
        unused = ("samples", "temperature", "risk")
        refuse_given(context, unused, "without a goal no responses are judged", "name one: --goal GOAL")


def _tell(results: Sequence[Result]) -> None:
    """A line for each result, single values and coverages left out; what qualifies one stands below it."""
    from valign.evaluation.measure.profile import warning_of
    from valign.evaluation.measure.recompute import COMPONENTS

    for r in results:
        if not r.metric.startswith(("value.profile.", "value.coverage.")) or r.variant == "mean":
            say(result_line(r))
        if r.metric == COMPONENTS:
            for note in r.notes:
                say(f"  {note}")
        if warning := warning_of([r]):
            say(f"! {warning}")


def generate(
    context: typer.Context,
    model: Model,
    prompt: Annotated[
        list[str] | None, typer.Argument(help="What to ask; none: one prompt per line of standard input.")
    ] = None,
    system: System = None,
    raw: Raw = False,
    n: N = 1,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.7,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    goal: GoalOption = None,
    reward: RewardOption = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Ask MODEL, whatever form it has."""
    with errors(as_json):
        import sys

        from valign.data.group import text, user
        from valign.models.policy import Sampling
        from valign.pipeline.door import reward_named
        from valign.pipeline.evaluate import progress_of
        from valign.pipeline.goals import make_goal
        from valign.pipeline.policies import LoadOptions, check_read, load_policy

        if raw:
            refuse_given(context, ["system"], "a text that is continued has no turns", "leave --raw or --system out")
        check_read(model, goal=bool(goal), reward=bool(reward))
        refuse_loading(context, model)
        asked = prompt or [line.rstrip("\n") for line in sys.stdin if line.strip()]
        if not asked:
            raise UsageError(
                "there is no prompt", where="PROMPT", how='for example: valign generate MODEL "How are you?"'
            )
        options = LoadOptions(device, dtype, allow_pickle, trust_remote_code)
        sampling = Sampling(
            n=n, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed
        )
        prompts = [text(p) if raw else user(p, system=system) for p in asked]
        named = single(goal)
        with Watch(quiet=True) as watch:
            watch("loading", {"name": model})
            policy = load_policy(model, options, goal=make_goal(named) if named else None,
                                 reward=reward_named(reward) if reward else None)  # fmt: skip
            rows = policy.generate(prompts, sampling, progress=progress_of(watch)("responses"))
        if as_json:
            print_json(
                [
                    {
                        "prompt": p,
                        "responses": [
                            {
                                "text": s.text,
                                "finish": s.finish,
                                "tokens": len(s.ids) or len(s.raw) or None,
                                "log_prob": float(s.raw.sum()) if len(s.raw) else None,
                                **({"failure": s.failure} if s.failure else {}),
                            }
                            for s in row
                        ],
                    }
                    for p, row in zip(asked, rows)
                ]
            )
            return
        for p, row in zip(asked, rows):
            for s in row:
                shown = f"[no answer: {s.failure}]" if s.failure else s.text + (" [cut]" if s.finish == "length" else "")
                say((f"> {p}\n" if len(asked) > 1 else "") + shown)
