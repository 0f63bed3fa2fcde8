"""Reports on disk: report.json, report.html and a model card, each whole or absent; long item tables beside
them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from valign.data.jsonl import json_lines
from valign.errors import DataError, ValignError
from valign.report import items, tables
from valign.report.html import render
from valign.report.markdown import model_card
from valign.report.subject import Row

FOLDER = "report.items"
INLINE = 200  # items of one Result, and prompts, that stay in the JSON (evaluation notes 1.1)


def write_report(report: Mapping[str, Any], folder: str | Path) -> dict[str, Path]:
    """Write the report into `folder` (made if missing); returns {"json", "html", "card"[, "items"]}.

    Results with more than 200 items, and samples of more than 200 prompts, go to files beside the JSON, which
    names them with their sha256. Raises `ValignError` where the disk refuses; what was there before is then
    still whole.
    """
    place = Path(folder)
    text = json.dumps(report, allow_nan=False)
    whole, out = json.loads(text), json.loads(text)  # copies: the caller's report keeps its items
    with _told(place):
        place.mkdir(parents=True, exist_ok=True)
        paths = {
            "json": place / "report.json",
            "html": place / "report.html",
            "card": place / "MODEL_CARD.md",
        }
        _move_items(out, place)
        if moved := _move_samples(out, place):
            paths["items"] = moved
        whole["items"] = out["items"]
        _write(paths["json"], json.dumps(out, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
        _write(paths["html"], _page(whole, place))
        _write(paths["card"], model_card(out))
    return paths


def redraw(json_path: str | Path) -> Path:
    """Draw the page of a report.json again, beside it; returns the path of the page."""
    source = Path(json_path)
    page = source.with_suffix(".html")
    report = read_whole(source)
    with _told(source.parent):
        _write(page, _page(report, source.parent))
    return page


def write_tables(json_path: str | Path, out: str | Path | None = None) -> dict[str, Path]:
    """The numbers and the items of a report.json as CSV, beside it or in `out`: {"numbers", "items"}."""
    source = Path(json_path)
    place, report = Path(out or source.parent), read_whole(source)
    paths = {"numbers": place / "numbers.csv", "items": place / "items.csv"}
    with _told(place):
        place.mkdir(parents=True, exist_ok=True)
        _write(paths["numbers"], tables.numbers_csv(report))
        _write(paths["items"], tables.items_csv(items.table(report)))
    return paths


def write_card(json_path: str | Path, out: str | Path | None = None, subject: str | None = None) -> Path:
    """The model card of one policy of a report.json (default: the best, else the last)."""
    source = Path(json_path)
    place, text = Path(out or source.parent), model_card(read_report(source), subject)
    with _told(place):
        place.mkdir(parents=True, exist_ok=True)
        _write(place / "MODEL_CARD.md", text)
    return place / "MODEL_CARD.md"


def write_pictures(page: str | Path, out: str | Path, *, dark: bool = False, width: int = 1280) -> list[Path]:
    """Every figure of a report's page as PNG in `out`, drawn by the Chromium of this machine at twice its size.

    Raises `ValignError` where there is none.
    """
    from valign.report.chromium import Browser

    made, place = [], Path(out)
    with Browser() as browser, _told(place):
        place.mkdir(parents=True, exist_ok=True)
        tab = browser.page()
        tab.look(width, 900, dark=dark)
        tab.open(page)
        for name in tab.run(_FIGURES):
            part = tab.run(f"({_CLIP})({json.dumps(name)})")
            made.append(place / f"{name.removeprefix('figure-')}.png")
            _write_bytes(made[-1], tab.picture(part, scale=2))
    return made


_FIGURES = "[...document.querySelectorAll('figure[id]')].map((f) => f.id)"
_CLIP = """(id) => {
  const f = document.getElementById(id);
  f.querySelectorAll('.tools').forEach((e) => e.remove());
  const r = f.getBoundingClientRect();
  return { x: Math.max(0, r.x + scrollX - 12), y: r.y + scrollY - 12, width: r.width + 24, height: r.height + 24 };
}"""


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


def read_whole(path: str | Path) -> Row:
    """The report with the item lists that lie beside its JSON back in their places.

    A file that is missing, or whose content is not what the JSON's sha256 says, leaves its list out, and a
    warning in the report names it.
    """
    report, place = read_report(path), Path(path).parent
    lost: list[str] = []
    for r in _results(report):
        if isinstance(r.get("items"), dict):
            r["items"] = _stored(r["items"], place, lost) or r["items"]
    if isinstance(report.get("items"), dict) and report["items"].get("path"):
        for data in _sample_figures(report):
            data["rows"] = _stored(report["items"], place, lost) or data["rows"]
    for data in _sample_figures(report):
        if isinstance(data.get("texts"), dict):
            data["texts"] = _stored(data["texts"], place, lost) or []
    if lost:
        named = ", ".join(dict.fromkeys(lost))
        report["warnings"] = [*report["warnings"], f"Items are missing from this page: {named} is not what it was, or gone."]
    return report


def _stored(pointer: Mapping[str, Any], place: Path, lost: list[str]) -> list[Any] | None:
    file = (place / str(pointer["path"])).resolve()
    if place.resolve() not in file.parents or not file.is_file():  # a report of a stranger's names no file elsewhere
        lost.append(str(pointer["path"]))
        return None
    raw = file.read_bytes()
    if hashlib.sha256(raw).hexdigest() != pointer["sha256"]:
        lost.append(str(pointer["path"]))
        return None
    return [json.loads(line) for line in json_lines(raw.decode("utf-8"))]


def _page(whole: Row, place: Path) -> str:
    """The page; where its item table is too large for it, the table lies beside and the page names it."""

    def store(table: Mapping[str, Any]) -> str:
        text = json.dumps(table, ensure_ascii=False, allow_nan=False)
        path = f"{FOLDER}/items-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        (place / FOLDER).mkdir(exist_ok=True)
        _write(place / path, text)
        return path

    return render(whole, store=store)


@contextmanager
def _told(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValignError(
            f"cannot write the report: {error.strerror}",
            where=str(place),
            how="free space or choose another folder",
        ) from error


def _results(report: Row) -> list[Row]:
    return [*report["headline"], *(r for s in report["sections"] for r in s["results"])]


def _sample_figures(report: Row) -> list[Row]:
    return [f["data"] for s in report["sections"] for f in s["figures"] if f["id"] == "samples"]


def _move_items(report: Row, place: Path) -> None:
    """Long item lists to items/<sha256>.jsonl: named by content, so that equal lists share one file."""
    for r in _results(report):
        if isinstance(r.get("items"), list) and len(r["items"]) > INLINE:
            r["items"] = _lines(r["items"], place)


def _move_samples(report: Row, place: Path) -> Path | None:
    """All prompts to a file where there are many, and the data's own texts to another; the JSON keeps those with the largest
    change, and the total."""
    for data in _sample_figures(report):
        if len(data.get("texts") or ()) > INLINE:
            data["texts"] = _lines(data["texts"], place)
        if len(data["rows"]) > INLINE:
            report["items"] = _lines(data["rows"], place)
            data["rows"] = data["rows"][:INLINE]
            return place / str(report["items"]["path"])
    return None


def _lines(rows: list[Any], place: Path) -> dict[str, str]:
    text = "".join(json.dumps(x, ensure_ascii=False, allow_nan=False) + "\n" for x in rows)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (place / FOLDER).mkdir(exist_ok=True)
    _write(place / FOLDER / f"{digest}.jsonl", text)
    return {"path": f"{FOLDER}/{digest}.jsonl", "sha256": digest}


def _write(path: Path, text: str) -> None:
    _write_bytes(path, text.encode("utf-8"))


def _write_bytes(path: Path, content: bytes) -> None:
    """Whole or not at all: a reader, and a reader after a crash, never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
