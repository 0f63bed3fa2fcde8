"""Theories from their files: what a file may say, and the errors that a wrong one is told.

Always true here: every name that a file mentions is a dimension of it; every inconsistency names file, line and field.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from valign.errors import DataError, unknown
from valign.goals.dimensions import (
    STRUCTURES,
    TARGET_TYPES,
    Dimension,
    OpposedGroups,
    Opposites,
    Structure,
    TargetType,
    Theory,
    spelling,
)
from valign.goals.files import DATA, Reader, builtin_names, read_yaml
from valign.goals.instrument import read_instrument

__all__ = ["Dimension", "Theory", "load_theory", "theories"]


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
    parts, dimensions = _dimensions(r)
    ids = [d.id for d in dimensions]
    structure = cast(Structure, r.choice("structure", STRUCTURES, default="list"))
    order, angles = _circle(r, structure, ids)
    opposites, opposed_groups = _opposites(r, parts)
    theory = Theory(
        id=r.text("id"),
        dimensions=dimensions,
        structure=structure,
        version=r.integer("version", default=1),
        title=r.text("title", default=""),
        source=r.text("source", default=""),
        wording=r.text("wording", default=""),
        low=low,
        high=high,
        angles=angles,
        order=order,
        opposites=opposites,
        opposed_groups=opposed_groups,
        target=_target_type(r, structure),
        named_angles=r.number_map("named_angles", default={}),
        parts=parts,
        near=_similarity(r, len(ids)),
        maps=_maps(r),
        instruments=tuple(read_instrument(part, ids) for part in r.parts("instruments", default=[])),
        note=r.text("note", default=""),
    )
    stated = r.texts("groups", default=theory.groups)
    r.done()
    _check(theory, r)
    if set(stated) != set(theory.groups):
        r.fail("groups", f"the dimensions name {list(theory.groups) or 'none'}; write the same here or leave it out")
    return theory


def _dimensions(r: Reader) -> tuple[tuple[Theory, ...], tuple[Dimension, ...]]:
    """(the theories it is put together from, its dimensions)."""
    if "parts" not in r.content:
        return (), tuple(_dimension(part) for part in r.parts("dimensions"))
    parts = tuple(load_theory(name) for name in r.texts("parts"))
    if "dimensions" in r.content:
        r.fail("dimensions", "come from the parts; write either parts or dimensions")
    return parts, tuple(d for part in parts for d in part.dimensions)


def _opposites(r: Reader, parts: tuple[Theory, ...]) -> tuple[Opposites, OpposedGroups]:
    """(pairs of sets of dimensions, pairs of groups); of a theory of parts, those of its parts, which stand side by side."""
    if parts:
        for key in ("opposites", "opposed_groups"):
            if key in r.content:
                r.fail(key, "come from the parts; leave it out")
        opposites = tuple(o for part in parts for o in part.opposites)
        return opposites, tuple(o for part in parts for o in part.opposed_groups)
    pairs = tuple((tuple(p.texts("one")), tuple(p.texts("other"))) for p in r.parts("opposites", default=[]))
    return pairs, tuple(r.pairs("opposed_groups", default=[]))


def _circle(r: Reader, structure: Structure, ids: list[str]) -> tuple[tuple[str, ...], dict[str, float]]:
    """(order, degrees by id). A circle whose file writes an order and no angles has equal wedges."""
    order, angles = tuple(r.texts("order", default=[])), r.number_map("angles", default={})
    if structure == "circle" and not angles and set(order) == set(ids) and len(order) == len(ids):
        angles = {id: 360.0 * place / len(order) for place, id in enumerate(order)}
    if structure == "circle" and set(angles) != set(ids):
        r.fail("angles", f"no angle for {sorted(set(ids) - set(angles))}")
    return order, angles


def _target_type(r: Reader, structure: Structure) -> TargetType:
    default = "angle" if structure == "angle" else "vector"
    return cast(TargetType, r.choice("target", TARGET_TYPES, default=default))


def _similarity(r: Reader, k: int) -> tuple[tuple[float, ...], ...]:
    """The similarity matrix a file states: K rows of K numbers in [-1, 1], symmetric, 1 on the diagonal; () for none."""
    rows = r.raw("similarity", default=[])
    if not isinstance(rows, list) or any(not isinstance(row, list) for row in rows):
        r.fail("similarity", "must be a list of rows")
    table = tuple(tuple(Reader({"row": row}, f"{r.where}: similarity").numbers("row")) for row in rows)
    if not table:
        return ()
    if len(table) != k or any(len(row) != k for row in table):
        r.fail("similarity", f"must be {k} rows of {k} numbers, one per dimension")
    fits = all(table[i][j] == table[j][i] and -1 <= table[i][j] <= 1 for i in range(k) for j in range(k))
    if not fits or any(table[i][i] != 1 for i in range(k)):
        r.fail("similarity", "must be symmetric, in [-1, 1], with 1 on the diagonal")
    return table


def _maps(r: Reader) -> dict[str, dict[str, str]]:
    """Dimension to dimension, by the id of the theory they map to."""
    out: dict[str, dict[str, str]] = {}
    for to, pairs in r.raw("maps", default={}).items():
        if not isinstance(pairs, Mapping) or not all(isinstance(x, str) for x in pairs.values()):
            r.fail(f"maps.{to}", "must name a dimension of that theory for each dimension")
        out[str(to)] = {str(k): str(v) for k, v in pairs.items()}
    return out


def _check(theory: Theory, r: Reader) -> None:
    """Raise for names used twice or not at all."""
    names = [spelling(w) for d in theory.dimensions for w in {spelling(d.id), spelling(d.name)}]
    if len(names) != len(set(names)) or not theory.dimensions:
        raise DataError("dimensions need one id and one name each, used once", where=r.place("dimensions"))
    mentioned = {
        *theory.angles,
        *theory.order,
        *(i for pair in theory.opposites for side in pair for i in side),
        *(i for pairs in theory.maps.values() for i in pairs),
    }
    if extra := mentioned - set(theory.ids):
        raise unknown("dimension", sorted(extra)[0], theory.ids, where=r.where)
    if extra := {g for pair in theory.opposed_groups for g in pair} - set(theory.groups):
        raise unknown("group", sorted(extra)[0], theory.groups, where=r.place("opposed_groups"))
    if theory.target == "angle" and len(theory.dimensions) != 2:
        r.fail("dimensions", f"an angle lies between two dimensions, not {len(theory.dimensions)}")


def _dimension(r: Reader) -> Dimension:
    return Dimension(
        id=r.text("id"),
        name=r.text("name"),
        definition=r.text("definition"),
        groups=tuple(r.texts("groups", default=[])),
        toward=r.text("toward", default=""),
        away=r.text("away", default=""),
        virtue=r.text("virtue", default=""),
        vice=r.text("vice", default=""),
    )
