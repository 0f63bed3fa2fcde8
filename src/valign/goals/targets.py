"""Targets in value space: named vectors with their source, and vectors a user writes down.

Always true here: a dimension that is written is a target (0 included, meaning neither for nor against); a
dimension that is not written is no target and has weight 0 unless other weights are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from valign.data.frozen import frozen
from valign.errors import require, unknown
from valign.goals.base import Array
from valign.goals.files import DATA, Reader, read_yaml
from valign.goals.theory import Theory

WEIGHTS = ("named", "ones", "abs_target")


@dataclass(frozen=True)
class Target:
    """A point in a value space: numbers by dimension id, where it comes from, and its licence."""

    id: str
    theory: str
    values: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", frozen(self.values))


def named_targets() -> dict[str, Target]:
    """The built-in targets by id."""
    return dict(_targets())


def named_target(id: str) -> Target:
    """One built-in target. Raises `UsageError` with the nearest known ids."""
    if id not in _targets():
        raise unknown("target", id, _targets())
    return _targets()[id]


@cache
def _targets() -> dict[str, Target]:
    path = DATA / "targets.yaml"
    reader = Reader(read_yaml(path), path.name)
    found = {}
    for r in reader.parts("targets"):
        target = Target(
            r.text("id"), r.text("theory"), r.number_map("values"), r.text("source"), r.text("licence")
        )
        found[target.id] = target
    reader.done()
    return found


def weight_vector(
    theory: Theory, target: Mapping[str, float], weights: str | Sequence[float] | Mapping[str, float]
) -> Array:
    """(K,) weights ≥ 0, not all 0: "named" 1 where the target is written; "ones"; "abs_target" |t_k|; or
    numbers.
    """
    k = len(theory.dimensions)
    if isinstance(weights, str):
        if weights not in WEIGHTS:
            raise unknown("weights", weights, WEIGHTS, where="weights")
        written = np.zeros(k)
        written[[theory.index(name) for name in target]] = 1.0
        choices = {"named": written, "ones": np.ones(k), "abs_target": np.abs(theory.vector(target))}
        out = choices[weights]
    elif isinstance(weights, Mapping):
        out = np.zeros(k)
        for name, value in weights.items():
            out[theory.index(name)] = value
    else:
        out = np.asarray(weights, dtype=np.float64)
    require(out.shape == (k,), "weights", list(out), f"one number per dimension ({', '.join(theory.ids)})")
    ok = bool(np.isfinite(out).all() and (out >= 0).all() and out.sum() > 0)
    require(ok, "weights", out.tolist(), "numbers of 0 or more, at least one above 0")
    return out
