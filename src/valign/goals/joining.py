"""How the parts of a composite goal become one utility: a function per conflict rule.

Always true here: every rule gets the standardized scores of the parts, z by name, and gives additive parts that sum to
the utility of each response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from valign.goals.base import Array
from valign.goals.causal import pushes_for
from valign.goals.welfare import welfare_parts

EPSILON = 0.1  # of a class score: below this difference a higher class leaves the choice to the next; goals notes section 5


class Weighed(Protocol):
    """A part as the rules see it."""

    @property
    def weight(self) -> float: ...

    @property
    def priority(self) -> int: ...

    @property
    def name(self) -> str: ...


def weighted(parts: Sequence[Weighed], z: Mapping[str, Array]) -> dict[str, Array]:
    """w_k z_k per part."""
    return {p.name: p.weight * z[p.name] for p in parts}


def causal(parts: Sequence[Weighed], z: Mapping[str, Array], relation: Array) -> dict[str, Array]:
    """u_k z_k per part, u the pushes whose total effect through the relations is the weights."""
    pushes = pushes_for(np.array([p.weight for p in parts]), relation)
    return {p.name: u * z[p.name] for p, u in zip(parts, pushes, strict=True)}


def social(parts: Sequence[Weighed], z: Mapping[str, Array], rule: str) -> dict[str, Array]:
    """A part per person; see `welfare_parts`."""
    rows = np.stack([z[p.name] for p in parts])
    shares = welfare_parts(rows, np.array([p.weight for p in parts]), rule)
    return {p.name: row for p, row in zip(parts, shares, strict=True)}


def classes(parts: Sequence[Weighed], z: Mapping[str, Array]) -> dict[str, Array]:
    """Class scores Σ w z / Σ w by name ("1: a + b"), first priority first."""
    out = {}
    for priority in sorted({p.priority for p in parts}):
        members = [p for p in parts if p.priority == priority]
        total = sum(p.weight for p in members)
        name = f"{priority}: {' + '.join(p.name for p in members)}"
        out[name] = np.asarray(sum(p.weight / total * z[p.name] for p in members))
    return out


def lexicographic(classes: Mapping[str, Array], epsilon: float) -> dict[str, Array]:
    """Additive form of "the first class decides, the next only where it is even": a part per class.

    A class score is cut down to steps of ε, and what the lower classes give is squeezed into one step:
    u_c = ε·(⌊s_c/ε⌋ + σ(u_{c+1}) - ½), u of the last class = its score. So a lower class never outweighs a
    difference of ε or more in a higher one, u is one number per response that does not depend on the
    others, and it is 0 where every class score is 0. classes: scores by class name, first class first.
    """
    names = list(classes)
    below = np.array(classes[names[-1]], dtype=np.float64)
    values = {names[-1]: below}
    for name in reversed(names[:-1]):
        step = epsilon * np.floor(classes[name] / epsilon)
        inside = epsilon * np.tanh(below / 2) / 2  # ε·(σ - ½)
        limit = np.full_like(below, epsilon / 4)  # σ'(0) = 1/4
        slope = np.divide(inside, below, out=limit, where=below != 0)
        values = {name: step, **{lower: x * slope for lower, x in values.items()}}
        below = step + inside
    return values


def deciding_class(classes: Mapping[str, Array], epsilon: float, a: int, b: int) -> str:
    """The first class that differs between two responses, in steps of ε (the last class: at all); "" for none."""
    for name, s in classes.items():
        x, y = (s[a], s[b]) if name == list(classes)[-1] else np.floor(s[[a, b]] / epsilon)
        if x != y:
            return name
    return ""
