"""Reports from folders: one evaluation, two compared item by item, and what is exported with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from valign.errors import DataError, ValignError
from valign.evaluation.aggregate import summarize
from valign.evaluation.result import Anchors, Item
from valign.evaluation.results_file import write_results
from valign.goals.revisions import append_revision, read_revisions
from valign.pipeline import reports
from valign.pipeline.evaluate import Measured, read_evaluation, write_evaluation
from valign.pipeline.stored import read_outputs

SCORES = np.random.default_rng(0).uniform(0.2, 0.8, 40)


def evaluation(folder: Path, subject: str, shift: float) -> Path:
    """A folder as `valign evaluate` leaves it where no goal scores responses: samples.jsonl is empty."""
    items = [Item(f"q{i}", f"q{i}", float(s + shift)) for i, s in enumerate(SCORES)]
    result = summarize(items, metric="misalignment.M", variant="preference_accuracy", subject=subject, level="preference",
                       direction="down", anchors=Anchors(0.0, 1.0, 0.5), cluster_unit="prompt")  # fmt: skip
    folder.mkdir()
    write_results([result], folder / "result.json")
    (folder / "samples.jsonl").write_text("")
    return folder


def test_two_evaluations_make_a_defended_comparison(tmp_path: Path):
    before, after = evaluation(tmp_path / "a", "base", 0.0), evaluation(tmp_path / "b", "dpo", -0.1)
    paths = reports.draw(after, tmp_path / "out", before=before)
    report = json.loads(paths["json"].read_text("utf-8"))
    assert report["kind"] == "pair" and [s["id"] for s in report["subjects"] if s["base"]] == ["base"]
    change = next(f["data"]["rows"][0] for s in report["sections"] for f in s["figures"] if f["id"] == "changes")
    assert change["value"] == pytest.approx(-0.1) and change["flips"] == {"up": 0, "down": 40, "same": 0}
    assert report["subjects"][1]["verdict"]["kind"] == "better"
    tables = reports.export(paths, csv=True, png=False, card=True, policy="dpo")
    assert set(tables) == {"numbers", "items", "card"} and all(p.parent == tmp_path / "out" for p in tables.values())
    assert tables["items"].read_text("utf-8").count(",better,") == 40, "items of results are listed without samples"


def test_one_evaluation_without_responses_lists_its_items(tmp_path: Path):
    page = reports.draw(evaluation(tmp_path / "a", "base", 0.0))["html"].read_text("utf-8")
    assert 'id="items"' in page and "No responses were judged" in page


def test_what_cannot_be_compared_is_refused(tmp_path: Path):
    a, b = evaluation(tmp_path / "a", "base", 0.0), evaluation(tmp_path / "b", "base", 0.0)
    with pytest.raises(ValignError, match="both files are results of base"):
        reports.draw(a, before=b)
    drawn = reports.draw(a, tmp_path / "out")
    with pytest.raises(ValignError, match="a report is drawn as it is"):
        reports.draw(drawn["json"], before=b)


def test_options_without_effect_are_refused(tmp_path: Path):
    from valign.cli.app import app

    source = str(evaluation(tmp_path / "a", "base", 0.0))
    for options, message in ((["--policy", "base"], "has no effect"), (["--watch", "--csv"], "nothing to compare or export")):
        done = CliRunner().invoke(app, ["report", source, *options])
        assert done.exit_code == 2 and message in done.stderr
    done = CliRunner().invoke(app, ["report", source, "--csv", "--json"])
    assert done.exit_code == 0 and set(json.loads(done.stdout)) == {"json", "html", "card", "numbers", "items"}


def test_stored_files_that_are_broken_are_named(tmp_path: Path):
    """An evaluation that is read again, and the goal that judged it."""
    folder = evaluation(tmp_path / "a", "base", 0.0)
    for name, content in (("samples.jsonl", "x\n"), ("samples.jsonl", "[1]\n"), ("goal.json", "[]"), ("goal.json", "{")):
        before = (folder / name).read_text() if (folder / name).exists() else "{}"
        (folder / name).write_text(content)
        with pytest.raises(DataError, match=name):
            read_evaluation(folder)
        (folder / name).write_text(before)
    assert read_evaluation(folder) is not None


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\x1c", "\r"])
def test_a_sign_that_ends_lines_elsewhere_does_not_cut_what_was_stored(tmp_path: Path, sign: str):
    """In a prompt's id, an answer, a goal's change: written, read again, drawn from a table beside the report."""
    text = f"one{sign}two"
    rows = [{"id": f"{text}{i}", "prompt": text, "responses": [{"text": text, "score": 0.5}], "score": 0.5} for i in range(250)]
    items = [Item(str(r["id"]), f"c{i}", 0.5 + i / 1000) for i, r in enumerate(rows)]  # too many for one file
    result = summarize(items, metric="goal.utility", variant="g", subject="base", level="value", cluster_unit="prompt")
    write_evaluation(tmp_path / "a", Measured([result], rows))
    found = read_evaluation(tmp_path / "a")
    assert found is not None and found[0].samples == rows and found[0].results[0].items == result.items
    assert [g.id for g in read_outputs(tmp_path / "a")[0].groups] == [r["id"] for r in rows]
    drawn = reports.draw(tmp_path / "a", tmp_path / "out")
    again = json.loads(drawn["json"].read_text("utf-8"))
    assert "Items are missing" not in str(reports.draw(drawn["json"], tmp_path / "out")) + str(again["warnings"])
    log = tmp_path / "revisions.jsonl"
    for n in (1, 2):
        append_revision(log, {"before": {"id": text}, "after": {"id": text, "version": n}, "changes": [text], "outputs": str(n)})
    assert [r["changes"] for r in read_revisions(log)] == [[text]] * 2
