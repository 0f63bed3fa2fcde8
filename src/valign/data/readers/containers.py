"""Files into rows: JSON lines, JSON, CSV, TSV, Parquet, each also gzipped, and folders that `datasets` saved.

Always true here: what a file is, is decided by its content and never by its name; each row keeps the line
where it begins; a line that is broken is dropped into the log and the rest is read. What rows mean is left to
the formats.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import sys
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from valign.data.jsonl import broken_line, decoded, opened, refuse_pointer
from valign.data.readers.reader import Log, Row
from valign.errors import DataError

# Columns of a table whose cells hold JSON lists or objects; other cells stay text even if they look like
# JSON.
STRUCTURED = frozenset(
    (
        *("prompt", "chosen", "rejected", "completion", "completions", "messages", "conversations", "turns"),
        *("instances", "responses", "feedback", "profiles", "meta", "answer_info", "additional_metadata"),
        *("question", "steps", "actions", "value_items", "value_types", "labels", "annotations", "reference"),
        *("info", "summaries", "quotes_0", "quotes_1", "checks", "data"),
    )
)
WRAPPERS = ("data", "rows", "examples", "train")  # keys under which a JSON object may hold its rows


def rows_of(path: Path, log: Log) -> Iterator[Row]:
    """The rows of a file, one after the other, counted in the log. Raises `DataError` if it holds none."""
    for row in _folder(path) if path.is_dir() else _file(path, log):
        log.rows += 1
        if not log.fields:
            log.fields = tuple(row.fields)
        yield row


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file's bytes; "" for a folder."""
    if path.is_dir():
        return ""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(path: Path, log: Log) -> Iterator[Row]:
    with opened(path) as file:
        head = file.read(8)
        refuse_pointer(path, head + file.read(64))
        file.seek(0)
        if head.startswith(b"\x1f\x8b"):
            try:
                yield from _content(path, io.BufferedReader(gzip.GzipFile(fileobj=file)), log)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise DataError(
                    f"the gzip file is broken: {error}", where=str(path), how="copy it again"
                ) from error
        else:
            yield from _content(path, file, log)


def _content(path: Path, file: io.BufferedReader, log: Log) -> Iterator[Row]:
    if file.peek(4)[:4] == b"PAR1":
        yield from _parquet(path, file)
        return
    lines = decoded(path, file)
    first = list(islice(lines, 2))
    head, all_lines = first[0][1], chain(first, lines)
    match head.lstrip()[:1]:
        case "{" if len(first) > 1 and (_is_json(head) or not _opens_document(head)):
            yield from _json_lines(path, all_lines, log)
        case "[" | "{":
            yield from _json_document(path, all_lines)
        case _:
            yield from _table(path, all_lines, head, log)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _opens_document(line: str) -> bool:
    """Is this the first line of an indented JSON document, not half of a one-line object?"""
    return len(line.strip()) <= 2 or line.rstrip().endswith((",", "{", "["))


def _json_lines(path: Path, lines: Iterable[tuple[int, str]], log: Log) -> Iterator[Row]:
    for number, line in lines:
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            log.rows += 1
            log.drop(number, "", broken_line(path, number, line, error).what)
            continue
        except RecursionError:
            value = None
        if isinstance(value, dict):
            yield Row(number, value)
        else:
            log.rows += 1
            log.drop(number, "", f"a line must be a JSON object, not {type(value).__name__}")


def _json_document(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Row]:
    """A list of rows, an object that holds such a list, or one object. `line` is the number of the row."""
    document = "".join(line for _, line in lines)
    try:
        value = json.loads(document)
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}"
        half = error.pos >= len(document.rstrip())
        what = "the file ends in the middle of a JSON value" if half else f"not JSON: {error.msg}"
        raise DataError(f"{what}, column {error.colno}", where=where, how="copy the file again") from error
    if isinstance(value, dict):
        wrapped = [value[k] for k in WRAPPERS if isinstance(value.get(k), list) and value[k]]
        wrapped = [rows for rows in wrapped if all(isinstance(r, dict) for r in rows)]
        value = wrapped[0] if len(wrapped) == 1 and len(value) <= 3 else [value]
    for i, row in enumerate(value, 1):
        if not isinstance(row, dict):
            raise DataError(f"row {i} is {type(row).__name__}, not an object", where=str(path))
        yield Row(i, row)


def _table(path: Path, lines: Iterable[tuple[int, str]], header: str, log: Log) -> Iterator[Row]:
    """Comma, tab or semicolon separated, names in the first line; a cell may hold several lines."""
    delimiter = max("\t,;", key=header.count)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
    try:
        names = [n.strip() for n in next(reader)]
        if len(set(names)) < len(names):
            raise DataError(f"two columns have one name: {names}", where=f"{path}:1")
        at = reader.line_num + 1
        for cells in reader:
            if len(cells) == len(names):
                yield Row(at, {n: _cell(n, c) for n, c in zip(names, cells)})
            else:
                log.rows += 1
                log.drop(at, "", f"has {len(cells)} of {len(names)} cells")
            at = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"not a table: {error}", where=f"{path}:{reader.line_num}") from error


def _cell(name: str, cell: str) -> Any:
    """A cell; an empty one counts as missing, one with a JSON list or object in a structured column is
    parsed.
    """
    if cell == "":
        return None
    if name in STRUCTURED and cell[:1] in "[{":
        try:
            value = json.loads(cell)
        except ValueError:
            return cell
        plain_list = isinstance(value, list) and not all(isinstance(x, (dict, list)) for x in value)
        return cell if plain_list and name in ("prompt", "chosen", "rejected", "completion") else value
    return cell


def _parquet(path: Path, file: io.BufferedReader) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(
            "reading Parquet needs pyarrow", where=str(path), how="pip install pyarrow"
        ) from error
    try:
        table = pq.ParquetFile(io.BytesIO(file.read()))
        number = 0
        for batch in table.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield Row(number, row)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"not a whole Parquet file: {error}", where=str(path), how="copy it again") from error


def _folder(path: Path) -> Iterator[Row]:
    """A folder written by `datasets.save_to_disk`."""
    if not (path / "state.json").is_file():
        inside = sorted(p.name for p in path.iterdir())[:8]
        raise DataError(
            "this is a folder, not a file",
            where=str(path),
            how=f"name one file in it: {', '.join(inside) or '(empty)'}",
        )
    import datasets

    for i, row in enumerate(datasets.load_from_disk(str(path)), 1):
        yield Row(i, dict(row))
