"""Commands that hold two things against each other: tax, overopt, generality, explain."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from valign.cli.options import (
    ANSWERS,
    DATA,
    JUDGE,
    MEASURE,
    AllowPickle,
    Beta,
    Device,
    Dtype,
    Force,
    Gold,
    Json,
    KlPrompts,
    Limit,
    MaxCost,
    MaxNewTokens,
    MaybePrompts,
    Model,
    Out,
    PriceGenerated,
    PriceRead,
    Prompts,
    Reference,
    Samples,
    Seed,
    TrustCode,
    option,
)
from valign.cli.progress import Watch
from valign.cli.shared import errors, print_json, refuse_given, refuse_loading, result_line, say, tell_idle
from valign.errors import UsageError

WORLDS = "worlds"
SHOWN = 10  # records printed; all stand in the file
# of a model that is sampled: the worlds need none
OF_A_MODEL = ("proxy", "gold", "data", "samples", "max_new_tokens", "limit", "device", "dtype", "allow_pickle",
              "trust_remote_code", "max_cost", "price_read", "price_generated")  # fmt: skip
Proxy = Annotated[str | None, option(MEASURE, help=f"What would be pushed: {JUDGE}.")]
Candidates = Annotated[int, option(ANSWERS, help="Responses per prompt: the largest n of best-of-n.", min=1)]
Gained = Annotated[str | None, option(DATA, help=f"What was to be gained: {JUDGE}.")]
Tasks = Annotated[
    list[str] | None,
    option(MEASURE, help="Ability: tasks with checks, or multiple choice. May be repeated; default builtin:instructions#test."),
]
Texts = Annotated[
    list[str] | None,
    option(MEASURE, help="Held-out responses, for bits per byte. May be repeated; default builtin:demonstrations#dev."),
]
JudgedBy = Annotated[str, option(DATA, help="The goal that answers are judged by: a name or a YAML file.")]
Shifted = Annotated[list[str] | None, option(MEASURE, "--ood", help="Prompts of another source or topic. May be repeated.")]
Attacks = Annotated[
    list[str] | None, option(MEASURE, "--attack", help="One of the wrapped attacks, or none; default: all. May be repeated.")
]
Explained = Annotated[
    list[str] | None,
    option(DATA, "--data", help="Groups: answers in them are explained, prompts without are answered. May be repeated."),
]
ExplainGoal = Annotated[
    str | None, option(DATA, help="Gives values or verdicts, and a reward if --reward is not named.")
]
Credited = Annotated[str | None, option(DATA, help=f"Gives the reward that segments are credited with: {JUDGE}.")]
TakenOut = Annotated[str, option(MEASURE, help="What is taken out: sentence or word.")]
Threshold = Annotated[
    float | None,
    option(MEASURE, help="The decision: score >= this; default: against the best other answer to the prompt."),
]
Training = Annotated[
    list[str] | None,
    option(DATA, "--training", help="What MODEL was aligned with; default: what its run remembers. May be repeated."),
]
Nearest = Annotated[
    int | None,
    option(MEASURE, help="Nearest training groups told with an answer; 0: none; default: 3 where the data are known.", min=0),
]


def overopt(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model whose samples are judged, or: worlds (the oracle worlds).")],
    out: Out,
    proxy: Proxy = None,
    gold: Gold = None,
    data: MaybePrompts = None,
    samples: Candidates = 32,
    max_new_tokens: MaxNewTokens = 40,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustCode = False,
    max_cost: MaxCost = None,
    price_read: PriceRead = None,
    price_generated: PriceGenerated = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Is PROXY worth pushing? Gold against KL under best-of-n and tilting, without training; where the alarm rings."""
    with errors(as_json):
        from valign.models.policy import Sampling
        from valign.pipeline.overopt import bench_in, overopt_from_names
        from valign.pipeline.policies import LoadOptions
        from valign.pipeline.spending import budget_of

        with Watch(quiet=as_json) as watch:
            if model == WORLDS:
                refuse_given(context, OF_A_MODEL, "the worlds have their own proxies, gold and prompts, and no model",
                             "leave it out, or name a model in place of worlds")  # fmt: skip
                section, paths = bench_in(out, seed=seed, force=force, on_event=watch)
            else:
                refuse_loading(context, model)
                if not (proxy and gold and data):
                    raise UsageError("a proxy, a gold judge and prompts are needed", where="--proxy, --gold, --data",
                                     how="--proxy sentiment --gold hhh_like --data builtin:dilemmas#test")  # fmt: skip
                budget = budget_of(max_cost, price_read, price_generated, out)
                section, paths = overopt_from_names(
                    model, data, out, proxy=proxy, gold=gold, limit=limit, force=force, on_event=watch,
                    sampling=Sampling(n=samples, max_new_tokens=max_new_tokens, seed=seed),
                    options=LoadOptions(device, dtype, allow_pickle, trust_remote_code, budget),
                )  # fmt: skip
        show(section, paths, as_json)
        if not as_json and model != WORLDS:
            rang = section.figure("overopt")["tilted"]["alarm"]
            say(f"alarm: {rang['reasons'][0]}; strength {rang['strength']:.3g}" if rang else "alarm: silent")


def tax(
    context: typer.Context,
    base: Annotated[str, typer.Argument(help="The checkpoint before alignment.")],
    aligned: Annotated[str, typer.Argument(help="The checkpoint after it; any model form.")],
    out: Out,
    reward: Gained = None,
    data: MaybePrompts = None,
    tasks: Tasks = None,
    text: Texts = None,
    samples: Samples = 1,
    max_new_tokens: MaxNewTokens = 64,
    kl_prompts: KlPrompts = 16,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustCode = False,
    max_cost: MaxCost = None,
    price_read: PriceRead = None,
    price_generated: PriceGenerated = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """What alignment gained and what it cost: reward, ability, KL and text, on the same items for both checkpoints."""
    with errors(as_json):
        from valign.models.policy import Sampling
        from valign.pipeline.policies import LoadOptions
        from valign.pipeline.spending import budget_of
        from valign.pipeline.tax import TASKS, TEXTS, tax_from_names

        if (reward is None) != (data is None):
            raise UsageError(
                "a reward needs prompts, and prompts a reward", where="--reward, --data", how="give both or none"
            )
        if data is None:
            idle = ("samples", "kl_prompts") if kl_prompts else ("samples",)
            refuse_given(context, idle, "there are no prompts to answer", "name them: --data FILE --reward JUDGE")
        refuse_loading(context, base, aligned)
        budget = budget_of(max_cost, price_read, price_generated, out)
        with Watch(quiet=as_json) as watch:
            section, paths = tax_from_names(
                base, aligned, out, data=data or (), reward=reward, tasks=tasks or TASKS, texts=text or TEXTS,
                sampling=Sampling(n=samples, max_new_tokens=max_new_tokens, temperature=0.7, seed=seed),
                kl_prompts=kl_prompts, limit=limit, force=force, on_event=watch,
                options=LoadOptions(device, dtype, allow_pickle, trust_remote_code, budget),
            )  # fmt: skip
        show(section, paths, as_json)
        if not as_json:
            for name, flips in section.figure("flips")["items"].items():
                say(
                    f"{name}: {len(flips['lost'])} items lost, {len(flips['won'])} won; they stand in {paths['section'].name}"
                )


def generality(
    context: typer.Context,
    model: Model,
    goal: JudgedBy,
    data: Prompts,
    out: Out,
    ood: Shifted = None,
    attack: Attacks = None,
    samples: Samples = 1,
    max_new_tokens: MaxNewTokens = 64,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustCode = False,
    max_cost: MaxCost = None,
    price_read: PriceRead = None,
    price_generated: PriceGenerated = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Does MODEL keep to GOAL elsewhere: on shifted prompts, under attack, and does a reversed target reverse the score?"""
    with errors(as_json):
        from valign.evaluation.attacks import ATTACKS
        from valign.models.policy import Sampling
        from valign.pipeline.generality import generality_from_names
        from valign.pipeline.policies import LoadOptions
        from valign.pipeline.spending import budget_of

        refuse_loading(context, model)
        budget = budget_of(max_cost, price_read, price_generated, out)
        attacks = () if attack == ["none"] else tuple(attack or ATTACKS)
        with Watch(quiet=as_json) as watch:
            section, paths = generality_from_names(
                model, goal, data, out, ood=ood or (), attacks=attacks, limit=limit, force=force, on_event=watch,
                sampling=Sampling(n=samples, max_new_tokens=max_new_tokens, temperature=0.7, seed=seed),
                options=LoadOptions(device, dtype, allow_pickle, trust_remote_code, budget),
            )  # fmt: skip
        show(section, paths, as_json)


def explain(
    context: typer.Context,
    model: Model,
    out: Out,
    prompt: Annotated[list[str] | None, typer.Argument(help="Prompts that MODEL answers.")] = None,
    data: Explained = None,
    reference: Reference = None,
    goal: ExplainGoal = None,
    reward: Credited = None,
    beta: Beta = 0.1,
    by: TakenOut = "sentence",
    threshold: Threshold = None,
    training: Training = None,
    nearest: Nearest = None,
    samples: Samples = 1,
    max_new_tokens: MaxNewTokens = 64,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustCode = False,
    max_cost: MaxCost = None,
    price_read: PriceRead = None,
    price_generated: PriceGenerated = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Why did an answer get its reward? Tokens, sentences, values, principles, and what would turn the decision."""
    with errors(as_json):
        from valign.models.policy import Sampling
        from valign.pipeline.explain import explain_from_names, record_lines
        from valign.pipeline.policies import LoadOptions
        from valign.pipeline.spending import budget_of

        if reference is None:
            refuse_given(context, ["beta"], "there are no token credits to scale", "name the model before: --reference MODEL")
        if goal is None and reward is None:
            refuse_given(context, ["by", "threshold"], "nobody judges the answers", "name a judge: --goal or --reward")
        if data is None:
            refuse_given(context, ["limit"], "there are no data to cut")
        refuse_loading(context, model, reference)
        budget = budget_of(max_cost, price_read, price_generated, out)
        with Watch(quiet=as_json) as watch:
            section, paths = explain_from_names(
                model, out, prompts=prompt or (), data=data or (), reference=reference, goal=goal, reward=reward, beta=beta,
                by=by, threshold=threshold, limit=limit, training=training or (), nearest=nearest, force=force,
                on_event=watch,
                sampling=Sampling(n=samples, max_new_tokens=max_new_tokens, temperature=0.7, seed=seed),
                options=LoadOptions(device, dtype, allow_pickle, trust_remote_code, budget),
            )  # fmt: skip
        records = section.figure("records")["rows"]
        if not any(r["sampled"] for r in records):
            tell_idle(context, ["samples", "max_new_tokens", "seed"], "the data hold an answer to every prompt")
        if not as_json:
            for record in records[:SHOWN]:
                say("\n".join(record_lines(record)))
        show(section, paths, as_json)


def show(section: Any, paths: Any, as_json: bool) -> None:
    """A section's Results with their notes, or its JSON; then where the files lie."""
    if as_json:
        print_json(section.to_json())
        return
    say(section.title)
    several = len({r.subject for r in section.results}) > 1
    for r in section.results:
        say(result_line(r, of=r.subject if several else ""))
        for note in r.notes:
            say(f"    {note}")
    for name, path in paths.items():
        say(f"{name}: {path}")
