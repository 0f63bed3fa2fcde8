"""valign's compact forms: labels and verdicts per answer, and what is no label."""

import json

from valign.data.group import Demonstration, VectorScore, Verdict
from valign.data.readers import read

DILEMMA = {
    "id": "w1-001",
    "topic": "work",
    "prompt": "Should I?",
    "responses": [
        {"text": "Yes.", "values": {"BE": 1, "PO": -1}, "verdicts": {"help": 1, "fair": 1}},
        {"text": "No.", "values": {}, "verdicts": {"help": -1}},
    ],
    "split": "test",
}


def read_rows(tmp_path, *rows):
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return read(path)


def test_a_dilemma(tmp_path):
    (g,) = read_rows(tmp_path, DILEMMA)
    assert (g.id, g.cluster, g.split, g.meta) == ("w1-001", "w1-001", "test", {"topic": "work"})
    assert [(v.response, v.theory, v.values) for v in g.of(VectorScore)] == [
        (0, "schwartz10", {"BE": 1, "PO": -1}),
        (1, "schwartz10", {}),
    ]
    assert [(v.response, v.principle, v.value) for v in g.of(Verdict)] == [
        (0, "help", 1),
        (0, "fair", 1),
        (1, "help", -1),
    ]


def test_what_is_no_label_is_listed(tmp_path):
    bad = json.loads(json.dumps(DILEMMA))
    bad["responses"][1]["values"] = {"BE": 2}
    worse = json.loads(json.dumps(DILEMMA))
    worse["responses"][0]["verdicts"] = ["help"]
    data = read_rows(tmp_path, DILEMMA, bad, worse)
    assert data.report.dropped == (
        (2, "responses[1].values.BE", "is 2, not -1, 0 or 1"),
        (3, "responses[0].verdicts", "is list, not an object"),
    )


def test_an_instruction_and_a_demonstration(tmp_path):
    row = {
        "id": "i1",
        "kind": "exact",
        "prompt": "2+2?",
        "checks": [{"type": "exact", "answers": ["4"]}],
        "reference": "4",
    }
    (g,) = read_rows(tmp_path, row)
    assert g.meta == {"kind": "exact", "checks": [{"type": "exact", "answers": ["4"]}], "reference": "4"}
    assert g.responses == ()
    (g,) = read_rows(tmp_path, {"id": "d1", "topic": "tea", "prompt": "Tea?", "response": "Please."})
    assert g.feedback == (Demonstration(response=0),) and g.meta == {"topic": "tea"}
