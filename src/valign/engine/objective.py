"""What an objective returns, and what the loop may ask of it.

An objective is a pure function of tensors: `objective(policy, [reference], mask, <feedback>, *, <settings>) -> Terms`.
It knows no model, no batch size and no device, and never averages: the loop divides the sum of all losses of an
optimizer step by one number, counted before the forward pass (`count_units`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Unit = Literal["token", "response", "pair", "group"]


class Terms:
    """Losses, one per unit, and metrics made from what the objective computed anyway.

    losses   (units,) in nats; for unit "token" (responses, tokens), 0 outside the mask
    unit     what one loss stands for; the loop's normalizer counts these
    metrics  name -> tensor with one number per unit or per response (token metrics: 0 outside the mask, with the
             mask under `token_weight`); the loop keeps sums and counts
    """

    __slots__ = ("losses", "metrics", "unit")

    def __init__(self, losses: Tensor, *, unit: Unit, **metrics: Tensor) -> None:
        self.losses = losses
        self.unit: Unit = unit
        self.metrics: Mapping[str, Tensor] = metrics


def count_units(unit: Unit, mask_sum: float, responses: int, pairs: int, groups: int) -> float:
    """How many units a set of groups holds, from masks and shapes alone."""
    return {"token": mask_sum, "response": float(responses), "pair": float(pairs), "group": float(groups)}[unit]
