"""What an instrument hands to a report: its Results, and the data of its figures. JSON only; drawing is the report's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from valign.engine.run import write_whole
from valign.evaluation.record import Result
from valign.evaluation.results_file import write_results

FILE, RESULTS = "section.json", "result.json"


@dataclass(frozen=True)
class Section:
    """A part of a report (evaluation notes 11.4).

    figures   [{"id", "type", "data"}], JSON values        notes  what the reader must be told
    """

    id: str
    title: str
    results: Sequence[Result]
    figures: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = field(default_factory=tuple)

    def figure(self, id: str) -> Mapping[str, Any]:
        """The data of one figure."""
        return next(f["data"] for f in self.figures if f["id"] == id)

    def to_json(self) -> dict[str, Any]:
        """Results without their items, which stand in the results file."""
        rows = [{k: v for k, v in r.to_json().items() if k != "items"} for r in self.results]
        return {"schema": 1, "id": self.id, "title": self.title, "results": rows,
                "figures": [dict(f) for f in self.figures], "notes": list(self.notes)}  # fmt: skip


def write_section(section: Section, folder: Path) -> dict[str, Path]:
    """`result.json` (for `valign diff` and reports) and `section.json` in `folder`, each whole or absent."""
    folder.mkdir(parents=True, exist_ok=True)
    results = write_results(section.results, folder / RESULTS)
    text = json.dumps(section.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
    return {"results": results, "section": write_whole(folder / FILE, text)}
