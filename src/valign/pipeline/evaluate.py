"""Measure a policy over data: which measurements fit is decided by what the groups hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from valign.data.group import Comparison, Group, Ranking, Score
from valign.data.jsonl import read_object, read_objects
from valign.engine.run import write_whole
from valign.errors import UsageError, ValignError
from valign.evaluation import measure
from valign.evaluation.result import Item, Result
from valign.evaluation.results_file import read_results, write_results
from valign.goals.base import Goal, ResponseScorer, scorer_identity
from valign.goals.benchmark import BenchmarkGoal
from valign.goals.composite import CompositeGoal, ranks
from valign.goals.instruction import InstructionGoal
from valign.goals.value import ValueGoal
from valign.models.credentials import hidden, hide
from valign.models.policy import Policy, Progress, Sample, Sampling, has_likelihood
from valign.pipeline.judges import judge_policies, reasons
from valign.pipeline.ranked import refuse_ranks, utility_beside
from valign.pipeline.spending import accounted
from valign.pipeline.texts import prompt_rows, read_texts, text_rows, write_texts

Say = Callable[[str], Progress | None]  # phase -> a progress callback for it
RESULT, SAMPLES, GOAL = "result.json", "samples.jsonl", "goal.json"
AGAIN = "run valign evaluate again"  # how a broken one of these is mended
SCORERS = {"value": "evaluator", "principle": "scorer", "preference": "reward"}  # what judges responses, by level


@dataclass(frozen=True)
class Plan:
    """What to measure.

    groups       held-out groups: with comparisons, labels, choices, checks, or prompts alone
    goal         gives labels and utilities; None: only what needs none
    tax          tasks with checks, for the alignment tax
    sampling     of the responses that are judged
    kl_prompts   how many prompts estimate the KL, by samples at temperature 1; 0: no KL
    beta         scale of implicit rewards
    risks        rewards whose low side is a risk: they judge the responses that are drawn for the goal
    """

    groups: Sequence[Group] = ()
    goal: Goal | None = None
    tax: Sequence[Group] = ()
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.7))
    kl_prompts: int = 16
    beta: float = 0.1
    risks: Sequence[ResponseScorer] = ()


@dataclass
class Measured:
    """Results of one policy, the samples that they rest on, the goal that judged the samples (`goal_record`), and what the
    data say of the items (`texts.text_rows`)."""

    results: list[Result] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    goal: dict[str, Any] | None = None
    texts: list[dict[str, Any]] = field(default_factory=list)


def evaluate_policy(policy: Policy, reference: Policy | None, plan: Plan, *, say: Say | None = None) -> Measured:
    """Everything of `plan` that fits. `reference` is the policy before alignment (implicit rewards, KL).

    An endpoint cannot score: what needs log-probs is left out, and a note says so.
    Raises `ValignError` when nothing can be measured on these groups, `UsageError` for risks of responses that nobody draws.
    """
    check_risks(plan)
    if isinstance(plan.goal, BenchmarkGoal):
        measure.check_components(plan.goal)
    out, say, before = Measured(), say or (lambda phase: None), reference
    with accounted(out.results, (policy,)):
        plan, reference = _within_reach(policy, reference, plan, out)
    parts: tuple[Callable[..., None], ...] = (_given, partial(_answers, before=before), _distance, _tasks)
    for part in parts:
        with accounted(out.results, (policy, before, *judge_policies(plan.goal, policy, *plan.risks))):
            part(policy, reference, plan, out, say)
    if not out.results:
        raise ValignError(
            "nothing can be measured on these groups",
            where="data",
            how=[
                *out.notes,
                "comparisons, labels or choices are needed, or a goal that scores responses (--goal)",
                "`valign data inspect FILE` shows what the file holds",
            ],
        )
    if isinstance(plan.goal, BenchmarkGoal):
        from valign.evaluation.provenance import provenance

        about = provenance(policy)
        out.results = [*measure.component_results(plan.goal, out.results, subject=policy.id, about=about), *out.results]
        out.goal = goal_record(plan.goal)
    return out


def _given(policy: Policy, reference: Policy | None, plan: Plan, out: Measured, say: Say) -> None:
    """What the policy makes of responses and choices that the data hold."""
    ranked, before = [g for g in plan.groups if not g.choices and len(g.responses) > 1], len(out.results)
    pairs, same = compared(ranked)
    if same:
        out.notes.append(f"{same} pairs with chosen = rejected are left out: they state no order")
    if pairs and has_likelihood(policy):
        found = measure.measure_preference(policy, reference, pairs, beta=plan.beta, progress=say("preferences"))
        if plan.goal is None:
            found += [_misalignment(r) for r in found if (r.metric, r.variant) == ("preference.accuracy", "sum")]
        out.results += [replace(r, notes=(*r.notes, *out.notes)) for r in found]
    if pairs and plan.goal is not None and plan.goal.level == "preference" and _can_score(plan.goal):
        reward = plan.goal.reward  # type: ignore[attr-defined]
        out.results += measure.measure_reward(reward, pairs, why=lambda: reasons(reward))
    if plan.goal is not None and ranked and has_likelihood(policy) and _labelled(plan.goal, ranked):
        # log_prob first: the one utility that the policy before alignment has too, so both stand on one scale
        utilities = ["log_prob", "log_prob_mean", *(["implicit"] if reference is not None else [])]
        out.results += measure.measure_order(
            policy, reference, ranked, plan.goal, beta=plan.beta, utilities=utilities, progress=say("order")
        )
    choices = [g for g in plan.groups if g.choices]
    if has_likelihood(policy):
        for benchmark in _by_benchmark(choices):
            out.results += _choices(policy, benchmark, say)
    if len(out.results) > before:
        out.texts += text_rows([*ranked, *choices], pairs)


def _prompts(plan: Plan) -> list[Group]:
    return [g for g in plan.groups if not g.choices and g.prompt]


def _answers(
    policy: Policy, reference: Policy | None, plan: Plan, out: Measured, say: Say, *, before: Policy | None
) -> None:  # fmt: skip
    """The policy's own answers, as the goal and the risks judge them. before: also a reference that cannot score."""
    if asked := _asked(plan):
        judge(policy, plan, asked, out, say, before)


def _asked(plan: Plan) -> list[Group]:
    """The groups to whose prompts responses are drawn, because the goal or its risks can judge them."""
    if isinstance(plan.goal, BenchmarkGoal):
        return _judged(plan.goal, plan.groups) if plan.risks else []
    return _judged(plan.goal, plan.groups) if plan.goal is not None and _can_score(plan.goal) else []


def answered(plan: Plan) -> list[Group]:
    """Every group to whose prompt a policy answers: those that the goal judges, those of the KL, tasks with checks."""
    tasks = [*plan.tax, *(g for g in plan.groups if "checks" in g.meta)]
    return [*_asked(plan), *_prompts(plan)[: plan.kl_prompts], *tasks]


def check_ranked(plan: Plan, reference: object, where: str) -> None:
    """Raise `UsageError` where the goal ranks and no reference is named whose answers the policy's could be ranked among."""
    if reference is None and _asked(plan):
        refuse_ranks(plan.goal, where, ("name the policy before alignment, whose answers they are ranked among",))


def check_risks(plan: Plan, where: str = "risks") -> None:
    """Raises `UsageError` for two risks of one name, and for risks where no response is drawn that they could judge."""
    names = [measure.risk_metric(r) for r in plan.risks]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise UsageError(f"{twice[0]} is named twice", where=where, how="name each risk once")
    if names and not _asked(plan):
        raise UsageError("it has no effect: no responses are drawn that a goal judges", where=where,
                         how="name a goal that has a scorer, such as hhh_like, or one of benchmarks, and data with prompts",
        )  # fmt: skip


def _distance(policy: Policy, reference: Policy | None, plan: Plan, out: Measured, say: Say) -> None:
    """KL to the reference."""
    if (prompts := _prompts(plan)) and reference is not None and plan.kl_prompts:
        out.results += kl_results(policy, reference, prompts[: plan.kl_prompts], plan, say)
        out.texts += prompt_rows(prompts[: plan.kl_prompts])


def _tasks(policy: Policy, reference: Policy | None, plan: Plan, out: Measured, say: Say) -> None:
    """Tasks with checks."""
    tasks = [*plan.tax, *(g for g in plan.groups if "checks" in g.meta)]
    if tasks:
        from valign.rewards.rules import check

        greedy = Sampling(temperature=0, max_new_tokens=plan.sampling.max_new_tokens, seed=plan.sampling.seed)
        out.results += measure.measure_instructions(policy, tasks, check, greedy, progress=say("instructions"))
        out.texts += prompt_rows(tasks)


def _within_reach(
    policy: Policy, reference: Policy | None, plan: Plan, out: Measured
) -> tuple[Plan, Policy | None]:  # fmt: skip
    """The plan and the reference without what an endpoint cannot give; `out` is told what is missing."""
    if not has_likelihood(policy):
        needs = ["KL"] if reference is not None and plan.kl_prompts else []
        if needs and (bound := _best_of_n_bound(policy)) is not None:
            out.results.append(bound)
            needs = []
        needs += ["the order of given responses (misalignment, preference accuracy)"] * any(
            not g.choices and len(g.responses) > 1 for g in plan.groups
        )
        needs += ["answer choices"] * any(g.choices for g in plan.groups)
        if needs:
            out.notes.append(
                f"not available: {', '.join(needs)}: {policy.id} is an endpoint and tells no log-probs of given text; "
                "measure the same weights as a local model"
            )
        return replace(plan, kl_prompts=0), None
    if reference is not None and not has_likelihood(reference):
        out.notes.append(f"not available: implicit rewards and KL: the reference {reference.id} is an endpoint")
        return plan, None
    return plan, reference


def compared(groups: Sequence[Group]) -> tuple[list[Group], int]:
    """The groups whose feedback orders their responses, as pairs, and how many pairs of equal texts were left out."""
    ordered = [g for g in groups if any(isinstance(f, (Comparison, Ranking, Score)) for f in g.feedback)]
    return _without_equal(_as_pairs(g) for g in ordered)


def progress_of(on_event: Callable[[str, Mapping[str, Any]], None] | None, subject: str = "") -> Say:
    """Tells a listener which part is measured, and how far it is."""

    def say(phase: str) -> Progress | None:
        if on_event is None:
            return None
        on_event("measuring", {"subject": subject, "what": phase})
        return lambda done, total: on_event("progress", {"what": phase, "done": done, "total": total})

    return say


def _misalignment(accuracy: Result) -> Result:
    """M of held-out pairs where no goal says more: 1 - preference accuracy, item by item."""
    from valign.evaluation.aggregate import summarize
    from valign.evaluation.result import Anchors

    items = [Item(i.id, i.cluster, None if i.score is None else 1 - i.score, i.reason) for i in accuracy.items]
    return summarize(
        items, metric="misalignment.M", variant="preference_accuracy", subject=accuracy.subject, level="preference",
        direction="down", anchors=Anchors(0.0, 1.0, 0.5), cluster_unit="prompt", provenance=accuracy.provenance,
    )  # fmt: skip


def _as_pairs(group: Group) -> Group:
    from valign.data.convert import ranking_to_pairs, scores_to_pairs

    if any(group.of(Comparison)):
        return group
    return ranking_to_pairs(group) if any(group.of(Ranking)) else scores_to_pairs(group)


def _without_equal(groups: Iterable[Group]) -> tuple[list[Group], int]:
    """Groups without the comparisons of two equal texts, and how many those were."""
    out, dropped = [], 0
    for group in groups:
        texts = [r.text for r in group.responses]
        equal = [f for f in group.of(Comparison) if texts[f.chosen] == texts[f.rejected]]
        dropped += len(equal)
        kept = replace(group, feedback=tuple(f for f in group.feedback if f not in equal)) if equal else group
        if any(kept.of(Comparison)):
            out.append(kept)
    return out, dropped


def _labelled(goal: Goal, groups: Sequence[Group]) -> bool:
    return any(np.isfinite(u).sum() > 1 for u in goal.labels(groups))


def _can_score(goal: Goal) -> bool:
    """Whether the goal has what it needs to judge new responses."""
    if isinstance(goal, CompositeGoal):
        measured = goal.standard is not None and all(c.multiplier is not None for c in goal.constraints)
        inner = [*(part.goal for part in goal.parts), *(c.goal for c in goal.constraints)]
        return measured and all(map(_can_score, inner))
    if isinstance(goal, InstructionGoal):
        return goal.checker is not None or goal.judge is not None
    return goal.level in SCORERS and getattr(goal, SCORERS[goal.level], None) is not None


def _judged(goal: Goal, groups: Sequence[Group]) -> list[Group]:
    """The groups whose new responses the goal can judge: without a judge, an instruction goal needs their checks."""
    checked = isinstance(goal, InstructionGoal) and goal.judge is None
    return [g for g in groups if not g.choices and g.prompt and (not checked or g.meta.get("checks"))]


BBQ = {"context_condition", "question_polarity", "unknown", "target"}  # what its reader keeps beside a question


def _by_benchmark(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups parted by the benchmark whose formula they need, in the order in which these come first."""
    found: dict[str, list[Group]] = {}
    for g in groups:
        found.setdefault(_benchmark(g), []).append(g)
    return list(found.values())


def _benchmark(group: Group) -> str:
    """The benchmark whose reader made the group, known by what only that one keeps; "" for plain multiple choice."""
    if group.meta.keys() >= BBQ:
        return "bbq"
    if "matching" in group.meta:
        return "persona"
    return "safetext" if group.gold is None and group.of(Comparison) else ""


def _choices(policy: Policy, groups: Sequence[Group], say: Say) -> list[Result]:
    progress = say("choices")
    match _benchmark(groups[0]):
        case "bbq":
            return measure.measure_bbq(policy, groups, progress=progress)
        case "persona":
            return measure.measure_persona(policy, groups, progress=progress)
        case "safetext":
            return measure.measure_safetext(policy, groups, progress=progress)
    return [measure.measure_choices(policy, groups, protocol, progress=progress) for protocol in ("sum", "byte")]


def judge(
    policy: Policy, plan: Plan, groups: Sequence[Group], out: Measured, say: Say, reference: Policy | None = None
) -> None:
    """Responses to the groups' prompts, judged by the goal and the risks: utility, value profile, risks, samples.

    reference  whose answers to the same prompts a goal that ranks puts them among; None: the policy is the reference
    """
    from valign.evaluation.measure.common import judged_items, sample_groups, unanswered
    from valign.evaluation.provenance import provenance

    goal = plan.goal
    assert goal is not None
    drawn, sampled = sample_groups(policy, groups, plan.sampling, say("responses"))
    missing = unanswered(sampled, drawn)
    about = provenance(policy, sampling=plan.sampling, goal={"id": goal.id, "fingerprint": goal.fingerprint()})
    silent = isinstance(goal, BenchmarkGoal)  # only its risks judge
    notes: list[str] = []
    if silent:
        utilities = goal.labels(sampled)
    elif ranks(goal):
        others = sampled
        if reference is not None:
            answers, others = sample_groups(reference, groups, plan.sampling, say("responses of the reference"))
            others = [_given_only(g, row) for g, row in zip(others, answers, strict=True)]
        utilities = utility_beside(goal, sampled, others)
        notes = [f"each answer ranked among those of {(reference or policy).id} to the same prompt: 0.5 is as good as they are"]
    else:
        utilities = goal.utility(sampled)
    values: Sequence[Any] = [None] * len(sampled)
    why = reasons(goal)
    if isinstance(goal, ValueGoal):
        values = goal.values(sampled)
        why = reasons(goal) | why
        out.results += measure.profile_results(
            sampled, values, goal, subject=policy.id, about=about, missing=missing, why=why
        )
    if not silent:
        items = judged_items(sampled, utilities, missing, why)
        out.results.append(_utility_result(policy, goal, items, about, notes))
    for risk in plan.risks:  # the same responses: nothing is drawn for them
        out.results += measure.risk_results(sampled, risk, subject=policy.id, missing=missing, why=partial(reasons, risk),
                                            about=provenance(policy, sampling=plan.sampling))  # fmt: skip
    out.goal = goal_record(goal)
    for group, u, v, row in zip(sampled, utilities, values, drawn):
        out.samples.append(_sample(group, u, v, goal, [s.failure for s in row]))


def _given_only(group: Group, samples: Sequence[Sample]) -> Group:
    """The group without the places of answers that an endpoint did not give."""
    return replace(group, responses=tuple(r for r, s in zip(group.responses, samples, strict=True) if not s.failure))


def _utility_result(policy: Policy, goal: Goal, items: Sequence[Item], about: Any, notes: Sequence[str]) -> Result:
    from valign.evaluation.aggregate import summarize

    return summarize(
        items,
        metric="goal.utility",
        variant=goal.id,
        subject=policy.id,
        level=goal.level,
        unit="score",
        direction="up",
        cluster_unit="prompt",
        provenance=about,
        notes=notes,
    )


def _sample(group: Group, utility: Any, values: Any, goal: Goal, failures: Sequence[str]) -> dict[str, Any]:
    names = list(goal.theory.ids) if isinstance(goal, ValueGoal) else []
    responses: list[dict[str, Any]] = []
    for k, r in enumerate(group.responses):
        if failures[k]:
            responses.append({"text": "", "score": None, "failure": hide(failures[k])})
            continue
        row: dict[str, Any] = {"text": r.text, "score": _number(utility[k])}
        if r.finish is not None:
            row["finish"] = r.finish
        if values is not None:
            row["values"] = {n: _number(x) for n, x in zip(names, values[k]) if np.isfinite(x)}
        responses.append(row)
    scores = [r["score"] for r in responses if r["score"] is not None]
    # what the text does not tell: who said what, and what counts as independent
    plain = [m.role for m in group.prompt] == ["user"]
    told: dict[str, Any] = {} if plain else {"messages": [[m.role, m.content] for m in group.prompt]}
    told |= {"cluster": group.cluster} if group.cluster else {}
    return {"id": group.id, "prompt": group.prompt_text, **told, "responses": responses,
            "score": _number(np.mean(scores)) if scores else None}  # fmt: skip


def goal_record(goal: Goal) -> dict[str, Any]:
    """What is kept of a goal beside the samples that it judged: its content, its fingerprint, and that of its scorer."""
    scorer = scorer_identity(getattr(goal, SCORERS.get(goal.level, ""), None))
    return {"goal": hidden(goal.to_json()), "fingerprint": goal.fingerprint(), "scorer": scorer}


def _number(x: Any) -> float | None:
    return round(float(x), 6) if np.isfinite(x) else None


def kl_results(policy: Policy, reference: Policy, groups: Sequence[Group], plan: Plan, say: Say) -> list[Result]:
    """KL to the reference by samples at temperature 1; best-of-n, whose law has no token form, its bound."""
    if (bound := _best_of_n_bound(policy)) is not None:
        return [bound]
    sampling = Sampling(max_new_tokens=plan.sampling.max_new_tokens, seed=plan.sampling.seed)
    return measure.measure_kl(policy, reference, groups, sampling, progress=say("KL"))


def _best_of_n_bound(policy: Policy) -> Result | None:
    """The KL of best of n from n alone; None for any other policy."""
    n = (policy.card().get("config") or {}).get("n")
    if policy.kind != "decoding" or n is None:
        return None
    from valign.evaluation.provenance import provenance
    from valign.theory.best_of_n import best_of_n_kl_bound

    return Result(
        provenance=provenance(policy),
        metric="kl.policy_reference",
        variant="best_of_n_bound",
        subject=policy.id,
        level="cost",
        unit="nats",
        direction="down",
        value=float(best_of_n_kl_bound(n)),
        n=0,
        notes=("an upper bound from n alone: log n - (n-1)/n",),
    )


def write_evaluation(folder: Path, measured: Measured) -> Mapping[str, Path]:
    """`result.json`, `samples.jsonl`, `texts.jsonl` and, where a goal judged them, `goal.json` in `folder`, each whole or
    absent; the results come last.

    Raises `ValignError` where the disk refuses.
    """
    samples = "".join(json.dumps(s, ensure_ascii=False, allow_nan=False) + "\n" for s in measured.samples)
    written = write_whole(folder / SAMPLES, samples)
    write_texts(folder, measured.texts, known=[str(s["id"]) for s in measured.samples])
    (folder / GOAL).unlink(missing_ok=True)
    if measured.goal is not None:
        write_whole(folder / GOAL, json.dumps(measured.goal, ensure_ascii=False, indent=1) + "\n")
    try:
        return {"samples": written, "results": write_results(measured.results, folder / RESULT)}
    except OSError as error:
        raise ValignError(
            f"cannot write: {error.strerror}",
            where=str(folder / RESULT),
            how="make room and run the same command again: nothing is measured twice",
        ) from error


def read_evaluation(folder: Path) -> tuple[Measured, Mapping[str, Path]] | None:
    """What `write_evaluation` wrote; None where it is not there whole."""
    paths = {"samples": folder / SAMPLES, "results": folder / RESULT}
    if not all(p.is_file() for p in paths.values()):
        return None
    rows = read_objects(paths["samples"], AGAIN)
    goal = read_object(folder / GOAL, AGAIN) if (folder / GOAL).is_file() else None
    return Measured(read_results(paths["results"]), rows, goal=goal, texts=read_texts(folder)), paths
