"""InstructionGoal: level 1, do the task that was asked for, as far as rules can check it.

Always true here: a task brings its own checks (`meta["checks"]` of its group), so the goal holds for any
mixture of tasks. The checkers are passed in (`rewards.rules.check`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from valign.data.group import Group
from valign.errors import DataError, UsageError, unknown
from valign.goals.base import (
    Array,
    Checker,
    Level,
    ResponseScorer,
    Style,
    check_style,
    missing_scorer,
    per_response,
    scorer_identity,
    sha256,
    without_scoring,
)
from valign.goals.preference import thumbs

if TYPE_CHECKING:
    from valign.data.tasks import Mixture

Credit = Literal["passed", "share"]
TASK_KEYS = ("collection", "checkers", "weights", "cap", "temperature", "n", "seed")
CREDITS: tuple[str, ...] = get_args(Credit)


@dataclass(frozen=True)
class InstructionGoal:
    """r(x, y) in [0, 1].

    credit    "passed": 1 when every check of the task passes, else 0; "share": the share of checks that pass
    checker   runs checks on a text; None leaves `labels` and the judge
    judge     a ResponseScorer for the tasks that bring no check
    tasks     where the tasks come from: {collection: FILE, checkers: [names], weights: {task: factor}, cap,
              temperature, n, seed}; see `mixture`
    scoring   how the goal's file describes the judge, None where it does not
    """

    checker: Checker | None = None
    credit: Credit = "passed"
    id: str = "instruction"
    version: int = 1
    notes: str = ""
    judge: ResponseScorer | None = None
    tasks: Mapping[str, Any] | None = None
    scoring: Mapping[str, Any] | None = None
    level: Level = field(default="instruction", init=False)

    def __post_init__(self) -> None:
        if self.credit not in CREDITS:
            raise unknown("credit", self.credit, CREDITS, where=f"goal {self.id}")
        for key in self.tasks or {}:
            if key not in TASK_KEYS:
                raise unknown("key", key, TASK_KEYS, where=f"goal {self.id}: tasks")
        if self.tasks is not None and not isinstance(self.tasks.get("collection"), str):
            raise DataError("collection is missing: the file that lists the tasks", where=f"goal {self.id}: tasks")

    def mixture(self) -> Mixture:
        """The goal's tasks with their rates: what the goal says takes the place of what the collection says. Raises
        `UsageError` where the goal names no collection.
        """
        from valign.data.tasks import read_mixture

        if self.tasks is None:
            raise UsageError("the goal names no tasks", where=f"goal {self.id}", how="tasks: {collection: FILE}")
        own = dict(self.tasks)
        return read_mixture(str(own.pop("collection")), own.pop("checkers", ()), **own)

    def utility(self, groups: Sequence[Group]) -> list[Array]:
        """See `Goal.utility`; a group without checks is the judge's, NaN where there is none."""
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
        if self.checker is None and self.judge is None:
            raise missing_scorer(self.id, "instruction", "checker", "rewards.rules.check")
        out = [self._parts(group, self.checker) if self.checker else _unknown(group) for group in groups]
        open_ = [i for i, g in enumerate(groups) if self.judge is not None and (self.checker is None or not checks_of(g))]
        if open_ and self.judge is not None:
            asked = [groups[i] for i in open_]
            rows = per_response(self.judge.score(asked), asked, self.judge.id)
            for i, row in zip(open_, rows, strict=True):
                out[i] = {"judge": row}
        return out

    def _parts(self, group: Group, checker: Checker) -> dict[str, Array]:
        checks = checks_of(group)
        if not checks:
            return _unknown(group)
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
        content = without_scoring(self.to_json(), "judge", self.judge)
        judge = [scorer_identity(self.judge)] if self.judge is not None else []
        return sha256([content, scorer_identity(self.checker), *judge])

    def to_json(self) -> dict[str, Any]:
        """See `Goal.to_json`."""
        out: dict[str, Any] = {
            "id": self.id,
            "version": self.version,
            "level": "instruction",
            "credit": self.credit,
        }
        out |= {"tasks": plain(self.tasks)} if self.tasks else {}
        out |= {"judge": dict(self.scoring)} if self.scoring else {}
        return out | ({"notes": self.notes} if self.notes else {})


def _unknown(group: Group) -> dict[str, Array]:
    return {"checks": np.full(len(group.responses), np.nan)}


def plain(value: Any) -> Any:
    """A mapping, with those inside it, as a dict."""
    return {k: plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def checks_of(group: Group) -> list[Mapping[str, Any]]:
    """The checks a task brings; [] for none. Raises `DataError` when they are not a list of mappings."""
    checks = group.meta.get("checks") or []
    if not isinstance(checks, list | tuple) or not all(isinstance(c, Mapping) for c in checks):
        raise DataError("must be a list of mappings", where=f"group {group.id}: meta.checks")
    return list(checks)


def _total(parts: Mapping[str, Array], n: int) -> Array:
    return np.sum(list(parts.values()), axis=0) if parts else np.full(n, np.nan)
