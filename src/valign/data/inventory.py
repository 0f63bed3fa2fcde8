"""Inventories: items that a respondent rates on one scale, each keyed for or against one dimension.

The project's own portraits come with the package (own wording, four items for and four against each of Schwartz's ten
values, every item with a paraphrase for a re-test). The items of published questionnaires are not shipped: the user
gives them as a file whose sha256 names the version. How answers are scored is `evaluation.metrics.questionnaire`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from valign.data.jsonl import json_lines, json_object
from valign.data.questionnaires import QUESTIONNAIRES, Questionnaire
from valign.errors import DataError, unknown

LICENCE = "Apache-2.0 (written for valign)"
ITEM_FIELDS = ("id", "dimension", "keyed", "text", "paraphrase")
NUMBERED_FIELDS = ("number", "text", "paraphrase")
HOW = ('lines like {"id": "SD1", "dimension": "SD", "keyed": 1, "text": "..."}',
       'or, for a questionnaire named with --instrument, {"number": 1, "text": "..."}')  # fmt: skip


@dataclass(frozen=True, slots=True)
class InventoryItem:
    """One item.

    dimension   what it speaks about; "" for one that no dimension counts (a catch item)
    keyed       1: agreeing speaks for the dimension; -1: against it
    paraphrase  the same item in other words, "" for none
    """

    id: str
    dimension: str
    keyed: int
    text: str
    paraphrase: str = ""


@dataclass(frozen=True)
class Inventory:
    """Items with the scale on which they are rated, and where they come from.

    labels       the answers from the highest number to the lowest; numbers run down by 1 from `high`
    question     what is asked about each item
    instrument   the questionnaire whose key scores it, "" for one's own items
    """

    id: str
    items: tuple[InventoryItem, ...]
    labels: tuple[str, ...]
    high: int
    question: str
    lead: str
    instrument: str = ""
    source: str = ""
    sha256: str = ""
    licence: str = ""

    @property
    def low(self) -> int:
        return self.high - len(self.labels) + 1

    @property
    def dimensions(self) -> tuple[str, ...]:
        """In the order in which the items name them."""
        return tuple(dict.fromkeys(i.dimension for i in self.items if i.dimension))

    @property
    def has_paraphrases(self) -> bool:
        return all(i.paraphrase for i in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def limited(self, per_dimension: int | None) -> Inventory:
        """The first items of each dimension and keying, for a quick look; None: all."""
        if per_dimension is None:
            return self
        kept, seen = [], dict[tuple[str, int], int]()
        for item in self.items:
            k = seen[item.dimension, item.keyed] = seen.get((item.dimension, item.keyed), 0) + 1
            kept += [item] if k <= per_dimension else []
        return replace(self, items=tuple(kept))


@cache
def portraits() -> Inventory:
    """The project's own items: 80 portraits of a person, rated from 1 (not like me at all) to 6 (very much like me)."""
    return read_inventory(_builtin("portraits"), name="portraits")


@cache
def personas() -> tuple[str, ...]:
    """Short descriptions of everyday people (work, age, place; no values), for simulated respondents."""
    lines = Path(_builtin("personas")).read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line)["text"] for line in lines)


def read_inventory(path: str | Path, *, instrument: str = "", name: str = "") -> Inventory:
    """An inventory from a JSONL file: own items with dimension and keying, or the numbered items of a questionnaire.

    instrument  "pvq40", "pvq21" or "mfq30": lines give number and text, the key is ours
    Raises `DataError` with file, line and field for whatever cannot be read, and for missing or repeated items.
    """
    source = Path(path)
    if instrument and instrument not in QUESTIONNAIRES:
        raise unknown("questionnaire", instrument, QUESTIONNAIRES, where="--instrument")
    try:
        content = source.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(source)) from error
    kind = QUESTIONNAIRES[instrument] if instrument else QUESTIONNAIRES["portraits"]
    fields = NUMBERED_FIELDS if instrument else ITEM_FIELDS
    rows = [(f"{source}:{n}", _row(line, f"{source}:{n}", fields))
            for n, line in enumerate(json_lines(content.decode("utf-8", "replace")), 1) if line.strip()]  # fmt: skip
    items = [_numbered(row, kind, where) if instrument else _item(row, where) for where, row in rows]
    _check(items, kind if instrument else None, str(source))
    own = name == "portraits"
    return Inventory(
        id=name or instrument or source.stem, items=tuple(items), labels=kind.labels, high=kind.high,
        question=kind.question, lead=kind.lead, instrument=instrument,
        source="builtin:portraits" if own else source.name, sha256=hashlib.sha256(content).hexdigest(),
        licence=LICENCE if own else "the user's own copy",
    )  # fmt: skip


def _builtin(name: str) -> Path:
    return Path(str(resources.files("valign.data") / "builtin" / f"{name}.jsonl"))


def _row(line: str, where: str, fields: tuple[str, ...]) -> Mapping[str, Any]:
    row = json_object(line, where, HOW)
    for key in row:
        if key not in fields:
            raise DataError(f"unknown field {key!r}", where=where, how=[f"fields: {', '.join(fields)}", *HOW])
    text = row.get("text")
    if not isinstance(text, str) or not text.strip() or not isinstance(row.get("paraphrase", ""), str):
        raise DataError("the item has no text", where=f"{where}, field text", how=HOW)
    return row


def _item(row: Mapping[str, Any], where: str) -> InventoryItem:
    for key in ("id", "dimension"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise DataError(f"the item has no {key}", where=f"{where}, field {key}", how=HOW)
    keyed = row.get("keyed")
    if isinstance(keyed, bool) or keyed not in (1, -1):
        raise DataError(f"keyed = {keyed!r} is neither 1 (for) nor -1 (against)", where=f"{where}, field keyed")
    return InventoryItem(row["id"], row["dimension"], int(keyed), row["text"].strip(), row.get("paraphrase", "").strip())


def _numbered(row: Mapping[str, Any], kind: Questionnaire, where: str) -> InventoryItem:
    number, homes = row.get("number"), {n: d for d, numbers in kind.key.items() for n in numbers}
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= kind.count:
        raise DataError(f"number = {number!r} is not an item number of 1 to {kind.count}", where=f"{where}, field number")
    return InventoryItem(str(number), homes.get(number, ""), 1, row["text"].strip(), row.get("paraphrase", "").strip())


def _check(items: list[InventoryItem], kind: Questionnaire | None, where: str) -> None:
    ids = [i.id for i in items]
    if len(set(ids)) < len(ids):
        again = next(i for i in ids if ids.count(i) > 1)
        raise DataError(f"item {again!r} stands there twice", where=where)
    if kind is not None and len(items) < kind.count:
        missing = sorted({str(n) for n in range(1, kind.count + 1)} - set(ids), key=int)
        raise DataError(f"{len(missing)} of {kind.count} items are missing: {', '.join(missing[:5])}", where=where)
    if len({i.dimension for i in items if i.dimension}) < 2:
        raise DataError("a profile needs items of at least two dimensions", where=where, how=HOW)
