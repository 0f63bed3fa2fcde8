"""Policy gradients on groups of rollouts: GRPO (2402.03300) and RLOO (2402.14740).

They differ in the advantage (numpy, once per rollout), in ratio and clip, in how losses are averaged, and in where the
KL term stands. The sampling law is the policy itself; one update per rollout, so the ratio starts at 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from valign.engine.config import TrainConfig
from valign.engine.objective import Terms
from valign.errors import require
from valign.models.endpoint.address import parse
from valign.theory.policy_gradient import group_advantage, rloo_advantage

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(TrainConfig):
    """What all methods that sample share."""

    rates: ClassVar[tuple[float, float]] = (1e-6, 1e-5)

    batch_size: int = 128  # prompts of one step
    group_size: int = 4  # samples of each prompt
    max_new_tokens: int = 64  # longest sample
    temperature: float = 1.0  # of the sampling law; the scorer uses the same
    beta: float = 0.03  # KL strength
    rollouts: str = "own"  # who samples: own (the policy), or a vLLM server of the same weights, vllm:NAME@URL
    max_lag: int = 0  # steps by which a server's weights may be older than the policy; it keeps those of step 0
    audit_every: int = 100  # steps between looks at sampler and trainer; 0: only before step 0
    max_sampler_kl: float = 0.01  # KL(sampler || trainer), nats per token, above which the run is refused

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.group_size >= 2, "group_size", self.group_size, "at least 2: advantages compare samples of one prompt"
        )
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        require(self.temperature > 0, "temperature", self.temperature, "positive: greedy samples are all equal")
        require(self.beta >= 0, "beta", self.beta, "0 or more")
        require(self.max_lag >= 0, "max_lag", self.max_lag, "0 or more")
        require(self.audit_every >= 0, "audit_every", self.audit_every, "0 (only before step 0) or more")
        require(self.max_sampler_kl > 0, "max_sampler_kl", self.max_sampler_kl, "positive")
        if self.rollouts == "own":
            require(self.max_lag == 0, "max_lag", self.max_lag, "0 where the policy samples: its weights are never old")
            return
        protocol = parse(self.rollouts).protocol
        require(protocol == "vllm", "rollouts", self.rollouts, "own or vllm:NAME@URL: training needs token ids")
        require(self.temperature == 1, "temperature", self.temperature, "1 for a server: its log-probs are of that law")


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(RolloutConfig):
    """GRPO as published: group-standardized advantages, token clip, sequence mean, k3 KL per token in the loss."""

    beta: float = 0.04  # weight of the KL term
    clip: float = 0.2  # ratios leave [1 - clip, 1 + clip] without gradient

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.clip < 1, "clip", self.clip, "in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class RLOOConfig(RolloutConfig):
    """REINFORCE with the other samples' mean as baseline; the KL stands in the reward."""


def grpo(
    policy: Tensor, old: Tensor, reference: Tensor, mask: Tensor, advantage: Tensor, *, beta: float, clip: float
) -> Terms:
    """mean_t max(-A rho, -A clip(rho)) + beta k3 over the tokens of each response (2402.03300, Eq. 3).

    policy, old, reference  (responses, tokens) log-probs in nats: now, when sampled, at step 0
    mask                    (responses, tokens) 1 on sampled tokens        advantage  (responses,)
    k3 = pi_ref/pi - 1 - log(pi_ref/pi) per token; its gradient is that of a forward KL on fixed prefixes
    Returns one loss per response; with a fresh rollout (rho = 1) its value is -A + beta * mean k3.
    """
    ratio = (policy - old).exp()
    gain = advantage[:, None]
    surrogate = -(gain * ratio).minimum(gain * ratio.clamp(1 - clip, 1 + clip))
    d = (reference - policy) * mask
    k3 = d.exp() - 1 - d
    losses = ((surrogate + beta * k3) * mask).sum(1) / mask.sum(1).clamp(min=1)
    clipped = ((ratio - 1).abs() > clip).to(policy.dtype)
    return Terms(losses, unit="response", k3=k3, clipped=clipped)


def rloo(policy: Tensor, mask: Tensor, advantage: Tensor) -> Terms:
    """-A sum_t log pi(y_t): the response is one action (2402.14740, Eq. 7). One loss per response.

    policy     (responses, tokens) log-probs in nats        mask  (responses, tokens)
    advantage  (responses,) R_i - mean of the others, R = r - beta * log pi/pi_ref
    """
    return Terms(-advantage * (policy * mask).sum(1), unit="response", log_prob=(policy * mask).sum(1))


def grpo_advantage(
    rewards: NDArray[np.float64], log_ratio: NDArray[np.float64], config: GRPOConfig
) -> NDArray[np.float64]:
    """(r - mean) / (unbiased std + 1e-4) of one prompt's samples; equal rewards give 0. The KL is in the loss."""
    return group_advantage(rewards, std="unbiased", eps=1e-4)


def rloo_advantage_of(
    rewards: NDArray[np.float64], log_ratio: NDArray[np.float64], config: RLOOConfig
) -> NDArray[np.float64]:
    """R_i - mean_{j != i} R_j with R = r - beta * log pi/pi_ref: unbiased for the KL-regularized objective (I19a)."""
    return rloo_advantage(rewards - config.beta * log_ratio)
