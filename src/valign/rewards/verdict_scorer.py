"""Verdicts on principles from a frozen model's hidden states: the same head as for values, one output per
principle.

Always true here: it knows only the principles it was trained on, by their id; its numbers stand in its card.
It is a weak judge made for quick experiments without any other model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from valign.data.group import Group, Verdict
from valign.errors import UsageError
from valign.goals.base import Array
from valign.rewards import linear_head
from valign.rewards.hidden_states import mean_states
from valign.rewards.linear_head import LinearHead
from valign.rewards.value_evaluator import VERDICTS_FILE, WEIGHTS, check_model, default_model, shipped

if TYPE_CHECKING:
    from valign.models.loaded import LoadedModel


@dataclass(frozen=True, eq=False)
class VerdictScorer:
    """A model with a head on its hidden states. Implements `goals.base.PrincipleScorer`."""

    model: LoadedModel
    head: LinearHead

    def __post_init__(self) -> None:
        check_model(self.model, self.head)

    @property
    def id(self) -> str:
        return f"verdicts {self.model.id} {self.head.fingerprint()[:8]}"

    def verdicts(self, groups: Sequence[Group], principles: Sequence[Any]) -> list[Array]:
        """(n_responses, n_principles): the expected verdict in [-1, 1]. Raises `UsageError` for a principle
        not known.
        """
        columns = self.columns(principles)
        return [self.head(x)[:, columns] for x in mean_states(self.model, groups, self.head.layers)]

    def columns(self, principles: Sequence[Any]) -> list[int]:
        """The head's output of each principle."""
        known = self.head.names
        if missing := [p.id for p in principles if p.id not in known]:
            raise UsageError(
                f"the shipped verdict head does not judge {', '.join(missing)}",
                where="principles",
                how=[
                    f"choose among them, only: [{', '.join(known)}]",
                    "or pass another scorer, such as a judge",
                ],
            )
        return [known.index(p.id) for p in principles]

    def fingerprint(self) -> str:
        """sha256 over the head."""
        return self.head.fingerprint()

    @classmethod
    def load(cls, model: LoadedModel | None = None, folder: Path | None = None) -> VerdictScorer:
        """The scorer of a folder; without one, the shipped head of the embedded model."""
        path = (Path(folder) if folder else WEIGHTS) / VERDICTS_FILE
        return cls(model or default_model(), linear_head.load(path))


@dataclass(eq=False)
class LazyVerdicts:
    """The shipped `VerdictScorer`, loaded at its first use."""

    model: LoadedModel | None = None
    _made: VerdictScorer | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        return f"verdicts {shipped(VERDICTS_FILE).fingerprint()[:8]}"

    def verdicts(self, groups: Sequence[Group], principles: Sequence[Any]) -> list[Array]:
        """See `VerdictScorer.verdicts`."""
        self._made = self._made or VerdictScorer.load(self.model)
        return self._made.verdicts(groups, principles)

    def fingerprint(self) -> str:
        """See `VerdictScorer.fingerprint`."""
        return shipped(VERDICTS_FILE).fingerprint()


def verdict_rows(groups: Sequence[Group], principles: Sequence[str]) -> list[Array]:
    """(n_responses, n_principles) per group: the verdict labels, 0 where a principle does not apply."""
    out = []
    for group in groups:
        rows = np.zeros((len(group.responses), len(principles)))
        for f in group.of(Verdict):
            if f.principle in principles:
                rows[f.response, principles.index(f.principle)] = f.value
        out.append(rows)
    return out
