"""What a goal is made of and what is doubtful about it, before anything is trained toward it.

Always true here: a finding is a doubt with its place, never a change; what needs judged responses (standardization numbers,
conflicts) is told only where responses are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from valign.data.group import Group
from valign.errors import UsageError, ValignError
from valign.goals.base import Goal
from valign.goals.benchmark import BenchmarkGoal
from valign.goals.composite import CompositeGoal
from valign.goals.conflict import conflicts
from valign.goals.preference import PreferenceGoal
from valign.goals.principle import Principle, PrincipleGoal, principle_sets
from valign.goals.value import ValueGoal
from valign.goals.words import overlap

ALIKE = 0.5  # share of words in common from which two rules may be one; no two rules of the shipped sets reach it
ORDERED = ("lexicographic", "contextual")  # the rules that read priorities
OPPOSED = -0.5  # similarity of two value dimensions below which wanting both is a tension
SCORER = {"value": "evaluator", "principle": "scorer", "preference": "reward", "instruction": "checker"}


def examine(goal: Goal, groups: Sequence[Group] | None = None) -> dict[str, Any]:
    """A goal's level, parts, scorers, fingerprint and doubtful places; with groups also its standardization numbers and
    conflicts on their responses.
    """
    out: dict[str, Any] = {"id": goal.id, "version": getattr(goal, "version", 1), "level": goal.level}
    out |= {"parts": _parts(goal), "scorers": _scorers(goal), "findings": _findings(goal)}
    if isinstance(goal, CompositeGoal | PrincipleGoal):
        out["conflict"] = goal.conflict
    if isinstance(goal, CompositeGoal):
        out["standard"] = _standard(goal, groups)
    if groups:
        judged = goal.standardized(groups) if isinstance(goal, CompositeGoal) and goal.standard is None else goal
        out["conflicts"] = [
            {"one": c.one, "other": c.other, "correlation": round(c.correlation, 3), "n": c.n, "examples": list(c.examples)}
            for c in conflicts(judged, groups)
        ]
    return out | {"fingerprint": goal.fingerprint(), "text": goal.describe("instruction")}


def _parts(goal: Goal) -> list[dict[str, Any]]:
    """One mapping per principle, dimension, benchmark or goal that counts."""
    if isinstance(goal, CompositeGoal):
        return [{"id": p.goal.id, "level": p.goal.level, "weight": p.weight, "priority": p.priority} for p in goal.parts]
    if isinstance(goal, BenchmarkGoal):
        return [{"metric": row.pop("metric"), **row} for row in (c.to_json() for c in goal.components)]
    if isinstance(goal, PrincipleGoal):
        return [{"id": p.id, "text": p.words(), "weight": p.weight, "priority": p.priority} for p in goal.principles]
    if isinstance(goal, ValueGoal):
        rows = zip(goal.theory.dimensions, goal.t.tolist(), goal.w.tolist(), strict=True)
        return [{"id": d.id, "name": d.name, "target": round(t, 4), "weight": w} for d, t, w in rows if w > 0]
    return []


def _scorers(goal: Goal) -> list[dict[str, Any]]:
    """Who judges responses, for the goal or for each of its parts."""
    if isinstance(goal, CompositeGoal):
        return [row for part in goal.parts for row in _scorers(part.goal)]
    if isinstance(goal, BenchmarkGoal):
        return []
    scorer = getattr(goal, SCORER.get(goal.level, ""), None)
    name = None if scorer is None else str(getattr(scorer, "id", "") or getattr(scorer, "__name__", type(scorer).__name__))
    if isinstance(goal, PreferenceGoal) and goal.reward_model:
        name = f"reward model {goal.reward_model}"
    return [{"goal": goal.id, "level": goal.level, "scorer": name}]


def _standard(goal: CompositeGoal, groups: Sequence[Group] | None) -> Any:
    """(mean, sd) by part: as the goal has them, else measured on the groups; None where neither is there."""
    if goal.standard is None and groups:
        goal = goal.standardized(groups)
    if goal.standard is None or isinstance(goal.standard, str):
        return goal.standard
    return {name: [round(m, 6), round(sd, 6)] for name, (m, sd) in goal.standard.items()}


def _findings(goal: Goal) -> list[str]:
    if isinstance(goal, CompositeGoal):
        found = [f"{p.goal.id}: {text}" for p in goal.parts for text in _findings(p.goal)]
        if goal.conflict not in ORDERED and len({p.priority for p in goal.parts}) > 1:
            found.append(f"priorities are written, but conflict: {goal.conflict} does not use them")
        return found
    if isinstance(goal, PrincipleGoal):
        return _of_principles(goal)
    return _of_values(goal) if isinstance(goal, ValueGoal) else []


def _of_principles(goal: PrincipleGoal) -> list[str]:
    missing = [p.id for p in goal.principles if not p.negation]
    found = [f"no negation, which contrastive methods need: {', '.join(missing)}"] if missing else []
    for a, b in combinations(goal.principles, 2):
        if (share := overlap(a.text, b.text)) >= ALIKE:
            found.append(f"{a.id} and {b.id} share {share:.0%} of their words: the same rule twice?")
        if max(overlap(a.negation, b.text), overlap(a.text, b.negation)) >= ALIKE and a.kind == b.kind:
            found.append(f"{a.id} reads like the opposite of {b.id}: a contradiction?")
    if idle := [p.id for p in goal.principles if p.weight == 0]:
        found.append(f"weight 0, never counted: {', '.join(idle)}")
    if goal.conflict == "weighted" and goal.id not in principle_sets() and len({p.priority for p in goal.principles}) > 1:
        found.append("priorities are written, but conflict: weighted does not use them")
    return found


def _of_values(goal: ValueGoal) -> list[str]:
    s, t = goal.theory.similarity(), goal.t * (goal.w > 0)
    names = [d.name for d in goal.theory.dimensions]
    pairs = [(i, j) for i, j in combinations(range(len(t)), 2) if s[i, j] < OPPOSED and t[i] * t[j] > 0]
    found = [f"{names[i]} and {names[j]} are opposed in {goal.theory.id}, and the target wants both" for i, j in pairs
             if t[i] > 0]  # fmt: skip
    found += [f"{names[i]} and {names[j]} are opposed in {goal.theory.id}, and the target is against both" for i, j in pairs
              if t[i] < 0]  # fmt: skip
    if goal.distance == "basealign":
        idle = [n for n, x, w in zip(names, goal.t, goal.w, strict=True) if w > 0 and x == 0]
        found.append("distance basealign: a text that shows no value gets the best reward")
        found += [f"distance basealign never counts a target of 0: {', '.join(idle)}"] if idle else []
    if goal.distance == "profile" and not np.any(t):
        found.append("a target of zeros asks for texts without values")
    return found


def principles_of(goal: Goal) -> dict[str, tuple[Principle, ...]]:
    """The principles of a goal, or of each part of a composite that has some, by the id of the goal they stand in. Raises
    `UsageError` where there are none.
    """
    inner = [goal]
    if isinstance(goal, CompositeGoal):
        inner = [*(p.goal for p in goal.parts), *(c.goal for c in goal.constraints)]
    found = {g.id: g.principles for g in inner if isinstance(g, PrincipleGoal)}
    if not found:
        raise UsageError("there are no principles whose quality could be judged", where=f"goal {goal.id}")
    return found


def problem(error: ValignError) -> dict[str, Any]:
    """An error as a finding: what, where, how."""
    return {"what": error.what, "where": error.where, "how": list(error.how)}
