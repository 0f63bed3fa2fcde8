"""The policies that a goal or a reward asks, as part of a measurement: logged, paid for, and asked why they gave no verdict.

Always true here: one log beside the measurement's own holds what all judges answered, a judge is the user's own again when
the measurement ends, and a model that judges in several places is loaded, logged and counted once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from valign.evaluation.cached import CachedPolicy
from valign.goals.composite import CompositeGoal
from valign.goals.instruction import InstructionGoal
from valign.goals.preference import PreferenceGoal
from valign.goals.principle import PrincipleGoal
from valign.goals.value import ValueGoal
from valign.methods.decoding.best_of_n import BestOfN
from valign.methods.wrapped import Wrapped
from valign.models.endpoint import Budget, EndpointPolicy, is_endpoint
from valign.models.policy import Cost, Policy
from valign.rewards.base import FunctionReward, StandardizedReward
from valign.rewards.judge import JudgeReward, JudgeValues, PolicyJudge
from valign.rewards.principle_scorers import RewardVerdicts, ViolationOfSet
from valign.rewards.scorers import LazyPolicy

LOG = "judge.jsonl"  # in the output folder: what judges were asked, and what they said


def judges_of(*asked: Any) -> list[PolicyJudge]:
    """Every judge in goals, scorers and rewards, and in what policies choose their answers by; each once."""
    found: dict[int, PolicyJudge] = {}
    for one in asked:
        inner = [one] if isinstance(one, PolicyJudge) else judges_of(*_parts(one))
        found |= {id(judge): judge for judge in inner}
    return list(found.values())


def judge_policies(*asked: Any) -> list[Policy]:
    """The policies behind `judges_of`, each once."""
    return list({id(j.policy): j.policy for j in judges_of(*asked)}.values())


def reasons(*asked: Any) -> dict[str, str]:
    """GROUP#RESPONSE -> why a judge gave no verdict, of the responses that were judged last."""
    return {item: why for judge in judges_of(*asked) for item, why in judge.unscored.items()}


@contextmanager
def judges_logged(asked: Sequence[Any], log: Path | None, budget: Budget | None = None) -> Iterator[list[Policy]]:
    """While the block runs, every judge in `asked` answers through `log`, and an endpoint pays from `budget`.

    Gives the policies that judge; what an earlier run was answered is read, not asked for again. log None: none is kept.
    """
    before = [(judge, judge.policy) for judge in judges_of(*asked)]
    policies: dict[int, Any] = {}
    for judge, policy in before:
        if id(policy) not in policies:
            paying = _paying(policy, budget)
            policies[id(policy)] = paying if log is None else CachedPolicy(paying, log)
        judge.policy = policies[id(policy)]
    try:
        yield list(policies.values())
    finally:
        for judge, policy in before:
            judge.policy = policy


def _paying(policy: Policy, budget: Budget | None) -> Policy:
    """An endpoint with its account; any other policy as it is. The log must hold the endpoint itself: at the ceiling it
    keeps what that one was answered."""
    if isinstance(policy, LazyPolicy) and is_endpoint(policy.name):
        policy = policy.loaded
    return replace(policy, cost=Cost(), budget=budget) if isinstance(policy, EndpointPolicy) else policy


def _parts(asked: Any) -> list[Any]:
    """What a goal, a scorer, a reward or a policy asks in its turn."""
    match asked:
        case CompositeGoal():
            return [asked.reader, *(p.goal for p in asked.parts), *(c.goal for c in asked.constraints)]
        case PrincipleGoal():
            return [asked.reader, asked.scorer]
        case ValueGoal():
            return [asked.evaluator]
        case PreferenceGoal() | StandardizedReward():
            return [asked.reward]
        case InstructionGoal() | JudgeReward() | JudgeValues():
            return [asked.judge]
        case FunctionReward():
            return [asked.goal]
        case RewardVerdicts():
            return [s.reward for s in asked.rewards.values()]
        case ViolationOfSet():
            return [asked.cost]
        case BestOfN():
            return [asked.base, getattr(asked.reward, "__self__", None)]  # it holds a goal's utility or a reward's score
        case Wrapped():
            return [asked.base]
        case CachedPolicy():
            return [asked.policy]
    return []
