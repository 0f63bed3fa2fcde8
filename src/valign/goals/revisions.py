"""The revision log of a goal: which goal replaced which, and what that changed in outputs that were stored.

Always true here: lines are only ever added; each names the sha256 of the line before it, so a line that was changed or taken
out is noticed; a last line cut by a kill is dropped when the log is written to again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from valign.data.jsonl import json_lines
from valign.engine.lock import Lock
from valign.errors import DataError
from valign.goals.base import Goal

FILE = "revisions.jsonl"
VERSION = 1
SAME = ("before", "after", "outputs")  # a revision that repeats the last one in these is the same revision


def goal_card(goal: Goal) -> dict[str, Any]:
    """What the log keeps of a goal: id, version, level, fingerprint."""
    return {"id": goal.id, "version": getattr(goal, "version", 1), "level": goal.level, "fingerprint": goal.fingerprint()}


def read_revisions(path: Path) -> list[dict[str, Any]]:
    """The revisions in their order; [] where there is no log. Raises `DataError` naming the line where the chain breaks."""
    return [row for row, _ in _read(path)]


def append_revision(path: Path, revision: Mapping[str, Any], *, now: datetime | None = None) -> dict[str, Any]:
    """Add one revision (`before`, `after`, `outputs`, and what it changed) and push it to the disk; returns the line.

    A revision that says again what the last line says is not written a second time. Raises `ValignError` while another
    process writes in the folder: two lines that name the same one before them would break the chain.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(path.parent)
    lock.acquire()
    try:
        return _append(path, revision, now or datetime.now(UTC))
    finally:
        lock.release()


def _append(path: Path, revision: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    lines = _read(path)
    last, text = lines[-1] if lines else ({}, "")
    if last and all(last.get(k) == revision.get(k) for k in SAME):
        return last
    row = {
        "v": VERSION,
        "n": len(lines) + 1,
        "previous": _digest(text) if text else "",
        "time": now.isoformat(timespec="seconds"),
        **revision,
    }
    _drop_cut_line(path)
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return row


def _read(path: Path) -> list[tuple[dict[str, Any], str]]:
    """(row, line) of every whole line."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1].decode("utf-8", errors="replace")
    out: list[tuple[dict[str, Any], str]] = []
    for number, line in enumerate(json_lines(whole), 1):
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError("not JSON; only the last line may be broken", where=where) from error
        expected = _digest(out[-1][1]) if out else ""
        if not isinstance(row, dict) or row.get("previous") != expected or row.get("n") != number:
            raise DataError("the log was changed before this line: it does not name the line before it", where=where)
        out.append((row, line))
    return out


def _drop_cut_line(path: Path) -> None:
    """A line without its end was cut by a kill: it was never a revision."""
    if path.exists():
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            with path.open("rb+") as file:
                file.truncate(end)


def _digest(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()
