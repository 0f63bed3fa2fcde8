"""Value theories: dimensions with definitions and their structure, read from data files.

Always true here: a theory's dimensions stand in the order of its vectors; names are found by id or by name,
whatever their case and hyphens. Own theories are files of the same format. Targets, distances and evaluators
live elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from valign.data.frozen import frozen
from valign.errors import DataError, require, unknown
from valign.goals.base import Array, sha256
from valign.goals.files import DATA, Reader, builtin_names, read_yaml

Structure = Literal["circle", "list", "pairs", "angle"]
STRUCTURES: tuple[str, ...] = get_args(Structure)


@dataclass(frozen=True)
class Dimension:
    """One motivational dimension.

    toward, away   what a speaker does who holds it high, or sets it aside; they complete "When you answer,
                   ..."
    groups         higher-order groups it belongs to
    """

    id: str
    name: str
    definition: str
    groups: tuple[str, ...] = ()
    toward: str = ""
    away: str = ""

    def push(self, sign: float) -> str:
        """The dimension as an instruction for (sign > 0) or against it; built from the definition when none
        is given.
        """
        written = self.toward if sign > 0 else self.away
        return written or (f"act for {self.definition}" if sign > 0 else f"do not act for {self.definition}")


@dataclass(frozen=True)
class Theory:
    """Dimensions in vector order, and how they relate.

    angles           degrees on the circle by dimension id (structure "circle"), else empty
    order            ids around the circle
    opposites        pairs of sets of ids that pull against each other
    opposed_groups   pairs of higher-order groups that do
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
    opposites: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    opposed_groups: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "angles", frozen(self.angles))

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(d.id for d in self.dimensions)

    def index(self, name: str) -> int:
        """Place of a dimension in vectors, by id or name. Raises `UsageError` with the nearest names."""
        places = {_key(word): k for k, d in enumerate(self.dimensions) for word in (d.name, d.id)}
        if _key(name) not in places:
            names = [word for d in self.dimensions for word in (d.id, d.name)]
            raise unknown("dimension", name, names, where=f"theory {self.id}")
        return places[_key(name)]

    def vector(self, values: Mapping[str, float]) -> Array:
        """(K,) with the given numbers, 0 elsewhere. Raises for unknown or repeated names and numbers out of
        range.
        """
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
        """(K, K), 1 on the diagonal: cos of the angle between two dimensions on a circle; else 1 within a
        group, 0 across.
        """
        if self.structure == "circle":
            theta = np.radians([self.angles[i] for i in self.ids])
            return np.asarray(np.cos(theta[:, None] - theta[None, :]))
        same = [
            [bool(set(a.groups) & set(b.groups)) or a is b for b in self.dimensions] for a in self.dimensions
        ]
        return np.asarray(same, dtype=np.float64)

    def fingerprint(self) -> str:
        """sha256 over the content."""
        return sha256(self.to_json())

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
        if self.opposed_groups:
            out["opposed_groups"] = [list(pair) for pair in self.opposed_groups]
        if self.opposites:
            out["opposites"] = [{"one": list(a), "other": list(b)} for a, b in self.opposites]
        out["dimensions"] = [
            {"id": d.id, "name": d.name, "definition": d.definition, "groups": list(d.groups)}
            | {k: v for k, v in (("toward", d.toward), ("away", d.away)) if v}
            for d in self.dimensions
        ]
        return out


def load_theory(spec: str | Path | Mapping[str, Any]) -> Theory:
    """A theory by the name of a built-in one, from a YAML file, or from the content of such a file."""
    if isinstance(spec, Mapping):
        return _theory(Reader(spec, f"theory {spec.get('id', '')}".strip()))
    text = str(spec)
    if text in theories():
        return _builtin(text)
    path = Path(spec)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return _theory(Reader(read_yaml(path), str(path)))
    raise unknown("theory", text, theories())


def theories() -> tuple[str, ...]:
    """Names of the built-in theories."""
    return builtin_names("theories")


@cache
def _builtin(name: str) -> Theory:
    path = DATA / "theories" / f"{name}.yaml"
    return _theory(Reader(read_yaml(path), path.name))


def _theory(r: Reader) -> Theory:
    """A theory from the content of its file; every inconsistency is an error that names the field."""
    low, high = r.numbers("range", default=[-1.0, 1.0], length=2)
    dimensions = tuple(_dimension(part) for part in r.parts("dimensions"))
    ids = {d.id for d in dimensions}
    theory = Theory(
        id=r.text("id"),
        dimensions=dimensions,
        structure=cast(Structure, r.choice("structure", STRUCTURES, default="list")),
        version=r.integer("version", default=1),
        title=r.text("title", default=""),
        source=r.text("source", default=""),
        wording=r.text("wording", default=""),
        low=low,
        high=high,
        angles=r.number_map("angles", default={}),
        order=tuple(r.texts("order", default=[])),
        opposites=tuple(
            (tuple(p.texts("one")), tuple(p.texts("other"))) for p in r.parts("opposites", default=[])
        ),
        opposed_groups=tuple((a, b) for a, b in r.pairs("opposed_groups", default=[])),
    )
    r.done()
    names = [_key(w) for d in dimensions for w in {_key(d.id), _key(d.name)}]
    if len(names) != len(set(names)) or not dimensions:
        raise DataError("dimensions need one id and one name each, used once", where=f"{r.where}: dimensions")
    mentioned = {
        *theory.angles,
        *theory.order,
        *(i for pair in theory.opposites for side in pair for i in side),
    }
    if extra := mentioned - ids:
        raise unknown("dimension", sorted(extra)[0], ids, where=r.where)
    if theory.structure == "circle" and set(theory.angles) != ids:
        raise DataError(f"no angle for {sorted(ids - set(theory.angles))}", where=f"{r.where}: angles")
    return theory


def _dimension(r: Reader) -> Dimension:
    dimension = Dimension(
        id=r.text("id"),
        name=r.text("name"),
        definition=r.text("definition"),
        groups=tuple(r.texts("groups", default=[])),
        toward=r.text("toward", default=""),
        away=r.text("away", default=""),
    )
    r.done()
    return dimension


def _key(name: str) -> str:
    """One spelling for "Self-Direction", "self_direction" and "self direction"."""
    return str(name).strip().lower().replace("-", " ").replace("_", " ")
