"""Composite goals from mappings: parts, constraints, relation. Each part's own goal is read by the function passed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from valign.goals.base import Goal
from valign.goals.composite import RULES, CompositeGoal, Part, Rule
from valign.goals.constraints import Constraint
from valign.goals.files import Reader
from valign.goals.joining import EPSILON
from valign.goals.value import ValueGoal
from valign.goals.welfare import WELFARES, Welfare

ReadGoal = Callable[[Any, str], Goal]  # (a mapping or the name of a built-in goal, where) -> the goal


def read_composite(r: Reader, common: dict[str, Any], read_goal: ReadGoal) -> CompositeGoal:
    """A composite goal. Raises `DataError` or `UsageError` naming file and field."""
    parts = tuple(_part(part, read_goal) for part in r.parts("parts"))
    standard = r.raw("standard", default=None)
    if isinstance(standard, Mapping):
        numbers = Reader(standard, f"{r.where}: standard")
        standard = {name: tuple(numbers.numbers(name, length=2)) for name in standard}
    elif standard not in (None, "raw"):
        r.fail("standard", f'must be "raw", or a mean and an sd per part, not {standard!r}')
    return CompositeGoal(
        parts=parts,
        conflict=cast(Rule, r.choice("conflict", RULES, default="weighted")),
        standard=standard,
        epsilon=r.number("epsilon", default=EPSILON),
        id=r.text("id", default="composite"),
        social=cast(Welfare, r.choice("social", WELFARES, default="mean")),
        constraints=tuple(_constraint(c, read_goal) for c in r.parts("constraints", default=[])),
        beta=r.number("beta", default=0.1),
        relation=_relation(r, parts),
        **common,
    )


def _part(r: Reader, read_goal: ReadGoal) -> Part:
    made = read_goal(r.raw("goal"), f"{r.where}: goal")
    return Part(
        made, r.number("weight", default=1.0), r.integer("priority", default=1),
        tuple(r.texts("conditions", default=[])), tuple(r.texts("exceptions", default=[])),
    )  # fmt: skip


def _constraint(r: Reader, read_goal: ReadGoal) -> Constraint:
    """`goal: {...}`, or `cost: SET` with its scorer: the principles of a set, whose breach is the cost."""
    if "cost" in r.content:
        name = r.text("cost")
        spec: Any = {"id": name, "level": "principle", "set": name}
        spec |= {"scorer": r.raw("scorer")} if "scorer" in r.content else {}
    else:
        spec = r.raw("goal")
    multiplier = r.number("multiplier") if "multiplier" in r.content else None
    return Constraint(read_goal(spec, f"{r.where}: goal"), r.number("limit"), r.number("sign", default=-1.0), multiplier)


def _relation(r: Reader, parts: tuple[Part, ...]) -> tuple[tuple[float, ...], ...] | None:
    """Rows of numbers, or "circle": the similarity of the one dimension that each part aims at, with its sign."""
    value = r.raw("relation", default=None)
    if value is None:
        return None
    if value == "circle":
        return tuple(map(tuple, _circle(r, parts).tolist()))
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        r.fail("relation", f"must be rows of numbers, or circle, not {value!r}")
    rows = Reader({str(i): row for i, row in enumerate(value)}, f"{r.where}: relation")
    return tuple(tuple(rows.numbers(str(i), length=len(parts))) for i in range(len(value)))


def _circle(r: Reader, parts: tuple[Part, ...]) -> Any:
    at, signs = [], []
    for part in parts:
        goal = part.goal
        if not isinstance(goal, ValueGoal) or len(goal.target) != 1:
            r.fail("relation", f"circle needs parts that aim at one value each, and {goal.id!r} is another goal")
        (name, level), = goal.target.items()
        at.append(goal.theory.index(name))
        signs.append(np.sign(level) or 1.0)
    theory = cast(ValueGoal, parts[0].goal).theory
    if any(cast(ValueGoal, p.goal).theory.id != theory.id for p in parts):
        r.fail("relation", "circle needs parts of one theory")
    return theory.similarity()[np.ix_(at, at)] * np.outer(signs, signs)
