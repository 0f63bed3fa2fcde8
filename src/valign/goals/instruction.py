"""InstructionGoal: level 1, do the task that was asked for, as far as rules can check it.

Always true here: a task brings its own checks (`meta["checks"]` of its group), so the goal holds for any
mixture of tasks. The checkers are passed in (`rewards.rules.check`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from valign.data.group import Group
from valign.errors import DataError, unknown
from valign.goals.base import (
    Array,
    Checker,
    Level,
    Style,
    check_style,
    missing_scorer,
    scorer_identity,
    sha256,
)
from valign.goals.preference import thumbs

Credit = Literal["passed", "share"]
CREDITS: tuple[str, ...] = get_args(Credit)


@dataclass(frozen=True)
class InstructionGoal:
    """r(x, y) in [0, 1].

    credit    "passed": 1 when every check of the task passes, else 0; "share": the share of checks that pass
    checker   runs checks on a text; None leaves `labels` only
    """

    checker: Checker | None = None
    credit: Credit = "passed"
    id: str = "instruction"
    version: int = 1
    notes: str = ""
    level: Level = field(default="instruction", init=False)

    def __post_init__(self) -> None:
        if self.credit not in CREDITS:
            raise unknown("credit", self.credit, CREDITS, where=f"goal {self.id}")

    def utility(self, groups: Sequence[Group]) -> list[Array]:
        """See `Goal.utility`; NaN for a group without checks."""
        return [
            _total(parts, len(g.responses)) for parts, g in zip(self.explain(groups), groups, strict=True)
        ]

    def labels(self, groups: Sequence[Group]) -> list[Array]:
        """See `Goal.labels`: 1 for the right choice of a multiple-choice task and 0 for the others, else
        thumbs.
        """
        out = []
        for group in groups:
            if group.gold is None:
                out.append(thumbs(group))
            else:
                out.append((np.arange(len(group.responses)) == group.gold).astype(np.float64))
        return out

    def explain(self, groups: Sequence[Group]) -> list[dict[str, Array]]:
        """See `Goal.explain`: with "share" one part per check ("2 words": its 1/n), with "passed" the one
        part "checks".
        """
        if self.checker is None:
            raise missing_scorer(self.id, "instruction", "checker", "rewards.rules.check")
        return [self._parts(group, self.checker) for group in groups]

    def _parts(self, group: Group, checker: Checker) -> dict[str, Array]:
        checks = checks_of(group)
        if not checks:
            return {"checks": np.full(len(group.responses), np.nan)}
        results = [checker(checks, response.text) for response in group.responses]
        if self.credit == "passed":
            return {"checks": np.array([float(r.passed) for r in results])}
        names = [f"{i + 1} {check.get('type', '')}" for i, check in enumerate(checks)]
        outcomes = np.array([[float(ok) for _, ok in r.outcomes] for r in results]).reshape(
            len(results), len(checks)
        )
        return dict(zip(names, outcomes.T / len(checks), strict=True))

    def describe(self, style: Style = "instruction") -> str:
        """See `Goal.describe`."""
        check_style(style)
        if style == "short":
            return "do exactly what is asked"
        text = (
            "Do exactly what the user asks: give the right answer, in the form and length that was asked for."
        )
        return f"You are a careful assistant. {text}" if style == "system" else text

    def fingerprint(self) -> str:
        """See `Goal.fingerprint`."""
        return sha256([self.to_json(), scorer_identity(self.checker)])

    def to_json(self) -> dict[str, Any]:
        """See `Goal.to_json`."""
        out: dict[str, Any] = {
            "id": self.id,
            "version": self.version,
            "level": "instruction",
            "credit": self.credit,
        }
        return out | ({"notes": self.notes} if self.notes else {})


def checks_of(group: Group) -> list[Mapping[str, Any]]:
    """The checks a task brings; [] for none. Raises `DataError` when they are not a list of mappings."""
    checks = group.meta.get("checks") or []
    if not isinstance(checks, list | tuple) or not all(isinstance(c, Mapping) for c in checks):
        raise DataError("must be a list of mappings", where=f"group {group.id}: meta.checks")
    return list(checks)


def _total(parts: Mapping[str, Array], n: int) -> Array:
    return np.sum(list(parts.values()), axis=0) if parts else np.full(n, np.nan)
