"""Where valign keeps what it converted, and how a folder is written whole or not at all.

Always true here: a folder appears under its final name only when every file in it is complete (it is
written as NAME.partial and renamed), and two processes that want the same folder wait for each other.
Nothing is deleted but our own partial and replaced folders.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from valign.errors import ModelError

CHUNK = 1 << 22  # bytes read at a time: large enough that hashing, not the call, is the cost
HASH_THREADS = 4  # sha256 releases the interpreter lock; more threads than this outrun most disks


def cache_root() -> Path:
    """The user's cache folder: $VALIGN_CACHE, else $XDG_CACHE_HOME/valign, else ~/.cache/valign. May not
    exist yet.
    """
    if own := os.environ.get("VALIGN_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "valign"


def sha256_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes. An unchanged size and time of change spare a second reading."""
    stat = path.stat()
    return _sha256(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


def sha256_files(paths: Iterable[Path]) -> dict[str, str]:
    """File name -> sha256, several files at a time."""
    files = list(paths)
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        return dict(zip([p.name for p in files], pool.map(sha256_file, files), strict=True))


@lru_cache(maxsize=4096)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold PATH.lock while the body runs; a second process waits. The kernel frees it if we die."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock")):
        yield


@contextmanager
def whole_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder FINAL.partial; when the body succeeds it becomes `final`, else nothing is left
    of it.

    replace   put it in the place of an existing folder. Without it an existing folder that is not empty is
              a `ModelError`
    """
    if not replace and final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise ModelError(
            "already exists; nothing was overwritten", where=str(final), how="choose another folder"
        )
    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _flush(file)
        _put(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _flush(path: Path) -> None:
    """Have the bytes on disk before the name says that they are."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(partial: Path, final: Path) -> None:
    """Rename; an existing folder steps aside first, since a rename replaces empty folders only."""
    old = final.with_name(final.name + ".replaced")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(partial, final)
    shutil.rmtree(old, ignore_errors=True)
