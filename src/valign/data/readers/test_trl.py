"""The dataset types of TRL in their standard and conversational forms."""

import json

import pytest

from valign.data.group import Comparison, Demonstration, Score, Verdict
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
PREFERENCES = {
    "standard": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "conversational": {"prompt": [U], "chosen": [A], "rejected": [B]},
    "implicit conversational": {"chosen": [U, A], "rejected": [U, B]},
    "text prompt, whole conversations": {"prompt": "q", "chosen": [U, A], "rejected": [U, B]},
    "text prompt, answers as turns": {"prompt": "q", "chosen": [A], "rejected": [B]},
    "parts": {"prompt": [turn("user", [{"type": "text", "text": "q"}])], "chosen": [A], "rejected": [B]},
    "other names": {
        "prompt": [turn("human", "q")],
        "chosen": [turn("gpt", "a")],
        "rejected": [turn("model", "b")],
    },
}


@pytest.mark.parametrize("form", PREFERENCES)
def test_every_form_of_a_preference_is_the_same_group(tmp_path, form):
    data = read_rows(tmp_path, PREFERENCES[form])
    (g,) = data
    assert data.format == "preference" and shape(g) == ([("user", "q")], ["a", "b"])
    assert g.feedback == (Comparison(chosen=0, rejected=1),)


def test_the_system_turn_is_kept_from_turns_or_column(tmp_path):
    s = turn("system", "be kind")
    for row in (
        {"prompt": [s, U], "chosen": [A], "rejected": [B]},
        {"chosen": [s, U, A], "rejected": [s, U, B]},
        {"prompt": "q", "chosen": [s, U, A], "rejected": [s, U, B]},
        {"prompt": "q", "chosen": "a", "rejected": "b", "system": "be kind"},
    ):
        (g,) = read_rows(tmp_path, row)
        assert shape(g) == ([("system", "be kind"), ("user", "q")], ["a", "b"])


def test_standard_text_that_continues_its_prompt_stays_raw_text(tmp_path):
    """TRL's own example: answers that begin with a blank continue the text; others answer a user turn."""
    (g,) = read_rows(tmp_path, {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."})
    assert shape(g) == ([("text", "The sky is")], [" blue.", " green."])
    (g,) = read_rows(tmp_path, {"chosen": "The sky is blue.", "rejected": "The sky is green."})
    assert shape(g) == ([("text", "The sky is")], [" blue.", " green."])


def test_a_text_prompt_with_human_and_assistant_markers_is_turns(tmp_path):
    row = {
        "prompt": "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:",
        "chosen": " a",
        "rejected": " b",
    }
    (g,) = read_rows(tmp_path, row)
    assert shape(g)[0] == [("user", "one"), ("assistant", "two"), ("user", "three")]


def test_scores_margin_ids_and_other_columns_are_kept(tmp_path):
    row = PREFERENCES["standard"] | {
        "score_chosen": 8.5,
        "score_rejected": "3",
        "margin": 5.5,
        "prompt_id": "p1",
    }
    (g,) = read_rows(tmp_path, row | {"source": "web", "nothing": None, "split": "dev"})
    assert g.id == "p1" and g.meta == {"source": "web"} and g.split == "dev"
    assert next(g.of(Comparison)).strength == 5.5
    assert [(s.response, s.value) for s in g.of(Score)] == [(0, 8.5), (1, 3.0)]


def test_identical_and_empty_answers_are_flagged(tmp_path):
    same = read_rows(tmp_path, {"prompt": "q", "chosen": "a", "rejected": "a "})
    assert same.report.flagged == ((1, "rejected", "both answers are the same text"),)
    (g,) = read_rows(tmp_path, {"chosen": [U, A], "rejected": [U, A]})
    assert shape(g) == ([("user", "q")], ["a", "a"])
    empty = read_rows(tmp_path, {"prompt": "q", "chosen": "", "rejected": "b"})
    assert empty.report.flagged == ((1, "chosen", "an answer is empty"),)


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": 3}, "rejected", "is int, not text"),
        ({"prompt": ["q"], "chosen": "a", "rejected": "b"}, "prompt[0]", "is str, not a turn"),
        ({"prompt": [], "chosen": [A], "rejected": [B]}, "prompt", "holds no turn"),
        ({"prompt": "q", "chosen": [A, U, A], "rejected": [B]}, "chosen", "must end in one assistant turn"),
        (
            {"chosen": [U, A, U], "rejected": [U, A, turn("user", "x")]},
            "chosen",
            "must end in one assistant turn",
        ),
        ({"chosen": [A], "rejected": [B]}, "prompt", "is missing, and chosen and rejected share no turn"),
        (
            {"chosen": "yes", "rejected": "no"},
            "prompt",
            "is missing, and chosen and rejected share no beginning",
        ),
        (
            {"prompt": [turn("alien", "q")], "chosen": [A], "rejected": [B]},
            "prompt[0].role",
            "unknown role 'alien'",
        ),
        ({"prompt": [turn("user", None)], "chosen": [A], "rejected": [B]}, "prompt[0].content", "is missing"),
        (
            {"prompt": [turn("user", [{"type": "image"}])], "chosen": [A], "rejected": [B]},
            "prompt[0].content",
            "not text",
        ),
        (
            {"prompt": "x", "chosen": [U, A], "rejected": [U, B]},
            "chosen",
            "begins with turns other than the prompt",
        ),
    ],
)
def test_a_pair_that_cannot_be_read_is_listed(tmp_path, row, field, reason):
    report = read_rows(tmp_path, PREFERENCES["standard"], row, format="preference").report
    ((line, where, why),) = report.dropped
    assert (line, where) == (2, field) and reason in why


@pytest.mark.parametrize(
    ("label", "value"), [(True, 1), (False, -1), (1, 1), (0, -1), ("True", 1), ("false", -1), ("1", 1)]
)
def test_thumbs_become_verdicts_on_good(tmp_path, label, value):
    data = read_rows(tmp_path, {"prompt": "q", "completion": "a", "label": label})
    assert data.format == "unpaired"
    assert data[0].feedback == (Verdict(response=0, principle="good", value=value),)


def test_a_thumb_that_is_neither_is_listed(tmp_path):
    rows = [{"prompt": "q", "completion": "a", "label": x} for x in (True, True, "maybe")]
    assert read_rows(tmp_path, *rows).report.dropped == ((3, "label", "is 'maybe', neither true nor false"),)


def test_prompt_and_completion_are_a_demonstration(tmp_path):
    for row in (
        {"prompt": "q", "completion": "a"},
        {"prompt": [U], "completion": [A]},
        {"prompt": "q", "response": "a"},
    ):
        data = read_rows(tmp_path, row)
        assert data.format == "prompt_completion" and shape(data[0]) == ([("user", "q")], ["a"])
        assert data[0].feedback == (Demonstration(response=0),)


def test_prompts_alone_keep_their_other_columns(tmp_path):
    data = read_rows(tmp_path, {"prompt": [U], "solution": "42"})
    assert (
        data.format == "prompt"
        and shape(data[0]) == ([("user", "q")], [])
        and data[0].meta == {"solution": "42"}
    )


def test_raw_text_is_a_demonstration_after_an_empty_prompt(tmp_path):
    data = read_rows(tmp_path, {"text": "once upon a time"})
    assert data.format == "text" and shape(data[0]) == ([("text", "")], ["once upon a time"])
