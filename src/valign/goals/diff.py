"""What changed between two goals, part by part and in words.

Always true here: two goals without a change have the same content, and the changes are those of what a utility depends on:
a target is compared by its numbers, whatever name it was given; notes are not compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from valign.goals.base import Goal
from valign.goals.benchmark import BenchmarkGoal
from valign.goals.composite import CompositeGoal
from valign.goals.principle import PrincipleGoal
from valign.goals.value import ValueGoal

ABSENT = None  # of a change: the side that has no such entry
SILENT = ("notes", "version")  # no utility depends on them
ALIKE = 1e-9


@dataclass(frozen=True)
class Change:
    """One entry that differs. path: "principles.harm.weight"; before, after: its values, None where it does not exist."""

    path: str
    before: Any
    after: Any

    @property
    def text(self) -> str:
        """The change in words."""
        if self.before is ABSENT:
            return f"+ {self.path}: {_short(self.after)}"
        if self.after is ABSENT:
            return f"- {self.path}: {_short(self.before)}"
        return f"~ {self.path}: {_short(self.before)} -> {_short(self.after)}"

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "before": self.before, "after": self.after}


def differences(before: Goal, after: Goal) -> list[Change]:
    """Every entry that is added, removed or has another value, in the order of the goals' own content."""
    return list(_changes(content(before), content(after), ""))


def content(goal: Goal) -> dict[str, Any]:
    """What a goal says, with its parts by name: principles and goals by id, targets and weights by dimension."""
    out = {k: v for k, v in goal.to_json().items() if k not in SILENT}
    if isinstance(goal, ValueGoal):
        written = goal.theory.vector(goal.target)
        out["theory"] = goal.theory.id
        out["target"] = {d: float(x) for d, x, w in zip(goal.theory.ids, written, goal.w) if w or x}
        out["weights"] = {d: float(w) for d, w in zip(goal.theory.ids, goal.w) if w}
    elif isinstance(goal, PrincipleGoal):
        rows = [p.to_json() for p in goal.principles]
        out["principles"] = {row.pop("id"): row for row in rows}
    elif isinstance(goal, BenchmarkGoal):
        out["components"] = {c.name: c.to_json() for c in goal.components}
    elif isinstance(goal, CompositeGoal):
        out["parts"] = {
            p.goal.id: {"goal": content(p.goal), "weight": p.weight, "priority": p.priority} for p in goal.parts
        }
    return out


def _changes(before: Any, after: Any, path: str) -> Iterator[Change]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            inner = f"{path}.{key}" if path else str(key)
            if key not in before or key not in after:
                yield Change(inner, before.get(key, ABSENT), after.get(key, ABSENT))
            else:
                yield from _changes(before[key], after[key], inner)
    elif not _equal(before, after):
        yield Change(path, before, after)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float | int) and isinstance(b, float | int) and not isinstance(a, bool):
        return abs(a - b) <= ALIKE
    return bool(a == b)


def _short(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, Mapping):
        text = value.get("text")
        return f'"{text}"' if isinstance(text, str) else ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, float | int):
        return f"{value:g}"
    return ", ".join(map(_short, value)) if isinstance(value, Sequence) else str(value)
