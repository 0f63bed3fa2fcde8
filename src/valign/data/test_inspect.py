"""inspect counts what is there; each number is checked against a small set counted by hand."""

import json

import pytest

from valign.data.convert import scores_to_pairs
from valign.data.dataset import Dataset
from valign.data.group import Comparison, Group, Response, Score, VectorScore, Verdict, user
from valign.data.inspect import Lengths, inspect
from valign.data.readers import read

LONG = "a long answer that says the same thing in a great many words"


@pytest.fixture
def groups():
    return [
        Group(
            "a",
            user("first question"),
            (Response(LONG), Response("short")),
            (Comparison(chosen=0, rejected=1), VectorScore(response=0, theory="t", values={"BE": 1.0})),
            split="train",
        ),
        Group(
            "b",
            user("First  question!"),
            (Response(LONG + " too"), Response("")),
            (Comparison(chosen=1, rejected=0),),
        ),
        Group("c", user("other"), (Response("x"), Response(" x ")), (Comparison(chosen=0, rejected=1),)),
        Group("d", user(" "), (Response("y"), Response("z")), (Comparison(chosen=0, rejected=1, tie=True),)),
        Group("e", user("pick"), (Response(" Yes"), Response(" No")), choices=True, gold=1),
        Group(
            "f",
            user("rate"),
            (Response("m"),),
            (Score(response=0, value=3.0), Verdict(response=0, principle="harm", value=-1.0)),
        ),
    ]


def test_counts_by_hand(groups):
    i = inspect(groups, tokenizer=lambda text: text.split(), max_tokens=10)
    assert (i.groups, i.responses, i.pairs) == (6, 11, 3)
    assert i.feedback == {"comparison": 4, "vector": 1, "score": 1, "verdict": 1}
    assert i.splits == {"train": 1, "": 5}
    assert i.empty_responses == 1 and i.identical_pairs == 1
    assert i.length_baseline == (1 + 0 + 0.5) / 3 and i.first_baseline == 2 / 3
    assert i.repeats == {"prompts equal": 1, "prompts near": 0, "responses equal": 1, "responses near": 1}
    assert i.near_pairs[0][:2] == ("a", "b")
    assert i.labels["comparison"] == {"order": 3, "tie": 1} and i.labels["gold position"] == {"1": 1}
    assert (
        i.labels["t.BE"] == {"1": 1}
        and i.labels["harm"] == {"-1": 1}
        and i.labels["score overall"] == {"3": 1}
    )
    assert i.prompt["words"].max == 2 and i.response["tokens"].max == 14
    assert i.truncated == 2  # 2 + 13 and 2 + 14 words do not fit into 10
    assert i.problem_counts["would be cut at max_tokens"] == 2


def test_problems_carry_group_field_and_line(groups, tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [
        {"prompt": "q", "chosen": "a", "rejected": ""},
        {"prompt": "q"},
        {"prompt": "r", "chosen": "a", "rejected": "b"},
    ]
    path.write_text("\n\n".join(json.dumps(r) for r in rows))
    i = inspect(read(path))
    assert [(p.line, p.field, p.reason) for p in i.problems] == [
        (3, "chosen", "dropped: is missing"),
        (1, "responses[1]", "a response is empty"),
    ]
    assert i.dropped == 1
    assert {(p.group, p.field) for p in inspect(groups).problems} >= {("d", "prompt"), ("b", "responses[1]")}


def test_a_tokenizer_may_be_an_object_or_a_function_of_numbers(groups):
    class Tokenizer:
        def encode(self, text):
            return list(text)

    by_object, by_number = inspect(groups, Tokenizer()), inspect(groups, len)
    assert by_object.prompt["tokens"] == by_number.prompt["tokens"] == by_number.prompt["characters"]
    assert by_object.truncated is None and "tokens" not in inspect(groups).prompt


def test_it_is_json_and_nothing_changes(groups):
    data = Dataset.of(groups)
    again = json.loads(json.dumps(inspect(data).to_json()))
    assert again["response"]["words"]["n"] == 11 and again["pairs"] == 3
    assert data == Dataset.of(groups)


def test_no_pairs_no_baseline():
    i = inspect([Group("a", user("q"))])
    assert i.length_baseline is None and i.response == {} and i.first_baseline is None
    scored = Group(
        "a", user("q"), (Response("ab"), Response("a")), tuple(Score(response=r, value=r) for r in (0, 1))
    )
    assert inspect([scores_to_pairs(scored)]).length_baseline == 0


def test_lengths_by_hand():
    assert Lengths.of([5, 1, 3, 9]) == Lengths(4, 1, 3, 4.5, 5, 9)
    assert Lengths.of([]).max == 0
