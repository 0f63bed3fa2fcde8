"""Groups as JSON lines: valign's own file format, one group per line, UTF-8.

Always true here: a file appears whole or not at all (written beside its place, flushed to disk, then
renamed), and an error names file, line and field. Foreign formats are read by `data/readers`.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from valign.data.group import Group
from valign.errors import DataError

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
_UTF8_MARK, _WIDE_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


def write(groups: Iterable[Group], path: str | Path) -> Path:
    """Write one JSON line per group; returns the path. Raises `DataError` when the place cannot be
    written.
    """
    with atomic(path) as out:
        for group in groups:
            try:
                line = json.dumps(group.to_json(), ensure_ascii=False, allow_nan=False)
                out.write(line.encode() + b"\n")
            except (TypeError, ValueError) as error:  # a value that JSON lacks, NaN, or half a surrogate pair
                raise DataError(f"cannot be written as JSON: {error}", where=f"group {group.id}") from error
    return Path(path)


def read_groups(path: str | Path) -> tuple[Group, ...]:
    """The groups of a file written by `write`. Strict: the first line that is not a group raises a
    `DataError`.
    """
    path = Path(path)
    groups: list[Group] = []
    seen: dict[str, int] = {}
    for line, raw in text_lines(path):
        try:
            row = json.loads(raw)
        except json.JSONDecodeError as error:
            raise broken_line(path, line, raw, error) from error
        if not isinstance(row, dict):
            raise DataError(f"a line must be a JSON object, not {type(row).__name__}", where=f"{path}:{line}")
        try:
            group = Group.from_json(row)
        except DataError as error:
            raise DataError(error.what, where=f"{path}:{line}: {error.where}", how=error.how) from error
        if group.id in seen:
            raise DataError(
                f"{group.id!r} stands already in line {seen[group.id]}", where=f"{path}:{line}: field id"
            )
        seen[group.id] = line
        groups.append(group)
    return tuple(groups)


def broken_line(path: Path, line: int, raw: str, error: json.JSONDecodeError) -> DataError:
    """The error for a line that is not JSON: most often half a line, left by an interrupted copy."""
    half = error.pos >= len(raw.rstrip()) or error.msg.startswith("Unterminated")
    what = (
        "the line ends in the middle of a JSON value"
        if half
        else f"not JSON: {error.msg}, column {error.colno}"
    )
    return DataError(what, where=f"{path}:{line}", how="copy the file again, or delete the line")


def json_object(text: str, where: str, how: str | Sequence[str]) -> dict[str, Any]:
    """The JSON object that `text` is. Raises `DataError` where it is something else."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=where, how=how) from error
    if not isinstance(content, dict):
        raise DataError("not a JSON object", where=where, how=how)
    return content


def read_object(file: Path, how: str | Sequence[str]) -> dict[str, Any]:
    """The one JSON object of a file. Raises `DataError` where it holds something else."""
    return json_object(file.read_text(encoding="utf-8"), str(file), how)


def read_objects(file: Path, how: str | Sequence[str]) -> list[dict[str, Any]]:
    """The JSON objects of a file, one in each line. Raises `DataError` naming a line that is none."""
    lines = enumerate(json_lines(file.read_text(encoding="utf-8")), 1)
    return [json_object(line, f"{file}:{number}", how) for number, line in lines]


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of each line that is not blank. Lines end at newlines only, never inside a
    JSON text.

    Raises `DataError` for a missing or empty file, a Git LFS pointer, and bytes that are not UTF-8.
    """
    with opened(path) as file:
        yield from decoded(path, file)


def json_lines(text: str) -> list[str]:
    """The lines of a text of JSON lines: they end at newlines only. `str.splitlines` would cut at signs that JSON leaves as
    they are inside a text, such as U+2028.
    """
    return text.removesuffix("\n").split("\n") if text else []


def decoded(path: Path, file: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """`text_lines` of an open file."""
    empty = True
    for number, raw in enumerate(file, 1):
        if number == 1:
            raw = raw.removeprefix(_UTF8_MARK)
            refuse_pointer(path, raw)
            if raw.startswith(_WIDE_MARKS):
                raise DataError(
                    "the file is UTF-16, not UTF-8", where=str(path), how="save it again as UTF-8"
                )
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8",
                where=f"{path}:{number}",
                how="save the file as UTF-8",
            ) from error
        if line.strip():
            empty = False
            yield number, line
    if empty:
        raise DataError("the file is empty", where=str(path))


def refuse_pointer(path: Path, head: bytes) -> None:
    """Raise if a file is a Git LFS pointer, which stands in a checkout in place of the data."""
    if head.startswith(LFS_POINTER):
        raise DataError(
            "this is a Git LFS pointer, not the data",
            where=str(path),
            how="fetch the data in its repository: git lfs pull",
        )


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A file open for reading, with the operating system's refusal in words."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(_reason(error), where=str(path)) from error
    with file:
        yield file


@contextmanager
def atomic(path: str | Path) -> Iterator[BinaryIO]:
    """A file that takes its name only once it is whole: written as name.partial, flushed to disk, renamed.

    On any error the partial file is removed and what stood under the name stays. Raises `DataError` when the
    place
    cannot be written (no permission, no such folder, disk full).
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise DataError(
                f"cannot write: {_reason(error)}",
                where=str(path),
                how="nothing was changed; choose another place",
            ) from error
        raise


def _reason(error: OSError) -> str:
    known: dict[int | None, Any] = {
        errno.ENOENT: "no such file or folder",
        errno.EACCES: "no permission",
        errno.EROFS: "the file system is read-only",
        errno.ENOSPC: "the disk is full",
        errno.EISDIR: "this is a folder, not a file",
    }
    return str(known.get(error.errno) or error.strerror or error)
