"""From the names that a command line or a notebook gives to the rooms that do the work."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from valign.data.group import Group
from valign.data.tasks import task_counts
from valign.engine.processes import SINGLE, World
from valign.engine.run import RunFolder
from valign.errors import UsageError, ValignError
from valign.methods.guard import Guard
from valign.methods.method import Method
from valign.methods.table import method as method_named
from valign.methods.target import Target
from valign.models.policy import Policy, Sampling, has_likelihood
from valign.pipeline import request as asked
from valign.pipeline.align import Aligned, align_policy
from valign.pipeline.data import read_source, read_sources
from valign.pipeline.evaluate import (
    RESULT,
    Measured,
    Plan,
    check_ranked,
    check_risks,
    evaluate_policy,
    progress_of,
    read_evaluation,
    write_evaluation,
)
from valign.pipeline.goals import make_goal, steering
from valign.pipeline.judges import LOG as JUDGE_LOG
from valign.pipeline.judges import judges_logged, judges_of
from valign.pipeline.policies import LoadOptions, check_read, load_policy
from valign.pipeline.recipe import Recipe, Source, parse
from valign.pipeline.spending import check_priced
from valign.pipeline.training_data import origin
from valign.rewards.reward_model import is_reward_folder

Listen = Callable[[str, Mapping[str, Any]], None]
TAX = [{"path": "builtin:instructions", "split": "test"}]  # what a comparison measures the alignment tax on
TEST_SHARE = 0.2  # held out for measuring when the user names no test data


def source(text: str, limit: int | None = None) -> Source:
    """`FILE`, `FILE=0.3` (with a weight), `FILE#train` (a split) or `FILE#0:800` (rows)."""
    path, weight = text, 1.0
    head, sep, tail = text.rpartition("=")
    if sep and _is_number(tail):
        path, weight = head, float(tail)
        if not 0 < weight < math.inf:
            raise UsageError(f"the weight {tail} is not a positive number", where=f"--data {text}")
    split = rows = None
    if "#" in path and not Path(path).exists():
        path, _, part = path.rpartition("#")
        split, rows = (None, part) if ":" in part or part.isdigit() else (part, None)
    return Source(path=path, split=split, rows=rows, weight=weight, limit=limit)


def align_from_names(
    model: str,
    method: str,
    out: Path,
    *,
    data: Sequence[str] = (),
    goal: str | None = None,
    reward: str | None = None,
    settings: Mapping[str, Any],
    dev: float = 0.0,
    limit: int | None = None,
    seed: int = 0,
    options: LoadOptions | None = None,
    force: bool = False,
    on_event: Listen | None = None,
    world: World = SINGLE,
    guard: Guard | None = None,
) -> Aligned:
    """What `valign align` does. Names and settings are checked before a model is loaded."""
    chosen = method_named(method)
    settings = {**({"seed": seed} if chosen.trains and "seed" not in settings else {}), **settings}
    chosen.configure(settings)
    made_goal = make_goal(goal) if goal else None
    made_reward = reward_named(reward) if reward else None
    tell = on_event or _nobody
    groups, held = _training_data(chosen, data, limit, dev, seed, tell)
    tell("loading", {"name": model})
    policy = load_policy(model, options)
    target = Target(made_goal, policy, reward=made_reward)
    aligned = align_policy(
        policy, target, chosen, settings, out, groups=groups, dev=held, reward_name=_lasting(reward), force=force,
        on_event=tell, reload=lambda folder: load_policy(folder, options, goal=made_goal), world=world,
        guard=guard, origin=origin([source(d, limit) for d in data], seed, dev, task_counts(groups)) if chosen.trains else None,
    )  # fmt: skip
    if data and not chosen.trains:
        note = f"{chosen.name} learns from {chosen.feedback}: the data were not read"
        aligned = replace(aligned, notes=(*aligned.notes, note))
    return aligned


def evaluate_from_names(
    model: str,
    data: Sequence[str],
    out: Path,
    *,
    reference: str | None = None,
    goal: str | None = None,
    reward: str | None = None,
    beta: float = 0.1,
    sampling: Sampling,
    kl_prompts: int = 16,
    risks: Sequence[str] = (),
    limit: int | None = None,
    options: LoadOptions | None = None,
    force: bool = False,
    workers: int = 0,
    on_event: Listen | None = None,
) -> tuple[Measured, Mapping[str, Path]]:
    """What `valign evaluate` does; requests are logged in `out`, so an interrupted evaluation goes on.

    workers   Ray actors that share the requests; 0: this process answers them
    risks     rewards by name, whose low side is told of the responses that are drawn for the goal
    options   its budget holds for the model, what it stands on, and the goal's judges, all together; at its ceiling the
              evaluation stops and can go on
    A finished one is read, not measured again. Raises `ValignError` when `out` holds one of other settings.
    """
    tell = on_event or _nobody
    watched = [reward_named(r) for r in risks]  # a wrong name is found before anything is read
    groups, _ = read_sources([source(d, limit) for d in data], seed=0, tell=tell)
    plan = Plan(groups, make_goal(goal) if goal else None, (), sampling, kl_prompts, beta, watched)
    check_risks(plan, "--risk")
    check_ranked(plan, reference, "--reference")
    if reward:
        reward_named(reward)  # a wrong name is found before anything is loaded
        check_read(model, reward=True)
    with RunFolder(out) as run, contextlib.ExitStack() as stack:

        def logged(make: Callable[[], Policy], file: str) -> Any:
            return _logged(make, out / file, out / JUDGE_LOG, workers, stack)

        tell("loading", {"name": model})
        policy = logged(partial(_policy_named, model, options, goal, reward), "requests.jsonl")
        if reference:
            tell("loading", {"name": reference})
        budget = options.budget if options is not None else None
        judges = stack.enter_context(judges_logged((plan.goal, policy, *plan.risks), out / JUDGE_LOG, budget))
        check_priced((policy, *judges), budget)
        base = logged(partial(_policy_named, reference, options), "reference.jsonl") if reference else None
        if base is not None and not has_likelihood(base):
            raise ValignError("the reference must say how probable given responses are, and an endpoint does not",
                              where=f"--reference {base.id}", how="name the same weights as a local model")  # fmt: skip
        request = _evaluation_request(policy, base, plan)
        finished = (out / RESULT).exists()
        if asked.is_repeated(out, out / asked.FILE, request, force=force, lost=finished):
            if (done := read_evaluation(out)) is not None:
                tell("warning", {"text": "this evaluation was finished before; nothing was computed"})
                return done
        elif finished and not force and not (out / asked.FILE).exists():
            raise ValignError("the folder holds results of something else", where=str(out / RESULT), how=asked.HOW)
        (out / RESULT).unlink(missing_ok=True)  # whoever reads it must not take it for this evaluation's
        run.write(asked.FILE, asked.text(request))
        measured = evaluate_policy(policy, base, plan, say=progress_of(tell))
        for note in measured.notes:
            tell("warning", {"text": note})
        tell("writing", {"path": str(out)})
        return measured, write_evaluation(out, measured)


def _policy_named(model: str, options: LoadOptions | None, goal: str | None = None, reward: str | None = None) -> Policy:
    """A policy from names alone: workers make their own."""
    made = steering(make_goal(goal)) if goal else None
    return load_policy(model, options, goal=made, reward=reward_named(reward) if reward else None)


def _logged(make: Callable[[], Policy], log: Path, judge_log: Path, workers: int, stack: contextlib.ExitStack) -> Policy:
    """The policy with a log of its answers, here or on workers; both kinds read each other's log. What it asks on a worker is
    logged from there, in this process by `judges_logged`."""
    if workers:
        from valign.evaluation.sharded import ShardedPolicy

        return stack.enter_context(ShardedPolicy(make, workers, log=log, asks=judges_of, asked_log=judge_log))
    from valign.evaluation.cached import CachedPolicy

    return CachedPolicy(make(), log)


def _evaluation_request(policy: Policy, reference: Policy | None, plan: Plan) -> dict[str, Any]:
    """What an evaluation was asked for: equal requests give equal results."""
    sampling = {k: v for k, v in asdict(plan.sampling).items() if k != "stop"}
    return {
        "model": policy.id,
        "model_sha256": _identity(policy),
        "reference": reference.id if reference is not None else None,
        "reference_sha256": _identity(reference) if reference is not None else None,
        "goal": plan.goal.fingerprint() if plan.goal is not None else None,
        "data": asked.digest(plan.groups),
        "risks": {r.id: r.fingerprint() for r in plan.risks} or None,  # None: as if the key were not there
        "settings": {**sampling, "beta": plan.beta, "kl_prompts": plan.kl_prompts},
    }


def _identity(policy: Policy) -> str:
    from valign.evaluation.cached import fingerprint

    return fingerprint(policy)


def comparison_recipe(
    model: str,
    methods: Sequence[str],
    *,
    data: Sequence[str],
    test: str | None,
    goal: str | None,
    limit: int | None,
    seed: int,
    device: str,
    dtype: str,
    seeds: int = 1,
    margin: float | None = None,
) -> Recipe:
    """The recipe of `valign compare`. Without --data the built-in dilemmas are used with the demo's goal.

    seeds    trainings of each method that trains, with seeds `seed`, `seed` + 1, ...
    margin   largest change of the primary number that does not matter
    """
    if not methods:
        raise UsageError("no method is named", where="--method", how="for example: --method dpo --method urial")
    if not data:
        data, test = ["builtin:dilemmas#train"], test or "builtin:dilemmas#test"
        goal = goal or "schwartz10:benevolence=1,universalism=1,power=-1"
    runs = [run for m in methods for run in _seeded(method_entry(m), seed, seeds)]
    if seeds > 1 and len(runs) == len(methods):
        raise UsageError("no method trains with a seed that could vary: --seeds has no effect", where="--seeds",
                         how="leave it out, or add a method that trains and names no seed")  # fmt: skip
    sources = [source(d, limit).model_dump() for d in data]
    if test is None:
        if len(sources) > 1:
            raise UsageError("held-out data must be named with several sources", where="--test", how="--test FILE")
        whole = Source(**sources[0])
        n = len(read_source(whole))
        first = whole.row_range(n)[0] if whole.rows else 0
        cut, end = first + max(1, round(n * (1 - TEST_SHARE))), first + n
        held = {**sources[0], "rows": f"{cut}:{end}"}
        sources = [{**sources[0], "rows": f"{first}:{cut}"}]
    else:
        held = source(test, limit).model_dump()
    return parse(
        {
            "name": "compare",
            "model": model,
            "goal": goal,
            "data": sources,
            "methods": runs,
            "evaluate": {"data": [held], "tax": TAX, "margin": margin},
            "seed": seed,
            "device": device,
            "dtype": dtype,
        },
        "valign compare",
    )


def _seeded(method: dict[str, Any], seed: int, seeds: int) -> list[dict[str, Any]]:
    """One entry per training seed; a method that does not train, or names its seed, stays one."""
    if seeds == 1 or "seed" in method or not method_named(method["name"]).trains:
        return [method]
    title = method.get("label") or method["name"]
    return [{**method, "label": f"{title}-{seed + k}", "seed": seed + k} for k in range(seeds)]


def method_entry(text: str) -> dict[str, Any]:
    """`dpo,beta=0.2,label=soft` as an entry of `methods`."""
    from valign.pipeline.recipe import parse_value

    name, *rest = text.split(",")
    out: dict[str, Any] = {"name": name}
    for pair in rest:
        key, sep, value = pair.partition("=")
        if not sep:
            raise UsageError(f"{pair!r} is not KEY=VALUE", where=f"--method {text}", how="for example dpo,beta=0.2")
        out[key] = parse_value(value)
    return out


def _training_data(
    method: Method, data: Sequence[str], limit: int | None, dev: float, seed: int, tell: Listen
) -> tuple[list[Group], list[Group]]:
    from valign.data import split

    if dev and (method.samples or not method.trains):
        raise UsageError(
            f"method {method.name!r} has no loss on held-out data: --dev has no effect",
            where="--dev",
            how="leave it out, and measure with valign evaluate",
        )
    if not method.trains:
        return [], []
    if not data:
        raise UsageError(
            f"method {method.name!r} trains: it needs data",
            where="--data",
            how="--data FILE, or --data builtin:dilemmas#train",
        )
    groups, _ = read_sources([source(d, limit) for d in data], seed, tell)
    if not dev:
        return groups, []
    train, held = split(groups, dev, seed)
    return list(train), list(held)


def reward_named(name: str) -> Any:
    """A reward by its name on the command line."""
    from valign.rewards.registry import make

    return make(name)


def _lasting(reward: str | None) -> str:
    """A reward's name as it is found again from any working directory: folders by their whole path."""
    if reward is None:
        return ""
    folder = Path(reward).expanduser()
    return str(folder.resolve()) if is_reward_folder(folder) else reward


def _nobody(event: str, fields: Mapping[str, Any]) -> None:
    """Nobody listens."""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
