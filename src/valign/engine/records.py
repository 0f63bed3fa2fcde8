"""Records in one SQLite file: key -> (form, bytes). Several processes may read and write it at once.

A record that is damaged counts as missing, a file that cannot be used as empty: they cost time, never a result.
"""

from __future__ import annotations

import logging
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import valign

log = logging.getLogger(__name__)
_ASK = 500  # keys of one question: SQLite takes a limited number


class RecordStore:
    """`table` in `file`. again: what is done with what is missing, in one word for a warning ("scored", "asked")."""

    def __init__(self, file: Path, table: str, again: str) -> None:
        self.file, self.table, self.again = file, table, again
        self.closed = False  # after the first refusal: one warning, not one for each batch

    def read(self, keys: Iterable[bytes]) -> dict[bytes, tuple[str, bytes]]:
        """(form, bytes) of the keys that are known."""
        wanted, out, damaged = list(keys), dict[bytes, tuple[str, bytes]](), [0]

        def look(db: sqlite3.Connection) -> None:
            for at in range(0, len(wanted), _ASK):
                part = wanted[at : at + _ASK]
                marks = ",".join("?" * len(part))
                for key, form, crc, data in db.execute(f"SELECT * FROM {self.table} WHERE key IN ({marks})", part):
                    if zlib.crc32(data) == crc:
                        out[key] = form, data
                    else:
                        damaged[0] += 1

        self._use(look)
        if damaged[0]:
            log.warning("%s: %d damaged records are %s again", self.file, damaged[0], self.again)
        return out

    def write(self, rows: Mapping[bytes, tuple[str, bytes]]) -> None:
        """Add records, all or none of them."""
        records = [(key, form, zlib.crc32(data), data) for key, (form, data) in rows.items()]
        self._use(lambda db: db.executemany(f"INSERT OR REPLACE INTO {self.table} VALUES (?, ?, ?, ?)", records))

    def _use(self, action: Callable[[sqlite3.Connection], Any]) -> None:
        """Act on the open file as one transaction. Where the file refuses, say so and leave it."""
        if self.closed:
            return
        shape = "key BLOB PRIMARY KEY, dtype TEXT, crc INTEGER, data BLOB"
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.file, timeout=60)) as db, db:
                db.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({shape}) WITHOUT ROWID")
                action(db)
        except (sqlite3.Error, OSError) as error:
            self.closed = True
            log.warning("%s cannot be used (%s): what it holds is %s again", self.file, error, self.again)
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                with suppress(OSError):  # no database any more: the next run begins a new one
                    self.file.rename(self.file.with_name(self.file.name + ".damaged"))


@cache
def made_by() -> str:
    """The versions that computed a number: another one may round or order its sums otherwise."""
    return "|".join([valign.__version__, *(version(name) for name in ("torch", "transformers"))])
