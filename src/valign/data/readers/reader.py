"""What every format shares: a row with its line, the log of what happened to rows, and the shape of a reader.

Always true here: a row that cannot be read raises `Drop` with its field and reason, and ends in the log; no
row vanishes. Which formats there are stands in `table.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from valign.data.dataset import NOT_STATED, ReadReport
from valign.data.group import Group
from valign.errors import DataError

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One row of a file. line: where it begins, from 1 (for formats without lines: its number)."""

    line: int
    fields: Fields


class Drop(Exception):
    """Raised by a reader for a row that it cannot read: the field, and what is wrong with it."""

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"{field}: {reason}")


@dataclass
class Log:
    """Collects what happens while a file is read; `report()` at the end."""

    rows: int = 0
    fields: tuple[str, ...] = ()
    dropped: list[tuple[int, str, str]] = field(default_factory=list)
    flagged: list[tuple[int, str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def drop(self, line: int, field: str, reason: str) -> None:
        """The row is left out."""
        self.dropped.append((line, field, reason))

    def flag(self, line: int, field: str, reason: str) -> None:
        """The row is kept, though unusual; also counted under its reason."""
        self.flagged.append((line, field, reason))
        self.counts[reason] += 1

    def report(self) -> ReadReport:
        return ReadReport(
            self.rows,
            tuple(sorted(self.dropped)),
            tuple(self.flagged),
            {name: n for name, n in self.counts.items() if n},
            self.fields,
            tuple(self.notes),
        )


ReadRows = Callable[[Iterable[Row], Log], Iterator[tuple[int, Group]]]


@dataclass(frozen=True)
class Reader:
    """One format.

    name       what `read(path, format=...)` takes
    title      what it is, for people
    fields     the fields that a row has, for people
    matches    does a file whose first rows are these hold this format?
    read_rows  (rows, log) -> (line, group) one after the other
    licence    as the source of the format states it; "not stated" where many sources use one format
    """

    name: str
    title: str
    fields: str
    matches: Callable[[Sequence[Fields]], bool]
    read_rows: ReadRows
    licence: str = NOT_STATED


def row_wise(read_row: Callable[[Row, Log], Group | Sequence[Group]]) -> ReadRows:
    """A reader of files in which every row stands for itself. What cannot be read is dropped into the log."""

    def read_rows(rows: Iterable[Row], log: Log) -> Iterator[tuple[int, Group]]:
        for row in rows:
            try:
                made = read_row(row, log)
            except Drop as drop:
                log.drop(row.line, drop.field, drop.reason)
                continue
            except DataError as error:
                log.drop(row.line, error.where, error.what)
                continue
            for group in [made] if isinstance(made, Group) else made:
                yield row.line, group

    return read_rows


def mostly(holds: Callable[[Fields], bool]) -> Callable[[Sequence[Fields]], bool]:
    """Does it hold for more than half of the first rows? A few broken rows must not hide a format."""
    return lambda rows: sum(map(holds, rows)) * 2 > len(rows)


def having(*names: str, without: Sequence[str] = ()) -> Callable[[Fields], bool]:
    """Does a row have all these fields, and none of those?"""
    return lambda f: (
        all(f.get(n) is not None for n in names) and not any(f.get(n) is not None for n in without)
    )


def text_of(fields: Fields, name: str) -> str:
    """A field that must be text. Raises `Drop`."""
    value = fields.get(name)
    if value is None:
        raise Drop(name, "is missing")
    if not isinstance(value, str):
        raise Drop(name, f"is {type(value).__name__}, not text")
    return value


def list_of(fields: Fields, name: str, kind: type) -> list[Any]:
    """A field that must be a list with elements of one type. Raises `Drop`."""
    value = fields.get(name)
    if value is None:
        raise Drop(name, "is missing")
    if not isinstance(value, list):
        raise Drop(name, f"is {type(value).__name__}, not a list")
    for i, x in enumerate(value):
        if not isinstance(x, kind):
            raise Drop(f"{name}[{i}]", f"is {type(x).__name__}, not {kind.__name__}")
    return value


def number_of(value: Any) -> float | None:
    """A number, also one written as text; None for anything else ("N/A", "", missing, NaN)."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number - number == 0 else None  # NaN and infinities are no ratings


def bool_of(fields: Fields, name: str) -> bool:
    """A yes/no field: true/false, 1/0, yes/no, also as text. Raises `Drop`."""
    value = fields.get(name)
    known = {
        "true": True,
        "1": True,
        "1.0": True,
        "yes": True,
        "false": False,
        "0": False,
        "0.0": False,
        "no": False,
    }
    found = known.get(str(value).strip().lower())
    if found is None:
        raise Drop(name, "is missing" if value is None else f"is {value!r}, neither true nor false")
    return found


def rest_of(fields: Fields, *used: str) -> dict[str, Any]:
    """The other fields of a row, for `Group.meta`: those that hold JSON values, without the empty ones."""
    out = {}
    for name, value in fields.items():
        if name in used or value is None:
            continue
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            value = str(value)  # dates and the like; bytes of an image stay out of the meta data
            if isinstance(fields[name], bytes):
                continue
        out[name] = value
    return out


def id_of(fields: Fields, row: Row, *names: str) -> str:
    """The first of these fields that holds an id, else the line."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value):
            return str(value)
    return f"line-{row.line}"
