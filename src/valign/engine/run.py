"""A run's folder: one owner, an append-only log, files that are whole or absent.

run.json      what was asked for (the resolved recipe), versions
log.jsonl     one line per event, only ever appended; a broken last line is cut when the run goes on
lock          host and pid of the process that owns the folder, while it does
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from valign.engine.lock import Lock
from valign.errors import ValignError


class RunFolder:
    """An output folder, owned by this process while open (a context manager)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValignError(
                f"cannot make the folder: {error.strerror}", where=str(path), how="choose another --out"
            ) from error
        self._lock = Lock(path)

    def __enter__(self) -> RunFolder:
        self._lock.acquire()
        self._mend()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._lock.release()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def log(self, event: str, **fields: Any) -> None:
        """Append one line, whole or not. A full disk is a warning of the caller's, not a lost run: OSError is left to it."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **fields}, ensure_ascii=False)
        try:
            with (self.path / "log.jsonl").open("a", encoding="utf-8") as f:
                f.write(line + "\n")
        except OSError:
            with contextlib.suppress(OSError):
                self._mend()
            raise

    def write(self, name: str, content: str) -> Path:
        """Write a file whole: to name.partial, flushed, then renamed."""
        return write_whole(self.path / name, content)

    def _mend(self) -> None:
        log = self.path / "log.jsonl"
        if log.exists():
            data = log.read_bytes()
            if data and not data.endswith(b"\n"):
                os.truncate(log, data.rfind(b"\n") + 1)  # a rewrite could be killed half-way


class FollowedRun(RunFolder):
    """The folder as a process sees it that does not lead its run: it reads there; the leading process owns and
    writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> FollowedRun:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def log(self, event: str, **fields: Any) -> None:
        pass

    def write(self, name: str, content: str) -> Path:
        return self.path / name


def write_whole(path: Path, content: str) -> Path:
    """Write text to `path`, whole or not at all. Raises `ValignError` where the disk refuses."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        partial.rename(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise ValignError(
            f"cannot write: {error.strerror}", where=str(path), how="free space or choose another --out"
        ) from error
    return path


def read_log(path: Path) -> Iterator[Mapping[str, Any]]:
    """The events of a run, also of one that is still writing: an unfinished last line and broken ones are left out."""
    log = path / "log.jsonl"
    if not log.exists():
        return
    with log.open(encoding="utf-8", errors="replace") as f:
        for line in f:
            with contextlib.suppress(ValueError):
                if line.endswith("\n") and isinstance(row := json.loads(line), dict):
                    yield row


def finite(line: Mapping[str, Any]) -> dict[str, Any]:
    """Fields for the log: JSON holds no NaN and no infinity, so such numbers become null."""
    return {k: (v if math.isfinite(v) else None) for k, v in line.items()}
