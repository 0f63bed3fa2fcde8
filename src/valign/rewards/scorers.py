"""Scorers that a goal file describes: `scorer: {kind: judge, model: default, orders: 2}` becomes an object.

Always true here: a description is data; it never names code to import; an option that a kind does not have is an error;
nothing is loaded before something is scored.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from valign.errors import DataError, UsageError, unknown
from valign.goals.principle import Principle
from valign.goals.theory import load_theory
from valign.models.policy import Cost, Policy, Sample, Scored
from valign.rewards.judge import JudgeReward, JudgeValues, PolicyJudge
from valign.rewards.principle_scorers import (
    PlantedReward,
    PlantedValues,
    PlantedVerdicts,
    RewardVerdicts,
    RuleVerdicts,
    Scaled,
    ViolationOfSet,
)
from valign.rewards.reward_model import LazyReward
from valign.rewards.value_evaluator import DEFAULT_MODEL, THEORY, LazyEvaluator, ValueEvaluator
from valign.rewards.verdict_scorer import LazyVerdicts, VerdictScorer

DEFAULT = "default"


def make_scorer(level: str, spec: Mapping[str, Any], where: str, *, theory: str = "", words: str = "") -> Any:
    """The scorer that a goal's file describes.

    level   of the goal          theory   of a value goal: what its evaluator must read
    words   what a goal says, for a judge that has no principle of its own
    Raises `UsageError` or `DataError` naming the place.
    """
    options = {k: v for k, v in spec.items() if k != "kind"}
    kinds = KINDS.get(level, {})
    kind = spec.get("kind")
    if kind not in kinds:
        raise unknown("kind of scorer", str(kind), kinds, where=f"{where} ({level})")
    make = kinds[kind]
    given = {"theory": theory, "words": words, "where": where}
    known = list(inspect.signature(make).parameters)
    for option in options:
        if option not in known or option in given:
            free = [k for k in known if k not in given]
            raise unknown("option", option, free, where=f"{where} ({kind})")
    own = {k: v for k, v in given.items() if k in known}
    needed = [n for n, p in inspect.signature(make).parameters.items() if p.default is p.empty]
    if missing := [n for n in needed if n not in options and n not in own]:
        raise DataError(f"{missing[0]} is missing", where=f"{where} ({kind})")
    return make(**options, **own)


# ---------------------------------------------------------------------------------------------------- judges


@dataclass(eq=False)
class LazyPolicy:
    """A policy by its name, loaded at its first use: `default` (the embedded model), a folder, a hub id, an endpoint."""

    name: str = DEFAULT
    kind: str = "weights"
    _made: Policy | None = field(default=None, repr=False)

    @property
    def loaded(self) -> Policy:
        """The policy itself."""
        self._made = self._made or load_judge(self.name)
        return self._made

    @property
    def cost(self) -> Cost:
        """See `Policy.cost`; nothing before the first use."""
        return Cost() if self._made is None else self._made.cost

    @property
    def id(self) -> str:
        """What is asked; of an endpoint without how it is asked (`#parallel=4`), as the policy itself says it."""
        from valign.models.endpoint import is_endpoint

        if self.name == DEFAULT:
            return DEFAULT_MODEL
        return self.loaded.id if is_endpoint(self.name) else self.name

    def card(self) -> dict[str, Any]:
        """The policy's card; the embedded model's name says enough without loading it."""
        return {"id": self.id, "sha256": f"embedded {self.id}"} if self.name == DEFAULT else self.loaded.card()

    def generate(self, *args: Any, **options: Any) -> list[list[Sample]]:
        """See `Policy.generate`."""
        return self.loaded.generate(*args, **options)

    def score(self, *args: Any, **options: Any) -> list[list[Scored]]:
        """See `Policy.score`."""
        return self.loaded.score(*args, **options)

    def save(self, folder: Path) -> None:
        """See `Policy.save`."""
        self.loaded.save(folder)


@cache
def lazy_policy(name: str) -> LazyPolicy:
    """One per name and process, however many judges ask it: it is loaded once, and its cost is counted once."""
    return LazyPolicy(name)


def load_judge(name: str) -> Policy:
    """A local model with its engine, or an endpoint."""
    from valign.engine.local import LocalEngine
    from valign.models.endpoint import EndpointPolicy, is_endpoint
    from valign.models.loading import load_model
    from valign.models.policy import LocalPolicy
    from valign.rewards.value_evaluator import default_model

    if is_endpoint(name):
        return EndpointPolicy.named(name)
    model = default_model() if name == DEFAULT else load_model(name, dtype="float32")
    return LocalPolicy(model, LocalEngine())


def judge(model: str = DEFAULT, orders: int = 2, wording: int = 0, seed: int = 0) -> PolicyJudge:
    """A `PolicyJudge` by the name of its model."""
    policy: Any = lazy_policy(model)
    return PolicyJudge(policy, orders=orders, wording=wording, seed=seed)


def _judge_values(theory: str, model: str = DEFAULT, orders: int = 2, wording: int = 0, seed: int = 0) -> JudgeValues:
    return JudgeValues(judge(model, orders, wording, seed), load_theory(theory))


def _judge_reward(
    words: str, model: str = DEFAULT, orders: int = 2, wording: int = 0, seed: int = 0, text: str = ""
) -> JudgeReward:
    rule = Principle("goal", (text or words).rstrip("."))
    made = judge(model, orders, wording, seed)
    return JudgeReward(made, rule, f"{made.id}: {rule.text[:40]}")


# ------------------------------------------------------------------------------------- rules, classifiers, heads


def _rules(checks: Mapping[str, Any]) -> RuleVerdicts:
    return RuleVerdicts({k: list(v) for k, v in checks.items()})


def _classifier(where: str, rewards: Mapping[str, Any] | None = None, path: str = "") -> RewardVerdicts | ViolationOfSet:
    """A reward per principle, or the folder of one cost model for all of them."""
    if (rewards is None) == (not path):
        raise DataError("needs rewards (principle: {reward, low, high}), or path: the folder of a cost model", where=where)
    if rewards is None:
        return ViolationOfSet(LazyReward(path))
    out = {}
    for name, spec in rewards.items():
        if not isinstance(spec, Mapping) or not {"reward"} <= set(spec) <= {"reward", "low", "high"}:
            raise DataError("must be {reward: NAME or FOLDER, low: NUMBER, high: NUMBER}", where=f"{where}: rewards.{name}")
        low, high = float(spec.get("low", 0.0)), float(spec.get("high", 1.0))
        out[str(name)] = Scaled(_reward(spec["reward"], where), low, high)
    return RewardVerdicts(out)


def _reward(name: Any, where: str) -> Any:
    from valign.rewards.base import PREFIX
    from valign.rewards.registry import make

    if not isinstance(name, str) or name.startswith(PREFIX):
        raise UsageError(f"{name!r} names code, and goal files hold data, never code", where=where,
                         how="pass the scorer yourself: load_goal(FILE, scorers={...})")  # fmt: skip
    return make(name)


def _reward_of(reward: str, where: str) -> Any:
    return _reward(reward, where)


def _values(theory: str, where: str, path: str = "") -> Any:
    made: Any = LazyEvaluator()
    if path:
        made = Lazy(lambda: ValueEvaluator.load(folder=Path(path)), theory=THEORY, id=f"values {path}")
    if made.theory != theory:
        raise UsageError(f"heads read values of {made.theory}, not {theory}", where=where,
                         how="scorer: {kind: judge}, or an evaluator fitted on data with labels of this theory")  # fmt: skip
    return made


def _verdicts(path: str = "") -> Any:
    return Lazy(lambda: VerdictScorer.load(folder=Path(path)), id=f"verdicts {path}") if path else LazyVerdicts()


class Lazy:
    """A scorer made at its first use; what is known of it before stands in `known`."""

    def __init__(self, make: Callable[[], Any], **known: str) -> None:
        self._make, self._made = make, None
        vars(self).update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._made = self._made or self._make()
        return getattr(self._made, name)


# ----------------------------------------------------------------------------------------------------- planted


def _planted(cues: Mapping[str, Any], noise: float = 0.0, seed: int = 0) -> PlantedVerdicts:
    return PlantedVerdicts(cues, noise, seed)


def _planted_values(theory: str, cues: Mapping[str, Any], noise: float = 0.0, seed: int = 0) -> PlantedValues:
    return PlantedValues(_planted(cues, noise, seed), load_theory(theory))


def _planted_reward(cues: Mapping[str, Any], noise: float = 0.0, seed: int = 0) -> PlantedReward:
    return PlantedReward(_planted({"reward": cues}, noise, seed), "reward")


KINDS: dict[str, dict[str, Callable[..., Any]]] = {
    "instruction": {"judge": _judge_reward, "reward": _reward_of, "planted": _planted_reward},
    "preference": {"judge": _judge_reward, "reward": _reward_of, "planted": _planted_reward},
    "principle": {"head": _verdicts, "judge": judge, "rules": _rules, "classifier": _classifier, "planted": _planted},
    "value": {"head": _values, "judge": _judge_values, "planted": _planted_values},
}

