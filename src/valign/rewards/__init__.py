"""Rewards: what scores a response: goals, rules, classifiers, policies, and heads on a model's own hidden
states.
"""

from valign.rewards.base import (
    FunctionReward,
    Reward,
    StandardizedReward,
    constant,
    from_callable,
    from_goal,
    length,
    standardized,
)
from valign.rewards.classifiers import sentiment, toxicity
from valign.rewards.implicit_reward import ImplicitReward
from valign.rewards.registry import REWARDS, default_scorers, make
from valign.rewards.reward_model import RewardModel, load_reward
from valign.rewards.rules import Checked, check
from valign.rewards.value_evaluator import ValueEvaluator
from valign.rewards.verdict_scorer import VerdictScorer

__all__ = [
    "REWARDS",
    "Checked",
    "FunctionReward",
    "ImplicitReward",
    "Reward",
    "RewardModel",
    "StandardizedReward",
    "ValueEvaluator",
    "VerdictScorer",
    "check",
    "constant",
    "default_scorers",
    "from_callable",
    "from_goal",
    "length",
    "load_reward",
    "make",
    "sentiment",
    "standardized",
    "toxicity",
]
