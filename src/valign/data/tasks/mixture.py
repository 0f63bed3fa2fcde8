"""Mixture: how often each of many tasks is drawn.

Always true here: rates are positive and sum to 1; a draw is decided by (seed, position), so a longer one begins like a
shorter one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Group
from valign.data.tasks.task import Task
from valign.errors import DataError, require, unknown


def rates(
    sizes: Sequence[int], *, cap: float | None = None, temperature: float = 1.0, weights: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """(tasks,) shares, r_m = w_m min(e_m, K)^(1/T) / Σ (examples-proportional mixing with a cap; 1910.10683, 3.5.2).

    sizes        e_m, examples of each task, > 0
    cap          K: a larger task counts as this many (Flan 3,000, OPT-IML 4,096; T0 500,000 over its templates)
    temperature  T: 1 in proportion to size, towards infinity the same for all
    weights      w_m >= 0, the user's own factors; not all 0
    """
    e = np.asarray(sizes, np.float64)
    w = np.ones(len(e)) if weights is None else np.asarray(weights, np.float64)
    require(len(e) > 0 and bool((e > 0).all()), "sizes", list(sizes), "at least one task, none without examples")
    require(cap is None or cap > 0, "cap", cap, "above 0, or None")
    require(0 < temperature < np.inf, "temperature", temperature, "above 0")
    require(bool((w >= 0).all() and w.any() and np.isfinite(w).all()), "weights", w.tolist(), "0 or more, not all 0")
    raw = np.log(np.minimum(e, np.inf if cap is None else cap)) / temperature
    share = w * np.exp(raw - raw.max())  # in logs: a small temperature must not overflow
    return np.asarray(share / share.sum())


@dataclass(frozen=True)
class Mixture:
    """Tasks with their rates.

    weights   factors by task id; a task that is not named has 1
    """

    tasks: Sequence[Task]
    cap: float | None = None
    temperature: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = [t.id for t in self.tasks]
        if double := {i for i in ids if ids.count(i) > 1}:
            raise DataError(f"two tasks have the id {sorted(double)[0]!r}", where="mixture")
        for name in self.weights:
            if name not in ids:
                raise unknown("task", name, ids, where="mixture: weights")
        _ = self.rates

    @cached_property
    def rates(self) -> NDArray[np.float64]:
        """(tasks,) share of each task."""
        factors = [self.weights.get(t.id, 1.0) for t in self.tasks]
        return rates([t.size for t in self.tasks], cap=self.cap, temperature=self.temperature, weights=factors)

    def draw(self, n: int, seed: int = 0) -> list[Group]:
        """n groups: a task by its rate, then one of its examples; each task deals its examples out before it repeats one.

        A repeated example gets "#2", "#3" ... and, where there are several, another template. Raises `DataError` when no
        template fits any example of a task.
        """
        random = np.random.default_rng([seed, 0])
        of = random.choice(len(self.tasks), size=n, p=self.rates)
        decks = [_Deck(task, seed, k) for k, task in enumerate(self.tasks)]
        return [decks[k].next() for k in of]


class _Deck:
    """The examples of a task in shuffled rounds."""

    def __init__(self, task: Task, seed: int, k: int) -> None:
        self.task, self.seed = task, seed
        self.order = np.random.default_rng([seed, 1, k]).permutation(task.size)
        self.at = 0

    def next(self) -> Group:
        from dataclasses import replace

        for _ in range(self.task.size):
            turn, place = divmod(self.at, self.task.size)
            self.at += 1
            group = self.task.group(int(self.order[place]), self.seed + turn)
            if group is not None:
                return replace(group, id=f"{group.id}#{turn + 1}") if turn else group
        raise DataError("no template fits any of its examples", where=f"task {self.task.id}")
