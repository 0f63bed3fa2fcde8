"""Runs: a policy over data gives Results with items, intervals and provenance. One subject per file.

Always true here: every number comes from `metrics` and `aggregate`, an item that cannot be scored keeps its
reason, and any run can be stopped and continued by giving it a `CachedPolicy`.
"""

from valign.evaluation.measure.capability import measure_instructions, measure_tax, measure_tax_per_gain
from valign.evaluation.measure.choices import (
    bbq_results,
    measure_bbq,
    measure_choices,
    measure_persona,
    measure_safetext,
)
from valign.evaluation.measure.components import check_components, component_results
from valign.evaluation.measure.divergence import measure_kl
from valign.evaluation.measure.order import measure_order, order_results
from valign.evaluation.measure.preference import measure_preference, measure_reward
from valign.evaluation.measure.profile import measure_profile, nearness_to, profile_results
from valign.evaluation.measure.risk import risk_metric, risk_results

__all__ = [
    "bbq_results",
    "check_components",
    "component_results",
    "measure_bbq",
    "measure_choices",
    "measure_instructions",
    "measure_kl",
    "measure_order",
    "measure_persona",
    "measure_preference",
    "measure_profile",
    "measure_reward",
    "measure_safetext",
    "measure_tax",
    "measure_tax_per_gain",
    "nearness_to",
    "order_results",
    "profile_results",
    "risk_metric",
    "risk_results",
]
