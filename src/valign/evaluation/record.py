"""Result: a number that never travels alone. Value, unit, n, interval, what was left out, and where it came from.

Always true here: a Result is immutable, its JSON holds no NaN and no infinity, undefined is None and never 0, and two
Results of different metric, variant or direction are never combined. How items become a value is `aggregate`'s subject.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from valign.errors import ValignError, require
from valign.evaluation import statistics as stats

LEVELS = ("instruction", "preference", "principle", "value", "capability", "cost")
UNITS = ("share", "percent", "score", "nats", "bits", "elo", "tokens", "seconds", "bytes", "degrees")
REASONS = (
    "parse_failure",
    "refusal",
    "judge_error",
    "over_length",
    "empty_continuation",
    "no_target",
    "missing_label",
    "no_answer",
    "skipped",
)
METHODS = ("t_cluster", "wilson", "bootstrap_cluster", "paired_t", "ppi", "always_valid", "fisher", "exact", "jackknife")
ItemStatistic = Callable[
    [Sequence["Item"], stats.Array], stats.Array
]  # (scored items, (b, n) weights) -> (b,) values
FEW_CLUSTERS = 10  # fewer are noted: the t interval is then a rough guide
MANY_UNSCORED = 0.01  # share of the items above which a reader is told of them beside the number


@dataclass(frozen=True, slots=True)
class Interval:
    """[low, high] that covers the true value with probability `level`; the drawing is clipped, the numbers
    are not.
    """

    low: float
    high: float
    level: float = 0.95
    method: str = "t_cluster"

    def __post_init__(self) -> None:
        require(self.method in METHODS, "interval.method", self.method, f"one of {', '.join(METHODS)}")
        require(0 < self.level < 1, "interval.level", self.level, "between 0 and 1")
        require(_finite(self.low) and _finite(self.high), "interval", (self.low, self.high), "finite")
        require(self.low <= self.high, "interval", (self.low, self.high), "ordered: low <= high")


@dataclass(frozen=True, slots=True)
class Anchors:
    """The ends of a metric and what chance gives; None where there is no such value."""

    best: float | None = None
    worst: float | None = None
    chance: float | None = None

    @property
    def span(self) -> tuple[float, float] | None:
        """(lowest, highest) score there can be; None where an end is open."""
        return None if self.best is None or self.worst is None else (min(self.best, self.worst), max(self.best, self.worst))


@dataclass(frozen=True, slots=True)
class Cluster:
    """What was treated as independent, and how many there were."""

    unit: str
    count: int


@dataclass(frozen=True, slots=True)
class Item:
    """One scored (score) or unscored (reason) item.

    detail  the parts from which a metric that is no mean is recomputed (numbers and short texts)
    """

    id: str
    cluster: str
    score: float | None
    reason: str | None = None
    weight: float = 1.0
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(
            (self.score is None) == (self.reason is not None),
            "item",
            self.id,
            "scored, or unscored with a reason",
        )
        require(
            self.reason is None or self.reason in REASONS,
            "reason",
            self.reason,
            f"one of {', '.join(REASONS)}",
        )
        require(
            self.score is None or _finite(self.score),
            "score",
            self.score,
            "finite; unscored items carry a reason",
        )

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "id": self.id,
            "cluster": self.cluster,
            "score": self.score,
            "weight": self.weight,
        }
        if self.reason is not None:
            out["reason"] = self.reason
        if self.detail:
            out["detail"] = dict(self.detail)
        return out


@dataclass(frozen=True, kw_only=True)
class Result:
    """One number with everything that is needed to read, compare and repeat it (evaluation notes 1.1).

    direction  "up", "down" or "target:<number>"        scaled  place on the gap axis, 0 best, 1 worst
    bounds     value if all unscored items were worst or best      items_file  {"path", "sha256"} of items
               kept beside
    """

    metric: str
    variant: str
    subject: str
    level: str
    value: float | None
    unit: str
    direction: str
    anchors: Anchors = Anchors()
    scaled: float | None = None
    n: int = 0
    n_unscored: Mapping[str, int] = field(default_factory=dict)
    bounds: tuple[float, float] | None = None
    se: float | None = None
    interval: Interval | None = None
    cluster: Cluster = Cluster("item", 0)
    items: tuple[Item, ...] = ()
    items_file: Mapping[str, str] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("metric", "variant", "subject"):
            require(bool(getattr(self, name).strip()), name, getattr(self, name), "a name that is not empty")
        require(self.level in LEVELS, "level", self.level, f"one of {', '.join(LEVELS)}")
        require(self.unit in UNITS, "unit", self.unit, f"one of {', '.join(UNITS)}")
        require(_is_direction(self.direction), "direction", self.direction, 'up, down or "target:<number>"')
        require(
            self.value is None or _finite(self.value), "value", self.value, "finite, or None where undefined"
        )
        require(
            self.se is None or (_finite(self.se) and self.se >= 0),
            "se",
            self.se,
            "finite and not negative, or None",
        )
        require(
            (self.se is None) == (self.interval is None),
            "interval",
            self.interval,
            "given exactly when se is given",
        )
        require(self.scaled is None or 0 <= self.scaled <= 1, "scaled", self.scaled, "in [0, 1] or None")
        wrong = [r for r, k in self.n_unscored.items() if r not in REASONS or k < 1]
        require(not wrong, "n_unscored", dict(self.n_unscored), f"counts of {', '.join(REASONS)}")
        require(self.n >= 0, "n", self.n, "a count")
        plain(self.provenance, "provenance")

    @property
    def unscored(self) -> int:
        return sum(self.n_unscored.values())

    @property
    def many_unscored(self) -> bool:
        """Whether so many items are unscored that a reader is told what they could have changed."""
        return self.unscored > MANY_UNSCORED * (self.n + self.unscored)

    @property
    def scored_items(self) -> tuple[Item, ...]:
        return tuple(i for i in self.items if i.score is not None)

    def with_notes(self, *notes: str) -> Result:
        """The same Result with more warnings."""
        return replace(self, notes=(*self.notes, *(x for x in notes if x not in self.notes)))

    def to_json(self) -> dict[str, Any]:
        """JSON values only; every field of evaluation notes 1.1 is there."""
        interval = self.interval
        return {
            "metric": self.metric,
            "variant": self.variant,
            "subject": self.subject,
            "level": self.level,
            "value": self.value,
            "unit": self.unit,
            "direction": self.direction,
            "anchors": {
                "best": self.anchors.best,
                "worst": self.anchors.worst,
                "chance": self.anchors.chance,
            },
            "scaled": self.scaled,
            "n": self.n,
            "n_unscored": dict(self.n_unscored),
            "bounds": list(self.bounds) if self.bounds is not None else None,
            "se": self.se,
            "interval": None
            if interval is None
            else {f.name: getattr(interval, f.name) for f in fields(interval)},
            "cluster": {"unit": self.cluster.unit, "count": self.cluster.count},
            "items": dict(self.items_file)
            if self.items_file is not None
            else [i.to_json() for i in self.items],
            "provenance": plain(self.provenance, "provenance"),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Result:
        """The inverse of `to_json`; items kept in a file stay there (see `results_file.read_items`)."""
        known = {f.name for f in fields(cls)} - {"items_file"}
        if extra := set(row) - known:
            raise ValignError(
                f"unknown field(s) {sorted(extra)}", where="result", how=f"known: {', '.join(sorted(known))}"
            )
        data = dict(row)
        items = data.pop("items", [])
        inside = not isinstance(items, Mapping)
        try:
            return cls(**{
                **data,
                "anchors": Anchors(**data.get("anchors") or {}),
                "interval": Interval(**data["interval"]) if data.get("interval") else None,
                "cluster": Cluster(**data.get("cluster") or {"unit": "item", "count": 0}),
                "bounds": None if data.get("bounds") is None else (data["bounds"][0], data["bounds"][1]),
                "notes": tuple(data.get("notes", ())),
                "items": tuple(Item(**i) for i in items) if inside else (),
                "items_file": None if inside else dict(items),
            })  # fmt: skip
        except (TypeError, KeyError, IndexError) as error:
            raise ValignError(f"not a result: {error}", where=f"result {row.get('metric')}") from error


def interval_of(estimate: stats.Estimate, method: str, level: float = 0.95) -> Interval | None:
    """The interval of an estimate, None where it has none."""
    if estimate.low is None or estimate.high is None:
        return None
    return Interval(estimate.low, estimate.high, level, method)


def plain(value: Any, where: str) -> Any:
    """`value` as JSON values: tuples become lists. Raises `ValignError` for NaN, infinity or a foreign
    object.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            require(math.isfinite(value), where, value, "finite: JSON holds neither NaN nor infinity")
            return value
        case Mapping():
            return {str(k): plain(v, f"{where}.{k}") for k, v in value.items()}
        case list() | tuple():
            return [plain(v, where) for v in value]
    raise ValignError(f"a {type(value).__name__} cannot stand in JSON", where=where)


def _finite(x: float) -> bool:
    return isinstance(x, (int, float)) and math.isfinite(x)


def _is_direction(text: str) -> bool:
    if text in ("up", "down"):
        return True
    try:
        return text.startswith("target:") and math.isfinite(float(text.removeprefix("target:")))
    except ValueError:
        return False


def cluster_notes(clusters: int) -> list[str]:
    if clusters < 2:
        return ["one cluster: no interval"]
    return [f"only {clusters} clusters: the interval is rough"] if clusters < FEW_CLUSTERS else []
