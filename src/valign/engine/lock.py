"""Who owns a folder: an advisory lock of the operating system on `FOLDER/lock`, which also names host and pid.

The kernel drops the lock with its process, however that ends, so a file that a killed run left behind says nothing and
a process id that is used again cannot hold a folder.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path

from valign.errors import ValignError

NAME = "lock"
PATIENCE = 0.2  # seconds to wait for a lock: a look at it (`is_held`) takes it for an instant


class Lock:
    """The lock of one folder; not held until `acquire`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._fd = -1

    def acquire(self) -> None:
        """Own the folder. Raises `ValignError` if another process does, or where the disk refuses."""
        while True:
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise ValignError(
                    f"cannot write here: {error.strerror}", where=str(self.path.parent), how="choose another --out"
                ) from error
            if not _take(fd, patience=PATIENCE):
                owner = os.read(fd, 999).decode(errors="replace") or "just starting"
                os.close(fd)
                raise ValignError(
                    f"another run ({owner}) is writing here",
                    where=str(self.path.parent),
                    how="wait for it, or choose another --out",
                )
            if _is_at(fd, self.path):
                break
            os.close(fd)  # its owner left and removed the file between our two steps: try the new one
        os.truncate(fd, 0)
        os.write(fd, f"host {socket.gethostname()}, pid {os.getpid()}".encode())
        self._fd = fd

    def release(self) -> None:
        """Remove the file while it is still ours, then let go."""
        if self._fd >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def is_held(folder: Path) -> bool:
    """Whether a process that is alive owns the folder."""
    try:
        fd = os.open(folder / NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _take(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _take(fd: int, kind: int = fcntl.LOCK_EX, *, patience: float = 0.0) -> bool:
    """Lock the open file, or say that another process holds it still after `patience` seconds."""
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)


def _is_at(fd: int, path: Path) -> bool:
    """Whether the open file is the one that the path names now."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
