"""Direct Preference Optimization and its label-noise forms (2305.18290).

All are functions of the margin  D = beta * (log-ratio of the chosen - log-ratio of the rejected), the difference of
implicit rewards; at policy = reference D is 0.
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
class DPOConfig(FeedbackConfig):
    """DPO. Defaults follow 2305.18290 section 6 unless a line says otherwise."""

    rates: ClassVar[tuple[float, float]] = (5e-7, 1e-5)

    beta: float = 0.1  # KL strength; 0.01 lets the policy go, 0.5 holds it close

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta > 0, "beta", self.beta, "a positive number")


@dataclass(frozen=True, kw_only=True)
class NoisyDPOConfig(DPOConfig):
    """The forms that know some labels are wrong."""

    label_noise: float = 0.1  # share of labels believed flipped

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 < self.label_noise < 0.5, "label_noise", self.label_noise, "a share in (0, 0.5); use dpo for no noise"
        )


def dpo(policy: Tensor, reference: Tensor, mask: Tensor, pairs: Tensor, label: Tensor, *, beta: float) -> Terms:
    """-log sigmoid(D) for a hard label (2305.18290, Eq. 7); the cross-entropy of a soft label with sigmoid(D) else.

    policy, reference   (responses, tokens) log-probs in nats
    mask                (responses, tokens) 1 on response tokens, the stop token included
    pairs               (n, 2) row of the chosen and row of the rejected response
    label               (n,) P(chosen is preferred), 1 for a hard label
    beta                KL strength, > 0
    Returns one loss per pair. At policy = reference it is ln 2. With labels sigmoid(r_w - r_l) the population minimizer
    is pi_ref exp(r / beta) / Z (theory notes, I2).
    """
    from torch.nn.functional import logsigmoid

    margin, shown = _margin(policy, reference, mask, pairs, beta)
    return Terms(-label * logsigmoid(margin) - (1 - label) * logsigmoid(-margin), unit="pair", **shown)


def cdpo(
    policy: Tensor, reference: Tensor, mask: Tensor, pairs: Tensor, label: Tensor, *, beta: float, label_noise: float
) -> Terms:
    """-(1-e) log sigmoid(D) - e log sigmoid(-D): labels smoothed by e = label_noise (conservative DPO, 2023 note).

    Arguments as in `dpo`. The optimum of one pair is finite: D = log((1-e)/e).
    """
    return dpo(policy, reference, mask, pairs, label * (1 - label_noise) + (1 - label) * label_noise, beta=beta)


def robust_dpo(
    policy: Tensor, reference: Tensor, mask: Tensor, pairs: Tensor, label: Tensor, *, beta: float, label_noise: float
) -> Terms:
    """[(1-e) L(D) - e L(-D)] / (1-2e), L = -log sigmoid: unbiased under a share e of flips (2403.00409, Eq. 12).

    Arguments as in `dpo`. May be negative for a single pair.
    """
    from torch.nn.functional import logsigmoid

    margin, shown = _margin(policy, reference, mask, pairs, beta)
    keep, flip = -logsigmoid(margin), -logsigmoid(-margin)
    up = ((1 - label_noise) * keep - label_noise * flip) / (1 - 2 * label_noise)
    down = ((1 - label_noise) * flip - label_noise * keep) / (1 - 2 * label_noise)
    return Terms(label * up + (1 - label) * down, unit="pair", **shown)


def _margin(
    policy: Tensor, reference: Tensor, mask: Tensor, pairs: Tensor, beta: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """D (n,) and what is always shown with it: both displacements, side by side."""
    log_ratio = ((policy - reference) * mask).sum(1)
    chosen, rejected = log_ratio[pairs].unbind(1)
    margin = beta * (chosen - rejected)
    correct = (margin > 0).to(margin.dtype) + 0.5 * (margin == 0).to(margin.dtype)
    return margin, {"margin": margin, "correct": correct, "chosen": chosen, "rejected": rejected}
