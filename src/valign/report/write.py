"""Reports on disk: report.json, report.html and a model card, each whole or absent; long item tables beside
them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from valign.errors import DataError, ValignError
from valign.report.html import render
from valign.report.markdown import model_card
from valign.report.subject import Row

INLINE = 200  # items of one Result, and prompts, that stay in the JSON (evaluation notes 1.1)


def write_report(report: Mapping[str, Any], folder: str | Path) -> dict[str, Path]:
    """Write the report into `folder` (made if missing); returns {"json", "html", "card"[, "items"]}.

    Results with more than 200 items, and samples of more than 200 prompts, go to files beside the JSON, which
    names them with their sha256. Raises `ValignError` where the disk refuses; what was there before is then
    still whole.
    """
    place = Path(folder)
    out = json.loads(json.dumps(report, allow_nan=False))  # a copy: the caller's report keeps its items
    try:
        place.mkdir(parents=True, exist_ok=True)
        paths = {
            "json": place / "report.json",
            "html": place / "report.html",
            "card": place / "MODEL_CARD.md",
        }
        _move_items(out, place)
        if moved := _move_samples(out, place):
            paths["items"] = moved
        _write(paths["json"], json.dumps(out, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
        _write(paths["html"], render(out))
        _write(paths["card"], model_card(out))
    except OSError as error:
        raise ValignError(
            f"cannot write the report: {error.strerror}",
            where=str(place),
            how="free space or choose another folder",
        ) from error
    return paths


def redraw(json_path: str | Path) -> Path:
    """Draw the page of a report.json again, beside it; returns the path of the page."""
    source = Path(json_path)
    page = source.with_suffix(".html")
    _write(page, render(read_report(source)))
    return page


def read_report(path: str | Path) -> Row:
    """The JSON of a report. Raises `DataError` for a missing file, and for one that is not a report."""
    source = Path(path)
    try:
        document = json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(source)) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not JSON: {error}", where=str(source)) from error
    if not isinstance(document, dict) or document.get("schema") != 1 or "sections" not in document:
        raise DataError('not a report: it must hold {"schema": 1, "sections": [...]}', where=str(source))
    return document


def _move_items(report: Row, place: Path) -> None:
    """Long item lists to items/<sha256>.jsonl: named by content, so that equal lists share one file."""
    results = [*report["headline"], *(r for s in report["sections"] for r in s["results"])]
    for r in results:
        if isinstance(r.get("items"), list) and len(r["items"]) > INLINE:
            r["items"] = _lines(r["items"], place, "report.items")


def _move_samples(report: Row, place: Path) -> Path | None:
    """All prompts to a file where there are many; the JSON keeps those with the largest change, and the
    total."""
    for data in (f["data"] for s in report["sections"] for f in s["figures"] if f["id"] == "samples"):
        if len(data["rows"]) > INLINE:
            report["items"] = _lines(data["rows"], place, "report.items")
            data["rows"] = data["rows"][:INLINE]
            return place / str(report["items"]["path"])
    return None


def _lines(rows: list[Any], place: Path, folder: str) -> dict[str, str]:
    text = "".join(json.dumps(x, ensure_ascii=False, allow_nan=False) + "\n" for x in rows)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (place / folder).mkdir(exist_ok=True)
    _write(place / folder / f"{digest}.jsonl", text)
    return {"path": f"{folder}/{digest}.jsonl", "sha256": digest}


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a reader, and a reader after a crash, never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
