"""valign: say what a model should align with, align it with any family of methods, see how far it still is.

    import valign as va
    policy  = va.load("smollm2-135m-instruct")
    goal    = va.goal("schwartz10", benevolence=1, universalism=1, power=-1)
    data    = va.read("builtin:dilemmas", split="train")
    aligned = va.align(policy, va.Target(goal, policy), method="dpo", data=data)
    result  = va.evaluate([policy, aligned], goal)
    result.report("report.html")

Names are loaded when first used, so that importing the package is quick.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before any library that would read it: nothing is told to anyone

_HOMES = {
    "load": "valign.pipeline.api",
    "goal": "valign.pipeline.api",
    "read": "valign.pipeline.api",
    "sharded": "valign.pipeline.api",
    "align": "valign.pipeline.api",
    "reward": "valign.pipeline.api",
    "train_reward": "valign.pipeline.api",
    "evaluate": "valign.pipeline.api",
    "Evaluation": "valign.pipeline.api",
    "Target": "valign.methods.target",
    "METHODS": "valign.methods.table",
    "Guard": "valign.methods.guard",
    "Group": "valign.data.group",
    "Message": "valign.data.group",
    "Response": "valign.data.group",
    "user": "valign.data.group",
    "Dataset": "valign.data.dataset",
    "Goal": "valign.goals.base",
    "Policy": "valign.models.policy",
    "Sampling": "valign.models.policy",
    "Result": "valign.evaluation.result",
    "ValignError": "valign.errors",
}
__all__ = [*sorted(_HOMES), "__version__"]

if TYPE_CHECKING:
    from valign.data.dataset import Dataset
    from valign.data.group import Group, Message, Response, user
    from valign.errors import ValignError
    from valign.evaluation.result import Result
    from valign.goals.base import Goal
    from valign.methods.guard import Guard
    from valign.methods.table import METHODS
    from valign.methods.target import Target
    from valign.models.policy import Policy, Sampling
    from valign.pipeline.api import Evaluation, align, evaluate, goal, load, read, reward, sharded, train_reward


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'valign' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
