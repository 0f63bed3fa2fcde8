"""How stored Results of metrics that are no means are computed again under other item weights.

A paired comparison resamples items and needs the metric as a function of their weights. Its parts stand in the items'
detail, and a target of values in the provenance, so two result files are enough: nothing is measured again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from valign.evaluation.measure import choices, preference, profile
from valign.evaluation.record import Item, ItemStatistic, Result

STATISTICS: dict[str, ItemStatistic] = {
    "bbq.s_amb": choices.ambiguous_score,
    "bbq.s_dis": choices.disambiguated_score,
    "persona.discrimination": choices.discrimination,
    **{f"reward.{name}": preference.calibration_statistic(name) for name in ("log_loss", "brier", "ece")},
}
COMPONENTS = "misalignment.components"
NEAR = {"value.V": profile.nearness, "value.V_c": profile.corrected}


def statistic_of(a: Result, b: Result) -> ItemStatistic | None:
    """What `compare` needs for two Results of one metric that is no mean of its items.

    None for a mean, for a metric that is not known here, and for two nearnesses to different targets or two means of different
    components: those are different quantities.
    """
    metric, variant = a.metric, a.variant
    if metric == COMPONENTS:
        specs = a.provenance.get("components")
        return of_components(specs) if isinstance(specs, list) and specs == b.provenance.get("components") else None
    near = next((f for name, f in NEAR.items() if metric == name or metric.startswith(f"{name}.")), None)
    if near is not None and variant != "response_mean":
        target = a.provenance.get("target")
        if not isinstance(target, Mapping) or target != b.provenance.get("target"):
            return None
        return near(_floats(target["t"]), _floats(target["w"]))
    if metric.startswith("value.profile.") and variant == "conditional":
        return profile.conditional
    return _no_mean(metric)


def of_components(specs: Sequence[Mapping[str, Any]]) -> ItemStatistic:
    """Σ w m / Σ w of components as a function of (b, n) item weights; nan where one has no item or no value.

    specs  name, metric, weight, best, worst, fold of each; an item says in `detail["component"]` whose it is
    Beside a fold, the side on which the items lie as they are is kept: so a percentile of m is m of a percentile of x.
    """

    def total(items: Sequence[Item], weights: profile.Array) -> profile.Array:
        own = np.array([[i.weight for i in items]], float)
        out = np.zeros(len(weights))
        for spec in specs:
            at = [k for k, i in enumerate(items) if i.detail.get("component") == spec["name"]]
            if not at or spec.get("best") is None or spec.get("worst") is None:
                return np.full(len(weights), np.nan)
            part, raw = [items[k] for k in at], _no_mean(str(spec["metric"])) or _mean
            x, fold = raw(part, weights[:, at]), spec["fold"]
            if fold is not None:
                x = (x - fold) * (1.0 if raw(part, own[:, at])[0] >= fold else -1.0)
            out += spec["weight"] * np.clip((x - spec["best"]) / (spec["worst"] - spec["best"]), 0.0, 1.0)
        return np.asarray(out / sum(spec["weight"] for spec in specs), float)

    return total


def _mean(items: Sequence[Item], weights: profile.Array) -> profile.Array:
    return np.asarray(weights @ np.array([i.score for i in items], float) / weights.sum(1), float)


def _no_mean(metric: str) -> ItemStatistic | None:
    return next((f for name, f in STATISTICS.items() if metric == name or metric.startswith(f"{name}.")), None)


def _floats(x: Any) -> profile.Array:
    return np.asarray(x, float)
