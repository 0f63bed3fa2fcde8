"""Align one policy with one method into one folder: it becomes the aligned policy, with the run inside it.

A method that makes a reward model leaves one in the folder instead.

DIR/policy.json + weights   written last, whole: a folder without policy.json is not finished
DIR/evaluation/result.json  of a reward model with a dev split: how it orders the held-out pairs
DIR/run/request.json        what was asked for; asking for something else in the same folder is refused
DIR/run/data.json           the names of the training data, for who asks later
DIR/run/log.jsonl           every step; DIR/run/checkpoints while training

Where several processes align together, all of them come here alike; the leading one alone owns the folder, writes and
speaks.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from valign.data.group import Group
from valign.engine.processes import SINGLE, World
from valign.engine.run import FollowedRun, RunFolder
from valign.errors import ValignError
from valign.evaluation.measure import measure_reward
from valign.evaluation.result import Result
from valign.evaluation.results_file import read_results, write_results
from valign.methods.guard import Guard
from valign.methods.method import Method
from valign.methods.target import Target
from valign.methods.train import train_policy
from valign.methods.train_reward import train_reward
from valign.methods.wrapped import loadable
from valign.models.policy import Cost, LocalPolicy, Policy
from valign.pipeline import request as asked
from valign.pipeline import training_data
from valign.pipeline.data import with_feedback
from valign.pipeline.evaluate import RESULT, compared
from valign.pipeline.meter import Spent, spent
from valign.pipeline.policies import load_policy
from valign.pipeline.policy_files import clear, holds_a_model, keep, read_cost, write_cost
from valign.rewards.reward_model import RewardModel, load_reward

RESULTS = Path("evaluation") / RESULT
USE_REWARD = (
    "train it alone (valign align, va.train_reward), then use its folder as a reward",
    "--reward DIR, or a goal: {level: preference, reward_model: DIR}",
)
Listen = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Aligned:
    """What aligning gives: the policy (or the reward model), what it cost, and notes for the reader.

    results  of a reward model: accuracy and calibration on the dev split
    """

    made: Policy | RewardModel
    cost: Spent
    notes: tuple[str, ...] = ()
    continued: bool = False
    results: tuple[Result, ...] = ()

    @property
    def policy(self) -> Policy:
        """The aligned policy. Raises `ValignError` where a reward model was made."""
        if isinstance(self.made, RewardModel):
            raise ValignError("what was made is a reward model, not a policy", where=self.made.id, how=USE_REWARD)
        return self.made

    @property
    def reward(self) -> RewardModel:
        """The reward model. Raises `ValignError` where a policy was made."""
        if not isinstance(self.made, RewardModel):
            raise ValignError("what was made is a policy, not a reward model", where=self.made.id)
        return self.made


@dataclass(frozen=True)
class _Job:
    """One alignment, checked and ready to run."""

    policy: Policy
    target: Target
    method: Method
    config: Any
    groups: Sequence[Group]
    dev: Sequence[Group]
    reward_name: str
    name: str
    tell: Listen
    world: World
    guard: Guard | None
    origin: Mapping[str, Any] | None = None


def align_policy(
    policy: Policy,
    target: Target,
    method: Method,
    settings: Mapping[str, Any],
    out: Path | None,
    *,
    groups: Sequence[Group] = (),
    dev: Sequence[Group] = (),
    reward_name: str = "",
    name: str = "",
    force: bool = False,
    on_event: Listen | None = None,
    reload: Callable[[Path], Policy] | None = None,
    world: World = SINGLE,
    guard: Guard | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Aligned:
    """Run `method` on a copy of `policy` and leave the aligned policy in `out` (None: nothing is kept).

    groups   feedback, or prompts, for methods that train
    dev      held out for evaluation and early stopping
    reward_name   by which the target's reward is found again when the folder of a wrapped policy is loaded
    name     what the policy is called; default: its method and base, as in dpo(smollm2-135m-instruct)
    force    start again in a folder that holds another run
    reload   how to load a finished folder; default: as `load_policy` does
    world    the processes that train together; a method that does not train is for one
    guard    what watches a policy while it trains: its judge, audit prompts, and what is done when the alarm rings
    origin   where `groups` came from (`training_data.origin`), for who asks later; no part of what was asked for
    Raises `ValignError` for an option that the method would ignore, for a folder that holds another run,
    and where the disk refuses (the last checkpoint is then kept).
    """
    config = method.with_beta(method.configure(settings), target, settings)
    _refuse_ignored(method, config, target, dev, world, guard)
    config, note = _within_positions(config, policy, asked_for="max_length" in settings)
    tell = (on_event if world.leads else None) or (lambda event, fields: None)
    job = _Job(policy, target, method, config, groups, dev, reward_name, name or f"{method.name}({policy.id})", tell, world,
               guard, origin)
    notes = (note,) if note else ()
    if out is None:
        with tempfile.TemporaryDirectory() as folder, _run_folder(Path(folder) / "run", world) as run:
            aligned = _run(job, run)
    else:
        aligned = _run_in(job, out, force, reload or (lambda folder: load_policy(folder, goal=target.goal)))
    return replace(aligned, notes=(*notes, *aligned.notes))


def _run_in(job: _Job, out: Path, force: bool, reload: Callable[[Path], Policy]) -> Aligned:
    request, world = _request(job), job.world
    world.require_same(request, "models, data or settings")
    world.from_leader(lambda: _is_done(out, request, job.policy, force))  # refused before anything is made there
    with _run_folder(out / "run", world) as run:
        # again, now that nobody else can write here
        if world.from_leader(lambda: _is_done(out, request, job.policy, force)):
            return Aligned(_as_made(job, reload, out), read_cost(out), continued=True, results=_read_results(out))

        def begin() -> None:
            clear(out, policy=force, run=force or not _is_same(out, request))
            run.write(asked.FILE, asked.text(request))
            if job.origin is not None and request["data"] is not None:
                run.write(training_data.FILE, json.dumps(job.origin, indent=1, ensure_ascii=False))

        world.from_leader(begin)
        aligned = _run(job, run)
        job.tell("writing", {"path": str(out)})
        made = aligned.made

        def finish() -> None:
            nonlocal made
            goal = job.target.goal.to_json() if job.target.goal is not None else None
            if aligned.results:  # before policy.json, which says that the folder is whole
                write_results(aligned.results, out / RESULTS)
            made = keep(aligned.made, out, method=job.method.name, config=asdict(job.config), goal=goal,
                          reward=job.reward_name)  # fmt: skip
            write_cost(out, aligned.cost)
            run.log("done", seconds=round(aligned.cost.seconds, 3))

        world.from_leader(finish)
    return replace(aligned, made=made)


@contextmanager
def _run_folder(path: Path, world: World) -> Iterator[RunFolder]:
    """The leading process's run folder, on all processes."""
    with RunFolder(path) if world.leads else FollowedRun(path) as run:
        run.path = world.tell(path)  # temporary folders have other names elsewhere
        yield run


def _run(job: _Job, run: RunFolder) -> Aligned:
    method, policy = job.method, job.policy
    if not method.trains:
        with spent() as cost:
            return Aligned(_wrapped(job), cost)
    if not isinstance(policy, LocalPolicy):
        raise ValignError(f"{method.name} changes weights: it needs a local model", where=policy.id,
                          how="use an in-context or decoding method: `valign methods`")  # fmt: skip
    if method.makes_reward:
        return _reward(job, policy, run)
    with spent() as cost:
        groups, note = with_feedback(job.groups, method.feedback, job.target.goal, tell=job.tell)
        held = with_feedback(job.dev, method.feedback, job.target.goal, tell=job.tell)[0]
        trained = train_policy(method, policy, job.target, job.config, run, groups=groups, dev=held, on_event=job.tell,
                               world=job.world, guard=job.guard)  # fmt: skip
        cost.cost = Cost(tokens_trained=trained.outcome.tokens_trained)
    _tell_memory(job, run, trained.planned, cost)
    # an adapter's base is loaded by its name, from any working directory; that of weights is for the reader
    base = loadable(policy) if trained.policy.kind == "adapter" else policy.id
    made = replace(trained.policy, model=replace(trained.policy.model, base=base, id=job.name))
    outcome = trained.outcome
    rang = f"the alarm ended the run after step {outcome.steps}" if outcome.by_hook else ""
    rang += f"; the weights are those of step {outcome.kept}" if rang and outcome.kept != outcome.steps else ""
    return Aligned(made, cost, tuple(filter(None, (note, rang))))


def _reward(job: _Job, policy: LocalPolicy, run: RunFolder) -> Aligned:
    """Train a reward model and measure it on the dev split."""
    method, measured = job.method, []
    with spent() as cost:
        groups, note = with_feedback(job.groups, method.feedback, job.target.goal, tell=job.tell)
        held = with_feedback(job.dev, method.feedback, job.target.goal, tell=job.tell)[0]
        trained = train_reward(method, policy, job.config, run, groups=groups, dev=held, on_event=job.tell,
                               world=job.world)  # fmt: skip
        cost.cost = Cost(tokens_trained=trained.outcome.tokens_trained)
    _tell_memory(job, run, trained.planned, cost)
    reward = replace(trained.reward, model=replace(trained.reward.model, id=job.name))
    if held and job.world.leads:
        job.tell("measuring", {"subject": job.name, "what": "held-out pairs"})
        measured = measure_reward(reward, compared(held)[0])
    return Aligned(reward, cost, (note,) if note else (), results=tuple(measured))


def _tell_memory(job: _Job, run: RunFolder, planned: int, cost: Spent) -> None:
    """What was planned, beside what was taken."""
    memory = {"planned": planned, "taken": cost.peak_memory_bytes}
    run.log("memory", **memory)
    job.tell("memory", memory)


def _read_results(out: Path) -> tuple[Result, ...]:
    return tuple(read_results(out / RESULTS)) if (out / RESULTS).is_file() else ()


def _refuse_ignored(
    method: Method, config: Any, target: Target, dev: Sequence[Group], world: World, guard: Guard | None
) -> None:
    """An option that would have no effect is an error."""
    if guard is not None:
        guard.refuse_for(method, config)
    if world.strategy != "single" and not method.trains:
        raise ValignError(
            f"{method.name} trains nothing: more processes have no effect", where="--strategy",
            how="start it without torchrun",
        )  # fmt: skip
    if target.reward is not None and method.feedback != "reward":
        raise ValignError(
            f"{method.name} learns from {method.feedback}: a reward has no effect",
            where="reward",
            how="leave it out, or choose a method that learns from rewards: `valign methods`",
        )
    if dev and (method.samples or not method.trains):
        raise ValignError(
            f"{method.name} has no loss on held-out data: a dev split has no effect",
            where="dev",
            how="leave it out, and measure with valign evaluate",
        )
    if not dev:
        for name in ("patience", "eval_every"):
            if getattr(config, name, 0):
                raise ValignError(
                    f"{name} has no effect without a dev split",
                    where=f"method.{name}",
                    how="add --dev 0.1 (command line), dev: (recipe) or dev=... (Python)",
                )


def _within_positions(config: Any, policy: Policy, *, asked_for: bool) -> tuple[Any, str]:
    """The config with `max_length` no longer than the model reads; a note where more was asked for."""
    longest = policy.model.max_positions if isinstance(policy, LocalPolicy) else None
    if longest is None or getattr(config, "max_length", 0) <= longest:
        return config, ""
    note = f"max_length is {longest}: the model's context is no longer" if asked_for else ""
    return replace(config, max_length=longest), note


def _request(job: _Job) -> dict[str, Any]:
    """What was asked for: equal requests continue each other."""
    method, target = job.method, job.target
    reads_data = method.feedback not in ("goal text", "nothing")
    return {
        "method": method.name,
        "config": asdict(job.config),
        "base": job.policy.id,
        "base_sha256": job.policy.card().get("sha256"),
        "goal": target.goal.fingerprint() if target.goal is not None else None,
        "reward": target.reward.fingerprint() if hasattr(target.reward, "fingerprint") else job.reward_name or None,
        "data": asked.digest(job.groups) if reads_data else None,
        "dev": asked.digest(job.dev) if method.trains else None,
        "guard": job.guard.request() if job.guard is not None else None,
    }


def _is_done(out: Path, request: Mapping[str, Any], base: Policy, force: bool) -> bool:
    """True if `out` holds the finished result of this very request. Raises if it holds something else."""
    source = base.model.source if isinstance(base, LocalPolicy) else None
    if source is not None and out.exists() and out.resolve() == source.resolve():
        raise ValignError(
            "the folder holds the very model that is to be aligned",
            where=str(out),
            how="choose another --out",
        )
    stored = out / "run" / asked.FILE
    if not stored.exists() and not force and holds_a_model(out):
        raise ValignError("the folder holds another model", where=str(out), how=asked.HOW)
    finished = (out / "policy.json").exists()
    begun = any((out / "run" / "checkpoints").glob("step-*"))
    return asked.is_repeated(out, stored, request, force=force, lost=finished or begun) and finished


def _is_same(out: Path, request: Mapping[str, Any]) -> bool:
    return asked.is_repeated(out, out / "run" / asked.FILE, request, force=False, lost=False)


def _as_made(job: _Job, reload: Callable[[Path], Policy], out: Path) -> Policy | RewardModel:
    """The finished policy, named as when it was made, so that a continued run reports the same."""
    if job.method.makes_reward:
        reward = load_reward(out)
        return replace(reward, model=replace(reward.model, id=job.name))
    if job.method.wrap is not None:
        return _wrapped(job)
    policy = reload(out)
    assert isinstance(policy, LocalPolicy)
    return replace(policy, model=replace(policy.model, id=job.name))


def _wrapped(job: _Job) -> Policy:
    assert job.method.wrap is not None
    made: Any = job.method.wrap(job.policy, job.target, job.config)
    made.name = job.name
    return made  # type: ignore[no-any-return]
