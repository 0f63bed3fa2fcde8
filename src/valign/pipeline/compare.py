"""Run a recipe: every method on the same data toward the same goal, measured the same way, in one report.

OUT/recipe.json               what was asked for, resolved
OUT/methods/NAME/             each aligned policy (a policy folder with its run inside)
OUT/evaluation/NAME.jsonl     every request of the evaluation: an interrupted run goes on where it was
OUT/evaluation/NAME/          result.json and samples.jsonl of each policy
OUT/report.json, report.html  the report
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from valign.data.dataset import Dataset
from valign.data.group import Group
from valign.data.tasks import task_counts
from valign.engine.run import RunFolder, read_log
from valign.errors import UsageError, ValignError
from valign.evaluation.cached import CachedPolicy
from valign.evaluation.provenance import data_card, model_card, provenance
from valign.evaluation.result import Result
from valign.goals.base import Goal
from valign.goals.benchmark import BenchmarkGoal
from valign.methods.choose import obstacle
from valign.methods.guard import LONGEST, Guard
from valign.methods.method import Method
from valign.methods.positions import require_room, require_room_for
from valign.methods.table import method as method_named
from valign.methods.target import Target
from valign.methods.wrapped import Wrapped
from valign.models.credentials import hidden
from valign.models.policy import LocalPolicy, Policy, Sampling
from valign.pipeline.account import account, trained_seconds
from valign.pipeline.align import USE_REWARD, align_policy
from valign.pipeline.data import read_sources
from valign.pipeline.evaluate import (
    Measured,
    Plan,
    answered,
    check_risks,
    evaluate_policy,
    progress_of,
    write_evaluation,
)
from valign.pipeline.frontier import best_of_n_curve
from valign.pipeline.goals import make_goal, steering
from valign.pipeline.judges import LOG as JUDGE_LOG
from valign.pipeline.judges import judges_logged
from valign.pipeline.meter import Spent
from valign.pipeline.policies import LoadOptions, load_policy
from valign.pipeline.recipe import MethodSpec, Recipe
from valign.pipeline.texts import once
from valign.pipeline.training_data import origin
from valign.rewards.base import PREFIX

BASE, RECIPE = "base", "recipe.json"
Listen = Callable[[str, Mapping[str, Any]], None]


@dataclass
class Subject:
    """One policy of a comparison, with all that the report says of it. The policy itself is not kept: the next method needs
    the memory, and would be charged with it."""

    name: str
    card: Mapping[str, Any]
    measured: Measured
    cost: Spent
    notes: Sequence[str] = ()
    method: Method | None = None
    folder: Path | None = None
    labels: int = 0
    group: str = ""


@dataclass
class Comparison:
    """A finished run: its subjects, and where the report lies."""

    subjects: list[Subject] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)


class _Silent:
    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """Nobody listens."""


def run_recipe(recipe: Recipe, out: Path, *, on_event: Listen | None = None, force: bool = False) -> Comparison:
    """Align, measure, report. Run again with the same recipe and folder, it goes on where it was interrupted.

    on_event  hears ("phase", {name, index, count}), ("progress", {done, total}), the loop's events,
              ("result", {...})
    """
    return _Run(recipe, out, on_event or _Silent(), force).go()


class _Run:
    def __init__(self, recipe: Recipe, out: Path, tell: Listen, force: bool) -> None:
        self.recipe, self.out, self.tell, self.force = recipe, out, tell, force
        self.options = LoadOptions(recipe.device, recipe.dtype)
        self.began = time.perf_counter()
        self._base_cache: Any = None

    def go(self) -> Comparison:
        specs = [(s, method_named(s.name)) for s in self.recipe.all_methods]
        for spec, chosen in specs:
            chosen.configure(spec.settings)  # a wrong option is found before anything is computed
            if chosen.makes_reward:
                raise ValignError(f"{chosen.name} makes a reward model: it cannot be compared with policies",
                                  where=f"methods.{spec.title}", how=USE_REWARD)  # fmt: skip
        self.goal = make_goal(self.recipe.goal) if self.recipe.goal is not None else None
        self._read()
        self.plan = self._plan()
        self.guard = self._guard(specs)
        self._phase(BASE, 0, len(specs) + 1)
        self.tell("loading", {"name": self.recipe.model})
        self.base = load_policy(self.recipe.model, self.options)  # what cannot be read leaves no folder behind
        self._check(specs)
        with RunFolder(self.out) as run:
            stored = json.dumps(hidden(self.recipe.model_dump()), indent=1, ensure_ascii=False)
            if not (self.out / RECIPE).exists():
                run.write(RECIPE, stored)
            subjects = [self._measure(BASE, self.base, None, Spent())]
            for i, (spec, chosen) in enumerate(specs):
                subjects.append(self._method(spec, chosen, i + 1, len(specs) + 1))
            out = Comparison(subjects)
            out.report = self._report(subjects)
            from valign.report import write_report

            run.write(RECIPE, stored)  # only now: a refused change must not rename what the folder holds
            out.paths = dict(write_report(out.report, self.out))
        return out

    def _read(self) -> None:
        recipe, seed = self.recipe, self.recipe.seed
        self.sets: list[tuple[str, Dataset]] = []
        self.groups = self._sources(recipe.data, "training", seed)
        own = {s.title: s.data for s in recipe.all_methods if s.data is not None}
        self.own = {title: self._sources(data, f"training ({title})", seed) for title, data in own.items()}
        self.dev = self._sources(recipe.dev, "dev", seed)
        self.test = self._sources(recipe.evaluate.data or [], "evaluation", seed)
        self.tax = self._sources(recipe.evaluate.tax or [], "alignment tax", seed)

    def _plan(self) -> Plan:
        """What every policy is measured by."""
        from valign.rewards.registry import make

        spec = self.recipe.evaluate
        sampling = Sampling(
            n=spec.samples,
            max_new_tokens=spec.max_new_tokens,
            temperature=spec.temperature,
            seed=self.recipe.seed,
        )
        risks = [make(name) for name in spec.risks]
        plan = Plan(self.test, self.goal, self.tax, sampling, spec.kl_prompts, spec.beta, risks)
        check_risks(plan, "evaluate.risks")
        return plan

    def _check(self, specs: Sequence[tuple[MethodSpec, Method]]) -> None:
        """Raise `ValignError` for a method that could not run or answer here, before another one was trained: a goal or reward,
        feedback, weights, and room for its prompts."""
        self._check_room(self.base, "the model", "model")
        for spec, chosen in specs:
            where, target = f"methods.{spec.title}", Target(steering(self.goal), self.base)
            config = chosen.configure(spec.settings)
            if chosen.wrap is not None:
                self._check_room(chosen.wrap(self.base, target, config), spec.title, where)
                continue
            groups = self.own.get(spec.title, self.groups)
            local = self.base if isinstance(self.base, LocalPolicy) else None
            if reason := obstacle(chosen, local is not None, groups, target.goal is not None):
                raise UsageError(f"{chosen.name} cannot run: {reason}", where=where,
                                 how=["leave it out", "or see what can run: valign methods --data FILE"])  # fmt: skip
            if local is None:
                continue
            rollout = config.max_new_tokens if chosen.samples else 0
            if chosen.samples:
                target.utility()
                require_room(local.model, [g.prompt for g in groups], rollout, what=spec.title, where=where)
            if self.guard is not None:
                tokens = self.guard.max_new_tokens or rollout or LONGEST
                require_room(local.model, [g.prompt for g in self.guard.prompts], tokens, what="the audit", where="guard.audit")

    def _check_room(self, policy: Policy, what: str, where: str) -> None:
        """Raise `UsageError` where the evaluation would ask `policy` for more than its model has positions."""
        prompts = [g.prompt for g in answered(self.plan)]
        require_room_for(policy, prompts, self.plan.sampling.max_new_tokens, what=what, where=where)
        if isinstance(policy, Wrapped) and policy.drawn_to_score:
            scored = [g.prompt for g in self.plan.groups if g.responses]
            require_room_for(policy, scored, policy.drawn_to_score, what=what, where=where)

    def _guard(self, specs: Sequence[tuple[MethodSpec, Method]]) -> Guard | None:
        """What watches the methods that train. A recipe runs no code, so its judge is none of somebody's functions."""
        from valign.pipeline.instruments import judge_named

        asked, trained = self.recipe.guard, [(s, m) for s, m in specs if m.trains]
        if asked is None:
            return None
        if not trained:
            raise UsageError("no method trains: there is nothing to guard", where="guard", how="leave it out")
        if asked.gold.startswith(PREFIX):
            raise UsageError(f"a recipe runs no code: {asked.gold}", where="guard.gold",
                             how="valign align --gold names a function of one's own")  # fmt: skip
        audit = self._sources(asked.audit, "audit", self.recipe.seed)
        guard = Guard(judge_named(asked.gold), audit, every=asked.every, action=asked.action, max_kl=asked.max_kl)
        for spec, chosen in trained:
            guard.refuse_for(chosen, chosen.configure(spec.settings))
        return guard

    def _sources(self, sources: Sequence[Any], use: str, seed: int) -> list[Group]:
        if not sources:
            return []
        groups, sets = read_sources(sources, seed, self.tell)
        self.sets += [(use, d) for d in sets]
        return groups

    def _method(self, spec: MethodSpec, chosen: Method, index: int, count: int) -> Subject:
        self._phase(spec.title, index, count)
        recipe, groups = self.recipe, self.own.get(spec.title, self.groups)
        settings = {**({"seed": self.recipe.seed} if chosen.trains else {}), **spec.settings}
        folder = self.out / "methods" / spec.title
        target = Target(steering(self.goal), self.base)
        aligned = align_policy(
            self.base,
            target,
            chosen,
            settings,
            folder,
            groups=groups if chosen.trains else (),
            dev=self.dev if chosen.trains and not chosen.samples else (),
            name=f"{spec.title}({self.base.id})",
            force=self.force,
            on_event=self.tell,
            reload=lambda path: load_policy(path, self.options, goal=target.goal),
            origin=origin(spec.data if spec.data is not None else recipe.data, recipe.seed, tasks=task_counts(groups))
            if chosen.trains
            else None,
            guard=self.guard if chosen.trains else None,
        )
        cost = aligned.cost
        if chosen.trains:  # a run that was continued: its log holds the steps of every start
            cost = replace(cost, seconds=max(cost.seconds, trained_seconds(read_log(folder / "run"))))
        subject = self._measure(spec.title, aligned.policy, self.base, cost)
        subject.notes, subject.method, subject.folder = aligned.notes, chosen, folder
        subject.group = seed_groups(self.recipe.all_methods).get(spec.title, "")
        subject.labels = len(groups) if chosen.feedback in ("pairs", "demonstrations") else 0
        return subject

    def _measure(self, name: str, policy: Policy, reference: Policy | None, cost: Spent) -> Subject:
        cached: Any = CachedPolicy(policy, self.out / "evaluation" / f"{name}.jsonl")
        if reference is not None:
            reference = self._base_cache  # what the base said of the same items is not computed again
        else:
            self._base_cache = cached
        with (
            judges_logged((self.goal, policy, *self.plan.risks), self.out / "evaluation" / JUDGE_LOG),
            account(self.out / "evaluation" / f"{name}.cost.json", policy) as used,
        ):
            measured = evaluate_policy(cached, reference, self.plan, say=used.storing(progress_of(self.tell, name)))
        write_evaluation(self.out / "evaluation" / name, measured)
        for r in measured.results:
            self.tell("result", {"subject": name, "metric": r.metric, "variant": r.variant, "value": r.value})
        return Subject(name, model_card(policy), measured, _total(cost, used.total()))

    def _report(self, subjects: Sequence[Subject]) -> dict[str, Any]:
        from valign.report import method_report

        base = subjects[0]
        goal = goal_json(self.goal)
        return method_report(
            [self._subject(s, base) for s in subjects],
            goal=goal,
            primary=primary_of(self.goal),
            margin=self.recipe.evaluate.margin,
            ledger=[{**data_card(d), "n": len(d), "use": use} for use, d in self.sets],
            provenance=provenance(
                self.base, goal=goal.get("id"), recipe=hidden(self.recipe.model_dump()), seed=self.recipe.seed
            ),
            texts=once(row for s in subjects for row in s.measured.texts),
            frontier=best_of_n_curve(base.measured.samples),
            title=self.recipe.name,
            created=time.strftime("%Y-%m-%d"),
        )

    def _subject(self, s: Subject, base: Subject) -> Any:
        from valign.evaluation.measure import measure_tax
        from valign.report import SubjectReport

        results: list[Result] = list(s.measured.results)
        if s is not base and self.tax:
            mine, theirs = _accuracies(s.measured), _accuracies(base.measured)
            results += measure_tax(theirs, mine)
        log = list(read_log(s.folder / "run")) if s.folder else []
        curve = [x for x in log if x["event"] == "step"]
        return SubjectReport(
            policy={**s.card, "id": s.name if s is base else s.card["id"]},
            results=results,
            samples=s.measured.samples,
            cost=s.cost.to_json(),
            method=s.method.name if s.method else "",
            family=s.method.family if s.method else "",
            feedback=s.method.feedback if s.method else "",
            label=s.name,
            curve=curve,
            audits=[x for x in log if x["event"] == "guard"],
            profile=profile_of(s.measured, self.goal),
            seeds=1 if s.method is not None and s.method.trains else 0,
            labels=s.labels or None,
            group=s.group,
            base=s is base,
            notes=list(s.notes),
        )

    def _phase(self, name: str, index: int, count: int) -> None:
        self.tell("phase", {"name": name, "index": index, "count": count})


def seed_groups(specs: Sequence[MethodSpec]) -> dict[str, str]:
    """{title: name of the method} for runs that differ in nothing but their training seed; others are left out.

    The name is the method's, with the settings that tell it from another group of the same method.
    """
    same: dict[str, list[MethodSpec]] = {}
    for spec in specs:
        settings = {k: v for k, v in spec.settings.items() if k != "seed"}
        data = [s.model_dump() for s in spec.data] if spec.data is not None else None
        key = json.dumps([spec.name, settings, data], sort_keys=True, default=str)
        same.setdefault(key, []).append(spec)
    several = [runs for runs in same.values() if len({str(s.settings.get("seed")) for s in runs}) > 1]
    names = [runs[0].name for runs in several]
    out: dict[str, str] = {}
    for runs in several:
        settings = {k: v for k, v in runs[0].settings.items() if k != "seed"}
        told = ", ".join(f"{k}={v}" for k, v in settings.items()) or runs[0].title
        name = runs[0].name if names.count(runs[0].name) == 1 else f"{runs[0].name} ({told})"
        out |= {s.title: name for s in runs}
    return out


def _total(training: Spent, evaluation: Spent) -> Spent:
    """The price of a method: what aligning cost, and per response what answering costs."""
    cost = replace(evaluation.cost, tokens_trained=training.cost.tokens_trained, seconds=0.0)
    return Spent(
        training.seconds + evaluation.seconds,
        max(training.peak_memory_bytes, evaluation.peak_memory_bytes),
        cost,
        max(training.added_memory_bytes, evaluation.added_memory_bytes),
    )


def _accuracies(measured: Measured) -> list[Result]:
    return [r for r in measured.results if r.metric == "instruction.accuracy" and r.variant == "prompt"]


def profile_of(measured: Measured, goal: Goal | None) -> dict[str, Any] | None:
    """The value profile as the report's circle draws it."""
    from valign.evaluation.metrics.reliability import FREE
    from valign.report.values import reliability_of

    rows = {
        r.metric.removeprefix("value.profile."): r
        for r in measured.results
        if r.metric.startswith("value.profile.") and r.variant == "mean" and r.value is not None
    }
    if not rows or goal is None:
        return None
    out: dict[str, Any] = {
        "values": {k: r.value for k, r in rows.items()},
        "n": max(r.n for r in rows.values()),
        "reliability": reliability_of([r for r in measured.results if r.variant == FREE]),
    }
    if all(r.interval is not None for r in rows.values()):
        out["low"] = {k: r.interval.low for k, r in rows.items() if r.interval}
        out["high"] = {k: r.interval.high for k, r in rows.items() if r.interval}
    return out


def primary_of(goal: Goal | None) -> str:
    """What the report reads M from: the goal's benchmarks where it is only given by those, else the order of responses."""
    return "components" if isinstance(goal, BenchmarkGoal) else "order"


def goal_json(goal: Goal | None) -> dict[str, Any]:
    """The goal as the report reads it: its own JSON, its words, and the theory's dimensions."""
    if goal is None:
        return {"id": "none", "level": "preference", "title": "the preferences in the data", "text": ""}
    out = {**goal.to_json(), "id": goal.id, "text": goal.describe("instruction"), "level": goal.level}
    theory = getattr(goal, "theory", None)
    if theory is not None and hasattr(theory, "dimensions"):
        out["theory"] = theory.id
        out["dimensions"] = [{"id": d.id, "name": d.name, "group": getattr(d, "group", "")} for d in theory.dimensions]
        out["structure"] = getattr(theory, "structure", "")
        out["target"] = {d.id: float(t) for d, t in zip(theory.dimensions, goal.t) if t}  # type: ignore[attr-defined]
    return out
