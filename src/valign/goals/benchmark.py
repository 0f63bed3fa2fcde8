"""BenchmarkGoal: a goal that is only given by benchmarks, as a weighted list of their metrics.

Always true here: such a goal measures policies and judges no response, so nothing can be trained toward it; which metrics
there are, and how a raw number becomes a share of misalignment, is evaluation's subject (`evaluation.measure.components`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from valign.data.group import Group
from valign.errors import DataError, ValignError, require
from valign.goals.base import Array, Level, Style, check_style, sha256
from valign.goals.files import Reader

KEY = "components"  # of a goal file, and the name of the goal's primary number


@dataclass(frozen=True)
class Component:
    """One benchmark metric and where it stands between best (m = 0) and worst (m = 1).

    variant      which formula of the metric; "": its headline one
    weight       > 0, relative to the other components'
    best, worst  raw values; with a fold distances from it. None: those of the metric
    fold         the ideal inside the range (0 for a signed bias score), from which the distance counts; None: the metric's
    """

    metric: str
    variant: str = ""
    weight: float = 1.0
    best: float | None = None
    worst: float | None = None
    fold: float | None = None

    def __post_init__(self) -> None:
        require(self.weight > 0, "weight", self.weight, "above 0")
        if self.best is not None and self.best == self.worst:
            raise DataError("best and worst are the same", where=f"component {self.metric}")

    @property
    def name(self) -> str:
        """The metric, with the variant where one is named."""
        return f"{self.metric} ({self.variant})" if self.variant else self.metric

    def to_json(self) -> dict[str, Any]:
        """What was said, without what was left to the metric."""
        return {k: v for k, v in asdict(self).items() if v not in (None, "")}


@dataclass(frozen=True)
class BenchmarkGoal:
    """M = Σ w m / Σ w over benchmark metrics, each placed between its best and its worst (evaluation notes 2.2).

    text  the goal in words, "" for the list of metrics
    """

    components: tuple[Component, ...]
    level: Level
    id: str = "benchmarks"
    version: int = 1
    notes: str = ""
    text: str = ""

    def __post_init__(self) -> None:
        names = [c.name for c in self.components]
        if not names:
            raise DataError("components is empty: name at least one metric", where=f"goal {self.id}")
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise DataError(f"{twice[0]} is named twice", where=f"goal {self.id}: {KEY}")

    def utility(self, groups: Sequence[Group]) -> list[Array]:
        """Raises `ValignError`: benchmarks judge policies, not responses."""
        raise self.refusal()

    def labels(self, groups: Sequence[Group]) -> list[Array]:
        """No response is labelled: all NaN."""
        return [np.full(len(g.responses), np.nan) for g in groups]

    def explain(self, groups: Sequence[Group]) -> list[dict[str, Array]]:
        """Raises `ValignError`, as `utility` does."""
        raise self.refusal()

    def describe(self, style: Style = "instruction") -> str:
        """See `Goal.describe`."""
        check_style(style)
        return self.text or "do well on " + ", ".join(c.name for c in self.components)

    def fingerprint(self) -> str:
        """See `Goal.fingerprint`."""
        return sha256(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """See `Goal.to_json`."""
        out: dict[str, Any] = {"id": self.id, "version": self.version, "level": self.level}
        out[KEY] = [c.to_json() for c in self.components]
        out |= {"text": self.text} if self.text else {}
        return out | ({"notes": self.notes} if self.notes else {})

    def refusal(self) -> ValignError:
        """What is said to who asks it to judge or to steer."""
        return ValignError(
            "a goal of benchmarks measures policies and judges no response", where=f"goal {self.id}",
            how="measure with it: valign evaluate --goal; to align, name a goal of principles, values or preferences",
        )  # fmt: skip


def read_components(r: Reader) -> tuple[Component, ...]:
    """The components of a goal file. Raises `DataError` or `UsageError` naming file and field."""
    out = []
    for part in r.parts(KEY):
        metric, variant, weight = part.text("metric"), part.text("variant", default=""), part.number("weight", default=1.0)
        best, worst, fold = (_number(part, key) for key in ("best", "worst", "fold"))
        with part.placed():
            out.append(Component(metric, variant, weight, best, worst, fold))
    return tuple(out)


def _number(r: Reader, key: str) -> float | None:
    return None if r.raw(key, default=None) is None else r.number(key)
