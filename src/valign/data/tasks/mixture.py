"""Mixture: how often each of many tasks is drawn, for as long as one likes (`draw`) or as a data set of its own (`deal`).

Always true here: rates are not negative and sum to 1; a draw is decided by (seed, position), so a longer one begins like a
shorter one; what is dealt holds no example twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from valign.data.dataset import largest_remainder
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
    n, seed   of `deal`: groups in all, None for as many as the shares allow; what decides examples and order
    """

    tasks: Sequence[Task]
    cap: float | None = None
    temperature: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    n: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.n is None or self.n >= 1, "n", self.n, "at least 1, or left out")
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

    def deal(self) -> list[Group]:
        """Groups in random order, each task with its share within rounding, no example twice: a data set.

        Raises `DataError` where a task has too few examples for its share of `n`, or none that a template fits.
        """
        fit = [t.groups(self.seed) if rate else [] for t, rate in zip(self.tasks, self.rates, strict=True)]
        for task, groups, rate in zip(self.tasks, fit, self.rates, strict=True):
            if rate and not groups:
                raise _unfit(task)
        most = int(min(len(groups) / rate for groups, rate in zip(fit, self.rates, strict=True) if rate) + 1e-9)
        n = most if self.n is None else self.n
        counts = largest_remainder(self.rates.tolist(), n)
        for task, groups, count in zip(self.tasks, fit, counts, strict=True):
            if count > len(groups):
                raise DataError(f"{n} groups are more than the data allow: they ask for {count} of {task.id}, which has "
                                f"{len(groups)}", where="mixture: n", how=f"n of {most} or less, a cap, or other weights",
                )  # fmt: skip
        random = np.random.default_rng([self.seed, 2])
        decks = [iter(random.permutation(len(groups)).tolist()) for groups in fit]
        return [fit[k][next(decks[k])] for k in random.permutation(np.repeat(np.arange(len(counts)), counts)).tolist()]

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
        raise _unfit(self.task)


def _unfit(task: Task) -> DataError:
    return DataError("no template fits any of its examples", where=f"task {task.id}")


def task_counts(groups: Iterable[Group]) -> dict[str, int]:
    """How many groups are of each task, most first."""
    return dict(Counter(str(g.meta["task"]) for g in groups if "task" in g.meta).most_common())
