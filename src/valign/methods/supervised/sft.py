"""SFT: maximum likelihood on demonstrations (2203.02155)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from valign.engine.config import FeedbackConfig
from valign.engine.objective import Terms

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SFTConfig(FeedbackConfig):
    """Supervised fine-tuning."""

    rates: ClassVar[tuple[float, float]] = (2e-5, 2e-4)

    train_on: Literal["last", "all"] = "last"  # which assistant turns of a conversation are trained


def sft(policy: Tensor, mask: Tensor) -> Terms:
    """-log pi(y_t | x, y_<t): one loss per response token, averaged over the tokens of the optimizer step (S01).

    policy  (responses, tokens) log-probs in nats
    mask    (responses, tokens) weight of each token, the stop token included
    """
    losses = -policy * mask
    return Terms(losses, unit="token", nll=-policy)
