"""A run can be watched while it writes: from its log alone, with a broken last line, before the first
step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from valign.errors import DataError
from valign.report import run_curve, run_summary, watch_page
from valign.report.text import run_text

NOW = 1000.0 + 2 * 125  # a few seconds after the fixture's last line


def append(folder: Path, *events: dict[str, Any]) -> None:
    with (folder / "log.jsonl").open("a") as f:
        f.write("\n" + "".join(json.dumps(e) + "\n" for e in events))


def test_summary_of_a_running_run(run_folder: Path):
    found = run_summary(run_folder, now=NOW)
    assert (found["state"], found["step"], found["steps"], found["checkpoint"]) == ("running", 120, 300, 120)
    assert found["seconds"] == 240 and found["seconds_left"] == pytest.approx(360)
    assert found["warnings"] == ["out of memory: the token budget is halved to 4096"]
    assert found["evals"] == [{"step": 58, "loss": 0.61, "best": True}] and len(found["audit"]) == 2
    assert list(found["curves"]["series"])[:2] == ["loss", "margin"]
    assert run_summary(run_folder, now=NOW + 1000)["state"] == "quiet"


def test_the_page_reloads_until_the_run_is_finished(run_folder: Path):
    page = watch_page(run_folder, now=NOW)
    assert '<meta http-equiv="refresh"' in page and "Step <data" in page and "width:40.00%" in page
    assert "<script" not in page and "http://" not in page and "https://" not in page
    append(run_folder, {"event": "step", "step": 300, "steps": 300, "loss": 0.1, "seconds": 2.0, "time": NOW})
    assert 'http-equiv="refresh"' not in watch_page(run_folder, now=NOW)
    assert run_summary(run_folder, now=NOW)["state"] == "finished"


def test_before_the_first_step(tmp_path: Path):
    (tmp_path / "log.jsonl").write_text("")
    assert run_summary(tmp_path, now=NOW)["state"] == "starting" and "No step yet" in watch_page(
        tmp_path, now=NOW
    )
    with pytest.raises(DataError, match=r"no log\.jsonl"):
        watch_page(tmp_path / "nothing")


def test_a_resumed_step_counts_once_and_text_is_only_text(run_folder: Path):
    append(
        run_folder,
        {"event": "resume", "step": 119},
        {"event": "step", "step": 120, "steps": 300, "loss": 9.0},
        {"event": "warning", "text": "<script>alert(1)</script>\u202e"},
    )
    rows = run_curve(run_folder)
    assert len(rows) == 120 and rows[-1]["loss"] == 9.0
    page = watch_page(run_folder, now=NOW)
    assert "<script" not in page and "&lt;script&gt;" in page and "\u202e" not in page


def test_terminal(run_folder: Path):
    from rich.console import Console

    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(run_text(run_summary(run_folder, now=NOW)))
    text = console.export_text()
    assert (
        "step 120 of 300 40 %" in text
        and "6.0 min left" in text
        and "▁" in text
        and "! out of memory" in text
    )
