"""What a model values: the profile of its sampled responses, and how near that is to a target (5.1). [G07]"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Group
from valign.errors import require
from valign.evaluation.aggregate import summarize
from valign.evaluation.measure.common import cluster_of, data_of, require_ids, sample_groups
from valign.evaluation.metrics import profile
from valign.evaluation.provenance import provenance
from valign.evaluation.result import Anchors, Item, Result
from valign.models.policy import Policy, Progress, Sampling

Array = NDArray[np.float64]


class ValueScorer(Protocol):
    """Reads values off responses (`rewards.ValueEvaluator` is one)."""

    @property
    def id(self) -> str: ...
    def values(self, groups: Sequence[Group]) -> list[Array]:
        """Per group (responses, K) in [-1, 1]; nan where it cannot tell."""
        ...


def measure_profile(
    policy: Policy,
    groups: Sequence[Group],
    scorer: ValueScorer,
    target: Mapping[str, float],
    *,
    weights: Mapping[str, float] | None = None,
    sampling: Sampling = Sampling(n=4),  # noqa: B008
    data: Any = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Sample responses to the groups' prompts and measure their value profile against `target`.

    target    dimension -> number in [-1, 1], one per column of the scorer, in its order; a zero is a target too
    weights   dimension -> weight >= 0, 1 by default (missing ones count 1)
    """
    require_ids(groups)
    _, sampled = sample_groups(policy, groups, sampling, progress)
    about = provenance(
        policy, data=data or data_of(groups), sampling=sampling, scorer=scorer.id, target=dict(target),
        weights=dict(weights) if weights is not None else None,
    )  # fmt: skip
    return profile_results(sampled, scorer.values(sampled), target, weights, subject=policy.id, about=about)


def profile_results(
    groups: Sequence[Group], values: Sequence[Array], target: Mapping[str, float],
    weights: Mapping[str, float] | None = None, *, subject: str, about: Mapping[str, Any],
) -> list[Result]:  # fmt: skip
    """Results of scored responses: V first, then V_c, response-level V, V of silence, and three per dimension.

    values   per group (responses, K); a row with nan is unscored (`judge_error`)
    """
    names = list(target)
    t = np.array([target[k] for k in names], float)
    w = np.array([(weights or {}).get(k, 1.0) for k in names], float)
    require(bool((np.abs(t) <= 1).all()), "target", dict(target), "numbers in [-1, 1]")
    require(bool((w >= 0).all() and w.sum() > 0), "weights", dict(weights or {}), "not negative, and not all 0")
    wrong = [v.shape for v in values if v.ndim != 2 or v.shape[1] != len(names)]
    require(not wrong, "values", wrong, f"(responses, {len(names)}) arrays, one column per target dimension")
    rows = [(f"{g.id}#{k}", cluster_of(g), v) for g, table in zip(groups, values, strict=True) for k, v in enumerate(table)]
    common = {"subject": subject, "level": "value", "cluster_unit": "prompt", "provenance": about}
    silence = profile.neutral(t, w)
    at_response = [_item(i, c, v, None if np.isnan(v).any() else float(profile.alignment(v, t, w))) for i, c, v in rows]

    def value_of(items: Sequence[Item], weight: Array) -> Array:
        table = np.array([i.detail["values"] for i in items], float)
        return profile.alignment(weight @ table / weight.sum(1, keepdims=True), t, w)

    def corrected(items: Sequence[Item], weight: Array) -> Array:
        return profile.chance_corrected(value_of(items, weight), silence)

    anchors = Anchors(best=1.0, worst=0.0, chance=silence)
    out = [
        summarize(at_response, metric="value.V", variant="profile", anchors=anchors, statistic=value_of, **common),
        summarize(
            at_response, metric="value.V_c", variant="profile", unit="score", anchors=Anchors(best=1.0, chance=0.0),
            statistic=corrected, **common,
        ),
        summarize(at_response, metric="value.V", variant="response_mean", anchors=anchors, bootstrap=True, **common),
        Result(
            metric="value.V", variant="neutral", subject="baseline: shows no value", level="value", value=silence,
            unit="share", direction="up", anchors=anchors, scaled=1 - silence, provenance=about,
        ),
    ]  # fmt: skip
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
    about_target: dict[str, Any] = {"unit": "score", "direction": direction, "anchors": Anchors(best=target), **common}
    return [
        summarize(items, metric=f"value.profile.{name}", variant="mean", bootstrap=True, **about_target),
        summarize(
            items, metric=f"value.profile.{name}", variant="conditional", statistic=_conditional,
            notes=[f"{count} of {len(items)} responses show this value"], **about_target,
        ),
        summarize(
            shown, metric=f"value.coverage.{name}", variant=f"above_{profile.SHOWN}", anchors=Anchors(), **common
        ),
    ]  # fmt: skip


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
