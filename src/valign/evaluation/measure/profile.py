"""What a model values: the profile of its sampled responses, how near that is to a target, and how far it can be trusted (5.1).
[G07]"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Group
from valign.errors import ValignError, require
from valign.evaluation import statistics as stats
from valign.evaluation.aggregate import NO_WIDTH, summarize
from valign.evaluation.measure.common import cluster_of, data_of, require_ids, sample_groups, unanswered, why_unscored
from valign.evaluation.metrics import profile, reliability
from valign.evaluation.provenance import provenance
from valign.evaluation.result import Anchors, Cluster, Item, ItemStatistic, Result, cluster_notes, interval_of
from valign.goals import distance
from valign.goals.base import ValueScorer
from valign.models.policy import Policy, Progress, Sampling

Array = NDArray[np.float64]
Row = tuple[str, str, Array | str]  # item, cluster, values or why there are none
ONCE = "asked once: no re-test in other words was made, so that part of the check is left out"


class Named(Protocol):
    """A value theory as this measurement needs it."""

    @property
    def ids(self) -> Sequence[str]: ...


class ValueTarget(Protocol):
    """A goal in value space (`goals.ValueGoal` is one): target t and weights w, (K,) in the order of
    theory.ids.
    """

    @property
    def id(self) -> str: ...
    @property
    def theory(self) -> Named: ...
    @property
    def t(self) -> Array: ...
    @property
    def w(self) -> Array: ...
    @property
    def evaluator(self) -> ValueScorer | None: ...
    def fingerprint(self) -> str: ...


def measure_profile(
    policy: Policy,
    groups: Sequence[Group],
    goal: ValueTarget,
    scorer: ValueScorer | None = None,
    *,
    sampling: Sampling = Sampling(n=4),  # noqa: B008
    data: Any = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Sample responses to the groups' prompts and measure their value profile against the goal's target.

    scorer   reads values off responses; the goal's own evaluator by default
    """
    chosen = scorer if scorer is not None else goal.evaluator
    if chosen is None:
        raise ValignError(
            "no value scorer", where=f"goal {goal.id}", how="pass scorer=, such as a ValueEvaluator"
        )
    require_ids(groups)
    samples, sampled = sample_groups(policy, groups, sampling, progress)
    about = provenance(
        policy, data=data or data_of(groups), sampling=sampling, scorer=chosen.id,
        goal={"id": goal.id, "fingerprint": goal.fingerprint()},
    )  # fmt: skip
    missing = unanswered(sampled, samples)
    return profile_results(sampled, chosen.values(sampled), goal, subject=policy.id, about=about, missing=missing)


def profile_results(
    groups: Sequence[Group],
    values: Sequence[Array],
    goal: ValueTarget,
    *,
    subject: str,
    about: Mapping[str, Any],
    missing: Collection[str] = (),
    why: Mapping[str, str] | None = None,
) -> list[Result]:
    """Results of scored responses: V first, then V_c, response-level V, V of silence, the reliability of the profile, and
    three per dimension. A profile that is too unreliable to be read says so in the notes of V and of its reliability.

    values   per group (responses, K); a row with nan is unscored
    missing  items (group#response) that have no response (`no_answer`), whatever their values
    why      item -> why its row has nan; `judge_error` where it is not there
    """
    about = {**about, "target": {"t": [float(x) for x in goal.t], "w": [float(x) for x in goal.w]}}
    names = list(goal.theory.ids)
    wrong = [v.shape for v in values if v.ndim != 2 or v.shape[1] != len(names)]
    require(not wrong, "values", wrong, f"(responses, {len(names)}), one column per dimension of the theory")
    rows = [
        (f"{g.id}#{k}", cluster_of(g), why_unscored(f"{g.id}#{k}", v, missing, why) or v)
        for g, table in zip(groups, values, strict=True)
        for k, v in enumerate(table)
    ]
    common: dict[str, Any] = {
        "subject": subject,
        "level": "value",
        "cluster_unit": "prompt",
        "provenance": about,
    }
    trust = _reliability(rows, common)
    first, *near = _nearness(rows, goal.t, goal.w, common)
    out = [first.with_notes(*filter(None, [warning_of([trust])])), *near, trust]
    return out + [r for k, name in enumerate(names) for r in _dimension(name, k, goal.t[k], rows, common)]


def _nearness(rows: Sequence[Row], t: Array, w: Array, common: Mapping[str, Any]) -> list[Result]:
    """V, V_c, response-level V, and V of silence."""
    items = [_item(i, c, v, lambda v: float(distance.alignment(v, t, w))) for i, c, v in rows]
    silence = distance.neutral_alignment(t, w)
    anchors = Anchors(best=1.0, worst=0.0, chance=silence)

    whole: dict[str, Any] = {"metric": "value.V", "anchors": anchors, **common}
    above: dict[str, Any] = {"unit": "score", "anchors": Anchors(best=1.0, chance=0.0), **common}
    return [
        summarize(items, variant="profile", statistic=nearness(t, w), **whole),
        summarize(items, metric="value.V_c", variant="profile", statistic=corrected(t, w), **above),
        summarize(items, variant="response_mean", bootstrap=True, **whole),
        Result(
            metric="value.V",
            variant="neutral",
            subject="baseline: shows no value",
            level="value",
            value=silence,
            unit="share",
            direction="up",
            anchors=anchors,
            scaled=1 - silence,
            provenance=common["provenance"],
        ),
    ]


def nearness_to(found: Result, targets: Sequence[ValueTarget]) -> list[Result]:
    """V and V_c of the same answers to other targets of the theory: value.V.TARGET and value.V_c.TARGET.

    found   value.V of the answers: its items hold their values, so nothing is asked or read again
    """
    out = []
    for goal in targets:
        items = [
            i if i.score is None else replace(i, score=float(distance.alignment(i.detail["values"], goal.t, goal.w)))
            for i in found.items
        ]
        common: dict[str, Any] = {
            "variant": found.variant, "subject": found.subject, "level": "value", "cluster_unit": found.cluster.unit,
            "provenance": {**found.provenance, "goal": {"id": goal.id, "fingerprint": goal.fingerprint()},
                           "target": {"t": [float(x) for x in goal.t], "w": [float(x) for x in goal.w]}},
        }  # fmt: skip
        anchors = Anchors(best=1.0, worst=0.0, chance=distance.neutral_alignment(goal.t, goal.w))
        out += [
            summarize(items, metric=f"value.V.{goal.id}", anchors=anchors, statistic=nearness(goal.t, goal.w), **common),
            summarize(items, metric=f"value.V_c.{goal.id}", unit="score", anchors=Anchors(best=1.0, chance=0.0),
                      statistic=corrected(goal.t, goal.w), **common),
        ]  # fmt: skip
    return out


def warning_of(results: Sequence[Result]) -> str:
    """The warning about profiles that are too unreliable to be read; "" where none is."""
    notes = (note for r in results if r.metric == reliability.SPLIT_HALF for note in r.notes)
    return next((note for note in notes if note.startswith(reliability.UNRELIABLE)), "")


def _reliability(rows: Sequence[Row], common: Mapping[str, Any]) -> Result:
    """Split-half over prompts: would other prompts of this kind have given the same profile?"""
    found: dict[str, list[Array]] = {}
    lost: dict[str, str] = {}
    for _, prompt, v in rows:
        if isinstance(v, str):
            lost[prompt] = v
        else:
            found.setdefault(prompt, []).append(v)
    tables = [found[prompt] for prompt in sorted(found)]  # by name: the order of the data changes nothing
    n, unscored = len(tables), Counter(why for prompt, why in lost.items() if prompt not in found)
    half = reliability.prompt_split_half(np.array([np.mean(t, 0) for t in tables]), [len(t) for t in tables])
    value = half.value if np.isfinite(half.value) else None
    estimate = stats.Estimate(0.0, None, None, None, n) if value is None else stats.jackknife_log(value, half.left_out)
    few = n < reliability.FEW_PROMPTS
    why = f"{n} prompts have no two halves to compare" if few else "in every half all values are alike"
    verdict = reliability.verdict(value, asked_again=False, of="prompts", undefined=why)
    notes = [f"{reliability.SPLITS} random halves of the prompts, stepped up to all of them" if value is not None else why, ONCE]
    if value is not None and estimate.se is None:
        notes.append(NO_WIDTH if value > 0 else "no interval: without one of the prompts no values are left")
    notes += [*cluster_notes(n), *filter(None, [verdict.warning])]
    return Result(
        metric=reliability.SPLIT_HALF,
        variant=reliability.FREE,
        value=value,
        unit="score",
        direction="up",
        anchors=Anchors(1.0, None, 0.0),
        n=n,
        n_unscored=dict(sorted(unscored.items())),
        se=estimate.se,
        interval=interval_of(estimate, "jackknife"),
        cluster=Cluster(common["cluster_unit"], n),
        notes=tuple(notes),
        **{k: common[k] for k in ("subject", "level", "provenance")},
    )


def mean_values(items: Sequence[Item], weights: Array) -> Array:
    """(b, K) mean of `detail["values"]` under (b, n) weights."""
    table = np.array([i.detail["values"] for i in items], float)
    return np.asarray(weights @ table / weights.sum(1, keepdims=True))


def nearness(t: Array, w: Array) -> ItemStatistic:
    """V of the mean profile to the target t with weights w, both (K,)."""
    return lambda items, weights: distance.alignment(mean_values(items, weights), t, w)


def corrected(t: Array, w: Array) -> ItemStatistic:
    """V_c of the mean profile."""
    return lambda items, weights: distance.chance_corrected(mean_values(items, weights), t, w)


def _dimension(
    name: str, k: int, target: float, rows: Sequence[Row], common: Mapping[str, Any]
) -> list[Result]:
    """Mean over all responses, mean over those that show the value, and their share."""
    items = [_item(i, c, v, lambda v: float(v[k])) for i, c, v in rows]
    shown = [_item(i, c, v, lambda v: float(abs(v[k]) > profile.SHOWN)) for i, c, v in rows]
    note = f"{sum(i.score == 1 for i in shown)} of {len(items)} responses show this value"
    how: dict[str, Any] = {
        "metric": f"value.profile.{name}",
        "unit": "score",
        "direction": f"target:{target:g}",
        "anchors": Anchors(best=target),
        **common,
    }
    share: dict[str, Any] = {"metric": f"value.coverage.{name}", "anchors": Anchors(), **common}
    return [
        summarize(items, variant="mean", bootstrap=True, **how),
        summarize(items, variant="conditional", statistic=conditional, notes=[note], **how),
        summarize(shown, variant=f"above_{profile.SHOWN}", **share),
    ]


def conditional(items: Sequence[Item], weights: Array) -> Array:
    """(b,) mean of the scores that show a value, under (b, n) weights."""
    v = np.array([i.score for i in items], float)
    shown = (np.abs(v) > profile.SHOWN).astype(float)
    return np.asarray(weights @ (v * shown) / (weights @ shown))


def _item(id: str, cluster: str, values: Array | str, score: Callable[[Array], float]) -> Item:
    """A response with its values; one that is missing, or that the scorer could not read, is unscored."""
    if isinstance(values, str):
        return Item(id, cluster, None, values)
    return Item(id, cluster, score(values), detail={"values": [float(x) for x in values]})
