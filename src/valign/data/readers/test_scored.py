"""Ratings: scales, aspects, critiques, and ratings that are none."""

import json

from valign.data.group import Comparison, Critique, Score, Verdict
from valign.data.readers import read


def read_one(tmp_path, row):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    data = read(path)
    return data, data[0]


def test_ultrafeedback_keeps_overall_fine_ratings_and_critique(tmp_path):
    completion = {
        "response": "a",
        "model": "m1",
        "overall_score": 7.5,
        "fine-grained_score": 4.25,
        "critique": "Too short.",
        "annotations": {
            "helpfulness": {"Rating": "4"},
            "honesty": {"Rating": "N/A"},
            "truthfulness": {"Rating": 5},
        },
    }
    row = {
        "instruction": "q",
        "completions": [completion, {"response": "b", "overall_score": 3}],
        "models": ["m1"],
    }
    data, g = read_one(tmp_path, row)
    assert data.format == "ultrafeedback" and [r.source for r in g.responses] == ["m1", ""]
    scores = {(s.response, s.aspect): (s.value, s.low, s.high) for s in g.of(Score)}
    assert scores == {
        (0, "overall"): (7.5, 1, 10),
        (0, "helpfulness"): (4, 1, 5),
        (0, "truthfulness"): (5, 1, 5),
        (0, "fine_grained"): (4.25, 1, 5),
        (1, "overall"): (3, 1, 10),
    }
    assert [c.text for c in g.of(Critique)] == ["Too short."]
    assert data.report.flagged == ((1, "completions[0].honesty", "a rating is not a number"),)


def test_helpsteer_rates_one_answer_and_clusters_by_prompt(tmp_path):
    _, g = read_one(
        tmp_path, {"prompt": "q", "response": "a", "helpfulness": 3, "verbosity": "1", "coherence": None}
    )
    assert {s.aspect: (s.value, s.low, s.high) for s in g.of(Score)} == {
        "helpfulness": (3, 0, 4),
        "verbosity": (1, 0, 4),
    }
    assert g.cluster == "q"


def test_saferlhf_keeps_both_choices(tmp_path):
    row = {
        "prompt": "q",
        "response_0": "a",
        "response_1": "b",
        "better_response_id": 0,
        "safer_response_id": 1,
    }
    _, g = read_one(tmp_path, row | {"is_response_0_safe": False, "is_response_1_safe": True})
    assert [(c.chosen, c.rejected) for c in g.of(Comparison)] == [(0, 1)]
    assert [(v.response, v.principle, v.value) for v in g.of(Verdict)] == [(0, "harm", -1), (1, "harm", 1)]
    assert g.meta == {"safer": 1}


def test_summaries_with_a_choice(tmp_path):
    row = {
        "info": {"id": "t3", "post": "Long."},
        "summaries": [{"text": " x", "policy": "ref"}, {"text": " y"}],
        "choice": 1,
        "worker": "w1",
    }
    _, g = read_one(tmp_path, row)
    (c,) = g.of(Comparison)
    assert (c.chosen, c.annotator, g.cluster) == (1, "w1", "t3") and g.prompt_text.endswith("Long.")
    assert [(r.text, r.source) for r in g.responses] == [("x", "ref"), ("y", "")]
