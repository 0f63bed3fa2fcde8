"""Target: what a policy should become. Goal + reference policy + strength."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Group
from valign.errors import ValignError, require
from valign.goals.base import Goal
from valign.goals.benchmark import BenchmarkGoal
from valign.models.policy import Policy

Reward = Callable[[Sequence[Group]], Sequence[NDArray[np.float64]]]


@dataclass(frozen=True)
class Target:
    """pi*(y|x) proportional to pi_ref(y|x) exp(r(x, y; goal) / beta).

    goal       gives the utility r, in words (`describe`) and as numbers (`utility`); one of benchmarks gives none: `ValignError`
    reference  the policy that alignment starts from
    beta       KL strength; None: the method's own default
    reward     takes the place of the goal's utility where a method asks for numbers (a classifier, a Python function)
    """

    goal: Goal | None = None
    reference: Policy | None = None
    beta: float | None = None
    reward: Any = None

    def __post_init__(self) -> None:
        require(self.beta is None or self.beta > 0, "beta", self.beta, "a positive number")
        if isinstance(self.goal, BenchmarkGoal):
            raise self.goal.refusal()

    def utility(self) -> Reward:
        """r as a function of groups. Raises `ValignError` when neither reward nor goal can give it."""
        if self.reward is not None:
            return self.reward.score if hasattr(self.reward, "score") else self.reward  # type: ignore[no-any-return]
        if self.goal is None:
            raise ValignError(
                "this method needs a reward", where="goal",
                how=["name a goal that can score responses (--goal)", "or a reward (--reward)"],
            )  # fmt: skip
        return self.goal.utility
