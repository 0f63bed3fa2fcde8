"""Preference accuracy on held-out comparisons, by log-probability, by implicit reward, by a reward model
(3.2, 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Comparison, Group
from valign.errors import require
from valign.evaluation.aggregate import summarize
from valign.evaluation.measure.common import cluster_of, data_of, require_ids
from valign.evaluation.metrics import preference, reward_model
from valign.evaluation.provenance import provenance
from valign.evaluation.result import Anchors, Item, ItemStatistic, Result
from valign.evaluation.statistics import Array
from valign.models.policy import Policy, Progress, score_each

COIN = Anchors(best=1.0, worst=0.0, chance=0.5)
LENGTH = "baseline: longer response"


class Pair(NamedTuple):
    """One comparison: its item id, its group's position, and the positions of the two responses."""

    id: str
    group: int
    chosen: int
    rejected: int


class Scorer(Protocol):
    """A reward as this measurement needs it (`rewards.Reward` is one)."""

    @property
    def id(self) -> str: ...
    def score(self, groups: Sequence[Group]) -> list[NDArray[np.float64]]: ...
    def fingerprint(self) -> str: ...


def pairs_of(groups: Sequence[Group]) -> list[Pair]:
    """Comparisons that state an order; ties and even soft labels state none. A soft label below one half is
    turned.
    """
    out = []
    for g, group in enumerate(groups):
        found = [c for c in group.of(Comparison) if not c.tie and c.probability != 0.5]
        for k, c in enumerate(found):
            sides = (c.chosen, c.rejected) if c.probability > 0.5 else (c.rejected, c.chosen)
            out.append(Pair(group.id if len(found) == 1 else f"{group.id}#{k}", g, *sides))
    return out


def measure_preference(
    policy: Policy,
    reference: Policy | None,
    groups: Sequence[Group],
    *,
    beta: float = 0.1,
    data: Any = None,
    progress: Progress | None = None,
) -> list[Result]:
    """preference.accuracy (sum, mean), preference.implicit_reward (sum, mean;
    with a reference) and the length baseline.

    Ties of the model count one half; an empty response is scored by its end token. Cluster = prompt. With a
    reference the implicit reward comes first: it is what preference training moves.
    """
    require(beta > 0, "beta", beta, "a positive number")
    require_ids(groups)
    pairs = pairs_of(groups)
    used = sorted({p.group for p in pairs})
    chosen_groups = [groups[i] for i in used]
    own = dict(zip(used, score_each(policy, chosen_groups, progress), strict=True))
    base = dict(zip(used, score_each(reference, chosen_groups), strict=True)) if reference is not None else {}
    about = provenance(policy, data=data or data_of(groups))
    margins: dict[tuple[str, str], list[float | None]] = {}
    if reference is not None:
        for variant in ("sum", "mean"):
            rows = [_implicit(p, own[p.group], base[p.group], beta, variant) for p in pairs]
            margins["preference.implicit_reward", variant] = rows
    for variant in ("sum", "mean"):
        margins["preference.accuracy", variant] = [_margin(p, own[p.group], variant) for p in pairs]
    with_reference = provenance(policy, reference=reference, data=data or data_of(groups), beta=beta)
    out = [
        accuracy_result(
            groups,
            pairs,
            values,
            metric,
            variant,
            policy.id,
            with_reference if metric.endswith("reward") else about,
        )
        for (metric, variant), values in margins.items()
    ]
    return [*out, length_baseline(groups, pairs)]


def length_baseline(groups: Sequence[Group], pairs: Sequence[Pair]) -> Result:
    """How often the longer response (in characters) is the chosen one."""
    size = [[len(r.text.strip()) for r in g.responses] for g in groups]
    margins: list[float | None] = [float(size[p.group][p.chosen] - size[p.group][p.rejected]) for p in pairs]
    about = provenance(data=data_of(groups))
    return accuracy_result(groups, pairs, margins, "preference.accuracy", "length", LENGTH, about)


def accuracy_result(
    groups: Sequence[Group],
    pairs: Sequence[Pair],
    margins: Sequence[float | None],
    metric: str,
    variant: str,
    subject: str,
    about: Mapping[str, Any],
) -> Result:
    """Share of positive margins, ties one half; None margins are `over_length`."""
    items = [
        Item(p.id, cluster_of(groups[p.group]), None, "over_length")
        if m is None
        else Item(p.id, cluster_of(groups[p.group]), float(preference.credit(m)), detail={"margin": m})
        for p, m in zip(pairs, margins, strict=True)
    ]
    return summarize(
        items, metric=metric, variant=variant, subject=subject, level="preference", anchors=COIN,
        cluster_unit="prompt", provenance=about,
    )  # fmt: skip


def measure_reward(
    reward: Scorer, groups: Sequence[Group], *, data: Any = None, why: Callable[[], Mapping[str, str]] = dict
) -> list[Result]:
    """A reward model as judge of held-out pairs: accuracy (`score`), Bradley-Terry log loss, Brier,
    calibration error.

    A reward that is nan on either side leaves the pair unscored; `why`, asked after the scoring, tells the reason by
    group#response (else `judge_error`). The length baseline comes last. [E06]
    """
    require_ids(groups)
    pairs, scores = pairs_of(groups), reward.score(groups)
    about = provenance(
        data=data or data_of(groups), reward={"id": reward.id, "fingerprint": reward.fingerprint()}
    )
    items, reasons = [], why()
    for p in pairs:
        margin = float(scores[p.group][p.chosen] - scores[p.group][p.rejected])
        cluster = cluster_of(groups[p.group])
        if np.isnan(margin):
            sides = (reasons.get(f"{groups[p.group].id}#{k}") for k in (p.chosen, p.rejected))
            items.append(Item(p.id, cluster, None, next(filter(None, sides), "judge_error")))
        else:
            items.append(Item(p.id, cluster, float(preference.credit(margin)), detail={"margin": margin}))
    common: dict[str, Any] = {
        "subject": reward.id, "level": "preference", "cluster_unit": "prompt", "provenance": about,
    }  # fmt: skip
    accuracy = summarize(items, metric="reward.accuracy", variant="score", anchors=COIN, **common)
    rest = [
        summarize(
            items,
            metric=f"reward.{name}",
            variant="pairs",
            unit=unit,
            direction="down",
            anchors=Anchors(best=0.0),
            statistic=calibration_statistic(name),
            **common,
        )
        for name, unit in (("log_loss", "nats"), ("brier", "score"), ("ece", "share"))
    ]
    return [accuracy, *rest, length_baseline(groups, pairs)]


def calibration_statistic(name: str) -> ItemStatistic:
    """log_loss, brier or ece of the items' margins."""

    def statistic(items: Sequence[Item], weights: Array) -> Array:
        margins = np.array([i.detail["margin"] for i in items], float)
        # whole numbers of copies: resampled clusters are the same margins, some several times
        rows = (np.repeat(margins, w.astype(int)) for w in weights)
        return np.array([getattr(reward_model.calibration(r), name) if len(r) else np.nan for r in rows])

    return statistic


def _margin(pair: Pair, scored: Any, variant: str) -> float | None:
    if scored is None:
        return None
    chosen, rejected = scored[pair.chosen], scored[pair.rejected]
    counts = (chosen.n_tokens, rejected.n_tokens) if variant == "mean" else (1, 1)
    return float(preference.log_prob_margin(chosen.log_prob, rejected.log_prob, *counts))


def _implicit(pair: Pair, scored: Any, reference: Any, beta: float, variant: str) -> float | None:
    if scored is None or reference is None:
        return None
    chosen, rejected = scored[pair.chosen], scored[pair.rejected]
    counts = (chosen.n_tokens, rejected.n_tokens) if variant == "mean" else (1, 1)
    return float(
        preference.implicit_reward_margin(
            chosen.log_prob,
            rejected.log_prob,
            reference[pair.chosen].log_prob,
            reference[pair.rejected].log_prob,
            beta,
            *counts,
        )
    )
