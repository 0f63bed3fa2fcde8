"""Do sampler and trainer hold the same law? Measured on the samples themselves, by teacher forcing.

A sampler on other numerics, other weights or another prompt gives log-probs that differ from the trainer's. The gradient
of such samples is corrected by truncated importance ratios (`weights`), and a run whose laws are too far apart is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.theory.divergence import k3
from valign.theory.policy_gradient import truncated_importance

AUDITED = 64  # samples that an audit teacher-forces; engine notes, section 13
BAND = 0.1  # ratios in [1 - BAND, 1 + BAND] count as equal
CAP = 2.0  # truncated importance ratio; engine notes, section 13
Rows = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class Agreement:
    """How far two laws are apart on the sampler's tokens.

    mean, largest  |log p_trainer - log p_sampler| of a token, nats
    outside        share of tokens whose ratio p_trainer / p_sampler leaves 1 +- BAND
    kl             k3 estimate of KL(sampler || trainer), nats per token: mean of ratio - 1 - log ratio
    """

    samples: int
    tokens: int
    mean: float
    largest: float
    outside: float
    kl: float

    @property
    def text(self) -> str:
        """One line for the reader."""
        return (
            f"mean token difference {self.mean:.2g} nats, largest {self.largest:.2g}; {self.outside:.1%} of {self.tokens} "
            f"tokens outside ±{BAND:.0%}; KL(sampler‖trainer) {self.kl:.2g} nats per token ({self.samples} samples)"
        )

    def meters(self) -> dict[str, float]:
        """The same numbers by name, for a run's log."""
        return {"sampler_gap": self.mean, "sampler_largest": self.largest, "sampler_outside": self.outside,
                "sampler_kl": self.kl}  # fmt: skip


def agreement(sampler: Rows, trainer: Rows) -> Agreement:
    """Compare the log-probs (tokens,) of each sample under the law that drew it and under the trainer, in float64.

    Without a token all numbers are 0. Raises `ValueError` where lengths differ.
    """
    if [len(a) for a in sampler] != [len(b) for b in trainer]:
        raise ValueError("sampler and trainer hold other numbers of tokens")
    own = np.concatenate([np.zeros(0), *(np.asarray(a, np.float64) for a in sampler)])
    other = np.concatenate([np.zeros(0), *(np.asarray(b, np.float64) for b in trainer)])
    if not len(own):
        return Agreement(len(sampler), 0, 0.0, 0.0, 0.0, 0.0)
    gap = np.abs(other - own)
    return Agreement(
        samples=len(sampler), tokens=len(own), mean=float(gap.mean()), largest=float(gap.max()),
        outside=float((np.abs(np.expm1(other - own)) > BAND).mean()), kl=float(k3(own, other).mean()),
    )  # fmt: skip


def weights(sampler: Rows, trainer: Rows, cap: float = CAP) -> tuple[list[NDArray[np.float64]], float]:
    """(min(p_trainer / p_sampler, cap) of each token, share of tokens that the cap cuts)."""
    rows = [truncated_importance(b, a, cap) for a, b in zip(sampler, trainer)]
    cut = [np.asarray(b, np.float64) - np.asarray(a, np.float64) > np.log(cap) for a, b in zip(sampler, trainer)]
    every = np.concatenate([np.zeros(0, bool), *cut])
    return rows, float(every.mean()) if len(every) else 0.0
