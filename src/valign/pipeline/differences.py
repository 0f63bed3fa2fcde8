"""What changed between two evaluations, item by item: `valign diff`, and `valign evaluate --against`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from valign.engine.run import write_whole
from valign.errors import DataError, UsageError
from valign.evaluation.results_file import read_results
from valign.report.diff import Change, diff

RESULT, REPORT = "result.json", "report.json"
FILE = "differences.json"
HOW = "name a folder of valign evaluate, a result.json or a report.json"


def differences(
    before: Path, after: Path, margins: Mapping[str, float] | None = None, planned: int | None = None
) -> list[Change]:
    """Changes from one evaluation (a folder, result.json or report.json) to another.

    planned   clusters that are expected in all, where this is not the only look (`evaluation.sequential`)
    Raises `DataError` for other files, `UsageError` for a margin of a metric that neither has.
    """
    found = diff(document(before), document(after), margins, planned)
    _known_margins(found, margins or {}, "neither has")
    return found


def check_margins(before: Path, margins: Mapping[str, float]) -> None:
    """Raise `ValignError` where `before` is no evaluation or lacks the metric of a margin: nothing was computed yet."""
    content = document(before)
    _known_margins(diff(content, content), margins, f"{before} does not have")


def _known_margins(found: Sequence[Change], margins: Mapping[str, float], what: str) -> None:
    known = {c.metric for c in found}
    if missing := sorted(set(margins) - known):
        raise UsageError(f"{what} {', '.join(missing)}", where="--margin", how=f"known: {', '.join(sorted(known))}")


def document(path: Path) -> dict[str, Any]:
    """The JSON of an evaluation with all its items, also those that stand in a file beside it."""
    file = path
    if path.is_dir():
        file = next((path / name for name in (RESULT, REPORT) if (path / name).is_file()), path / RESULT)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(file), how=HOW) from error
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=str(file), how=HOW) from error
    if not isinstance(content, dict):
        raise DataError("neither a report nor a file of results", where=str(file), how=HOW)
    if "sections" in content:
        return content
    return {"results": [r.to_json() for r in read_results(file)]}


def margins_of(pairs: Sequence[str] | None) -> dict[str, float]:
    """`METRIC=NUMBER` options as a mapping. Raises `UsageError` for others."""
    out: dict[str, float] = {}
    for pair in pairs or ():
        name, _, value = pair.partition("=")
        try:
            out[name] = float(value)
        except ValueError:
            out[name] = 0.0
        if not name or not 0 < out[name] < float("inf"):
            raise UsageError(f"{pair!r} is not METRIC=NUMBER with a positive number", where="--margin",
                             how="for example --margin misalignment.M=0.02")  # fmt: skip
    return out


def as_json(changes: Sequence[Change]) -> dict[str, Any]:
    """What `diff` found, as a document."""
    return {"schema": 1, "differences": [asdict(c) for c in changes]}


def write_differences(changes: Sequence[Change], folder: Path) -> Path:
    """`differences.json` in the folder, whole or absent."""
    return write_whole(folder / FILE, json.dumps(as_json(changes), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
