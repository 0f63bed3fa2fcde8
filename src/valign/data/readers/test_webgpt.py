"""Browsing: steps become turns in their order, comparisons keep scores and ties."""

import json

import pytest

from valign.data.group import Comparison, Demonstration, Score
from valign.data.readers import read


def read_rows(tmp_path, *rows):
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return read(path)


STEPS = [
    {"action": "search", "argument": "why is the sky blue", "observation": "1. Rayleigh scattering"},
    {"action": "click", "argument": "1", "observation": "Light of short waves ..."},
    {"action": "quote", "argument": "short waves scatter more"},
    {"action": "back"},
]


@pytest.mark.capability("D02")
@pytest.mark.parametrize("name", ["steps", "actions"])
def test_a_browsing_demonstration_becomes_turns_with_roles_and_order_intact(tmp_path, name):
    """Question, then each action as an assistant turn with what it showed as a tool turn, then the answer."""
    data = read_rows(
        tmp_path, {"question": {"full_text": "Why?", "id": "x"}, name: STEPS, "answer": "Because [1]."}
    )
    (g,) = data
    assert data.format == "browsing"
    assert [(m.role, m.content) for m in g.prompt] == [
        ("user", "Why?"),
        ("assistant", "search: why is the sky blue"),
        ("tool", "1. Rayleigh scattering"),
        ("assistant", "click: 1"),
        ("tool", "Light of short waves ..."),
        ("assistant", "quote: short waves scatter more"),
        ("assistant", "back"),
    ]
    assert g.responses[0].text == "Because [1]." and g.feedback == (Demonstration(response=0),)


def test_a_step_without_action_is_listed(tmp_path):
    row = {"question": "q", "steps": STEPS, "answer": "a"}
    data = read_rows(tmp_path, row, row | {"steps": [{"argument": "x"}]})
    assert data.report.dropped == ((2, "steps[0].action", "is missing"),)


@pytest.mark.parametrize(
    ("scores", "chosen", "tie", "probability", "strength"),
    [((0.5, -0.5), 0, False, 1.0, 1.0), ((-0.25, 0.25), 1, False, 1.0, 0.5), ((0, 0), 0, True, 0.5, None)],
)
def test_comparisons_follow_the_scores(tmp_path, scores, chosen, tie, probability, strength):
    row = {
        "question": {"full_text": "q", "dataset": "eli5"},
        "answer_0": "a",
        "answer_1": "b",
        "quotes_0": {"title": ["t"], "extract": ["e"]},
        "quotes_1": {},
    }
    (g,) = read_rows(tmp_path, row | {"score_0": scores[0], "score_1": scores[1]})
    (c,) = g.of(Comparison)
    assert (c.chosen, c.tie, c.probability, c.strength) == (chosen, tie, probability, strength)
    assert [s.value for s in g.of(Score)] == list(scores) and g.cluster == "q"
    assert g.meta["quotes"][0]["title"] == ["t"] and g.meta["dataset"] == "eli5"
