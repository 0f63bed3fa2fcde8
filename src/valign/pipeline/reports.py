"""Reports from what lies in folders: draw one again, make one of a single model, follow a run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from valign.engine.run import write_whole
from valign.errors import ValignError
from valign.evaluation.results_file import read_results
from valign.goals.base import Goal
from valign.models.policy import Policy
from valign.pipeline.evaluate import Measured


def draw(source: Path, out: Path | None = None) -> Mapping[str, Path]:
    """The page of a report.json, of a result.json, or of the folder that holds one."""
    from valign.report import method_report, redraw, write_report

    file = _find(source)
    if file.name != "result.json" and _is_report(file):
        if out is None:
            return {"html": redraw(file)}
        return write_report(json.loads(file.read_text(encoding="utf-8")), out)
    results = read_results(file)
    if not results:
        raise ValignError("the file holds no results", where=str(file))
    subject = results[0].subject
    samples = file.with_name("samples.jsonl")
    rows = [json.loads(x) for x in samples.read_text(encoding="utf-8").splitlines()] if samples.exists() else []
    goal = {"id": "none", "level": results[0].level, "title": "no goal stored", "text": ""}
    report = method_report([_subject({"id": subject}, results, rows)], goal=goal, title=subject, created=time.strftime("%Y-%m-%d"))
    return write_report(report, out or file.parent)


def one_model(policy: Policy, measured: Measured, goal: Goal, out: Path) -> tuple[dict[str, Any], Mapping[str, Path]]:
    """A report on one policy against one goal."""
    from valign.pipeline.compare import goal_json, profile_of
    from valign.report import method_report, write_report

    subject = _subject(policy.card(), measured.results, measured.samples, profile_of(measured, goal))
    report = method_report([subject], goal=goal_json(goal), primary="profile", title=f"values of {policy.id}",
                           created=time.strftime("%Y-%m-%d"))  # fmt: skip
    return report, write_report(report, out)


def follow(source: Path, every: float, *, say: Callable[[str], None], out: Path | None = None) -> None:
    """Print a run's state until it ends, and keep a small page of it up to date.

    source  a run's folder: the one with log.jsonl, or one that holds it (a policy folder, a comparison)
    """
    from rich.console import Console

    from valign.report import run_summary, watch_page
    from valign.report.text import run_text

    first = _run_of(source)
    page = (out or first) / "watch.html" if (out is None or out.suffix == "") else out
    say(f"page: {page}")
    out_of = Console(highlight=False)
    shown: Any = None
    while True:
        run = _run_of(source)
        summary = run_summary(run)
        write_whole(page, watch_page(run))
        if (state := (str(run), summary["step"], summary["state"])) != shown:
            out_of.print(run_text(summary))
            shown = state
        if not _is_running(source) and not _is_running(run):
            return
        time.sleep(every)


def _subject(card: Mapping[str, Any], results: Any, samples: Any, profile: Any = None) -> Any:
    from valign.report import SubjectReport

    return SubjectReport(policy=card, results=results, samples=samples, profile=profile)


def _find(source: Path) -> Path:
    for name in ("", "report.json", "result.json", "evaluation/result.json"):
        file = source / name if name else source
        if file.is_file():
            return file
    raise ValignError("there is no report.json and no result.json", where=str(source), how="valign evaluate or valign run write them")


def _is_report(file: Path) -> bool:
    try:
        return "sections" in json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValignError(f"not JSON: {error}", where=str(file)) from error


def _run_of(source: Path) -> Path:
    """The folder of the newest log under `source`."""
    logs = [p for p in (source / "log.jsonl", source / "run" / "log.jsonl") if p.exists()]
    logs += source.glob("methods/*/run/log.jsonl")
    if not logs:
        raise ValignError("there is no log of a run", where=str(source), how="name a folder that valign align or run wrote")
    return max(logs, key=lambda p: p.stat().st_mtime).parent


def _is_running(folder: Path) -> bool:
    return (folder / "lock").exists()
