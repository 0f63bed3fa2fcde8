"""Conflicts between the parts of a goal: found and shown, not hidden.

Always true here: a conflict is a negative correlation of two parts over reference samples; which side wins is
left to the goal's own rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from valign.data.group import Group
from valign.goals.base import Array, Goal

THRESHOLD = -0.3  # goals notes section 5


@dataclass(frozen=True)
class Conflict:
    """Two parts that pull against each other.

    correlation   Pearson, over n responses scored by both
    examples      prompts where they disagree most about two responses, strongest first
    """

    one: str
    other: str
    correlation: float
    n: int
    examples: tuple[str, ...]


def conflicts(
    goal: Goal, groups: Sequence[Group], *, threshold: float = THRESHOLD, examples: int = 5
) -> list[Conflict]:
    """Pairs of parts of `goal.explain` whose scores correlate below `threshold` on the groups, strongest
    first.
    """
    rows = goal.explain(groups)
    names = list(dict.fromkeys(name for row in rows for name in row))
    empty = [np.full(len(g.responses), np.nan) for g in groups]
    columns = {name: [row.get(name, e) for row, e in zip(rows, empty, strict=True)] for name in names}
    found = []
    for one, other in combinations(names, 2):
        r, n = correlation(np.concatenate(columns[one]), np.concatenate(columns[other]))
        if r < threshold:
            found.append(
                Conflict(one, other, r, n, _examples(groups, columns[one], columns[other], examples))
            )
    return sorted(found, key=lambda c: c.correlation)


def correlation(a: Array, b: Array) -> tuple[float, int]:
    """Pearson correlation over what both know, and its n; NaN for fewer than 3 or a constant."""
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known], b[known]
    if len(a) < 3 or a.std() < 1e-12 or b.std() < 1e-12:
        return float("nan"), len(a)
    return float(np.corrcoef(a, b)[0, 1]), len(a)


def _examples(
    groups: Sequence[Group], one: Sequence[Array], other: Sequence[Array], n: int
) -> tuple[str, ...]:
    """Prompts by the largest product of opposite differences between two of their responses."""
    strengths = []
    for a, b in zip(one, other, strict=True):
        against = -(a[:, None] - a[None, :]) * (b[:, None] - b[None, :])
        strengths.append(float(np.nanmax(against)) if np.isfinite(against).any() else 0.0)
    ranked = sorted((i for i, s in enumerate(strengths) if s > 0), key=lambda i: -strengths[i])
    return tuple(groups[i].prompt_text for i in ranked[:n])
