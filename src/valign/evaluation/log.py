"""The request log: an append-only JSONL file that is cache, resume,
shard merge and viewer at once (section 10.6).

Always true here: a key names the content of a request (never its place in a batch), a request is answered
once, a second answer must agree with the first, and what a kill cut is dropped when the file is opened again: the last
line, and with it the lines that were written together with it. Requests that were answered in one batch are thus answered
in one batch again, and the numbers are the same to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from valign.errors import DataError, ValignError

VERSION = 1
AGREE = 1e-4  # two answers to one request may differ by this much (nats), evaluation notes 10.6
LEFT = "left"  # lines that follow this one in the same append; absent for the last
VOLATILE = ("seconds", "engine", "tokens", LEFT)  # may differ between two runs of one request


def canonical(record: Any) -> str:
    """JSON with sorted keys, no spaces, UTF-8 as it is, floats as strings."""
    return json.dumps(_strings(record), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_key(record: Any) -> str:
    """sha256 of `canonical`: 64 hex digits."""
    return hashlib.sha256(canonical(record).encode()).hexdigest()


class RequestLog:
    """key -> answer, backed by a file. Writers append whole lines; readers may follow a live file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: dict[str, dict[str, Any]] = {}
        self._load()

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self.rows[key]

    def __len__(self) -> int:
        return len(self.rows)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add answers (each with its "key") and push them to the disk;
        a known key must agree and is not written again.

        Raises `ValignError` (nondeterministic) when it does not.
        """
        fresh = [dict(r) for r in rows if self._is_new(dict(r))]
        if not fresh:
            return
        for i, row in enumerate(reversed(fresh)):
            row.pop(LEFT, None)
            if i:
                row[LEFT] = i
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in fresh)
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def merge(self, *others: str | Path) -> None:
        """Take over the answers of other logs (shards of one run)."""
        for other in others:
            self.append(RequestLog(other).rows.values())

    def _is_new(self, row: dict[str, Any]) -> bool:
        key = row.get("key")
        if not isinstance(key, str):
            raise DataError("a line of the log has no key", where=str(self.path))
        known = self.rows.setdefault(key, row)
        if known is row:
            return True
        if not agree(_lasting(known), _lasting(row)):
            raise ValignError(
                f"nondeterministic: two answers to one request differ (key {key[:12]})", where=str(self.path),
                how=("use the same model, dtype and engine for the whole log", "or start a new log file"),
            )  # fmt: skip
        return False

    def _load(self) -> None:
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        rows, begun, at = [], 0, 0  # begun: where the append that is not known to be whole starts
        for number, line in enumerate(content[:end].splitlines(keepends=True), 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                where = f"{self.path} line {number}"
                raise DataError(
                    "not JSON; only the last line may be broken", where=where, how="start a new log"
                ) from error
            at += len(line)
            rows.append((at, row))
            if not (isinstance(row, dict) and row.get(LEFT)):
                begun = at
        if begun < len(content):  # cut by a kill: what was written together is answered again together
            with self.path.open("rb+") as file:
                file.truncate(begun)
        for place, row in rows:
            if place <= begun:
                self._is_new(row)


def agree(a: Any, b: Any) -> bool:
    """Whether two answers are equal, numbers within `AGREE`."""
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b or math.isclose(a, b, rel_tol=0, abs_tol=AGREE)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(agree(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(agree, a, b))
    return bool(a == b)


def _lasting(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in VOLATILE}


def _strings(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return {str(k): _strings(v) for k, v in value.items()}
    return [_strings(v) for v in value] if isinstance(value, (list, tuple)) else value
