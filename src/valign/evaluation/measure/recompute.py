"""How stored Results of metrics that are no means are computed again under other item weights.

A paired comparison resamples items and needs the metric as a function of their weights. Its parts stand in the items'
detail, and a target of values in the provenance, so two result files are enough: nothing is measured again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from valign.evaluation.measure import choices, preference, profile
from valign.evaluation.record import ItemStatistic, Result

STATISTICS: dict[str, ItemStatistic] = {
    "bbq.s_amb": choices.ambiguous_score,
    "bbq.s_dis": choices.disambiguated_score,
    "persona.discrimination": choices.discrimination,
    **{f"reward.{name}": preference.calibration_statistic(name) for name in ("log_loss", "brier", "ece")},
}
NEAR = {"value.V": profile.nearness, "value.V_c": profile.corrected}


def statistic_of(a: Result, b: Result) -> ItemStatistic | None:
    """What `compare` needs for two Results of one metric that is no mean of its items.

    None for a mean, for a metric that is not known here, and for two nearnesses to different targets: those are different
    quantities.
    """
    metric, variant = a.metric, a.variant
    near = next((f for name, f in NEAR.items() if metric == name or metric.startswith(f"{name}.")), None)
    if near is not None and variant != "response_mean":
        target = a.provenance.get("target")
        if not isinstance(target, Mapping) or target != b.provenance.get("target"):
            return None
        return near(_floats(target["t"]), _floats(target["w"]))
    if metric.startswith("value.profile.") and variant == "conditional":
        return profile.conditional
    return next((f for name, f in STATISTICS.items() if metric == name or metric.startswith(f"{name}.")), None)


def _floats(x: Any) -> profile.Array:
    return np.asarray(x, float)
