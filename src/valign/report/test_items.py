"""The item table says what the JSON says, and who won, lost and disagreed is right for every direction."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
from typing import Any

import pytest

from valign.report import SubjectReport, items, method_report, tables
from valign.report.node import Node, resolve, value
from valign.report.sections import all_results


@pytest.fixture(scope="module")
def table(seven: dict[str, Any]) -> dict[str, Any]:
    return items.table(seven)


def test_scores_stand_at_their_place_in_the_json(table: dict[str, Any], seven: dict[str, Any]):
    root, seen = Node(seven), 0
    for measure in table["measures"]:
        if "rows" in measure:
            for i, row in enumerate(measure["rows"]):
                for k, answer in enumerate(row["answers"]):
                    assert value(resolve(root, f"{measure['at']}/{i}/answers/{k}/score")) == answer["score"]
            continue
        for column in (c for c in measure["columns"] if c):
            for id, spot, score in zip(measure["ids"], column["places"], column["scores"], strict=True):
                item = value(resolve(root, f"{column['at']}/{spot}"))
                assert (item["id"], item.get("score")) == (id, score)
                seen += 1
    assert seen > 1000


def test_headline_measures_come_first_and_one_variant_of_each(table: dict[str, Any], seven: dict[str, Any]):
    names = [m["name"] for m in table["measures"]]
    assert names[0] == "responses" and names[1] == "misalignment.M"
    assert len(names) == len(set(names)) and not any("profile." in n for n in names)
    assert {m["level"] for m in table["measures"]} >= {"value", "instruction"}


@pytest.mark.parametrize(
    ("score", "reference", "direction", "expected"),
    [
        (0.2, 0.5, "down", "better"), (0.2, 0.5, "up", "worse"), (0.5, 0.5, "up", "same"), (0.3, 0.9, "target:0.5", "better"),
        (None, 0.5, "up", "unscored"), (0.5, None, "up", "unscored"),
    ],
)  # fmt: skip
def test_outcomes_follow_the_direction(score: float | None, reference: float | None, direction: str, expected: str):
    assert items.outcome(score, reference, direction) == expected


def test_misalignment_items_lost_and_won_are_those_of_the_differences(table: dict[str, Any], seven: dict[str, Any]):
    """The letters agree with the flips that the paired comparison counted by itself."""
    measure = next(m for m in table["measures"] if m["name"] == "misalignment.M")
    rows = next(f["data"]["rows"] for s in seven["sections"] for f in s["figures"] if f["id"] == "changes")
    place = {s["id"]: i for i, s in enumerate(table["subjects"])}
    for row in rows:
        letters = measure["columns"][place[row["subject"]]]["outcomes"]
        flips = [row["flips"][k] for k in ("down", "up", "same")]
        assert [letters.count(letter) for letter in "wls"] == flips


def result(items_: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "metric": "bbq.s_amb", "variant": "paper", "subject": "a", "level": "value", "value": 0.1, "unit": "share",
        "direction": "down", "n": len(items_), "n_unscored": {}, "interval": None, "cluster": {"unit": "template", "count": 2},
        "items": items_, "notes": [], **more,
    }  # fmt: skip


def test_without_responses_the_items_of_results_are_listed():
    """An evaluation without a goal that scores has no samples: its items still have prompts, answers and reasons."""
    rows = [{"id": "q1#0", "cluster": "q1", "score": 1.0, "detail": {"text": "an answer"}},
            {"id": "q2#0", "cluster": "q2", "score": None, "reason": "refusal"}]  # fmt: skip
    one = SubjectReport(policy={"id": "a"}, results=[result(rows)])
    report = method_report([one], goal={"id": "g"}, texts=[{"id": "q1", "prompt": "a question"}])
    found = items.table(report)
    (measure,) = found["measures"]
    assert found["prompts"] == {"q1": [{"role": "user", "content": "a question"}]}
    assert measure["columns"][0]["outcomes"] == "bu" and measure["columns"][0]["reasons"] == {1: "refusal"}
    assert measure["columns"][0]["texts"] == {0: "an answer"}
    assert any(s["id"] == "samples" for s in report["sections"])


GIVEN = [
    {"id": "q1", "prompt": "a question",
     "responses": [{"text": "good", "label": "chosen"}, {"text": "bad", "label": "rejected"}]},
    {"id": "q2", "prompt": "another", "responses": [{"text": t, "label": f"response {t}"} for t in "xyz"]},
    {"id": "q2#1", "of": "q2", "chosen": 2, "rejected": 0},
]  # fmt: skip


def test_scores_of_given_responses_stand_beside_their_texts():
    """The page and the CSV show what was scored; the scores of a policy's own words are not about it."""
    ids = [{"id": i, "score": 1.0} for i in ("q1", "q2#1")]
    results = [result(ids, metric="preference.accuracy"), result([{"id": "q1#0", "score": 0.2}], metric="kl.policy_reference")]
    report = method_report([SubjectReport(policy={"id": "a"}, results=results)], goal={"id": "g"}, texts=GIVEN)
    found = items.table(report)
    assert found["prompts"].keys() == {"q1", "q2"} and found["prompts"]["q1"] == [{"role": "user", "content": "a question"}]
    assert found["given"]["q1"] == [{"label": "chosen", "text": "good"}, {"label": "rejected", "text": "bad"}]
    assert found["given"]["q2#1"] == [{"label": "chosen", "text": "z"}, {"label": "rejected", "text": "x"}]
    assert {m["name"]: m["given"] for m in found["measures"]} == {"preference.accuracy": True, "kl.policy_reference": False}
    rows = {(r["measure"], r["item"]): r for r in csv.DictReader(io.StringIO(tables.items_csv(found), newline=""))}
    assert rows["preference.accuracy", "q1"]["response"] == "chosen: good\n\nrejected: bad"
    assert rows["kl.policy_reference", "q1#0"]["response"] == "" and rows["kl.policy_reference", "q1#0"]["prompt"] == "a question"


def test_hidden_characters_never_travel():
    response = {"text": "x\u2066y", "flags": ["\u202d"]}
    sample = {"id": "a\u202eb", "prompt": "p\u200b", "responses": [response], "flags": ["\ufeff"]}
    report = method_report([SubjectReport(policy={"id": "a"}, samples=[sample])], goal={"id": "g"})
    text = json.dumps(items.table(report), ensure_ascii=False)
    assert not any(c in text for c in "\u202e\u200b\u2066\u202d\ufeff") and "⟨U+202E⟩" in text


def test_packed_is_the_content_and_equal_for_equal():
    content = {"a": [1.25, None, "ü"]}
    assert json.loads(gzip.decompress(base64.b64decode(items.packed(content)))) == content
    assert items.packed(content) == items.packed(json.loads(json.dumps(content)))


def test_a_large_table_keeps_what_comes_first():
    """Measures go from the end, then rows; what is left out is said, and what stays fits."""
    samples = [{"id": f"p{i}", "prompt": f"{i * 7919 % 10007} " * 40, "responses": [f"{i * 104729 % 99991} " * 40], "score": 1.0}
               for i in range(400)]  # fmt: skip
    scored = result([{"id": f"p{i}", "score": 0.5} for i in range(400)])
    one = SubjectReport(policy={"id": "a"}, samples=samples, results=[scored])
    whole = items.table(method_report([one], goal={"id": "g"}))
    everything, nothing_left = items.fitting(whole)
    assert nothing_left is None
    text, left = items.fitting(whole, budget=len(everything) // 3)
    kept = json.loads(gzip.decompress(base64.b64decode(text)))
    assert left is not None and left["measures"] == ["bbq.s_amb"] and left["total"] == 400
    assert len(text) <= len(everything) // 3 and left["shown"] == len(kept["measures"][0]["rows"]) > 50
    assert kept["measures"][0]["rows"] == whole["measures"][0]["rows"][: left["shown"]]
    assert set(kept["prompts"]) == {r["id"] for r in kept["measures"][0]["rows"]}


def test_numbers_as_csv_are_the_results(seven: dict[str, Any]):
    rows = list(csv.DictReader(io.StringIO(tables.numbers_csv(seven), newline="")))
    results = all_results(seven)
    assert len(rows) == len(results)
    for row, (at, r) in zip(rows, results.items(), strict=True):
        assert (row["place"], row["metric"], row["variant"], row["subject"]) == (at, r["metric"], r["variant"], r["subject"])
        assert row["value"] == ("" if r["value"] is None else repr(r["value"]))
        ends = r["interval"] or {"low": "", "high": ""}
        assert (row["low"], row["high"]) == tuple("" if x == "" else repr(x) for x in (ends["low"], ends["high"]))
        assert int(row["unscored"]) == sum(r["n_unscored"].values())


def test_items_as_csv_say_who_won(seven: dict[str, Any], table: dict[str, Any]):
    rows = list(csv.DictReader(io.StringIO(tables.items_csv(table), newline="")))
    dpo = [r for r in rows if r["measure"] == "misalignment.M" and r["subject"] == "dpo"]
    letters = next(m for m in table["measures"] if m["name"] == "misalignment.M")["columns"][5]["outcomes"]
    assert [r["outcome"] for r in dpo] == [items.WORDS[c] for c in letters] and len(dpo) == 120
    prompts = {r["id"]: r["prompt"][0]["content"] for r in items_rows(seven)}
    assert {r["item"]: r["prompt"] for r in dpo if r["prompt"]} == prompts


def items_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    return next(f["data"]["rows"] for s in report["sections"] for f in s["figures"] if f["id"] == "samples")


@pytest.mark.parametrize("nasty", ["=1+1", "+cmd|' /C calc'!A0", "@SUM(1)", "-2+3", "\t=1"])
def test_a_text_never_becomes_a_formula(nasty: str):
    sample = {"id": nasty, "prompt": nasty, "responses": [nasty], "score": -0.5}
    report = method_report([SubjectReport(policy={"id": "a"}, samples=[sample])], goal={"id": "g"})
    (row,) = csv.DictReader(io.StringIO(tables.items_csv(items.table(report)), newline=""))
    assert all(row[k] == f"'{nasty}" for k in ("item", "prompt", "response")) and row["score"] == "-0.5"
