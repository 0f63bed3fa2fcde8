"""Reward: one number per response, whatever computes it; and how rewards are made from goals and functions.

Always true here: a reward is float64, NaN means unscored (never 0), an infinite number is an error, and a
reward's fingerprint names everything that decides its numbers. What learns rewards lives in `methods/`.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from valign.data.group import Group
from valign.errors import DataError, UsageError, ValignError
from valign.goals.base import Array, Goal, Level, ResponseScorer, per_response, sha256
from valign.goals.benchmark import BenchmarkGoal

log = logging.getLogger(__name__)
Reward = ResponseScorer  # one protocol for both floors: id, score(groups), fingerprint()
PREFIX = "python:"


@dataclass(frozen=True)
class FunctionReward:
    """A reward from a function of groups.

    function   groups -> one array (n_responses,) per group
    identity   what the fingerprint is made of, beside the id
    goal       whose utility it is, None for any other function
    level      of the goal whose utility it is; a reward of its own says what is preferred
    """

    id: str
    function: Callable[[Sequence[Group]], Sequence[Any]]
    identity: str = ""
    goal: Goal | None = field(default=None, repr=False, compare=False)
    level: Level = "preference"

    def score(self, groups: Sequence[Group]) -> list[Array]:
        """(n_responses,) float64 per group; NaN = unscored. Raises `DataError` for wrong shapes and
        infinities.
        """
        return per_response(self.function(groups), groups, self.id)

    def fingerprint(self) -> str:
        """sha256 over id and identity."""
        return sha256([self.id, self.identity])


def from_goal(goal: Goal, by: Literal["utility", "labels"] = "utility") -> FunctionReward:
    """The utility of a goal as a reward, or ("labels") what the feedback in the data says. Raises `ValignError` for a goal of
    benchmarks, which scores no response.
    """
    if isinstance(goal, BenchmarkGoal):
        raise goal.refusal()
    if by not in ("utility", "labels"):
        raise UsageError(f"by = {by!r}: a goal gives utility or labels", where=f"goal {goal.id}")
    asked = goal if by == "utility" else None
    return FunctionReward(goal.id, getattr(goal, by), f"{by} {goal.fingerprint()}", asked, goal.level)


def from_callable(
    function: Callable[[str, str], float | None] | str, id: str = "", *, version: str = ""
) -> FunctionReward:
    """A reward from the user's own function of (prompt text, response text) -> number, None = unscored.

    function   the function, or its name as "python:package.module.function"; only a name that begins so is
               imported
    version    a word the user changes when the function changes; its source text counts as well where it can
               be read
    """
    call, name = _import(function) if isinstance(function, str) else (function, _name(function))
    if not callable(call):
        raise UsageError(f"{name} is not a function", where="reward")

    def score(groups: Sequence[Group]) -> list[Array]:
        return [_call(call, name, group) for group in groups]

    return FunctionReward(id or name, score, f"{name} {version} {_source(call)}")


def constant(value: float = 0.0) -> FunctionReward:
    """The same number for every response: nothing to learn from it, a baseline in tests and tables."""
    name = f"constant {value:g}"
    return FunctionReward(name, lambda groups: [np.full(len(g.responses), float(value)) for g in groups])


def length(target: int | None = None) -> FunctionReward:
    """Words in the response; with a target -|words - target| / target. The baseline of every reward table."""
    if target is not None and target < 1:
        raise UsageError(f"target = {target}: a number of words above 0", where="length")

    def score(groups: Sequence[Group]) -> list[Array]:
        words = [np.array([len(r.text.split()) for r in g.responses], dtype=np.float64) for g in groups]
        return words if target is None else [-np.abs(w - target) / target for w in words]

    return FunctionReward("length" if target is None else f"length {target}", score)


@dataclass(frozen=True)
class StandardizedReward:
    """(r - mean) / sd, the two numbers taken once from samples of the reference."""

    reward: Reward
    mean: float
    sd: float

    @property
    def id(self) -> str:
        return self.reward.id

    def score(self, groups: Sequence[Group]) -> list[Array]:
        """See `FunctionReward.score`."""
        return [(row - self.mean) / self.sd for row in self.reward.score(groups)]

    def fingerprint(self) -> str:
        return sha256([self.reward.fingerprint(), self.mean, self.sd])


def standardized(reward: Reward, groups: Sequence[Group]) -> StandardizedReward:
    """The reward with mean 0 and sd 1 on these groups. Raises `DataError` when it does not vary there."""
    scores = np.concatenate([np.zeros(0), *reward.score(groups)])
    known = scores[~np.isnan(scores)]
    if known.size < 2 or known.std() < 1e-12:
        reason = "scores fewer than two responses" if known.size < 2 else f"is constant ({known[0]:g})"
        raise DataError(f"{reason} on these {scores.size} responses, so it has no scale", where=f"reward {reward.id}")
    return StandardizedReward(reward, float(known.mean()), float(known.std()))


# -------------------------------------------------------------------------------------- functions of the user


def _import(name: str) -> tuple[Any, str]:
    """(function, its name) of "python:package.module.function". Imports the user's module, and only when
    named so.
    """
    if not name.startswith(PREFIX):
        raise UsageError(
            f"{name!r} does not name a reward",
            where="reward",
            how=f"own code is named {PREFIX}package.module.function",
        )
    path = name.removeprefix(PREFIX).replace(":", ".")
    module, _, attribute = path.rpartition(".")
    if not module:
        raise UsageError(f"{name!r} names no module", where="reward", how=f"write {PREFIX}module.function")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise UsageError(f"cannot import {module}: {error}", where=name, how="is its folder on PYTHONPATH?") from error
    except AttributeError as error:
        raise UsageError(f"module {module} has no {attribute}", where=name) from error
    return found, path


def _call(function: Callable[[str, str], float | None], name: str, group: Group) -> Array:
    out = []
    for i, response in enumerate(group.responses):
        where = f"reward {name}, group {group.id}, response {i}"
        try:
            value = function(group.prompt_text, response.text)
            out.append(float("nan") if value is None else float(value))
        except ValignError:
            raise
        except Exception as error:  # the user's own code: say for which response it failed
            raise DataError(f"the function raised {type(error).__name__}: {error}", where=where) from error
    return np.array(out, dtype=np.float64)


def _name(function: Any) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '')}.{name}"


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # built in, or typed at a prompt
        return ""
