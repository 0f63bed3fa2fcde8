"""Goal: what to align with, at one of four levels, as one object for every trainer, in-context method and
evaluator.

Always true here: a goal is a value (frozen); `utility` and `labels` give one float64 per response, NaN where
nothing is known ("unscored is not wrong"); the parts of `explain` sum to the utility;
`load_goal(goal.to_json())` is the same goal, with the same fingerprint. What scores a response (a value
evaluator, a judge, a reward model, rule checkers) lives on a higher floor and is passed in as one of the
protocols below.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Group
from valign.errors import DataError, ValignError

Array = NDArray[np.float64]
Level = Literal["instruction", "preference", "principle", "value"]
Style = Literal["instruction", "system", "short"]
LEVELS: tuple[str, ...] = get_args(Level)
STYLES: tuple[str, ...] = get_args(Style)


@runtime_checkable
class Goal(Protocol):
    """What to align with. Higher utility = nearer to what the goal asks."""

    @property
    def id(self) -> str: ...

    @property
    def level(self) -> Level: ...

    def utility(self, groups: Sequence[Group]) -> list[Array]:
        """(n_responses,) per group by the goal's scorer; NaN = unscored. Raises `ValignError` without a
        scorer.
        """
        ...

    def labels(self, groups: Sequence[Group]) -> list[Array]:
        """The same number from the feedback in the data alone; NaN for a response without such feedback."""
        ...

    def explain(self, groups: Sequence[Group]) -> list[dict[str, Array]]:
        """Parts of the utility by name, each (n_responses,); they sum to `utility`."""
        ...

    def describe(self, style: Style = "instruction") -> str:
        """The goal in words, as in-context methods put it into a prompt."""
        ...

    def fingerprint(self) -> str:
        """sha256 over content and scorer; stored with every result."""
        ...

    def to_json(self) -> dict[str, Any]:
        """JSON values that `load_goal` reads back."""
        ...


@runtime_checkable
class ValueScorer(Protocol):
    """Reads the values behind responses."""

    @property
    def id(self) -> str: ...

    @property
    def theory(self) -> str: ...

    def values(self, groups: Sequence[Group]) -> list[Array]:
        """(n_responses, K) per group in [-1, 1], dimensions in the theory's vector order; NaN rows =
        unscored.
        """
        ...


@runtime_checkable
class PrincipleScorer(Protocol):
    """Judges responses by principles."""

    @property
    def id(self) -> str: ...

    def verdicts(self, groups: Sequence[Group], principles: Sequence[Any]) -> list[Array]:
        """(n_responses, n_principles) per group: 1 kept, -1 broken, 0 not touched, between = doubt; NaN =
        unscored.
        """
        ...


@runtime_checkable
class ResponseScorer(Protocol):
    """Gives one number per response: a reward model, a judge, a classifier. `rewards.base.Reward` is this
    protocol.
    """

    @property
    def id(self) -> str: ...

    def score(self, groups: Sequence[Group]) -> list[Array]:
        """(n_responses,) float64 per group; NaN = unscored."""
        ...

    def fingerprint(self) -> str: ...


class Checked(Protocol):
    """The outcome of rule checks: all passed, and the share that passed."""

    @property
    def passed(self) -> bool: ...

    @property
    def share(self) -> float: ...

    @property
    def outcomes(self) -> Sequence[tuple[str, bool]]:
        """(type of check, passed) in the order of the checks."""
        ...


class Checker(Protocol):
    """Runs the checks of a task on a text: `rewards.rules.check`."""

    def __call__(self, checks: Sequence[Mapping[str, Any]], text: str, /) -> Checked: ...


# -------------------------------------------------------------------------------------- what all levels share


def sha256(content: Any) -> str:
    """Hash of a JSON value that does not depend on the order of keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def scorer_identity(scorer: Any) -> str | None:
    """What a fingerprint keeps of a scorer: its own fingerprint, else its id or its qualified name."""
    if scorer is None:
        return None
    if callable(getattr(scorer, "fingerprint", None)):
        return str(scorer.fingerprint())
    name = getattr(scorer, "id", None)
    return (
        str(name)
        if name
        else f"{scorer.__module__}.{getattr(scorer, '__qualname__', type(scorer).__qualname__)}"
    )


def without_scoring(content: Mapping[str, Any], option: str, scorer: Any) -> dict[str, Any]:
    """A goal's JSON for its fingerprint: a scorer that is there says itself what it is, whatever described it."""
    return {k: v for k, v in content.items() if k != option or scorer is None}


def missing_scorer(goal: str, level: str, option: str, what: str) -> ValignError:
    """The error of a goal that is asked for a utility without anything that could score."""
    return ValignError(
        f"the {level} goal has no scorer, so it gives no utility",
        where=f"goal {goal}",
        how=[f"pass {option}: {what}", "or use goal.labels(groups), which reads the feedback in the data"],
    )


def check_style(style: str) -> None:
    """Raise for a style that `describe` does not know."""
    if style not in STYLES:
        from valign.errors import unknown

        raise unknown("style", style, STYLES, where="describe")


def per_response(
    rows: Sequence[Any], groups: Sequence[Group], scorer: str, width: int | None = None
) -> list[Array]:
    """What a scorer returned, as float64 arrays of shape (n_responses,) or (n_responses, width), checked.

    Raises `DataError` naming scorer and group for a wrong number of groups or responses and for infinite
    numbers.
    """
    if len(rows) != len(groups):
        raise DataError(f"gave {len(rows)} results for {len(groups)} groups", where=f"scorer {scorer}")
    out = []
    for row, group in zip(rows, groups, strict=True):
        array = np.asarray(row, dtype=np.float64)
        n = len(group.responses)
        shape = (n,) if width is None else (n, width)
        if n == 0:
            array = array.reshape(shape)
        if array.shape != shape:
            raise DataError(
                f"gave shape {array.shape}, not {shape}", where=f"scorer {scorer}, group {group.id}"
            )
        if np.isinf(array).any():
            raise DataError("gave an infinite number", where=f"scorer {scorer}, group {group.id}")
        out.append(array)
    return out


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Σ w x / Σ w; NaN for no values or no weight."""
    total = float(np.sum(weights))
    return float(np.dot(values, weights)) / total if total > 0 else float("nan")
