"""The other faces of a report: numbers as words, model card, terminal, diff, files."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from valign.errors import DataError, UsageError, ValignError
from valign.evaluation.aggregate import summarize
from valign.evaluation.record import Item
from valign.report import SubjectReport, diff, items, method_report, model_card, read_whole, redraw, write_report
from valign.report import write as write_module
from valign.report.sections import all_results
from valign.report.text import blocks, diff_table, methods_table, report_text
from valign.report.units import interval, number
from valign.report.visible import markdown, plain
from valign.report.write import write_card, write_tables

BAD = "a|b`c` <img src=x> [link](http://x) \u202ehidden\n# heading"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.3444, "share", "0.344"),
        (None, "share", "unscored"),
        (0.00004, "share", "4e-05"),
        (0, "share", "0.000"),
        (-0.0301, "score", "−0.030"),
        (0.0001, "p", "< 0.001"),
        (12.34, "percent", "12.3 %"),
        (1.204, "nats", "1.20 nats"),
        (1_310_000, "tokens", "1.31 M"),
        (999, "count", "999"),
        (2461, "seconds", "41 min"),
        (7200, "seconds", "2.0 h"),
        (0.004, "seconds", "4.0 ms"),
        (4.1e9, "bytes", "3.82 GiB"),
        (0.5, "plain", "0.500"),
        (1e-7, "plain", "1.00e-07"),
    ],
)
def test_numbers_in_words(value: float | None, unit: str, text: str):
    assert number(value, unit) == text


def test_signs_and_intervals():
    assert number(0.1, signed=True) == "+0.100" and number(0.0, signed=True) == "0.000"
    assert (
        interval({"low": -0.1, "high": 0.2}, signed=True) == "−0.100 to +0.200"
        and interval(None) == "no interval"
    )


def test_hidden_and_special_characters():
    assert plain("a\u202eb\x07") == "a⟨U+202E⟩b⟨U+0007⟩" and plain("a\r\nb\tc") == "a\nb\tc"
    assert "\n" not in markdown(BAD) and "\\|" in markdown(BAD) and "\\<img" in markdown(BAD)


def test_model_card_holds_the_numbers(seven: dict[str, Any]):
    card = model_card(seven)
    assert card.startswith('---\nlibrary_name: transformers\ntags: ["valign", "alignment", "grpo"]\n')
    assert 'base_model: "smollm2-135m-instruct"' in card and "# GRPO" in card
    for r in seven["headline"]:
        if r["subject"] == "grpo":
            assert number(r["value"], r["unit"]) in card
    assert "Read this first" in card and "5d0f" * 16 in card
    assert "# DPO" in model_card(seven, "dpo")
    with pytest.raises(UsageError, match="did you mean"):
        model_card(seven, "grpoo")


def test_model_card_keeps_foreign_text_in_its_place():
    one = SubjectReport(policy={"id": BAD, "base": BAD}, label=BAD)
    card = model_card(
        method_report([one], goal={"id": "g", "text": BAD}, warnings=[BAD], provenance={BAD: BAD})
    )
    body = card.split("\n---\n", 1)[1].replace("\\<img", "")
    assert "<img" not in body and "\n# heading" not in body and "\u202e" not in card
    assert card.count("\n---\n") == 1


def rendered(item: Any, width: int = 200) -> str:
    from rich.console import Console

    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(item)
    return console.export_text()


def test_terminal_table(seven: dict[str, Any]):
    text = rendered(report_text(seven))
    assert seven["sentences"]["lead"][:80] in text and "! Fewer than 3 training seeds" in text
    for s in seven["subjects"]:
        assert s["label"] in text
    assert "−0.135" in text or "−0.1" in text
    assert "not told apart" in text and "worse" in text and "unscored" not in text
    empty = method_report([SubjectReport(policy={"id": "[red]a[/red]\x1b[2J"})], goal={"id": "g"})
    assert "[red]a[/red]⟨U+001B⟩[2J" in rendered(methods_table(empty))


def test_blocks():
    assert blocks([0, 1, None, 2], 4) == "▁▅ █" or blocks([0, 1, None, 2], 4)[0] == "▁"
    assert blocks([1.0, 1.0]) == "▁▁" and blocks([]) == "" and len(blocks(list(range(1000)))) <= 40


def test_diff_of_a_report_with_itself_is_nothing(seven: dict[str, Any]):
    assert {c.kind for c in diff(seven, seven)} == {"same"}


def test_diff_pairs_items_and_says_which_way(seven: dict[str, Any]):
    later = copy.deepcopy(seven)
    rows = {(r["subject"], r["metric"]): r for r in all_results(later).values()}
    m = rows["dpo", "misalignment.M"]
    for i, item in enumerate(m["items"]):
        item["score"] -= 0.04 + 0.02 * (i % 2)  # .05 on average; the same on every item would be no spread to measure
    m["value"] -= 0.05
    kl = rows["dpo", "kl.policy_reference"]
    kl["value"] += 1.0
    later["headline"].remove(rows["grpo", "kl.policy_reference"])
    found = {(c.subject, c.metric): c for c in diff(seven, later) if c.kind != "same"}
    better = found["dpo", "misalignment.M"]
    assert (
        better.kind == "better" and better.difference == pytest.approx(-0.05) and better.interval is not None
    )
    assert found["dpo", "kl.policy_reference"].kind == "moved"
    assert found["grpo", "kl.policy_reference"].kind == "only before" and len(found) == 3
    assert "better" in rendered(diff_table(list(found.values())))


@pytest.mark.parametrize(("before", "after", "kind"), [(0.4, 0.2, "better"), (-0.2, -0.4, "worse"), (-0.25, 0.2, "moved")])
def test_a_bias_that_changed_sides_is_not_called_smaller(before, after, kind):
    """The paired interval of x - y leaves 0 in all three; that |x| fell from .25 to .2 across the ideal is not shown by it."""

    def file(subject: str, mean: float, step: int) -> dict[str, Any]:
        rows = [Item(f"i{k}", f"i{k}", mean + 0.05 * ((k * step) % 3 - 1)) for k in range(30)]
        row = summarize(rows, metric="bias", variant="v", subject=subject, level="principle", unit="score", direction="target:0")
        return {"results": [row.to_json()]}

    (change,) = diff(file("a", before, 1), file("b", after, 2))
    assert change.kind == kind and change.p < 0.01


def test_diff_matches_single_policies_and_refuses_other_json():
    def file(subject: str, value: float | None) -> dict[str, Any]:
        row = {
            "subject": subject,
            "metric": "m",
            "variant": "v",
            "unit": "share",
            "direction": "target:0.5",
            "value": value,
        }
        return {"schema": 1, "results": [row]}

    (change,) = diff(file("a", 0.4), file("b", 0.6))
    assert change.subject == "a → b" and change.kind == "moved"
    assert diff(file("a", None), file("a", None))[0].kind == "same"
    with pytest.raises(DataError, match="neither"):
        diff({"schema": 1}, file("a", 1.0))


def test_files_are_written_whole_and_drawn_again(tmp_path: Path, seven: dict[str, Any]):
    paths = write_report(seven, tmp_path / "out")
    assert set(paths) == {"json", "html", "card"} and all(p.is_file() for p in paths.values())
    assert json.loads(paths["json"].read_text("utf-8")) == seven
    before = paths["html"].read_text("utf-8")
    paths["html"].unlink()
    assert redraw(paths["json"]).read_text("utf-8") == before
    assert not list((tmp_path / "out").glob("*.partial"))


def test_long_tables_go_beside_the_json(tmp_path: Path):
    items = [{"id": str(i), "cluster": "c", "score": 1.0, "weight": 1.0} for i in range(300)]
    row = {
        "metric": "misalignment.M",
        "variant": "v",
        "subject": "a",
        "level": "value",
        "value": 1.0,
        "unit": "share",
        "direction": "down",
        "n": 300,
        "n_unscored": {},
        "interval": None,
        "cluster": {"unit": "c", "count": 1},
        "items": items,
    }
    samples = [{"id": str(i), "prompt": "p", "responses": ["r"]} for i in range(250)]
    report = method_report(
        [SubjectReport(policy={"id": "a"}, results=[row], samples=samples)], goal={"id": "g"}
    )
    paths = write_report(report, tmp_path)
    written = json.loads(paths["json"].read_text("utf-8"))
    for pointer in (written["headline"][0]["items"], written["items"]):
        content = (tmp_path / pointer["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == pointer["sha256"]
    assert len(report["headline"][0]["items"]) == 300, "the caller's report is left as it was"
    assert written["items"]["path"] in paths["html"].read_text("utf-8")
    assert redraw(paths["json"]).is_file()


def test_many_texts_of_the_data_lie_beside_and_come_back(tmp_path: Path):
    texts = [{"id": f"p{i}", "prompt": f"{i}?", "responses": [{"text": "yes", "label": "chosen"}]} for i in range(201)]
    sample = {"id": "s", "prompt": "x", "responses": ["y"], "score": 1.0}
    report = method_report([SubjectReport(policy={"id": "a"}, samples=[sample])], goal={"id": "g"}, texts=texts)
    paths = write_report(report, tmp_path)
    (kept,) = [f["data"] for s in json.loads(paths["json"].read_text())["sections"] for f in s["figures"] if f["id"] == "samples"]
    assert set(kept["texts"]) == {"path", "sha256"}
    (whole,) = [f["data"] for s in read_whole(paths["json"])["sections"] for f in s["figures"] if f["id"] == "samples"]
    assert whole["texts"] == texts


def test_model_card_says_what_ran():
    """Tokenizer, start token, quantization, engine path and versions; of a report without a goal neither goal nor table."""
    policy = {"id": "a", "tokenizer_sha256": "ab" * 32, "start": {"chat": "<s>", "text": "none"}, "quantization": "Q4_1",
              "engine": "row"}  # fmt: skip
    about = {"valign": "0.1.0", "libraries": {"torch": "2.13.0", "peft": None}}
    card = model_card(method_report([SubjectReport(policy=policy)], goal={"id": "none", "level": "value", "text": ""},
                                    provenance=about))  # fmt: skip
    for line in (f"tokenizer\\_sha256: {'ab' * 32}", "start: chat \\<s\\>, text none", "quantization: Q4\\_1", "engine: row",
                 "libraries: torch 2.13.0, peft none"):  # fmt: skip
        assert f"- {line}\n" in card, line
    assert "## Goal" not in card and "## Results" not in card and "Primary" not in card


def test_a_failed_write_leaves_the_old_page(
    tmp_path: Path, seven: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    paths = write_report(seven, tmp_path)
    old = paths["html"].read_text("utf-8")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write_module.os, "replace", full)
    with pytest.raises(ValignError, match="No space left"):
        write_report({**seven, "title": "new"}, tmp_path)
    assert paths["html"].read_text("utf-8") == old and not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("content", [None, "{", '{"schema": 1}', "[]"])
def test_redraw_refuses_what_is_no_report(tmp_path: Path, content: str | None):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError):
        redraw(path)


def long_report() -> dict[str, Any]:
    """More prompts and items than stay in the JSON."""
    samples = [
        {"id": f"p{i}", "prompt": f"prompt {i}", "responses": [f"answer {i}"], "score": i / 250} for i in range(250)
    ]
    row = {
        "metric": "misalignment.M", "variant": "v", "subject": "a", "level": "value", "value": 0.5, "unit": "share",
        "direction": "down", "n": 250, "n_unscored": {}, "interval": None, "notes": [],
        "cluster": {"unit": "prompt", "count": 250},
        "items": [{"id": f"p{i}", "cluster": f"p{i}", "score": 0.5} for i in range(250)],
    }  # fmt: skip
    return method_report([SubjectReport(policy={"id": "a"}, results=[row], samples=samples)], goal={"id": "g"})


def test_a_page_drawn_again_holds_all_items(tmp_path: Path):
    """Item lists that lie beside the JSON come back; one that was changed is left out, and the page says so."""
    paths = write_report(long_report(), tmp_path)
    first = paths["html"].read_text("utf-8")
    assert redraw(paths["json"]).read_text("utf-8") == first
    whole = read_whole(paths["json"])
    assert len(whole["headline"][0]["items"]) == 250 and len(items.table(whole)["measures"][0]["rows"]) == 250
    (tmp_path / whole["items"]["path"]).write_text("{}\n")
    assert "is not what it was, or gone" in redraw(paths["json"]).read_text("utf-8")


def test_a_report_of_a_stranger_names_no_file_elsewhere(tmp_path: Path):
    (tmp_path / "secret.jsonl").write_text('{"id": "secret"}\n')
    place = tmp_path / "report"
    paths = write_report(long_report(), place)
    content = json.loads(paths["json"].read_text("utf-8"))
    digest = hashlib.sha256((tmp_path / "secret.jsonl").read_bytes()).hexdigest()
    content["headline"][0]["items"] = {"path": "../secret.jsonl", "sha256": digest}
    paths["json"].write_text(json.dumps(content))
    assert isinstance(read_whole(paths["json"])["headline"][0]["items"], dict)


def test_tables_and_card_are_written_beside_the_report(tmp_path: Path, seven: dict[str, Any]):
    paths = write_report(seven, tmp_path)
    made = write_tables(paths["json"], tmp_path / "out")
    assert made["numbers"].read_bytes().startswith(b"subject,level,metric") and made["items"].stat().st_size > 10_000
    assert write_card(paths["json"], tmp_path / "out", "dpo").read_text("utf-8") == model_card(seven, "dpo")
    with pytest.raises(ValignError, match="policy"):
        write_card(paths["json"], tmp_path / "out", "nobody")


def test_a_table_too_large_for_the_page_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(items.fitting, "__defaults__", (1500,))
    page = write_report(long_report(), tmp_path)["html"].read_text("utf-8")
    (beside,) = tmp_path.glob("report.items/items-*.json")
    assert f"report.items/{beside.name}" in page and 'id="item-file"' in page
    assert len(json.loads(beside.read_text("utf-8"))["measures"][0]["rows"]) == 250
