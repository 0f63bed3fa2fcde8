"""The six nouns from Python: what `import valign as va` offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valign.data.group import Group
from valign.engine.run import write_whole
from valign.errors import ValignError
from valign.evaluation.comparisons import adjusted
from valign.evaluation.measure.recompute import COMPONENTS, statistic_of
from valign.evaluation.provenance import model_card
from valign.evaluation.result import Difference, Result, compare, is_mean
from valign.goals.base import Goal
from valign.goals.benchmark import BenchmarkGoal
from valign.methods.target import Target
from valign.models.policy import LocalPolicy, Policy, Sampling
from valign.pipeline.evaluate import Measured, Plan, check_ranked, evaluate_policy, progress_of, write_evaluation
from valign.pipeline.judges import judges_of
from valign.pipeline.meter import Spent, spent
from valign.pipeline.policies import LoadOptions, load_policy
from valign.pipeline.texts import once

if TYPE_CHECKING:
    from valign.data.dataset import Dataset
    from valign.evaluation.sharded import ShardedPolicy
    from valign.methods.guard import Guard
    from valign.rewards.base import Reward
    from valign.rewards.reward_model import RewardModel

Listen = Callable[[str, Mapping[str, Any]], None]


def load(
    name: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    goal: Goal | None = None,
    reward: Any = None,
) -> Policy:
    """A policy by name: "smollm2-135m-instruct" (embedded), a folder, a GGUF file, a hub id, an endpoint ("vllm:NAME@URL").

    goal, reward  take the place of those stored with an in-context or decoding policy
    """
    return load_policy(name, LoadOptions(device, dtype, allow_pickle, trust_remote_code), goal=goal, reward=reward)


def sharded(
    name: str | Path | Callable[[], Policy],
    workers: int = 0,
    *,
    device: str = "auto",
    dtype: str = "auto",
    log: str | Path | None = None,
) -> ShardedPolicy:
    """A policy whose scoring and sampling `workers` Ray actors share, for `evaluate` and whatever takes a policy.

    name      as for `load`, or a function that makes the policy in each worker
    workers   0: no Ray; the same queue is worked off in this process
    log       a file that keeps every answer: asked again, it is read
    Use it as a context manager (`with va.sharded(...) as policy:`) or call its `close`.
    """
    from functools import partial

    from valign.evaluation.sharded import ShardedPolicy

    make = name if callable(name) else partial(load_policy, name, LoadOptions(device, dtype))
    return ShardedPolicy(make, workers, log=log, asks=judges_of)


def goal(spec: str | Path | Mapping[str, Any], **target: float) -> Goal:
    """A goal by name, file or mapping: `goal("schwartz10", benevolence=1, universalism=1, power=-1)`."""
    from valign.pipeline.goals import make_goal

    return make_goal(spec, **target)


def read(path: str | Path, *, format: str | None = None, split: str | None = None, limit: int | None = None) -> Dataset:
    """Groups from a file in any known format, from "builtin:NAME" or from "hub:OWNER/NAME"."""
    from valign.pipeline.data import read_source
    from valign.pipeline.recipe import Source

    return read_source(Source(path=str(path), format=format, split=split, limit=limit))


def align(
    policy: Policy,
    target: Target | Goal,
    method: str,
    data: Sequence[Group] = (),
    *,
    out: str | Path | None = None,
    dev: Sequence[Group] = (),
    on_event: Listen | None = None,
    force: bool = False,
    strategy: str = "auto",
    guard: Guard | None = None,
    **settings: Any,
) -> Policy:
    """`policy` aligned with `method` toward `target`; the one that was given stays as it is.

    data      feedback (or prompts, for methods that sample)       settings  the method's options
    out       a folder for the aligned policy and its run; without it nothing is kept on disk
    strategy  how processes that torchrun started share the training: ddp, fsdp2; auto: ddp where there are several
    guard     watches the policy while it trains: a gold judge on held-out prompts, and what an alarm does
    Raises `ValignError` for an unknown method or option, and for data that hold nothing the method learns
    from.
    """
    from valign.engine.processes import start
    from valign.methods.table import method as named
    from valign.pipeline.align import align_policy

    target = target if isinstance(target, Target) else Target(target, policy)
    if named(method).makes_reward:
        raise ValignError(f"{method} makes a reward model, not a policy", where="method", how="va.train_reward(policy, data)")
    device = policy.model.device.type if isinstance(policy, LocalPolicy) else "auto"
    with start(strategy, device) as world:
        return align_policy(
            policy, target, named(method), settings, Path(out) if out is not None else None, groups=data, dev=dev,
            force=force, on_event=on_event, reload=lambda folder: load_policy(folder, goal=target.goal), world=world,
            guard=guard,
        ).policy  # fmt: skip


def train_reward(
    policy: Policy,
    data: Sequence[Group],
    *,
    method: str = "reward_model",
    goal: Goal | None = None,
    out: str | Path | None = None,
    dev: Sequence[Group] = (),
    on_event: Listen | None = None,
    force: bool = False,
    strategy: str = "auto",
    **settings: Any,
) -> RewardModel:
    """A reward model that starts from `policy` and is fitted to the pairs or rankings in `data`.

    It scores groups (`reward.score(groups)`) and is a reward wherever one is taken: `Target(reward=...)`.
    method    reward_model, reward_ranked_pairs or reward_plackett_luce        settings  its options
    goal      whose labels or scores order the responses where the data hold no feedback
    out       a folder for it and its run; `va.reward(folder)` reads it again
    dev       held out: loss while training, accuracy and calibration at the end (in `out`)
    """
    from valign.engine.processes import start
    from valign.methods.table import method as named
    from valign.pipeline.align import align_policy

    if not named(method).makes_reward:
        raise ValignError(f"{method} makes a policy, not a reward model", where="method", how="va.align(policy, ...)")
    device = policy.model.device.type if isinstance(policy, LocalPolicy) else "auto"
    with start(strategy, device) as world:
        return align_policy(
            policy, Target(goal, policy), named(method), settings, Path(out) if out is not None else None, groups=data,
            dev=dev, force=force, on_event=on_event, world=world,
        ).reward  # fmt: skip


def reward(name: str | Path, **options: Any) -> Reward:
    """A reward by name ("toxicity", "length" ...), or the reward model in a folder."""
    from valign.rewards.registry import make

    return make(str(name), **options)


@dataclass
class Evaluation:
    """What `evaluate` found: Results per policy, and the report they make."""

    policies: Sequence[Policy]
    measured: Sequence[Measured]
    costs: Sequence[Spent]
    goal: Goal | None
    notes: list[str] = field(default_factory=list)

    @property
    def results(self) -> list[Result]:
        """All Results, policy by policy."""
        return [r for m in self.measured for r in m.results]

    @property
    def primary(self) -> str:
        """The metric that the goal's M is read from."""
        return COMPONENTS if isinstance(self.goal, BenchmarkGoal) else "misalignment.M"

    def headline(self, metric: str | None = None) -> dict[str, float | None]:
        """The first value of a metric for each policy id; None: the goal's `primary`."""
        metric = metric or self.primary
        return {
            p.id: next((r.value for r in m.results if r.metric == metric), None)
            for p, m in zip(self.policies, self.measured)
        }

    def differences(
        self, *, primaries: Sequence[str] | None = None, margins: Mapping[str, float] | None = None
    ) -> list[Difference]:
        """Every later policy minus the first, paired item by item, in all metrics that both have as means of items
        or that can be recomputed from them (V, bias scores, calibration).

        The primaries (None: the goal's own) of all policies are one family (Holm), all other comparisons another
        (Benjamini-Hochberg).
        margins   {metric: largest difference that does not matter}
        """
        planned_metrics = (self.primary,) if primaries is None else primaries
        first, *others = self.measured
        table = {(r.metric, r.variant): r for r in first.results}
        found = []
        for r in (r for m in others for r in m.results):
            base = table.get((r.metric, r.variant))
            if base is None or not r.items or not base.items:
                continue
            statistic = statistic_of(r, base)
            if statistic is not None or (is_mean(r) and is_mean(base)):
                found.append(compare(r, base, subset=True, statistic=statistic, margin=(margins or {}).get(r.metric)))
        planned = adjusted([d for d in found if d.result.metric in planned_metrics], "holm")
        return [*planned, *adjusted([d for d in found if d.result.metric not in planned_metrics], "benjamini_hochberg")]

    def report(self, path: str | Path) -> Path:
        """Write report.html (or the name given) with its JSON beside it; the first policy is the base."""
        from valign.pipeline.compare import goal_json, primary_of, profile_of
        from valign.pipeline.reports import ran
        from valign.report import SubjectReport, method_report
        from valign.report.html import render
        from valign.report.write import write_report

        subjects = [
            SubjectReport(
                policy=model_card(p),
                results=m.results,
                samples=m.samples,
                cost=c.to_json(),
                base=i == 0,
                method=str(p.card().get("method") or ""),
                profile=profile_of(m, self.goal),
            )
            for i, (p, m, c) in enumerate(zip(self.policies, self.measured, self.costs))
        ]
        texts = once(row for m in self.measured for row in m.texts)
        made = method_report(subjects, goal=goal_json(self.goal), primary=primary_of(self.goal), title="evaluation", texts=texts,
                             provenance=ran(r for m in self.measured for r in m.results))  # fmt: skip
        target = Path(path)
        if target.suffix != ".html":
            return write_report(made, target)["html"]
        written = write_report(made, target.parent)
        return written["html"] if target.name == written["html"].name else write_whole(target, render(made))

    def save(self, folder: str | Path) -> None:
        """result.json and samples.jsonl of every policy, each in its own folder."""
        for i, m in enumerate(self.measured):
            write_evaluation(Path(folder) / str(i), m)

    def __repr__(self) -> str:
        lines = [f"{k}: {v:.3f}" if v is not None else f"{k}: unscored" for k, v in self.headline().items()]
        return "Evaluation(misalignment M: " + ", ".join(lines) + ")"


def evaluate(
    policies: Policy | Sequence[Policy],
    goal: Goal | None = None,
    data: Sequence[Group] | None = None,
    *,
    tax: Sequence[Group] = (),
    sampling: Sampling | None = None,
    kl_prompts: int = 16,
    risks: Sequence[Reward] = (),
    limit: int | None = None,
    on_event: Listen | None = None,
) -> Evaluation:
    """Measure policies on the same groups toward the same goal; the first one is the reference of the others.

    data      held-out groups; None: the built-in dilemmas' test split, for a value or principle goal
    risks     rewards whose low side is a risk: they judge the responses that are drawn for the goal
    on_event  hears ("measuring", {subject, what}) and ("progress", {what, done, total})
    """
    listed = list(policies) if isinstance(policies, Sequence) else [policies]
    if not listed:
        raise ValignError("there is no policy to evaluate", where="policies")
    if data is None:
        if goal is None or goal.level not in ("value", "principle"):
            raise ValignError("held-out data are needed", where="data", how="data=va.read(FILE)")
        from valign.data import builtin

        data = builtin("dilemmas", "test")
    groups = list(data)[:limit]
    plan = Plan(groups, goal, tax, sampling or Sampling(temperature=0.7), kl_prompts, risks=risks)
    check_ranked(plan, listed[0] if len(listed) > 1 else None, "policies")
    measured, costs = [], []
    for i, policy in enumerate(listed):
        with spent() as used:
            measured.append(
                evaluate_policy(policy, listed[0] if i else None, plan, say=progress_of(on_event, policy.id))
            )
        costs.append(used)
    return Evaluation(listed, measured, costs, goal)
