"""HH-RLHF: where the prompt ends, and which rows are flagged."""

import pytest

from valign.data.readers.hh import DIVERGES, EMPTY, IDENTICAL, read_row
from valign.data.readers.reader import Drop, Log, Row

START = "\n\nHuman: hello\n\nAssistant: hi there\n\nHuman: more?\n\nAssistant:"


def parsed(chosen, rejected):
    log = Log()
    return read_row(Row(7, {"chosen": chosen, "rejected": rejected}), log), [f[2] for f in log.flagged]


def test_the_prompt_is_what_both_share_up_to_the_last_marker():
    """Answers that begin alike do not lend their words to the prompt."""
    g, flags = parsed(START + " I can help", START + " I cannot")
    assert [(m.role, m.content) for m in g.prompt] == [
        ("user", "hello"),
        ("assistant", "hi there"),
        ("user", "more?"),
    ]
    assert [r.text for r in g.responses] == ["I can help", "I cannot"] and flags == []
    ((comparison,),) = ([*g.feedback],)
    assert (comparison.chosen, comparison.rejected, comparison.probability) == (0, 1, 1.0)


@pytest.mark.parametrize(
    "further", ["\n\nHumans: ok\n\nAssistant: bye", " Human: ok\n\nAssistant: bye", "\n\nAssistant: bye"]
)
def test_a_further_turn_behind_a_mistyped_marker_stays_in_its_answer(further):
    """Cutting each side at its own last marker would give two different prompts."""
    g, flags = parsed(START + " one", START + " two" + further)
    assert g.prompt[-1].content == "more?" and g.responses[1].text == "two" + further
    assert flags == [DIVERGES]


def test_empty_and_identical_answers_are_kept_and_flagged():
    assert parsed(START + " one", START + " ")[1] == [EMPTY]
    assert parsed(START + " one", START + " one ")[1] == [IDENTICAL]
    assert parsed(START, START)[1] == [EMPTY, IDENTICAL]


def test_turns_out_of_order_are_kept_and_flagged():
    g, flags = parsed(*("\n\nHuman: a\n\nHuman: b\n\nAssistant:" + x for x in (" one", " two")))
    assert [m.content for m in g.prompt] == ["a", "b"]
    assert flags == ["two turns of one speaker follow each other"]


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: b\n\nAssistant: x"), ("no turns", "no turns"), ("", "")],
)
def test_rows_without_a_shared_prompt_are_refused_with_a_reason(chosen, rejected):
    with pytest.raises(Drop, match="chosen: chosen and rejected share no prompt"):
        parsed(chosen, rejected)


def test_text_before_the_first_marker_is_a_system_turn():
    g, _ = parsed(*("Be brief." + START + x for x in (" one", " two")))
    assert (g.prompt[0].role, g.prompt[0].content) == ("system", "Be brief.")
