"""`valign efficiency`: what a score costs with each method, in labels, tokens, seconds and memory. [F08]

One seeded order of the data, cut to nested sizes: a smaller set is the beginning of the larger one. Every point is a run of
its own, aligned and measured like any other; an interrupted sweep goes on where it was.

OUT/points/METHOD-SIZE/   the aligned policy with its run        OUT/evaluation/METHOD-SIZE.jsonl   its answers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from valign.data.group import Group
from valign.engine.run import read_log
from valign.engine.sampler import address
from valign.errors import UsageError, ValignError, require
from valign.evaluation.cached import CachedPolicy
from valign.evaluation.measure.recompute import COMPONENTS
from valign.evaluation.metrics import efficiency
from valign.evaluation.result import Result
from valign.evaluation.section import Section
from valign.goals.base import Goal
from valign.goals.benchmark import BenchmarkGoal
from valign.methods.method import Method
from valign.methods.table import method as method_named
from valign.methods.target import Target
from valign.models.policy import Policy, Sampling
from valign.pipeline.align import align_policy
from valign.pipeline.door import method_entry
from valign.pipeline.evaluate import Plan, compared, evaluate_policy, progress_of
from valign.pipeline.goals import make_goal, steering
from valign.pipeline.instruments import Listen, finish, groups_named, nobody, remember, request_of, workplace
from valign.pipeline.judges import LOG as JUDGE_LOG
from valign.pipeline.judges import judges_logged
from valign.pipeline.meter import Spent
from valign.pipeline.policies import LoadOptions, load_policy
from valign.pipeline.ranked import refuse_ranks
from valign.pipeline.texts import text_rows, write_texts

AXES = ("labels", "training_tokens", "rollout_tokens", "seconds", "added_memory")
UNITS = {
    "labels": "labels",
    "training_tokens": "tokens",
    "rollout_tokens": "tokens",
    "seconds": "seconds",
    "added_memory": "bytes",
}


@dataclass(frozen=True)
class Sweep:
    """What is swept.

    methods   (title, method, settings)        sizes  groups of each point, at least three
    groups    the data all sizes are cut from; the first of one seeded order
    headline  metric and variant of the score; `target` a value of it whose cost is wanted, None: the best method's middle
    """

    methods: Sequence[tuple[str, Method, Mapping[str, Any]]]
    sizes: Sequence[int]
    groups: Sequence[Group]
    goal: Goal | None
    held_out: Sequence[Group]
    headline: tuple[str, str] = ("goal.utility", "")
    target: float | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.7))
    seed: int = 0

    def __post_init__(self) -> None:
        require(len(self.methods) > 0, "methods", 0, "at least one method (--method)")
        sizes = list(self.sizes)
        require(len(set(sizes)) >= 3 and min(sizes) >= 1, "sizes", sizes, "three or more different numbers of groups")
        require(
            max(sizes) <= len(self.groups),
            "sizes",
            max(sizes),
            f"no more than the {len(self.groups)} groups of the data",
        )
        for title, method, settings in self.methods:
            if method.makes_reward:
                raise UsageError(f"{title} makes a reward model, and curves are of policies", where="--method")
            if not method.trains:
                raise UsageError(f"{title} learns from no data: a size of the data says nothing to it", where="--method",
                                 how="compare it in valign compare")  # fmt: skip
            method.configure(settings)


@dataclass(frozen=True)
class Point:
    """One aligned policy: the headline, and what it took: `cost` by axis, `spent` as provenance says it."""

    method: str
    size: int
    score: Result
    cost: Mapping[str, float]
    spent: Spent = field(default_factory=Spent)


def sweep(base: Policy, plan: Sweep, out: Path, *, on_event: Listen | None = None, force: bool = False,
          reload: Callable[[Path], Policy] = load_policy) -> Section:  # fmt: skip
    """Align with every method on every size, measure, and draw score against cost.

    Results: the headline of every point (variant ends in `@METHOD-SIZE`), efficiency.mean_height.AXIS and
    efficiency.cost_to_target.AXIS per method; None where a curve does not reach.
    """
    tell = on_event or nobody
    order = np.random.default_rng(address(plan.seed, "efficiency")).permutation(len(plan.groups))
    data = [plan.groups[i] for i in order]
    start = _measured(base, plan, out / "evaluation" / "base.jsonl", tell)
    points: list[Point] = []
    total = len(plan.methods) * len(plan.sizes)
    for title, method, settings in plan.methods:
        for size in sorted(plan.sizes):
            tell("phase", {"name": f"{title}, {size} groups", "index": len(points), "count": total})
            points.append(_point(base, plan, (title, method, settings), data[:size], out, tell, force, reload))
    return efficiency_section(start, points, target=plan.target)


def _point(base: Policy, plan: Sweep, spec: tuple[str, Method, Mapping[str, Any]], groups: Sequence[Group], out: Path,
           tell: Listen, force: bool, reload: Callable[[Path], Policy]) -> Point:  # fmt: skip
    title, method, settings = spec
    name = f"{title}-{len(groups)}"
    given = {**({"seed": plan.seed} if method.trains else {}), **settings}
    folder = out / "points" / name
    aligned = align_policy(base, Target(steering(plan.goal), base), method, given, folder, groups=groups if method.trains else (),
                           name=f"{name}({base.id})", on_event=tell, force=force,
                           reload=reload)  # fmt: skip
    before = aligned.policy.cost
    score = _measured(aligned.policy, plan, out / "evaluation" / f"{name}.jsonl", tell)
    spent = aligned.policy.cost - before
    reads = method.trains
    cost = {
        "labels": float(len(groups)) if reads else 0.0,
        "training_tokens": float(aligned.cost.cost.tokens_trained),
        "rollout_tokens": _rollout_tokens(folder / "run"),
        "seconds": round(aligned.cost.seconds, 3),  # as the folder remembers it
        "added_memory": float(aligned.cost.added_memory_bytes),
        "answer_tokens": float(spent.tokens_read + spent.tokens_generated),
    }
    return Point(title, len(groups), score, cost, aligned.cost)


def _rollout_tokens(run: Path) -> float:
    """Tokens that the policy sampled while it trained: the last line of each step counts."""
    steps = {x["step"]: x.get("rollout_tokens") or 0.0 for x in read_log(run) if x["event"] == "step"}
    return float(sum(steps.values()))


def _measured(policy: Policy, plan: Sweep, log: Path, tell: Listen) -> Result:
    """The headline of a policy, answers kept in a log."""
    cached: Any = CachedPolicy(policy, log)
    metric, variant = plan.headline
    with judges_logged((plan.goal, policy), log.with_name(JUDGE_LOG)):
        found = evaluate_policy(cached, None, Plan(plan.held_out, plan.goal, sampling=plan.sampling, kl_prompts=0),
                                say=progress_of(tell, policy.id))  # fmt: skip
    for r in found.results:
        if r.metric == metric and variant in ("", r.variant):
            return r
    known = sorted({f"{r.metric}:{r.variant}" for r in found.results})
    raise ValignError(f"{metric} was not measured", where="--headline", how=f"one of {', '.join(known)}")


def efficiency_from_names(
    model: str, methods: Sequence[str], out: Path, *, data: Sequence[str], test: Sequence[str], sizes: Sequence[int],
    goal: str | None = None, headline: str = "", target: float | None = None, sampling: Sampling, limit: int | None = None,
    seed: int = 0, options: LoadOptions | None = None, force: bool = False, on_event: Listen | None = None,
) -> tuple[Section, dict[str, Path]]:  # fmt: skip
    """What `valign efficiency` does. methods: `dpo` or `dpo,beta=0.2`; all is checked before a model is loaded."""
    tell = on_event or nobody
    specs = [_spec(m) for m in methods]
    titles = [t for t, *_ in specs]
    require(
        len(set(titles)) == len(titles), "methods", titles, "named once each; two settings of one method need title=..."
    )
    made = make_goal(goal) if goal else None
    usual = COMPONENTS if isinstance(made, BenchmarkGoal) else "goal.utility" if made else "preference.accuracy:sum"
    metric, _, variant = (headline or usual).partition(":")
    if metric == "goal.utility":
        refuse_ranks(made, "--goal", ("--headline misalignment.M, which orders the responses in the data",))
    plan = Sweep(specs, sizes, groups_named(data, limit, tell), made, groups_named(test, None, tell), (metric, variant), target,
                 sampling, seed)  # fmt: skip
    with workplace(out) as run:
        tell("loading", {"name": model})
        base = load_policy(model, options)
        settings = {t: dict(s) for t, _, s in specs}
        request = request_of("efficiency", {"base": base}, {"train": plan.groups, "test": plan.held_out}, sampling,
                             goal=made.fingerprint() if made else None, sizes=sorted(sizes), methods=settings,
                             headline=list(plan.headline), data_seed=seed)  # fmt: skip
        remember(run, request, force)
        section = sweep(base, plan, out, on_event=tell, force=force,
                        reload=lambda folder: load_policy(folder, options, goal=steering(made)))  # fmt: skip
        write_texts(out, text_rows(plan.held_out, compared(plan.held_out)[0]))
        return section, finish(section, out, tell)


def _spec(text: str) -> tuple[str, Method, Mapping[str, Any]]:
    """`dpo,beta=0.2` as (title, method, settings); `title=TITLE` gives it another name."""
    entry = method_entry(text)
    name = str(entry.pop("name"))
    return str(entry.pop("title", name)), method_named(name), entry


def efficiency_section(start: Result, points: Sequence[Point], *, target: float | None = None) -> Section:
    """Curves of score against every cost, from points that are already measured. `start` is the policy before."""
    rising = start.direction != "down"
    titles = list(dict.fromkeys(p.method for p in points))
    of = {t: [p for p in points if p.method == t] for t in titles}
    notes = []
    if target is None:
        target = _middle(start, points, rising)
        notes.append(f"no target was named: {target:.4g}, half way from the start to the best point")
    results = [replace(start, variant=f"{start.variant}@base")]
    results += [replace(p.score, variant=f"{p.score.variant}@{p.method}-{p.size}") for p in points]
    axes: dict[str, Any] = {}
    for axis in AXES:
        axes[axis], summaries = _axis(axis, of, start, target)
        results += summaries
    curves = {t: {"size": [p.size for p in of[t]], "score": [p.score.value for p in of[t]],
                  "low": [p.score.interval.low if p.score.interval else None for p in of[t]],
                  "high": [p.score.interval.high if p.score.interval else None for p in of[t]]} for t in titles}  # fmt: skip
    data = {"metric": start.metric, "unit": start.unit, "direction": start.direction, "start": start.value, "target": target,
            "curves": curves, "axes": axes}  # fmt: skip
    return Section("efficiency", f"Efficiency: {start.metric} against what it took", results,
                   [{"id": "efficiency", "type": "efficiency", "data": data}], notes)  # fmt: skip


def _axis(
    axis: str, of: Mapping[str, Sequence[Point]], start: Result, target: float
) -> tuple[dict[str, Any], list[Result]]:
    """One cost: its common range, and for each method the mean height over it and the cost of the target."""
    costs = {t: [p.cost[axis] for p in points] for t, points in of.items()}
    usable = [t for t, c in costs.items() if min(c) > 0 and len(set(c)) > 1]
    common = efficiency.common_range([np.array(costs[t]) for t in usable]) if usable else None
    out: dict[str, Any] = {"range": common, "unit": UNITS[axis], "methods": {}}
    results = []
    for t, points in of.items():
        about = _origin(start, t, axis, points)
        scores = [p.score.value for p in points if p.score.value is not None]
        known = t in usable and len(scores) == len(points)
        height = efficiency.mean_height(costs[t], scores, *common) if known and common else None
        reach = efficiency.cost_to_target(costs[t], scores, target, rising=start.direction != "down") if known else None
        why = () if known else (f"{t} does not spend {axis.replace('_', ' ')} that differ between sizes",)
        reached = why or (f"target {target:.4g}" + ("" if reach is not None else ": not reached"),)
        results += [
            _summary("mean_height", axis, t, height, start, start.unit, start.direction, common, why, about),
            _summary("cost_to_target", axis, t, reach, start, _unit(axis), "down", None, reached, {**about, "target": target}),
        ]
        out["methods"][t] = {"cost": costs[t], "mean_height": height, "cost_to_target": reach}
    return out, results


def _origin(start: Result, method: str, axis: str, points: Sequence[Point]) -> dict[str, Any]:
    """Provenance of what a curve says: that of the start, the points it was read off, and what aligning all of them cost."""
    own = {k: v for k, v in start.provenance.items() if k != "cost"}
    took = sum((p.spent for p in points), Spent())
    read = [{"size": p.size, "cost": p.cost[axis], "score": p.score.value} for p in points]
    return {**own, "score": f"{start.metric}:{start.variant}", "method": method, "axis": axis, "points": read,
            "cost": took.to_json()}  # fmt: skip


def _middle(start: Result, points: Sequence[Point], rising: bool) -> float:
    scores = [p.score.value for p in points if p.score.value is not None]
    require(bool(scores) and start.value is not None, "score", None, "measured for the start and at least one point")
    best = max(scores) if rising else min(scores)
    return (float(start.value or 0) + best) / 2


def _unit(axis: str) -> str:
    return UNITS[axis] if UNITS[axis] != "labels" else "score"


def _summary(name: str, axis: str, method: str, value: float | None, start: Result, unit: str, direction: str,
             common: tuple[float, float] | None, notes: tuple[str, ...], about: Mapping[str, Any]) -> Result:  # fmt: skip
    said = (*notes, *([f"between {common[0]:.4g} and {common[1]:.4g} {UNITS[axis]}"] if common else []))
    return Result(metric=f"efficiency.{name}.{axis}", variant=method, subject=start.subject, level="cost", value=value, unit=unit,
                  direction=direction, n=start.n, notes=said, provenance=about)  # fmt: skip
