"""Rewards by name, and the scorers that goals get when their user names none.

Always true here: a name makes one reward; an option that a reward does not have is an error; nothing is
imported or loaded before it is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from valign.errors import UsageError, unknown
from valign.goals.base import Goal
from valign.goals.loading import MAKE, REWARD_MODEL, load_goal
from valign.rewards import base, classifiers, rules
from valign.rewards.base import PREFIX, Reward
from valign.rewards.reward_model import LazyReward


def goal_reward(goal: Goal | str | Path | Mapping[str, Any], **options: Any) -> Reward:
    """The utility of a goal; a name, file or mapping gets the default scorers."""
    if isinstance(goal, str | Path | Mapping):
        goal = load_goal(goal, scorers=default_scorers())
    return base.from_goal(goal, **options)


REWARDS: dict[str, Callable[..., Reward]] = {
    "constant": base.constant,
    "goal": goal_reward,
    "length": base.length,
    "rules": rules.reward,
    "sentiment": classifiers.sentiment,
    "toxicity": classifiers.toxicity,
}


def make(name: str, **options: Any) -> Reward:
    """A reward by its name in `REWARDS`, the folder of a reward model, or the user's own "python:package.module.function".
    """
    if name.startswith(PREFIX):
        return base.from_callable(name, **options)
    factory: Callable[..., Reward]
    if name in REWARDS:
        factory = REWARDS[name]
    elif Path(name).expanduser().is_dir():
        factory = partial(LazyReward, name)
    else:
        raise unknown("reward", name, [*REWARDS, f"{PREFIX}module.function", "the folder of a reward model"])
    known = [p for p in inspect.signature(factory).parameters if p != "options"]
    takes_any = name == "goal"
    for option in options:
        if option not in known and not takes_any:
            raise (
                unknown("option", option, known, where=f"reward {name}")
                if known
                else UsageError(f"reward {name} has no options", where=option)
            )
    parameters = inspect.signature(factory).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if missing := [n for n in needed if n not in options]:
        raise UsageError(f"reward {name} needs {', '.join(missing)}", where=f"reward {name}", how="name it as an option")
    return factory(**options)


def default_scorers(model: Any = None) -> dict[str, Any]:
    """The scorers by level for `load_goal`: rule checkers, and the shipped heads on the embedded model.

    model   a `LoadedModel` to read values with (needs a head that was trained for it); None loads the embedded one, at the
            first use
    There is none for preferences: train a reward model and name its folder (`reward_model`), or use the labels in the data.
    """
    from valign.rewards.scorers import make_scorer
    from valign.rewards.value_evaluator import LazyEvaluator
    from valign.rewards.verdict_scorer import LazyVerdicts

    return {
        "instruction": rules.check, "value": LazyEvaluator(model), "principle": LazyVerdicts(model),
        REWARD_MODEL: LazyReward, MAKE: make_scorer,
    }  # fmt: skip
