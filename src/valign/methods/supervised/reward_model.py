"""Reward models: one number per response, fitted to what people preferred (1706.03741, 2009.01325, 2203.02155).

All losses read the rewards r of the responses alone, and only their differences within a prompt: a constant added to
all rewards of a prompt changes no loss (but a centring term, which is there to fix it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from valign.engine.config import FeedbackConfig
from valign.engine.objective import Terms
from valign.errors import require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RankedRewardConfig(FeedbackConfig):
    """A reward model from rankings. One epoch: after it a reward model soon knows its labels by heart (2203.02155)."""

    rates: ClassVar[tuple[float, float]] = (1e-5, 1e-4)


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig(RankedRewardConfig):
    """A reward model from pairs."""

    label_noise: float = 0.0  # share of labels believed flipped; they are smoothed by it
    center: float = 0.0  # weight of (r_chosen + r_rejected)^2, which draws rewards to 0; 0.01 is usual (2312.09244)
    margin: float = 0.0  # asked of r_chosen - r_rejected, times the label's strength where it is graded (2307.09288)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.label_noise < 0.5, "label_noise", self.label_noise, "a share in [0, 0.5)")
        require(self.center >= 0, "center", self.center, "0 or more")
        require(self.margin >= 0, "margin", self.margin, "0 or more")


def reward_model(
    reward: Tensor, pairs: Tensor, label: Tensor, strength: Tensor, *, label_noise: float, center: float, margin: float
) -> Terms:
    """-log sigmoid(r_chosen - r_rejected - m): Bradley-Terry (1706.03741; the margin m as in 2307.09288, Eq. 2).

    reward     (responses,) one number per response
    pairs      (n, 2) row of the chosen and row of the rejected response
    label      (n,) P(chosen is preferred): p times the loss of the pair plus 1 - p times that of the turned pair
    strength   (n,) how clear the preference is, 0 where it is not graded: m = margin * strength
    label_noise, center   smoothing of the labels; weight of (r_chosen + r_rejected)^2
    Returns one loss per pair. With equal rewards and no margin it is ln 2.
    """
    from torch.nn.functional import logsigmoid

    chosen, rejected = reward[pairs].unbind(1)
    gap, asked = chosen - rejected, margin * strength
    p = label * (1 - label_noise) + (1 - label) * label_noise
    losses = -p * logsigmoid(gap - asked) - (1 - p) * logsigmoid(-gap - asked)
    return Terms(losses + center * (chosen + rejected) ** 2, unit="pair", **_shown(gap, chosen, rejected))


def reward_ranked_pairs(reward: Tensor, pairs: Tensor, label: Tensor, pair_weight: Tensor, group: Tensor) -> Terms:
    """The mean of -log sigmoid(r_i - r_j) over the pairs of a prompt, i ranked above j: (2203.02155, Eq. 1).

    Arguments as in `reward_model`; pair_weight (n,) of each pair, group (responses,) which prompt a response belongs to
    Returns one loss per prompt, so that a prompt with many responses counts no more than one with two.
    """
    import torch
    from torch.nn.functional import logsigmoid

    chosen, rejected = reward[pairs].unbind(1)
    gap = chosen - rejected
    losses = -label * logsigmoid(gap) - (1 - label) * logsigmoid(-gap)
    _, owner = torch.unique(group[pairs[:, 0]], return_inverse=True)
    weight = torch.zeros(int(owner.max()) + 1, dtype=reward.dtype, device=reward.device).index_add(0, owner, pair_weight)
    mean = torch.zeros_like(weight).index_add(0, owner, pair_weight * losses) / weight.clamp_min(1e-12)
    return Terms(mean, unit="group", **_shown(gap, chosen, rejected))


def reward_plackett_luce(reward: Tensor, ranked: Tensor, left: Tensor) -> Terms:
    """-log prod_k e^{r_k} / sum_{i >= k} e^{r_i}: Plackett-Luce over lists, best first (its K = 2 is Bradley-Terry).

    reward   (responses,) one number per response
    ranked   (m,) rows of the responses of all lists, one list after the other, best first
    left     (m,) how many of its list stand there from this one on: K, K - 1, ..., 1
    Returns one loss per list. With K equal rewards it is log K!.
    """
    import torch

    place = left.long() - 1  # 0 for the worst
    owner = torch.cat([place.new_zeros(1), (place[:-1] == 0).long()]).cumsum(0)
    n = int(owner[-1]) + 1
    r = reward[ranked]
    lists = r.new_full((n, int(place.max()) + 1), -1e30).index_put((owner, place), r)  # e^-1e30 is 0
    below = torch.logcumsumexp(lists, 1)[owner, place]
    losses = torch.zeros(n, dtype=r.dtype, device=r.device).index_add(0, owner, below - r)
    best = (place[:-1] > 0).nonzero().squeeze(1)
    return Terms(losses, unit="group", **_shown(r[best] - r[best + 1], r[best], r[best + 1]))


def _shown(gap: Tensor, chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    """What is always shown: the margin, how often it has the right sign (ties one half), and both sides."""
    correct = (gap > 0).to(gap.dtype) + 0.5 * (gap == 0).to(gap.dtype)
    return {"margin": gap, "correct": correct, "chosen": chosen, "rejected": rejected}
