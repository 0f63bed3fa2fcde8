"""What `valign profile` does: inventories by likelihood or generation, free answers to situations, one model or two."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from valign.data.group import Group
from valign.data.inventory import Inventory, personas, portraits, read_inventory
from valign.engine.run import RunFolder
from valign.errors import UsageError, ValignError, unknown
from valign.evaluation.measure.administer import Answers, Respondent, administer, respondents
from valign.evaluation.measure.inventory import Profile, inventory_profile
from valign.evaluation.measure.pair_profiles import CLAIM, UNREADABLE, Shift, paired_profiles, paired_results
from valign.evaluation.measure.profile import nearness_to, warning_of
from valign.evaluation.metrics.reliability import FREE
from valign.evaluation.provenance import model_card, provenance
from valign.evaluation.result import Result
from valign.goals.benchmark import BenchmarkGoal
from valign.goals.targets import named_targets
from valign.models.endpoint import is_endpoint
from valign.models.policy import Policy, Sampling, has_likelihood
from valign.pipeline import request as request_file
from valign.pipeline.data import read_sources
from valign.pipeline.door import Listen, source
from valign.pipeline.evaluate import RESULT, Measured, Plan, judge, progress_of, write_evaluation
from valign.pipeline.goals import make_goal
from valign.pipeline.judges import LOG as JUDGE_LOG
from valign.pipeline.judges import judge_policies, judges_logged
from valign.pipeline.policies import LoadOptions, load_policy
from valign.pipeline.spending import accounted, check_priced

FORMS = ("likelihood", "generation", "dilemmas")
GOAL = "hhh_like"  # what a profile is drawn beside when nobody names a target; nearness is then told to all named ones
LETTERS = 8  # tokens of a letter answer, with room for "Answer: B."


@dataclass(frozen=True)
class Asked:
    """What to ask.

    forms      of FORMS; empty: likelihood, or generation where the model tells no log-probs
    data       situations of the form dilemmas         sampling   of free answers
    items      a file of items, "" for the built-in portraits; instrument: the questionnaire whose numbers they carry
    persons    so many different personas answer; 0: the model as itself, once in every option order
    limit      at most so many items per value and keying, or situations
    retest     ask the paraphrases as well
    """

    forms: tuple[str, ...] = ()
    goal: str | None = None
    data: str = "builtin:dilemmas"
    items: str = ""
    instrument: str = ""
    persons: int = 0
    limit: int | None = None
    retest: bool = True
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.7))


@dataclass
class Profiled:
    """One model's Results in every form, with the profiles of the inventories by form. The model itself is let go."""

    id: str
    card: Mapping[str, Any]
    measured: Measured = field(default_factory=Measured)
    profiles: dict[str, Profile] = field(default_factory=dict)


@dataclass
class Outcome:
    """What `valign profile` found: the models (one or two), where they differ by form, and the files."""

    models: list[Profiled]
    shifts: dict[str, list[Shift]] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)

    @property
    def results(self) -> list[Result]:
        found = [r for m in self.models for r in m.measured.results]
        return [*found, *(s.result for shifts in self.shifts.values() for s in shifts)]


def profile_from_names(
    model: str,
    asked: Asked,
    *,
    against: str | None = None,
    out: Path | None = None,
    options: LoadOptions | None = None,
    force: bool = False,
    on_event: Listen | None = None,
) -> Outcome:
    """Profile a model, or two of them paired. With `out`, answers are logged there and an interrupted profile goes on.

    Names, goal and items are checked before a model is loaded.
    Raises `ValignError` when `out` holds results of something else, unless `force` starts again there.
    """
    goal = make_goal(asked.goal or GOAL)
    if goal.level != "value" or isinstance(goal, BenchmarkGoal):
        raise ValignError("the goal is one of benchmarks" if isinstance(goal, BenchmarkGoal) else
                          f"the goal is of level {goal.level}", where="--goal",
                          how=f"a profile needs a value goal, such as {GOAL}")  # fmt: skip
    for form in asked.forms:
        if form not in FORMS:
            raise unknown("form", form, FORMS, where="--form")
    inventory = _inventory(asked, goal)
    who = _respondents(asked, inventory)
    tell = on_event or _nobody
    groups = _situations(asked, tell) if "dilemmas" in asked.forms else []
    names = [model, *([against] if against else [])]

    judge_goal = goal if groups else None  # inventories are asked without it
    budget = options.budget if options is not None else None

    def run(folder: Path | None) -> Outcome:
        found = []
        for k, name in enumerate(names):
            tell("loading", {"name": name})
            log = folder / ("against.jsonl" if k else "requests.jsonl") if folder is not None else None
            loaded = load_policy(name, options)
            with judges_logged((judge_goal, loaded), folder / JUDGE_LOG if folder is not None else None, budget) as judges:
                if not any(map(is_endpoint, names)):
                    check_priced((loaded, *judges), budget)
                policy = _logged(loaded, log, len(inventory))
                found.append(profile_policy(policy, asked, goal, inventory, who, groups, tell))
        outcome = Outcome(found, _shifts(found, goal) if against else {})
        return outcome if folder is None else _written(outcome, goal, folder, tell, named=bool(asked.goal))

    if out is None:
        return run(None)
    request = {"profile": names, "goal": goal.fingerprint(), "items": inventory.sha256,
               "settings": {k: str(v) for k, v in asdict(asked).items() if k not in ("goal", "items")}}  # fmt: skip
    with RunFolder(out) as owned:
        remembered, finished = out / request_file.FILE, (out / RESULT).exists()
        if finished and not force and not remembered.exists():
            raise ValignError("the folder holds results of something else", where=str(out / RESULT), how=request_file.HOW)
        request_file.is_repeated(out, remembered, request, force=force, lost=finished)
        owned.write(request_file.FILE, request_file.text(request))
        return run(out)


def _logged(policy: Policy, log: Path | None, chunk: int) -> Any:
    """The policy with a log of its answers; a chunk is one respondent, whose prompts begin alike."""
    from valign.evaluation.cached import CachedPolicy

    return policy if log is None else CachedPolicy(policy, log, chunk=chunk)


def profile_policy(
    policy: Policy, asked: Asked, goal: Any, inventory: Inventory, who: Sequence[Respondent], groups: Sequence[Group],
    tell: Any = None,
) -> Profiled:  # fmt: skip
    """All forms of one policy."""
    tell = tell or _nobody
    forms = asked.forms or (("likelihood",) if has_likelihood(policy) else ("generation",))
    out = Profiled(policy.id, model_card(policy))
    with accounted(out.measured.results, (policy, *judge_policies(goal, policy))):
        _ask(policy, forms, out, asked, goal, inventory, who, groups, tell)
    return out


def _ask(
    policy: Policy, forms: Sequence[str], out: Profiled, asked: Asked, goal: Any, inventory: Inventory,
    who: Sequence[Respondent], groups: Sequence[Group], tell: Any,
) -> None:  # fmt: skip
    """Every form, one after the other. Where no target was named, each tells its nearness to all named ones."""
    others = [] if asked.goal else [make_goal(t.id) for t in named_targets().values() if t.theory == goal.theory.id]
    for form in forms:
        if form == "likelihood" and not has_likelihood(policy):
            raise ValignError(f"{policy.id} tells no log-probs of given text", where="--form likelihood",
                              how="ask it by generation: --form generation")  # fmt: skip
        if form == "dilemmas":
            plan = Plan(groups, goal, sampling=asked.sampling)
            judge(policy, plan, groups, out.measured, progress_of(tell, policy.id))
            out.measured.results += _near_others(out.measured.results, others)
            continue
        profile = _answered(policy, form, asked, goal, inventory, who, tell)
        near = _near_others(profile.results, others)
        warned = [r.with_notes(profile.warning) for r in near] if profile.warning else near
        profile = replace(profile, results=(*profile.results, *warned))
        out.profiles[form] = profile
        out.measured.results += profile.results
        out.measured.samples += _samples(profile)
        out.measured.notes += [profile.warning] if profile.warning else []


def _near_others(results: Sequence[Result], targets: Sequence[Any]) -> list[Result]:
    """V and V_c to every target, from the last profile's own values; none where its dimensions are not the theory's."""
    profiles = [r for r in results if r.metric == "value.V" and r.items and r.variant != "response_mean"]
    found = profiles[-1] if profiles else None
    return nearness_to(found, targets) if found is not None else []


def _answered(
    policy: Policy, form: Any, asked: Asked, goal: Any, inventory: Inventory, who: Sequence[Respondent], tell: Any
) -> Profile:
    """Both wordings of an inventory, as a profile."""
    sampling = Sampling(max_new_tokens=LETTERS, temperature=asked.sampling.temperature, seed=asked.sampling.seed)
    say = progress_of(tell, policy.id)
    what = f"{len(inventory)} items, {len(who)} respondents"
    first = administer(policy, inventory, who, form=form, sampling=sampling, progress=say(f"{form}: {what}"))
    again: Answers | None = None
    if asked.retest and inventory.has_paraphrases:
        again = administer(policy, inventory, who, form=form, paraphrased=True, sampling=sampling,
                           progress=say(f"{form}: {what}, in other words"))  # fmt: skip
    data = {"file": inventory.source, "sha256": inventory.sha256, "licence": inventory.licence, "rows": len(inventory)}
    about = provenance(
        policy, sampling=sampling if form == "generation" else None, data=None, form=form, items=data,
        goal={"id": goal.id, "fingerprint": goal.fingerprint()},
        respondents=[{"id": w.id, "order": list(w.order), "persona": w.persona} for w in who],
    )  # fmt: skip
    return inventory_profile(first, again, goal=goal, subject=policy.id, about=about)


def _inventory(asked: Asked, goal: Any) -> Inventory:
    if asked.instrument and not asked.items:
        raise UsageError("the items of published questionnaires are not shipped", where=f"--instrument {asked.instrument}",
                         how="give your copy: --items FILE")  # fmt: skip
    whole = read_inventory(asked.items, instrument=asked.instrument) if asked.items else portraits()
    if asked.goal and set(whole.dimensions) != set(goal.theory.ids):
        raise ValignError(f"the items speak about {', '.join(whole.dimensions)}; the goal is one of {goal.theory.id}",
                          where="--goal", how="leave --goal out: the profile then stands without a target")  # fmt: skip
    return whole.limited(asked.limit) if not asked.instrument else whole


def _respondents(asked: Asked, inventory: Inventory) -> list[Respondent]:
    known = personas()
    if asked.persons > len(known):
        raise UsageError(f"there are {len(known)} personas, not {asked.persons}", where="--personas")
    return respondents(len(inventory.labels), known[: asked.persons])


def _situations(asked: Asked, tell: Any) -> list[Group]:
    split = {"split": "test"} if asked.data == "builtin:dilemmas" else {}
    return read_sources([source(asked.data, asked.limit).model_copy(update=split)], 0, tell)[0]


def _shifts(found: Sequence[Profiled], goal: Any) -> dict[str, list[Shift]]:
    """Where the first model differs from the second, by form."""
    a, b = found
    out = {form: paired_profiles(a.profiles[form], b.profiles[form]) for form in a.profiles if form in b.profiles}
    one, two = ({r.metric: r for r in m.measured.results if r.variant == "mean"} for m in found)
    names = [n for n in goal.theory.ids if f"value.profile.{n}" in one and f"value.profile.{n}" in two]
    if names:
        pairs = [(one[f"value.profile.{n}"], two[f"value.profile.{n}"]) for n in names]
        unreadable = any(warning_of([r for r in m.measured.results if r.variant == FREE]) for m in found)
        out["dilemmas"] = [s.noted(UNREADABLE) if unreadable else s for s in paired_results(names, pairs)]
    return out


def _samples(profile: Profile) -> list[dict[str, Any]]:
    """Per item what was answered: each option with its mean probability (likelihood) or share (generation)."""
    answers = profile.sheet.answers
    labels, high = answers.inventory.labels, answers.inventory.high
    out: list[dict[str, Any]] = []
    for i, item in enumerate(answers.inventory.items):
        shares, there = [0.0] * len(labels), 0
        for r, who in enumerate(answers.respondents):
            row = answers.places[r, i]
            if row[0] == row[0]:
                there += 1
                for place, option in enumerate(who.order):
                    shares[option] += float(row[place])
        mean = sum(s * (high - k) for k, s in enumerate(shares)) / there if there else None
        responses = [{"text": t, "score": round(s / there, 4)} for t, s in zip(labels, shares)] if there else []
        sign = {1: "for", -1: "against"}[item.keyed]
        prompt = f"{item.text} [{sign} {item.dimension or 'no dimension'}, {answers.form}]"
        out.append({"id": f"{answers.form}:{item.id}", "prompt": prompt, "responses": responses, "score": mean})
    return out


def _written(outcome: Outcome, goal: Any, folder: Path, tell: Any, *, named: bool) -> Outcome:
    tell("writing", {"path": str(folder)})
    first = outcome.models[0].measured
    whole = replace(first, results=outcome.results)
    paths = dict(write_evaluation(folder, whole))
    return replace(outcome, paths={**paths, **_page(outcome, goal, folder, named=named)})


def _page(outcome: Outcome, goal: Any, folder: Path, *, named: bool) -> Mapping[str, Path]:
    """The report on one model or two. named: whether the goal is the user's, and not the one a profile is drawn beside."""
    from valign.pipeline.compare import goal_json, profile_of
    from valign.pipeline.reports import ran
    from valign.report import SubjectReport, method_report, write_report

    subjects = []
    for k, m in enumerate(outcome.models):
        profile = next((_circle(p) for p in m.profiles.values()), None) or profile_of(m.measured, goal)
        results = [r for r in m.measured.results if not r.subject.startswith("baseline")]
        differences = [s.result for shifts in outcome.shifts.values() for s in shifts] if k == 0 else []
        subjects.append(
            SubjectReport(policy=m.card, results=results, samples=list(map(_shown, m.measured.samples)), profile=profile,
                          differences=differences, notes=m.measured.notes, base=len(outcome.models) > 1 and k == 1)
        )  # fmt: skip
    names = " and ".join(m.id for m in outcome.models)
    aim = goal_json(goal)
    aim |= {} if named else {"note": "nobody named a goal: the profile is drawn beside this one"}
    report = method_report(subjects, goal=aim, primary="profile", title=f"values of {names}", provenance=ran(outcome.results),
                           created=time.strftime("%Y-%m-%d"), extra=_differences(outcome))  # fmt: skip
    return write_report(report, folder)


def _differences(outcome: Outcome) -> list[dict[str, Any]]:
    """The page's sections on which value the first of two models holds higher, one for each form."""
    return [
        {"id": f"differences_{form}", "title": f"Which values differ ({form})",
         "text": f"{sum(s.differs for s in shifts)} of {len(shifts)} values differ between {outcome.models[0].id} and "
                 f"{outcome.models[1].id}: the same respondents and items, paired; p below {CLAIM:g} after Benjamini-Hochberg "
                 "over all values, over respondents and over items. Above 0 the first holds the value higher.",
         "results": [s.result for s in shifts]}
        for form, shifts in outcome.shifts.items()
    ]  # fmt: skip


def _shown(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sample as the page shows it: an item's options stand in one line with their shares; a rating is no merit."""
    if not sample["id"].startswith(("likelihood:", "generation:")):
        return sample
    said = ", ".join(f"{r['text']} {r['score']:.0%}" for r in sample["responses"])
    return {**sample, "responses": [said] if said else [], "judged": False}


def _circle(profile: Profile) -> dict[str, Any] | None:
    """The profile as the report's circle draws it."""
    rows = {r.metric.removeprefix("value.profile."): r for r in profile.results if r.metric.startswith("value.profile.")}
    if not rows or any(r.value is None for r in rows.values()):
        return None
    from valign.report.values import reliability_of

    out: dict[str, Any] = {"values": {k: r.value for k, r in rows.items()}, "n": max(r.n for r in rows.values()),
                           "reliability": reliability_of(profile.results)}  # fmt: skip
    if all(r.interval is not None for r in rows.values()):
        out["low"] = {k: r.interval.low for k, r in rows.items() if r.interval}
        out["high"] = {k: r.interval.high for k, r in rows.items() if r.interval}
    return out


def _nobody(event: str, fields: Mapping[str, Any]) -> None:
    """Nobody listens."""
