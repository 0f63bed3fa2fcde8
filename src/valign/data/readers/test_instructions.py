"""Instructions: the input belongs to the prompt, the answer is the demonstration."""

import json

import pytest

from valign.data.group import Demonstration
from valign.data.readers import read
from valign.data.readers.instructions import with_input


def read_rows(tmp_path, *rows):
    path = tmp_path / "d.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return read(path)


@pytest.mark.parametrize(
    ("given", "prompt"), [("", "Do it."), ("  ", "Do it."), (None, "Do it."), ("x = 1", "Do it.\n\nx = 1")]
)
def test_an_input_follows_its_instruction(given, prompt):
    assert with_input("Do it.", given) == prompt


def test_alpaca_rows(tmp_path):
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "", "output": "x"},
        {"instruction": "Sing.", "output": ""},
    ]
    data = read_rows(tmp_path, *rows)
    assert [g.prompt_text for g in data] == ["Add.\n\n1 2", "Sing."]
    assert data[0].feedback == (Demonstration(response=0),)
    assert data.report.dropped == ((2, "instruction", "is empty"),)
    assert data.report.flagged == ((3, "output", "an answer is empty"),)


def test_a_seed_task_of_two_instances_is_two_groups_of_one_cluster(tmp_path):
    task = {
        "id": "t",
        "name": "add",
        "instruction": "Add.",
        "instances": [{"input": "1 2", "output": "3"}, {"input": "2 2", "output": "4"}],
        "is_classification": False,
    }
    data = read_rows(tmp_path, task)
    assert [(g.id, g.cluster, g.responses[0].text) for g in data] == [("t", "t", "3"), ("t#1", "t", "4")]
    assert data[1].meta["is_classification"] is False and data[1].meta["input"] == "2 2"


def test_later_turns_of_a_question_wait_in_the_meta_data(tmp_path):
    row = {"question_id": 101, "category": "math", "turns": ["one?", "two?"], "reference": ["1", "2"]}
    (g,) = read_rows(tmp_path, row)
    assert g.id == "101" and g.prompt_text == "one?" and g.meta["turns"] == ["one?", "two?"]
    assert g.meta["reference"] == ["1", "2"] and g.responses == ()
