"""The answer sheet of an inventory: who may be counted, and every answer as a number toward its dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from valign.evaluation.measure.administer import Answers
from valign.evaluation.metrics.questionnaire import is_usable
from valign.evaluation.result import Item

Array = NDArray[np.float64]
UNUSABLE = "skipped"  # reason of the answers of a respondent who gave (nearly) the same one to everything


@dataclass(frozen=True)
class Sheet:
    """Answers of one wording, scored.

    dimensions  ids in the order of the results        usable  (R,) whom the quality rule keeps
    """

    answers: Answers
    dimensions: tuple[str, ...]
    usable: NDArray[np.bool_]

    @cached_property
    def counted(self) -> NDArray[np.int64]:
        """Columns of the items that a dimension counts (no catch items)."""
        return np.array([k for k, i in enumerate(self.answers.inventory.items) if i.dimension in self.dimensions])

    @cached_property
    def scores(self) -> Array:
        """(R, I') ratings toward the dimension of the counted items; NaN where missing or not usable."""
        table = np.where(self.usable[:, None], self.answers.keyed(), np.nan)
        return np.asarray(table[:, self.counted])

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """(I',) number of each counted item's dimension."""
        items = self.answers.inventory.items
        return np.array([self.dimensions.index(items[k].dimension) for k in self.counted])

    @cached_property
    def signs(self) -> NDArray[np.int64]:
        """(I',) keying of the counted items."""
        return np.array([self.answers.inventory.items[k].keyed for k in self.counted])

    @cached_property
    def mean_rating(self) -> Array:
        """(R,) MRAT: each respondent's mean over the counted items; NaN without answers."""
        return row_means(self.scores)

    @cached_property
    def values(self) -> Array:
        """(R, K) mean of each dimension's items; NaN where a respondent answered none of them."""
        return np.stack([row_means(self.scores[:, self.index == k]) for k in range(len(self.dimensions))], 1)

    @property
    def middle(self) -> float:
        return (self.answers.inventory.low + self.answers.inventory.high) / 2

    @property
    def half(self) -> float:
        """Half the length of the scale: (rating - middle) / half lies in [-1, 1]."""
        return (self.answers.inventory.high - self.answers.inventory.low) / 2

    def reason(self, row: int, column: int) -> str | None:
        """Why an answer to a counted item is not scored."""
        if not self.usable[row]:
            return self.answers.reasons.get((row, int(self.counted[column])), UNUSABLE)
        return self.answers.reasons.get((row, int(self.counted[column])))

    def item_scores(self, table: Array, dimension: int) -> list[Item]:
        """One item per respondent and question of a dimension, scored by `table` (R, I'); cluster: the respondent."""
        out = []
        for c in np.flatnonzero(self.index == dimension):
            name = self.answers.inventory.items[int(self.counted[c])].id
            for r, who in enumerate(self.answers.respondents):
                why = self.reason(r, int(c))
                out.append(Item(f"{name}@{who.id}", who.id, None if why else float(table[r, c]), why))
        return out

    def respondent_items(self, score: Array, details: Mapping[str, Array] | None = None) -> list[Item]:
        """One item per respondent; whoever has a NaN in score (R,) or a detail (R, n) is unscored."""
        out = []
        for r, who in enumerate(self.answers.respondents):
            parts = {k: table[r] for k, table in (details or {}).items()}
            if not np.isfinite(score[r]) or not all(np.isfinite(x).all() for x in parts.values()):
                out.append(Item(who.id, who.id, None, self._why(r)))
                continue
            detail = {k: [float(v) for v in np.atleast_1d(x)] for k, x in parts.items()}
            out.append(Item(who.id, who.id, float(score[r]), detail=detail))
        return out

    def _why(self, row: int) -> str:
        """The reason of a respondent without a score: the quality rule, else its most frequent one."""
        found = [reason for (r, _), reason in self.answers.reasons.items() if r == row]
        return max(set(found), key=found.count) if self.usable[row] and found else UNUSABLE


def sheet(answers: Answers, order: Sequence[str] = (), *, quality: bool = True) -> Sheet:
    """Score answers. order: dimensions as a theory lists them, used where it names them all.

    quality   leave out respondents whom the PVQ's rule refuses (default on)
    """
    own = answers.inventory.dimensions
    dimensions = tuple(d for d in order if d in own) if set(own) <= set(order) else own
    counted = [k for k, i in enumerate(answers.inventory.items) if i.dimension]
    keep = [not quality or is_usable(row[counted], answers.inventory.instrument or "own") for row in answers.ratings]
    return Sheet(answers, dimensions, np.array(keep, bool))


def row_means(table: Array) -> Array:
    """(R,) means over what is there; NaN for an empty row."""
    there = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there, table, 0).sum(1) / there.sum(1))
