"""Conversations keep roles and order in every shape; what is out of order or repeated is found."""

import json
import random

import pytest

from valign.data.group import Demonstration
from valign.data.inspect import inspect
from valign.data.readers import read


def turn(role, content):
    return {"role": role, "content": content}


def read_rows(tmp_path, *rows, **options):
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return read(path, **options)


def shape(g):
    return [(m.role, m.content) for m in g.prompt], [r.text for r in g.responses]


U, A, B = turn("user", "q"), turn("assistant", "a"), turn("assistant", "b")
LONG = [turn("system", "s"), U, A, turn("tool", "42"), turn("user", "again"), B]


def test_a_conversation_keeps_roles_and_order_and_ends_in_its_demonstration(tmp_path):
    data = read_rows(tmp_path, {"messages": LONG})
    prompt, responses = shape(data[0])
    assert prompt == [("system", "s"), ("user", "q"), ("assistant", "a"), ("tool", "42"), ("user", "again")]
    assert responses == ["b"] and data[0].feedback == (Demonstration(response=0),) and not data.report.flagged


def test_shared_conversations_are_the_same(tmp_path):
    names = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
    said = [{"from": names[m["role"]], "value": m["content"]} for m in LONG]
    data = read_rows(tmp_path, {"id": "x", "conversations": said})
    assert data.format == "sharegpt" and data[0].id == "x"
    assert shape(data[0]) == shape(read_rows(tmp_path, {"messages": LONG})[0])
    (g,) = read_rows(tmp_path, {"conversations": said[1:], "system": "s"})
    assert shape(g) == shape(data[0])


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([A, U, B], "the first turn is not the user's"),
        ([U, U, A], "two turns of one speaker follow each other"),
        ([U, A, turn("system", "late"), U, B], "a system turn is not the first"),
        ([U, A, U], "the conversation ends without an answer; kept as a prompt"),
    ],
)
def test_conversations_out_of_order_are_kept_and_flagged(tmp_path, messages, fault):
    data = read_rows(tmp_path, {"messages": messages})
    assert data.report.flagged == ((1, "messages", fault),) and len(data) == 1
    assert len(data[0].prompt) + len(data[0].responses) == len(messages)


def test_tool_turns_do_not_break_the_order(tmp_path):
    call = [U, turn("assistant", "look up"), turn("tool", "42"), A]
    assert read_rows(tmp_path, {"messages": call}).report.flagged == ()


def test_an_answer_without_a_prompt_is_listed(tmp_path):
    data = read_rows(tmp_path, {"messages": LONG}, {"messages": [A]}, {"messages": []}, format="messages")
    assert [d[2] for d in data.report.dropped] == ["holds an answer without a prompt", "holds no turn"]


FOUR = ([("user", "q1"), ("assistant", "a1"), ("user", "q2")], ["a2"])


@pytest.mark.parametrize("open_end", ["", " [|Human|]", "\n[|Human|] "])
def test_self_chat_and_alternating_texts_are_turns(tmp_path, open_end):
    data = read_rows(tmp_path, {"id": "u", "data": ["q1", "a1", "q2", "a2"]})
    assert data.format == "ultrachat" and shape(data[0]) == FOUR
    scene = "The conversation between human and AI assistant."
    chat = f"{scene}\n[|Human|] q1\n[|AI|] a1\n[|Human|] q2\n[|AI|] a2{open_end}"
    data = read_rows(tmp_path, {"topic": "t", "input": chat})
    assert data.format == "baize" and shape(data[0]) == FOUR
    assert data[0].meta == {"topic": "t", "preamble": scene}


def test_conversations_without_consent_are_left_out_and_listed(tmp_path):
    rows = [{"messages": [U, A], "consent": x} for x in (True, False, None)]
    data = read_rows(tmp_path, *rows)
    assert data.lines == (1, 3)
    assert data.report.dropped == ((2, "consent", "the people in it did not agree to its use"),)


@pytest.mark.capability("D08")
def test_planted_faults_of_order_and_repeats_are_all_found(tmp_path):
    """Of 200 shared dialogues 10 break the order of speakers and 10 repeat another one: exactly these are
    named.
    """
    rng = random.Random(0)

    def words():
        return " ".join(rng.choice("abcdefghij") + rng.choice("klmnopqrst") for _ in range(20))

    rows = []
    for i in range(200):
        said = [{"from": ("human", "gpt")[k % 2], "value": words()} for k in range(4)]
        rows.append({"id": f"d{i}", "conversations": said})
    for i in range(10):
        a, b = rng.choice([(0, 1), (1, 2)])
        rows[i]["conversations"][a]["from"] = rows[i]["conversations"][b]["from"]
        rows[199 - i]["conversations"] = rows[100 + i]["conversations"]
    data = read_rows(tmp_path, *rows)
    assert sorted(line for line, _, _ in data.report.flagged) == list(range(1, 11))
    found = inspect(data)
    assert found.repeats["prompts equal"] == found.repeats["responses equal"] == 10
    assert found.repeats["prompts near"] == found.repeats["responses near"] == 0
