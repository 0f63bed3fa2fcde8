"""From the names that a command line or a notebook gives to the rooms that do the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from valign.data.group import Group
from valign.engine.run import RunFolder
from valign.errors import UsageError, ValignError
from valign.methods.table import method as method_named
from valign.methods.target import Target
from valign.models.policy import Policy, Progress, Sampling
from valign.pipeline.align import Aligned, align_policy
from valign.pipeline.data import read_source, read_sources
from valign.pipeline.evaluate import Measured, Plan, evaluate_policy, write_evaluation
from valign.pipeline.goals import make_goal
from valign.pipeline.policies import LoadOptions, load_policy
from valign.pipeline.recipe import Recipe, Source, parse

Listen = Callable[[str, Mapping[str, Any]], None]
TEST_SHARE = 0.2  # held out for measuring when the user names no test data


def source(text: str, limit: int | None = None) -> Source:
    """`FILE`, `FILE=0.3` (with a weight), `FILE#train` (a split) or `FILE#0:800` (rows)."""
    path, weight = text, 1.0
    head, sep, tail = text.rpartition("=")
    if sep and _is_number(tail):
        path, weight = head, float(tail)
        if weight <= 0:
            raise UsageError(f"the weight {tail} is not positive", where=f"--data {text}")
    split = rows = None
    if "#" in path and not Path(path).exists():
        path, _, part = path.rpartition("#")
        split, rows = (None, part) if ":" in part or part.isdigit() else (part, None)
    return Source(path=path, split=split, rows=rows, weight=weight, limit=limit)


def align_from_names(
    model: str, method: str, out: Path, *, data: Sequence[str] = (), goal: str | None = None, reward: str | None = None,
    settings: Mapping[str, Any], dev: float = 0.0, limit: int | None = None, seed: int = 0,
    options: LoadOptions | None = None, force: bool = False, on_event: Listen | None = None,
) -> Aligned:  # fmt: skip
    """What `valign align` does. Names and settings are checked before a model is loaded."""
    chosen = method_named(method)
    settings = {**({"seed": seed} if chosen.trains and "seed" not in settings else {}), **settings}
    chosen.configure(settings)
    made_goal = make_goal(goal) if goal else None
    made_reward = _reward(reward) if reward else None
    groups, held = _training_data(chosen.name, chosen.trains, data, limit, dev, seed)
    policy = load_policy(model, options)
    target = Target(made_goal, policy, reward=made_reward)
    return align_policy(
        policy, target, chosen, settings, out, groups=groups, dev=held, force=force, on_event=on_event,
        reload=lambda folder: load_policy(folder, options, goal=made_goal),
    )  # fmt: skip


def evaluate_from_names(
    model: str, data: Sequence[str], out: Path, *, reference: str | None = None, goal: str | None = None,
    beta: float = 0.1, sampling: Sampling, kl_prompts: int = 16, limit: int | None = None,
    options: LoadOptions | None = None, on_event: Listen | None = None,
) -> tuple[Measured, Mapping[str, Path]]:  # fmt: skip
    """What `valign evaluate` does; requests are logged in `out`, so an interrupted evaluation goes on."""
    from valign.evaluation.cached import CachedPolicy

    groups, _ = read_sources([source(d, limit) for d in data], seed=0)
    made_goal = make_goal(goal) if goal else None
    with RunFolder(out):
        policy: Policy = load_policy(model, options, goal=made_goal)
        base = load_policy(reference, options) if reference else None
        plan = Plan(groups, made_goal, (), sampling, kl_prompts, beta)
        cached: Any = CachedPolicy(policy, out / "requests.jsonl")
        other: Any = CachedPolicy(base, out / "reference.jsonl") if base is not None else None
        measured = evaluate_policy(cached, other, plan, say=_say(on_event))
        return measured, write_evaluation(out, measured)


def profile_from_names(
    model: str, goal: str, data: str, sampling: Sampling, out: Path | None, *, limit: int | None = None,
    options: LoadOptions | None = None, on_event: Listen | None = None,
) -> tuple[Measured, dict[str, Any], Mapping[str, Path]]:  # fmt: skip
    """What `valign profile` does."""
    from valign.evaluation.measure import measure_profile

    made = make_goal(goal)
    if made.level != "value":
        raise ValignError(f"the goal is of level {made.level}", where="--goal", how="a profile needs a value goal, such as hhh_like")
    split = "test" if data == "builtin:dilemmas" else None
    groups = list(read_source(Source(path=data, split=split, limit=limit)))
    policy = load_policy(model, options)
    say = _say(on_event)
    measured = Measured(measure_profile(policy, groups, made, sampling=sampling, progress=say("responses")))  # type: ignore[arg-type]
    if out is None:
        return measured, {}, {}
    from valign.pipeline.reports import one_model

    with RunFolder(out):
        paths = dict(write_evaluation(out, measured))
        report, drawn = one_model(policy, measured, made, out)
        return measured, report, {**paths, **drawn}


def comparison_recipe(
    model: str, methods: Sequence[str], *, data: Sequence[str], test: str | None, goal: str | None, limit: int | None,
    seed: int, device: str, dtype: str,
) -> Recipe:  # fmt: skip
    """The recipe of `valign compare`. Without --data the built-in dilemmas are used with the demo's goal."""
    if not methods:
        raise UsageError("no method is named", where="--method", how="for example: --method dpo --method urial")
    if not data:
        data, test = ["builtin:dilemmas#train"], test or "builtin:dilemmas#test"
        goal = goal or "schwartz10:benevolence=1,universalism=1,power=-1"
    sources = [source(d, limit).model_dump() for d in data]
    if test is None:
        if len(sources) > 1:
            raise UsageError("held-out data must be named with several sources", where="--test", how="--test FILE")
        n = len(read_source(Source(**sources[0])))
        cut = max(1, round(n * (1 - TEST_SHARE)))
        held = {**sources[0], "rows": f"{cut}:{n}"}
        sources = [{**sources[0], "rows": f"0:{cut}"}]
    else:
        held = source(test, limit).model_dump()
    return parse(
        {
            "name": "compare", "model": model, "goal": goal, "data": sources, "methods": [_method(m) for m in methods],
            "evaluate": {"data": [held], "tax": [{"path": "builtin:instructions", "split": "test"}]},
            "seed": seed, "device": device, "dtype": dtype,
        },
        "valign compare",
    )  # fmt: skip


def _method(text: str) -> dict[str, Any]:
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
    method: str, trains: bool, data: Sequence[str], limit: int | None, dev: float, seed: int
) -> tuple[list[Group], list[Group]]:
    from valign.data import split

    if not trains:
        return [], []
    if not data:
        raise UsageError(f"method {method!r} trains: it needs data", where="--data", how="--data FILE, or --data builtin:dilemmas#train")
    groups, _ = read_sources([source(d, limit) for d in data], seed)
    if not dev:
        return groups, []
    train, held = split(groups, dev, seed)
    return list(train), list(held)


def _reward(name: str) -> Any:
    from valign.rewards.registry import make

    return make(name)


def _say(on_event: Listen | None) -> Callable[[str], Progress | None]:
    def say(phase: str) -> Progress | None:
        if on_event is None:
            return None
        on_event("measuring", {"subject": "", "what": phase})
        return lambda done, total: on_event("progress", {"what": phase, "done": done, "total": total})

    return say


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


