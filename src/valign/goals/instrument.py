"""Questionnaires of value theories: from the answers of respondents to a score per dimension.

Always true here: a key names items by number from 1; an answer that is missing is NaN and is left out of its mean; a
respondent whose answers say nothing (too many missing, too many alike) is unscored, a row of NaN. The items' texts are not
here: they belong to the questionnaires' owners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from valign.data.frozen import frozen
from valign.errors import DataError, require, unknown
from valign.goals.base import Array
from valign.goals.files import Reader


@dataclass(frozen=True)
class Instrument:
    """A questionnaire's scoring key.

    items        how many answers a respondent gives
    low, high    ends of the answer scale; the higher end says "more"
    key          items by dimension id: the score is the mean of their answers
    index        coefficients by dimension id and item, in place of `key`: the score is Σ coefficient · mean over a sample,
                 plus a constant of the researcher's
    catch        (item, lowest, highest): an answer outside excludes the respondent
    max_missing, max_equal   more missing or more equal answers than this: unscored
    population   smallest number of respondents for which an index may be stated
    """

    id: str
    items: int
    low: float
    high: float
    title: str = ""
    key: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    index: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    catch: tuple[tuple[int, float, float], ...] = ()
    max_missing: int | None = None
    max_equal: int | None = None
    population: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", frozen(self.key))
        object.__setattr__(self, "index", frozen(self.index))

    def usable(self, answers: ArrayLike) -> Array:
        """(n,) 1 where a respondent's answers (n, items) can be scored, else 0."""
        table = self._table(answers)
        good = np.ones(len(table), dtype=bool)
        if self.max_missing is not None:
            good &= np.isnan(table).sum(1) <= self.max_missing
        if self.max_equal is not None:
            codes = np.unique(table[~np.isnan(table)])
            most = np.max([(table == c).sum(1) for c in codes], axis=0) if codes.size else np.zeros(len(table))
            good &= most <= self.max_equal
        for item, low, high in self.catch:
            good &= (table[:, item - 1] >= low) & (table[:, item - 1] <= high)
        return good.astype(np.float64)

    def scores(self, answers: ArrayLike, dimensions: Sequence[str]) -> Array:
        """(n, K) raw scores: the mean of each dimension's answers; NaN rows for respondents who cannot be scored.

        Raises `DataError` for a wrong number of answers, an answer off the scale, or an instrument with an index.
        """
        if not self.key:
            raise DataError("scores whole samples, not persons; use index_scores", where=f"instrument {self.id}")
        table = self._table(answers)
        with np.errstate(invalid="ignore"):
            out = np.stack([_mean(table[:, [i - 1 for i in self.key[d]]]) for d in dimensions], axis=1)
        out[self.usable(table) == 0] = np.nan
        return out

    def centred(self, answers: ArrayLike, dimensions: Sequence[str]) -> Array:
        """(n, K) scores minus the respondent's mean answer (over all items), which takes out how high they answer at all."""
        return self.scores(answers, dimensions) - _mean(self._table(answers))[:, None]

    def index_scores(
        self, answers: ArrayLike, dimensions: Sequence[str], constants: Mapping[str, float] | None = None
    ) -> Array:
        """(K,) index of a population: constant + Σ coefficient · mean of an item. Constants are the researcher's (0 by
        default) and move all populations alike, so only differences between populations mean anything.

        Raises `DataError` below the instrument's smallest population.
        """
        if not self.index:
            raise DataError("has no index; use scores", where=f"instrument {self.id}")
        table = self._table(answers)
        if len(table) < self.population:
            raise DataError(
                f"{len(table)} respondents: it describes populations, of {self.population} or more",
                where=f"instrument {self.id}",
            )
        added = dict(constants or {})
        for name in added:
            if name not in dimensions:
                raise unknown("dimension", name, dimensions, where=f"instrument {self.id}: constants")
        means = _mean(table.T)
        rows = [added.get(d, 0.0) + sum(c * means[i - 1] for i, c in self.index[d].items()) for d in dimensions]
        return np.asarray(rows, dtype=np.float64)

    def _table(self, answers: ArrayLike) -> Array:
        """(n, items) floats on the scale."""
        table = np.atleast_2d(np.asarray(answers, dtype=np.float64))
        if table.ndim != 2 or table.shape[1] != self.items:
            raise DataError(f"takes {self.items} answers, not {table.shape[-1]}", where=f"instrument {self.id}")
        off = table[~np.isnan(table) & ((table < self.low) | (table > self.high))]
        if off.size:
            raise DataError(
                f"answer {off[0]:g} is not on the scale {self.low:g} to {self.high:g}", where=f"instrument {self.id}"
            )
        return table

    def to_json(self) -> dict[str, Any]:
        """The content of its entry in a theory's file."""
        out: dict[str, Any] = {"id": self.id, "title": self.title, "items": self.items, "scale": [self.low, self.high]}
        out |= {"key": {d: list(items) for d, items in self.key.items()}} if self.key else {}
        out |= {"index": {d: {str(i): c for i, c in row.items()} for d, row in self.index.items()}} if self.index else {}
        if self.catch:
            out["catch"] = [{"item": i, "at_least": low, "at_most": high} for i, low, high in self.catch]
        out |= {k: v for k in ("max_missing", "max_equal") if (v := getattr(self, k)) is not None}
        return out | ({"population": self.population} if self.population > 1 else {})


def read_instrument(r: Reader, dimensions: Sequence[str]) -> Instrument:
    """An instrument of a theory's file. Raises `DataError` for a key that leaves a dimension out or an item off the form."""
    low, high = r.numbers("scale", length=2)
    items = r.integer("items")
    key = {str(d): tuple(int(i) for i in row) for d, row in r.raw("key", default={}).items()}
    index = {str(d): {int(i): float(c) for i, c in row.items()} for d, row in r.raw("index", default={}).items()}
    for name, table in (("key", key), ("index", index)):
        if table and set(table) != set(dimensions):
            r.fail(name, f"must name each dimension once; see {sorted(set(table) ^ set(dimensions))}")
        for row in table.values():
            if wrong := [i for i in row if not 1 <= i <= items]:
                r.fail(name, f"item {wrong[0]} is not among 1 to {items}")
    if bool(key) == bool(index):
        r.fail("key", "write either a key or an index")
    limits = {n: r.integer(n, default=-1) for n in ("max_missing", "max_equal")}
    made = Instrument(
        id=r.text("id"),
        items=items,
        low=low,
        high=high,
        title=r.text("title", default=""),
        key=key,
        index=index,
        catch=tuple(
            (c.integer("item"), c.number("at_least", default=low), c.number("at_most", default=high))
            for c in r.parts("catch", default=[])
        ),
        max_missing=None if limits["max_missing"] < 0 else limits["max_missing"],
        max_equal=None if limits["max_equal"] < 0 else limits["max_equal"],
        population=r.integer("population", default=1),
    )
    require(low < high, f"{r.where}: scale", [low, high], "two numbers, the lower first")
    return made


def _mean(table: Array) -> Array:
    """(n,) mean of each row over what is there; NaN for a row without anything."""
    known = ~np.isnan(table)
    count = known.sum(1)
    total = np.where(known, table, 0.0).sum(1)
    return np.asarray(np.divide(total, count, out=np.full(len(table), np.nan), where=count > 0))
