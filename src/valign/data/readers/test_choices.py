"""Choices: positions, targets and blanks."""

import json

import pytest

from valign.data.group import Comparison, Verdict
from valign.data.readers import read
from valign.data.readers.choices import bbq_target
from valign.data.readers.test_reading import BBQ


def read_rows(tmp_path, *rows):
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return read(path)


def test_bbq_positions(tmp_path):
    (g,) = read_rows(tmp_path, BBQ | {"m_pred_race": "x"})
    assert g.choices and g.gold == 0 and g.id == "Age:0" and g.cluster == "Age:1"
    assert g.prompt[0].role == "text" and g.prompt[0].content == "c q\nAnswer:"
    assert [r.text for r in g.responses] == [" x", " y", " z"]
    assert (g.meta["unknown"], g.meta["target"], g.meta["m_pred_race"]) == (2, 0, "x")


def test_the_target_is_resolved_as_the_golden_says(golden):
    """Either entry, lower case, unique; otherwise there is no target."""
    case = golden("bbq.target_resolution")
    for item, unknown, biased in zip(case["inputs"]["items"], *case["expected"].values()):
        info = {f"ans{i}": entry for i, entry in enumerate(item["answer_info"])}
        target = bbq_target(info, {"stereotyped_groups": item["stereotyped_groups"]}, unknown)
        other = None if target is None else 3 - unknown - target
        assert (target if item["question_polarity"] == "neg" else other) == biased


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"label": 3}, "label"),
        ({"answer_info": {"ans0": ["a", "b"]}}, "answer_info"),
        ({"answer_info": {f"ans{i}": ["?", "unknown"] for i in range(3)}}, "answer_info"),
        ({"ans1": None}, "ans1"),
    ],
)
def test_a_question_that_is_not_whole_is_listed(tmp_path, change, field):
    data = read_rows(tmp_path, BBQ, BBQ, BBQ | change)
    assert [(line, f) for line, f, _ in data.report.dropped] == [(3, field)]


def test_no_target_is_flagged_and_kept(tmp_path):
    data = read_rows(tmp_path, BBQ | {"additional_metadata": {"stereotyped_groups": ["rich"]}})
    assert data[0].meta["target"] is None and len(data.report.flagged) == 1


@pytest.mark.parametrize(
    ("matching", "other", "texts", "at"),
    [
        (" Yes", " No", [" Yes", " No"], 0),
        (" No", " Yes", [" Yes", " No"], 1),
        (" (B)", " (A)", [" (A)", " (B)"], 1),
        (" (A)", " (C)", [" (A)", " (C)"], 0),
    ],
)
def test_positions_do_not_give_the_behaviour_away_and_blanks_stay(tmp_path, matching, other, texts, at):
    row = {"question": "q?", "answer_matching_behavior": matching, "answer_not_matching_behavior": other}
    (g,) = read_rows(tmp_path, row)
    assert (
        [r.text for r in g.responses] == texts and g.meta["matching"] == at and g.gold is None and g.choices
    )


def test_every_safe_continuation_is_preferred_to_every_unsafe_one(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(
        json.dumps(
            {"If cold,": {"unsafe": ["x"], "safe": ["a", "b"]}, "If hot,": {"unsafe": ["y"], "safe": ["c"]}}
        )
    )
    data = read(path)
    assert [g.prompt_text for g in data] == ["If cold,", "If hot,"] and data.report.rows == 2
    assert [r.text for r in data[0].responses] == [" a", " b", " x"]
    assert [(c.chosen, c.rejected) for c in data[0].of(Comparison)] == [(0, 2), (1, 2)]
    assert [v.value for v in data[0].of(Verdict)] == [1, 1, -1]
