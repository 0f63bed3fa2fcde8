"""What a model values: the profile of its sampled responses, and how near that is to a target (5.1). [G07]"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Group
from valign.errors import ValignError, require
from valign.evaluation.aggregate import summarize
from valign.evaluation.measure.common import cluster_of, data_of, require_ids, sample_groups
from valign.evaluation.metrics import profile
from valign.evaluation.provenance import provenance
from valign.evaluation.result import Anchors, Item, Result
from valign.goals import distance
from valign.goals.base import ValueScorer
from valign.models.policy import Policy, Progress, Sampling

Array = NDArray[np.float64]


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
    _, sampled = sample_groups(policy, groups, sampling, progress)
    about = provenance(
        policy, data=data or data_of(groups), sampling=sampling, scorer=chosen.id,
        goal={"id": goal.id, "fingerprint": goal.fingerprint()},
    )  # fmt: skip
    return profile_results(sampled, chosen.values(sampled), goal, subject=policy.id, about=about)


def profile_results(
    groups: Sequence[Group],
    values: Sequence[Array],
    goal: ValueTarget,
    *,
    subject: str,
    about: Mapping[str, Any],
) -> list[Result]:
    """Results of scored responses: V first, then V_c, response-level V, V of silence,
    and three per dimension.

    values   per group (responses, K); a row with nan is unscored (`judge_error`)
    """
    names, t, w = list(goal.theory.ids), goal.t, goal.w
    wrong = [v.shape for v in values if v.ndim != 2 or v.shape[1] != len(names)]
    require(
        not wrong,
        "values",
        wrong,
        f"(responses, {len(names)}) arrays, one column per dimension of the theory",
    )
    rows = [
        (f"{g.id}#{k}", cluster_of(g), v)
        for g, table in zip(groups, values, strict=True)
        for k, v in enumerate(table)
    ]
    common: dict[str, Any] = {
        "subject": subject,
        "level": "value",
        "cluster_unit": "prompt",
        "provenance": about,
    }
    silence = distance.neutral_alignment(t, w)
    at_response = [
        _item(i, c, v, None if np.isnan(v).any() else float(distance.alignment(v, t, w))) for i, c, v in rows
    ]

    def mean_profile(items: Sequence[Item], weight: Array) -> Array:
        return np.asarray(
            weight @ np.array([i.detail["values"] for i in items], float) / weight.sum(1, keepdims=True)
        )

    def value_of(items: Sequence[Item], weight: Array) -> Array:
        return distance.alignment(mean_profile(items, weight), t, w)

    def corrected(items: Sequence[Item], weight: Array) -> Array:
        return distance.chance_corrected(mean_profile(items, weight), t, w)

    anchors = Anchors(best=1.0, worst=0.0, chance=silence)
    out = [
        summarize(
            at_response, metric="value.V", variant="profile", anchors=anchors, statistic=value_of, **common
        ),
        summarize(
            at_response,
            metric="value.V_c",
            variant="profile",
            unit="score",
            anchors=Anchors(best=1.0, chance=0.0),
            statistic=corrected,
            **common,
        ),
        summarize(
            at_response, metric="value.V", variant="response_mean", anchors=anchors, bootstrap=True, **common
        ),
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
            provenance=about,
        ),
    ]
    return out + [r for k, name in enumerate(names) for r in _dimension(name, k, t[k], rows, common)]


def _dimension(
    name: str, k: int, target: float, rows: Sequence[tuple[str, str, Array]], common: Mapping[str, Any]
) -> list[Result]:
    """Mean over all responses, mean over those that show the value, and their share."""
    items = [_plain(i, c, None if np.isnan(v).any() else float(v[k])) for i, c, v in rows]
    shown = [
        _plain(i, c, None if np.isnan(v).any() else float(abs(v[k]) > profile.SHOWN)) for i, c, v in rows
    ]
    count = sum(1 for i in shown if i.score)
    direction = f"target:{target:g}"
    about_target: dict[str, Any] = {
        "unit": "score",
        "direction": direction,
        "anchors": Anchors(best=target),
        **common,
    }
    return [
        summarize(items, metric=f"value.profile.{name}", variant="mean", bootstrap=True, **about_target),
        summarize(
            items,
            metric=f"value.profile.{name}",
            variant="conditional",
            statistic=_conditional,
            notes=[f"{count} of {len(items)} responses show this value"],
            **about_target,
        ),
        summarize(
            shown,
            metric=f"value.coverage.{name}",
            variant=f"above_{profile.SHOWN}",
            anchors=Anchors(),
            **common,
        ),
    ]


def _conditional(items: Sequence[Item], weights: Array) -> Array:
    v = np.array([i.score for i in items], float)
    shown = (np.abs(v) > profile.SHOWN).astype(float)
    return np.asarray(weights @ (v * shown) / (weights @ shown))


def _item(id: str, cluster: str, values: Array, score: float | None) -> Item:
    if score is None:
        return Item(id, cluster, None, "judge_error")
    return Item(id, cluster, score, detail={"values": [float(x) for x in values]})


def _plain(id: str, cluster: str, score: float | None) -> Item:
    return Item(id, cluster, score, None if score is not None else "judge_error")
