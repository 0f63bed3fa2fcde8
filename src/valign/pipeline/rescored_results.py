"""The Results of outputs that another goal judged again: utility, and the share of what flipped, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from valign.evaluation.aggregate import summarize
from valign.evaluation.measure.common import cluster_of, judged_items
from valign.evaluation.result import Anchors, Item, Result
from valign.goals.base import Array
from valign.goals.composite import ranks
from valign.pipeline.evaluate import Measured, goal_record

if TYPE_CHECKING:
    from valign.pipeline.rescore import Rescored

STABLE = Anchors(best=0.0, worst=1.0)  # nothing flipped, everything did


def measured_again(found: Rescored, policy: int) -> Measured:
    """What one policy's evaluation is under the new goal: results and samples in the form that `evaluate` writes."""
    goal = found.after.goal
    record: dict[str, Any] | None = None
    if goal is not None:
        record = {**goal_record(goal), "fingerprint": found.after.card["fingerprint"]}
    lone = goal is not None and ranks(goal) and len(found.outputs) == 1  # the mean rank among one's own answers says nothing
    utility = [] if lone else [_utility(found, policy)]
    results = [*utility, _turned(found, policy, "order"), _turned(found, policy, "standing")]
    told = [r for r in results if r.n or (r.metric == "goal.utility" and r.n_unscored)]
    return Measured(results=told, samples=_samples(found, policy), notes=list(found.notes), goal=record)


def _samples(found: Rescored, policy: int) -> list[dict[str, Any]]:
    """The stored lines with the new score; the old one stands beside it as `score_before`."""
    rows = []
    for row, old, new in zip(found.outputs[policy].rows, found.before.scores[policy], found.after.scores[policy], strict=True):
        responses = [
            {**response, "score": _number(b), "score_before": _number(a)}
            for response, a, b in zip(row["responses"], old, new, strict=True)
        ]
        rows.append({**row, "responses": responses, "score": _number(np.nanmean(new)) if np.isfinite(new).any() else None})
    return rows


def _utility(found: Rescored, policy: int) -> Result:
    outputs, why = found.outputs[policy], found.after.why[policy]
    missing = {f"{g.id}#{k}" for g, given in zip(outputs.groups, outputs.given) for k, was in enumerate(given) if not was}
    items = judged_items(outputs.groups, found.after.scores[policy], missing, why)
    return summarize(
        items, metric="goal.utility", variant=str(found.after.card["id"]), unit="score", direction="up", **_common(found, policy)
    )


def _turned(found: Rescored, policy: int, kind: str) -> Result:
    """Share of the policy's pairs (order) or responses (standing) that flipped; pairs within the policy's own responses."""
    outputs, old, new = found.outputs[policy], found.before.scores[policy], found.after.scores[policy]
    rows: list[Item] = []
    for group, a, b in zip(outputs.groups, old, new, strict=True):
        if kind == "order":
            rows += _pairs(group.id, cluster_of(group), a, b)
        elif found.before.neutral is not None and found.after.neutral is not None:
            from valign.evaluation.metrics.flips import standing_flips

            turned = standing_flips(a - found.before.neutral, b - found.after.neutral)
            rows += [Item(f"{group.id}#{k}", cluster_of(group), float(x)) for k, x in enumerate(turned) if np.isfinite(x)]
    return summarize(
        rows, metric=f"goal.{kind}_flips", variant=str(found.after.card["id"]), direction="down", anchors=STABLE,
        notes=(f"against goal {found.before.card['id']} version {found.before.card['version']}",), **_common(found, policy),
    )  # fmt: skip


def _pairs(id: str, cluster: str, before: Array, after: Array) -> list[Item]:
    from valign.evaluation.metrics.flips import order_flips

    pairs = order_flips([before], [after]).pairs
    return [Item(f"{id}#{n}", cluster, float(turned)) for n, (_, turned) in enumerate(pairs)]


def _common(found: Rescored, policy: int) -> dict[str, Any]:
    about = {"goal": dict(found.after.card), "goal_before": dict(found.before.card), "notes": list(found.notes)}
    about |= {"cost": dict(found.cost)} if found.cost is not None else {}
    level = str(found.after.card["level"])
    return {"subject": found.outputs[policy].subject, "level": level, "cluster_unit": "prompt", "provenance": about}


def _number(x: Any) -> float | None:
    return round(float(x), 6) if np.isfinite(x) else None
