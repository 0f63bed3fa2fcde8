"""The method table: every method valign has, by name. Where does `cdpo` come from? Here."""

from __future__ import annotations

import math

from valign.errors import unknown
from valign.methods.context.urial import URIALConfig, urial
from valign.methods.context.value_instruction import ValueInstructionConfig, value_instruction
from valign.methods.decoding.best_of_n import BestOfNConfig, best_of_n
from valign.methods.method import Method
from valign.methods.reinforcement.policy_gradient import (
    GRPOConfig,
    RLOOConfig,
    grpo,
    grpo_advantage,
    rloo,
    rloo_advantage_of,
)
from valign.methods.supervised.dpo import DPOConfig, NoisyDPOConfig, cdpo, dpo, robust_dpo
from valign.methods.supervised.reward_model import (
    RankedRewardConfig,
    RewardModelConfig,
    reward_model,
    reward_plackett_luce,
    reward_ranked_pairs,
)
from valign.methods.supervised.sft import SFTConfig, sft

_ALL = (
    Method(name="sft", title="Supervised fine-tuning", family="supervised", row="S01", paper="2203.02155",
           feedback="demonstrations", promise="the policy fits the demonstrations (forward KL)",
           config=SFTConfig, objective=sft, unit="token"),
    Method(name="dpo", title="Direct Preference Optimization", family="supervised", row="S10", paper="2305.18290",
           feedback="pairs", promise="held-out pairs are ordered as people ordered them",
           config=DPOConfig, objective=dpo, unit="pair", at_start=math.log(2), uses_reference=True),
    Method(name="cdpo", title="DPO with smoothed labels", family="supervised", row="S10", paper="2305.18290",
           feedback="pairs", promise="as dpo, with a finite optimum when labels may be flipped",
           config=NoisyDPOConfig, objective=cdpo, unit="pair", at_start=math.log(2), uses_reference=True),
    Method(name="robust_dpo", title="DPO unbiased under flipped labels", family="supervised", row="S10",
           paper="2403.00409", feedback="pairs", promise="as dpo on clean labels, trained on noisy ones",
           config=NoisyDPOConfig, objective=robust_dpo, unit="pair", at_start=math.log(2), uses_reference=True),
    Method(name="reward_model", title="Bradley-Terry reward model", family="supervised", row="R01",
           paper="1706.03741, 2009.01325", feedback="pairs",
           promise="a reward model that scores new responses: held-out pairs are ordered as people ordered them",
           config=RewardModelConfig, objective=reward_model, unit="pair", readout="scalar_last"),
    Method(name="reward_ranked_pairs", title="Reward model from rankings, by their pairs", family="supervised", row="R02",
           paper="2203.02155", feedback="pairs", promise="as reward_model; a long ranking counts no more than one pair",
           config=RankedRewardConfig, objective=reward_ranked_pairs, unit="group", readout="scalar_last"),
    Method(name="reward_plackett_luce", title="Reward model from rankings, as wholes", family="supervised", row="R02",
           paper="2203.02155, 2305.18290", feedback="rankings",
           promise="as reward_model, by the Plackett-Luce likelihood of whole rankings",
           config=RankedRewardConfig, objective=reward_plackett_luce, unit="group", readout="scalar_last"),
    Method(name="grpo", title="Group-relative policy optimization", family="reinforcement", row="L08",
           paper="2402.03300", feedback="reward", promise="the reward of the policy's own samples rises",
           config=GRPOConfig, objective=grpo, unit="response", advantage=grpo_advantage, uses_reference=True, copies=2),
    Method(name="rloo", title="REINFORCE leave-one-out", family="reinforcement", row="L07", paper="2402.14740",
           feedback="reward", promise="reward minus beta times KL rises; its optimum is the target itself",
           config=RLOOConfig, objective=rloo, unit="response", advantage=rloo_advantage_of, copies=2),
    Method(name="value_instruction", title="Value instruction", family="context", row="C01", paper="2302.07459",
           feedback="goal text", promise="the goal in words, put before the question, moves the answers",
           config=ValueInstructionConfig, wrap=value_instruction),
    Method(name="urial", title="URIAL: one fixed prompt", family="context", row="C03", paper="2312.01552",
           feedback="nothing",
           promise="three examples and a system text, with the goal's words, make any base model answer like an assistant",
           config=URIALConfig, wrap=urial),
    Method(name="best_of_n", title="Best of n", family="decoding", row="T01", paper="2009.01325, 2112.09332",
           feedback="reward", promise="the best of n samples by the reward, at KL <= log n - (n-1)/n",
           config=BestOfNConfig, wrap=best_of_n),
)  # fmt: skip

METHODS: dict[str, Method] = {m.name: m for m in _ALL}


def method(name: str) -> Method:
    """A method by name; an unknown one is an error that lists the nearest."""
    if name not in METHODS:
        raise unknown("method", name, METHODS, where="--method")
    return METHODS[name]
