"""The rule checkers: each type at its border, every task of the built-in instructions, and bad checks."""

from __future__ import annotations

import numpy as np
import pytest

from valign.data import builtin
from valign.data.group import Group, Response, user
from valign.errors import ValignError
from valign.rewards.rules import TYPES, check, reward


def one(response: str, kind: str, /, **rest) -> bool:
    return check([{"type": kind, **rest}], response).passed


CASES = [
    (
        "exact",
        {"answers": ["Paris"]},
        [" paris. ", '"Paris!"', "“PARIS”"],
        ["Paris, France", "It is Paris", ""],
    ),
    ("exact", {"answers": ["Paris"], "strip": False}, ["paris"], ["Paris.", " Paris"]),
    (
        "contains_answer",
        {"answers": ["7", "seven"]},
        ["It is 7.", "SEVEN!", "7 " + "word " * 24],
        ["17", "sevenths", "7 " + "word " * 25, ""],
    ),
    ("includes", {"phrases": ["blue door", "cat"]}, ["A Blue  door, a cat."], ["blue doors cat", "a cat"]),
    ("excludes", {"phrases": ["very"]}, ["every day", ""], ["Very nice", "not very."]),
    ("regex", {"pattern": "^yes\\b", "flags": "im"}, ["Yes", "no\nyes"], ["oh yes", "yesterday"]),
    (
        "json",
        {"keys": ["a"]},
        ['{"a": 1}', '```json\n{"a": null}\n```'],
        ['{"b": 1}', "[1]", "a", '{"a": 1} so', ""],
    ),
    ("json", {}, ["{}"], ["3"]),
    ("case", {"case": "lower"}, ["all low 1!", ""], ["One"]),
    ("case", {"case": "upper"}, ["ALL 1!"], ["ALl"]),
    ("starts_with", {"text": "Dear"}, ["  dear Ann"], ["Oh dear"]),
    ("ends_with", {"text": "the end."}, ["It is The End. \n"], ["the end"]),
    ("words", {"min": 2, "max": 3}, ["a b", "a b c"], ["a", "a b c d", ""]),
    ("sentences", {"max": 2}, ["One. Two!", "It costs 3.50 here."], ["One. Two? Three."]),
    ("lines", {"min": 2, "max": 2}, ["a\n\nb", "a\nb\n"], ["a", "a\nb\nc"]),
    (
        "items",
        {"min": 3, "max": 3},
        ["- a\n* b\n• c", "1. a\n2) b\n 3. c", "List:\n- a\n- b\n- c"],
        ["- a\n- b", "-\n-\n-"],
    ),
    ("characters", {"max": 3}, ["abc", " abc "], ["abcd"]),
]


@pytest.mark.parametrize(("type", "keys", "good", "bad"), CASES)
def test_each_check_at_its_border(type, keys, good, bad):
    for text in good:
        assert one(text, type, **keys), text
    for text in bad:
        assert not one(text, type, **keys), text


def test_every_type_has_a_case():
    assert {case[0] for case in CASES} == set(TYPES)


def test_every_builtin_reference_passes_and_an_echo_does_not():
    """The reference of each task passes all its checks; an empty answer and the prompt itself do not."""
    tasks = builtin("instructions")
    assert len(tasks) >= 160
    for group in tasks:
        checks, prompt = group.meta["checks"], group.prompt_text
        outcome = check(checks, group.meta["reference"])
        assert outcome.passed and outcome.share == 1, (group.id, outcome.reasons)
        assert not check(checks, "").passed and not check(checks, prompt).passed, group.id


def test_share_and_reasons():
    found = check([{"type": "words", "max": 2}, {"type": "case", "case": "lower"}], "Two words")
    assert not found.passed and found.share == 0.5
    assert found.outcomes == (("words", True), ("case", False))
    assert found.reasons[0] == "words: 2 (wanted 0 to 2)"


def test_reward_reads_the_checks_of_each_task():
    checked = Group(
        "a",
        user("?"),
        (Response("one"), Response("one two three")),
        meta={"checks": [{"type": "words", "max": 2}]},
    )
    unchecked = Group("b", user("?"), (Response("one"),))
    scores = reward().score([checked, unchecked])
    assert scores[0].tolist() == [1, 0] and np.isnan(scores[1]).all()
    fixed = reward([{"type": "words", "min": 3}, {"type": "case", "case": "lower"}])
    assert fixed.score([checked])[0].tolist() == [0.5, 1]
    assert reward(fixed_checks := [{"type": "words", "min": 3}], credit="passed").score([checked])[0].tolist() == [0, 1]
    assert reward(fixed_checks).fingerprint() != reward().fingerprint() != fixed.fingerprint()


@pytest.mark.parametrize(
    ("checks", "words"),
    [
        ([], "nothing to check"),
        ([{"type": "word"}], "words"),
        ([{"max": 3}], "check type"),
        ([{"type": "words"}], "min, max"),
        ([{"type": "words", "maximum": 3}], "max"),
        ([{"type": "words", "max": -1}], "whole number"),
        ([{"type": "words", "max": True}], "whole number"),
        ([{"type": "words", "min": 4, "max": 3}], "above"),
        ([{"type": "exact"}], "answers is missing"),
        ([{"type": "exact", "answers": "Paris"}], "list of texts"),
        ([{"type": "exact", "answers": ["a"], "strip": 1}], "true or false"),
        ([{"type": "includes", "phrases": []}], "list of texts"),
        ([{"type": "regex", "pattern": "("}], "regular expression"),
        ([{"type": "regex", "pattern": "a", "flags": "x"}], "letters of"),
        ([{"type": "case", "case": "title"}], "lower or upper"),
        ([{"type": "words", "max": 3}, {"type": "json", "keys": [1]}], r"checks\[1\]"),
    ],
)
def test_bad_checks(checks, words):
    """A check that is not valid is an error with its place, before any text is judged."""
    with pytest.raises(ValignError, match=words):
        check(checks, "text")


def test_bad_credit():
    with pytest.raises(ValignError, match="share"):
        reward(credit="half")
