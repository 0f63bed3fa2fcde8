"""A run while it runs, or after: read from its log.jsonl alone, so that it can be watched from anywhere.

The log is only ever appended to; a last line that is still being written is left out. A finished run's page
stops refreshing itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from valign.engine.run import read_log
from valign.errors import DataError
from valign.report.instruments import overoptimisation
from valign.report.lines import panels
from valign.report.node import Node, num
from valign.report.plots import sparkline
from valign.report.subject import Row, curves

REFRESH = 3  # seconds between two looks of the page
QUIET = 120.0  # seconds without a line after which a run is called quiet: a crash, or a very long step


def run_events(folder: str | Path) -> list[Row]:
    """The events of a run's log. Raises `DataError` where there is no log; broken lines are left out."""
    if not (Path(folder) / "log.jsonl").is_file():
        raise DataError("no log.jsonl here", where=str(folder), how="name the folder of a run (its --out)")
    return [dict(row) for row in read_log(Path(folder))]


def run_curve(folder: str | Path) -> list[Row]:
    """The step lines of a run, as `SubjectReport.curve` takes them. A step repeated after a resume counts
    once."""
    last = {row["step"]: row for row in run_events(folder) if row.get("event") == "step" and "step" in row}
    return [last[k] for k in sorted(last)]


def run_summary(folder: str | Path, *, now: float | None = None) -> Row:
    """How a run stands: {"name", "state", "step", "steps", "seconds", "seconds_left", "curves", "audit",
    "evals", "warnings", "checkpoint", "alarm": the panels of what its guard saw}.

    state   "starting", "running", "quiet" (no line for two minutes) or "finished"
    now     seconds since the epoch, for tests
    """
    events, rows = run_events(folder), run_curve(folder)
    step, steps = (rows[-1]["step"], rows[-1].get("steps")) if rows else (0, None)
    recent = [r["seconds"] for r in rows[-20:] if r.get("seconds")]
    left = (steps - step) * sum(recent) / len(recent) if recent and steps else None
    quiet = (time.time() if now is None else now) - max(
        (e.get("time", 0.0) for e in events), default=0.0
    ) > QUIET
    finished = bool(steps and step >= steps) or any(e.get("event") in ("done", "end") for e in events)
    of = _by_event(events)
    figure = overoptimisation([(None, "audits", of("guard"))])
    return {
        "name": Path(folder).resolve().name,
        "step": step,
        "steps": steps,
        "state": "finished" if finished else "starting" if not rows else "quiet" if quiet else "running",
        "seconds": sum(r.get("seconds") or 0.0 for r in rows),
        "seconds_left": None if finished else left,
        "curves": curves(rows),
        "audit": [{k: e.get(k) for k in ("name", "ok", "text")} for e in of("audit")],
        "evals": [{"step": e.get("step"), "loss": e.get("loss"), "best": e.get("best")} for e in of("eval")],
        "warnings": [str(e.get("text")) for e in of("warning")],
        "checkpoint": max((e["step"] for e in of("checkpoint") if e.get("step") is not None), default=None),
        "alarm": figure["data"] if figure else {"panels": []},
    }


def _by_event(events: Iterable[Row]) -> Any:
    return lambda name: [e for e in events if e.get("event") == name]


def watch_page(folder: str | Path, *, now: float | None = None) -> str:
    """A small page of a run that reloads itself until the run is finished; made anew for every request."""
    from valign.report.html import environment, source

    summary = run_summary(folder, now=now)
    root = Node(summary)
    series = root.curves.series
    tiles = [
        sparkline(str(name), series[name], summary["curves"]["steps"]) for name in summary["curves"]["series"]
    ]
    page: str = (
        environment()
        .get_template("watch.html.j2")
        .render(
            run=root,
            tiles=Markup("").join(tiles),
            alarm=panels(root.alarm, {}) if summary["alarm"]["panels"] else "",
            refresh=REFRESH if summary["state"] != "finished" else None,
            share=100 * summary["step"] / summary["steps"] if summary["steps"] else 0,
            style=Markup(source("report.css")),
            num=num,
        )
    )
    return page
