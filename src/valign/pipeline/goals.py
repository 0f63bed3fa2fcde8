"""Goals with their scorers: what a user names, joined to the evaluators that valign ships."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from valign.errors import UsageError
from valign.goals.base import Goal


def make_goal(spec: str | Path | Mapping[str, Any], **target: float) -> Goal:
    """A goal by name, file or mapping, with valign's default scorers where it needs one.

    `schwartz10:benevolence=1,universalism=1,power=-1` names a theory with its target on one line, `survey:FILE` a target
    from answers, `preference:reward_model=DIR` what people like as a trained reward model scores it.
    """
    from valign.evaluation.measure.components import check_components
    from valign.goals.benchmark import BenchmarkGoal
    from valign.goals.loading import load_goal
    from valign.goals.survey import is_survey
    from valign.rewards.registry import default_scorers

    if isinstance(spec, str) and ":" in spec and not is_survey(spec) and not Path(spec).exists():
        spec, _, rest = spec.partition(":")
        key, _, folder = rest.partition("=")
        if spec == "preference" and key == "reward_model":
            return load_goal({"level": "preference", "reward_model": folder}, scorers=default_scorers())
        target = {**_numbers(rest), **target}
    goal = load_goal(spec, scorers=default_scorers(), **target)
    if isinstance(goal, BenchmarkGoal):
        check_components(goal)
    return goal


def judging(goal: Goal) -> Goal:
    """The goal where it judges responses. Raises `ValignError` for one of benchmarks, which only measures policies."""
    from valign.goals.benchmark import BenchmarkGoal

    if isinstance(goal, BenchmarkGoal):
        raise goal.refusal()
    return goal


def steering(goal: Goal | None) -> Goal | None:
    """The goal where it can steer a policy; None for one of benchmarks, which only measures."""
    from valign.goals.benchmark import BenchmarkGoal

    return None if isinstance(goal, BenchmarkGoal) else goal


def _numbers(text: str) -> dict[str, float]:
    out = {}
    for part in text.split(","):
        name, sep, value = part.partition("=")
        try:
            out[name.strip()] = float(value)
        except ValueError as error:
            raise UsageError(f"{part!r} is not NAME=NUMBER", where="--goal",
                             how="for example schwartz10:benevolence=1,power=-1") from error  # fmt: skip
        if not sep:
            raise UsageError(f"{part!r} is not NAME=NUMBER", where="--goal")
    return out
