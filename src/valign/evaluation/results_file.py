"""Results on disk: {"schema": 1, "results": [...]}, written atomically, long item tables in a file beside it.

Item files are named by their content, so that Results with equal items share one and a changed file is
noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from valign.data.jsonl import json_lines
from valign.errors import DataError, ValignError
from valign.evaluation.result import Item, Result

SCHEMA = 1
INLINE = 200  # more items than this go to a file, evaluation notes 1.1


def write_results(results: Sequence[Result], path: str | Path) -> Path:
    """Write `path` (.json); items of long Results go to <stem>.items/<sha256>.jsonl. Returns the path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    rows = [_row(r, target) for r in results]
    text = json.dumps({"schema": SCHEMA, "results": rows}, ensure_ascii=False, allow_nan=False, indent=1)
    write_atomic(target, text + "\n")
    return target


def read_results(path: str | Path, *, items: bool = True) -> list[Result]:
    """The Results of a file. items=False leaves items that stand in a file there (`Result.items_file` says
    where).

    Raises `DataError` for a missing or foreign file, and for an item file that is missing or was changed.
    """
    source = Path(path)
    try:
        document = json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(source)) from error
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error}", where=str(source)) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or not _are_rows(document.get("results")):
        raise DataError(
            f'not a file of Results: it must hold {{"schema": {SCHEMA}, "results": [...]}}', where=str(source)
        )
    try:
        results = [Result.from_json(row) for row in document["results"]]
    except ValignError as error:
        raise DataError(error.what, where=f"{source}: {error.where}", how=error.how) from error
    return [read_items(r, source.parent) if items else r for r in results]


def read_items(result: Result, folder: str | Path) -> Result:
    """The same Result with its items loaded from the file beside it; unchanged when they are there."""
    if result.items_file is None:
        return result
    path = Path(folder) / result.items_file["path"]
    if not path.is_file():
        raise DataError(
            "the items of a Result are missing", where=str(path), how="copy the .items folder with the file"
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != result.items_file["sha256"]:
        raise DataError("the items were changed after they were written (sha256 differs)", where=str(path))
    items = tuple(Item(**json.loads(line)) for line in json_lines(content.decode()))
    return replace(result, items=items, items_file=None)


def _are_rows(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(row, dict) for row in content)


def write_atomic(path: Path, text: str) -> None:
    """Write `path` whole or not at all: a reader never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _row(result: Result, target: Path) -> dict[str, Any]:
    row = result.to_json()
    if len(result.items) <= INLINE:
        return row
    text = "".join(json.dumps(i.to_json(), ensure_ascii=False, allow_nan=False) + "\n" for i in result.items)
    digest = hashlib.sha256(text.encode()).hexdigest()
    name = Path(f"{target.stem}.items") / f"{digest[:16]}.jsonl"
    file = target.parent / name
    file.parent.mkdir(exist_ok=True)
    if not file.exists():
        write_atomic(file, text)
    return {**row, "items": {"path": name.as_posix(), "sha256": digest}}
