"""Answers that every run may read, whatever its output folder: one file in the folder that $VALIGN_ANSWERS names.

Off unless named. A record is a line of a request log, found by the content of its request and by the versions that computed
it; it is copied into the run's own log, which stays whole without this store.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from valign.engine.records import RecordStore, made_by
from valign.evaluation.log import LEFT

FOLDER = "VALIGN_ANSWERS"  # environment variable: where the store lies; there is none without it
FILE = "answers.sqlite"


def shared_answers() -> SharedAnswers | None:
    """The store that the user named, None where there is none."""
    own = os.environ.get(FOLDER)
    return SharedAnswers(Path(own).expanduser()) if own else None


class SharedAnswers:
    """key of a request -> its line in a log, for all runs that name `folder`."""

    def __init__(self, folder: Path) -> None:
        self.records = RecordStore(folder / FILE, "answers", "asked")

    def read(self, keys: Iterable[str]) -> list[dict[str, Any]]:
        """The lines of the keys that are known."""
        return [json.loads(data) for _, data in self.records.read(map(_address, keys)).values()]

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add lines, all or none of them."""
        whole = {r["key"]: {k: v for k, v in r.items() if k != LEFT} for r in rows}
        text = {key: json.dumps(row, ensure_ascii=False, allow_nan=False) for key, row in whole.items()}
        self.records.write({_address(key): ("json", line.encode()) for key, line in text.items()})


def _address(key: str) -> bytes:
    return hashlib.sha256(f"{made_by()}|{key}".encode()).digest()
