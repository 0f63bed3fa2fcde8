"""Method: what the table knows of each way to align. Nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from valign.engine.objective import Terms, Unit
from valign.engine.scorer import Readout
from valign.errors import UsageError, ValignError, nearest
from valign.methods.target import Target
from valign.models.policy import Policy

Family = Literal["reinforcement", "supervised", "context", "decoding"]
Feedback = Literal["demonstrations", "pairs", "rankings", "reward", "goal text", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One entry of `table.METHODS`.

    feedback   what it learns from        row    its line in the list of capabilities
    config     dataclass of its settings  paper  where it was published

    A training method has an `objective` (pure function) with the `unit` its losses count and the value `at_start` that
    its loss has where policy = reference; one that samples has an `advantage` too. Any other has `wrap`, a function
    from policy to policy. One whose `readout` is a scalar makes a reward model, not a policy.
    """

    name: str
    title: str
    family: Family
    row: str
    paper: str
    feedback: Feedback
    promise: str
    config: type[Any]
    objective: Callable[..., Terms] | None = None
    unit: Unit = "token"
    at_start: float | None = None
    advantage: Callable[..., Any] | None = None
    uses_reference: bool = False
    wrap: Callable[[Policy, Target, Any], Policy] | None = None
    readout: Readout = "log_probs"
    copies: int = 1

    @property
    def makes_reward(self) -> bool:
        """Whether what it makes is a reward model."""
        return self.readout == "scalar_last"

    @property
    def trains(self) -> bool:
        """Whether weights change."""
        return self.objective is not None

    @property
    def samples(self) -> bool:
        """Whether it learns from the policy's own responses."""
        return self.advantage is not None

    def configure(self, settings: Mapping[str, Any]) -> Any:
        """The config with `settings` in it. An option that the method does not have is an error, never ignored."""
        kinds = {f.name: f for f in fields(self.config)}
        for name in settings:
            if name not in kinds:
                near = nearest(name, kinds)
                raise UsageError(
                    f"method {self.name!r} has no option {name!r}",
                    where=f"method.{name}",
                    how=[f"did you mean: {', '.join(near)}?"] * bool(near)
                    + [f"its options: {', '.join(sorted(kinds))}"],
                )
        try:
            return self.config(**{n: _typed(kinds[n].type, v, n) for n, v in settings.items()})
        except TypeError as error:
            raise UsageError(str(error), where=f"method {self.name}") from error

    def with_beta(self, config: Any, target: Target, given: Mapping[str, Any]) -> Any:
        """The target's strength takes the place of the default, unless the settings name one."""
        has = any(f.name == "beta" for f in fields(self.config))
        return replace(config, beta=target.beta) if has and target.beta is not None and "beta" not in given else config


def _typed(annotation: Any, value: Any, name: str) -> Any:
    """`value` as the field's type: numbers and choices may come as text from a command line."""
    kind = str(annotation)
    try:
        if kind.startswith("Literal") or kind == "Schedule":
            choices = _choices(kind)
            if choices and value not in choices:
                raise ValignError(
                    f"{value!r} is not a choice", where=f"method.{name}", how=f"one of {', '.join(choices)}"
                )
            return value
        if value is None and "None" in kind:
            return None
        base = kind.replace("| None", "").strip()
        if base == "bool":
            return _flag(value)
        if base == "int":
            return _whole(value)
        if base == "float":
            return _number(value)
        if base == "str":
            return _text(value)
        if base.startswith("tuple"):
            return tuple(value)
    except (TypeError, ValueError) as error:
        raise ValignError(f"{value!r} is not {_article(base)}", where=f"method.{name}", how=str(error)) from error
    return value


def _choices(kind: str) -> list[str]:
    import re

    if kind == "Schedule":
        return ["constant", "linear", "cosine"]
    return re.findall(r"['\"]([^'\"]+)['\"]", kind)


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("a finite number")
    return number


def _whole(value: Any) -> int:
    if _number(value) != int(float(value)):
        raise ValueError("a whole number")
    return int(float(value))


def _text(value: Any) -> str:
    if not isinstance(value, str | int | float):  # a command line may have read a text as a number
        raise ValueError("a text")
    return str(value)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "yes", "1", "on"):
        return True
    if str(value).lower() in ("false", "no", "0", "off"):
        return False
    raise ValueError("true or false")


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
