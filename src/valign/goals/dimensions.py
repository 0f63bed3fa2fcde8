"""Value theories: dimensions with definitions, their structure, and what they can be compared with.

Always true here: a theory's dimensions stand in the order of its vectors; names are found by id or by name,
whatever their case and hyphens. Reading their files is `theory`'s subject; targets, distances and evaluators live elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from valign.data.frozen import frozen
from valign.errors import UsageError, require, unknown
from valign.goals.base import Array, sha256
from valign.goals.instrument import Instrument

Structure = Literal["circle", "list", "pairs", "angle"]
STRUCTURES: tuple[str, ...] = get_args(Structure)
Opposites = tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
OpposedGroups = tuple[tuple[str, str], ...]
TargetType = Literal["vector", "ranking", "angle"]
TARGET_TYPES: tuple[str, ...] = get_args(TargetType)
SPELLED_OUT = ("note", "maps", "instruments")  # of a theory's content: what no utility depends on


@dataclass(frozen=True)
class Dimension:
    """One motivational dimension.

    toward, away   what a speaker does who holds it high, or sets it aside; they complete "When you answer, ..."
    groups         higher-order groups it belongs to
    virtue, vice   names of its two poles, where the theory names them
    """

    id: str
    name: str
    definition: str
    groups: tuple[str, ...] = ()
    toward: str = ""
    away: str = ""
    virtue: str = ""
    vice: str = ""

    def push(self, sign: float) -> str:
        """The dimension as an instruction for (sign > 0) or against it; built from the definition when none is given."""
        written = self.toward if sign > 0 else self.away
        return written or (f"act for {self.definition}" if sign > 0 else f"do not act for {self.definition}")


@dataclass(frozen=True)
class Theory:
    """Dimensions in vector order, and how they relate.

    angles           degrees on the circle by dimension id (structure "circle"), else empty
    order            ids around the circle
    opposites        pairs of sets of ids that pull against each other
    opposed_groups   pairs of higher-order groups that do; a theory of parts has the opposites of its parts
    target           what a target is: a vector, a ranking of the dimensions, or an angle
    named_angles     degrees by name, for targets that are angles
    parts            theories that this one puts side by side; its dimensions are theirs
    near             (K, K) similarity, where the file states it; else it follows from the structure
    maps             for another theory's id: which of its dimensions each of these is part of
    instruments      questionnaires with their scoring keys
    """

    id: str
    dimensions: tuple[Dimension, ...]
    structure: Structure = "list"
    version: int = 1
    title: str = ""
    source: str = ""
    wording: str = ""
    low: float = -1.0
    high: float = 1.0
    angles: Mapping[str, float] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    opposites: Opposites = ()
    opposed_groups: OpposedGroups = ()
    target: TargetType = "vector"
    named_angles: Mapping[str, float] = field(default_factory=dict)
    parts: tuple[Theory, ...] = ()
    near: tuple[tuple[float, ...], ...] = ()
    maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    instruments: tuple[Instrument, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("angles", "named_angles", "maps"):
            object.__setattr__(self, name, frozen(getattr(self, name)))

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(d.id for d in self.dimensions)

    @property
    def groups(self) -> tuple[str, ...]:
        """Higher-order groups in the order in which the dimensions name them; () where the theory has none."""
        return tuple(dict.fromkeys(g for d in self.dimensions for g in d.groups))

    def index(self, name: str) -> int:
        """Place of a dimension in vectors, by id or name. Raises `UsageError` with the nearest names."""
        places = {spelling(word): k for k, d in enumerate(self.dimensions) for word in (d.name, d.id)}
        if spelling(name) not in places:
            names = [word for d in self.dimensions for word in (d.id, d.name)]
            raise unknown("dimension", name, names, where=f"theory {self.id}")
        return places[spelling(name)]

    def vector(self, values: Mapping[str, float]) -> Array:
        """(K,) with the given numbers, 0 elsewhere. Raises for unknown or repeated names and numbers out of range."""
        out = np.zeros(len(self.dimensions))
        seen: set[int] = set()
        for name, value in values.items():
            k = self.index(name)
            require(k not in seen, name, value, f"given once (it is another name of {self.ids[k]})")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            ok = number and self.low <= value <= self.high
            require(ok, name, value, f"a number in [{self.low:g}, {self.high:g}]")
            seen.add(k)
            out[k] = value
        return out

    def similarity(self) -> Array:
        """(K, K), 1 on the diagonal: as the file states it; else cos of the angle between two dimensions on a circle;
        else 1 within a group, 0 across, and -1 between opposites where the structure is pairs. Parts stand in blocks.
        """
        if self.near:
            return np.asarray(self.near, dtype=np.float64)
        if self.parts:
            return _blocks([part.similarity() for part in self.parts])
        if self.structure == "circle":
            theta = np.radians([self.angles[i] for i in self.ids])
            return np.asarray(np.cos(theta[:, None] - theta[None, :]))
        same = [
            [bool(set(a.groups) & set(b.groups)) or a is b for b in self.dimensions] for a in self.dimensions
        ]
        out = np.asarray(same, dtype=np.float64)
        for one, other in self.opposites if self.structure == "pairs" else ():
            rows, columns = [self.index(i) for i in one], [self.index(i) for i in other]
            out[np.ix_(rows, columns)] = out[np.ix_(columns, rows)] = -1.0
        return out

    def onto(self, values: ArrayLike, theory: Theory) -> Array:
        """Values (..., K) in the dimensions of another theory (..., K'): the mean of those that map to it; NaN for a
        dimension that none maps to. Raises `UsageError` where the file states no map.
        """
        if theory.id not in self.maps:
            raise UsageError(
                f"there is no map from {self.id} to {theory.id}", where=f"theory {self.id}",
                how=f"maps: {', '.join(self.maps) or 'none'}",
            )  # fmt: skip
        v, pairs = np.asarray(values, dtype=np.float64), self.maps[theory.id]
        columns = [[self.index(i) for i, to in pairs.items() if to == d] for d in theory.ids]
        means = [v[..., c].mean(-1) if c else np.full(v.shape[:-1], np.nan) for c in columns]
        return np.stack(means, axis=-1)

    def instrument(self, name: str) -> Instrument:
        """One of the theory's questionnaires. Raises `UsageError` with the nearest names."""
        known = {i.id: i for i in self.instruments}
        if name not in known:
            raise unknown("instrument", name, known, where=f"theory {self.id}")
        return known[name]

    def fingerprint(self) -> str:
        """sha256 over what a utility can depend on: everything but notes, maps and questionnaires."""
        content = {k: v for k, v in self.to_json().items() if k not in SPELLED_OUT}
        return sha256([content, *(part.fingerprint() for part in self.parts)] if self.parts else content)

    def to_json(self) -> dict[str, Any]:
        """The content of the theory's file."""
        out: dict[str, Any] = {
            "id": self.id,
            "version": self.version,
            "title": self.title,
            "source": self.source,
        }
        out |= {"wording": self.wording, "structure": self.structure, "range": [self.low, self.high]}
        if self.angles:
            out |= {"angles": dict(self.angles), "order": list(self.order)}
        if self.opposed_groups and not self.parts:
            out["opposed_groups"] = [list(pair) for pair in self.opposed_groups]
        if self.opposites and not self.parts:
            out["opposites"] = [{"one": list(a), "other": list(b)} for a, b in self.opposites]
        out |= {"target": self.target} if self.target != "vector" else {}
        out |= {"named_angles": dict(self.named_angles)} if self.named_angles else {}
        out |= {"similarity": [list(row) for row in self.near]} if self.near else {}
        out |= {"maps": {to: dict(pairs) for to, pairs in self.maps.items()}} if self.maps else {}
        out |= {"instruments": [i.to_json() for i in self.instruments]} if self.instruments else {}
        out |= {"note": self.note} if self.note else {}
        if self.parts:
            return out | {"parts": [part.id for part in self.parts]}
        words = ("toward", "away", "virtue", "vice")
        out["dimensions"] = [
            {"id": d.id, "name": d.name, "definition": d.definition, "groups": list(d.groups)}
            | {k: v for k in words if (v := getattr(d, k))}
            for d in self.dimensions
        ]
        return out


def _blocks(matrices: Sequence[Array]) -> Array:
    """Square matrices along the diagonal, 0 elsewhere."""
    sizes = [len(m) for m in matrices]
    out, start = np.zeros((sum(sizes), sum(sizes))), 0
    for matrix, size in zip(matrices, sizes, strict=True):
        out[start : start + size, start : start + size] = matrix
        start += size
    return out


def spelling(name: str) -> str:
    """One spelling for "Self-Direction", "self_direction" and "self direction"."""
    return str(name).strip().lower().replace("-", " ").replace("_", " ")
