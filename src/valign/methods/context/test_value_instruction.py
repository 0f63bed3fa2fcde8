"""Value instructions: what the base policy reads in each mode, and that the words move the answers."""

from __future__ import annotations

import os

import numpy as np
import pytest

from valign.data.group import Group, Message, Response, text, user
from valign.errors import ValignError
from valign.evaluation.measure import measure_bbq
from valign.evaluation.measure.choices import ambiguous_score
from valign.evaluation.metrics.bbq import biased_answer
from valign.evaluation.result import compare
from valign.methods.context.value_instruction import (
    CONSIDER,
    NOW_ANSWER,
    PLAIN,
    ValueInstructionConfig,
    value_instruction,
)
from valign.methods.target import Target
from valign.models.policy import Policy, Sampling, Scored

WORDS = "Be fair."
QUESTION = user("Who did it?")
TALK = (Message("system", "Be brief."), *user("Hi"), Message("assistant", "Hello"), *user("Who did it?"))
RAW = text("Two people met. Who did it?\nAnswer:")


class Words:
    """A goal that is its own description."""

    def __init__(self):
        self.styles = []

    def describe(self, style="instruction"):
        self.styles.append(style)
        return f"{style} of the goal"

    def to_json(self):
        return {"words": True}


def said(scripted, prompts, goal=None, **settings):
    """What the base reads for `prompts`, and the wrapped policy."""
    base = scripted(answer=lambda prompt: "It is unknown.")
    policy = value_instruction(base, Target(goal), ValueInstructionConfig(**settings))
    policy.generate(prompts, Sampling(max_new_tokens=7, seed=5), keys=[f"k{i}" for i in range(len(prompts))])
    return base, policy


# ---------------------------------------------------------------------------------------------------------- prompts


def test_the_plain_question_is_unchanged(scripted):
    base, policy = said(scripted, [QUESTION, TALK, RAW], mode="q")
    assert base.read == [QUESTION, TALK, RAW] and isinstance(policy, Policy)
    assert base.asked == [(Sampling(max_new_tokens=7, seed=5), ("k0", "k1", "k2"))]


@pytest.mark.parametrize(
    ("place", "question", "talk"),
    [
        ("system", (Message("system", WORDS), *QUESTION), (Message("system", f"Be brief.\n\n{WORDS}"), *TALK[1:])),
        ("before", user(f"{WORDS}\n\nWho did it?"), (*TALK[:3], *user(f"{WORDS}\n\nWho did it?"))),
        ("after", user(f"Who did it?\n\n{WORDS}"), (*TALK[:3], *user(f"Who did it?\n\n{WORDS}"))),
    ],
)
def test_the_words_stand_where_they_were_asked_to(scripted, place, question, talk):
    base, _ = said(scripted, [QUESTION, TALK, RAW], text=WORDS, place=place)
    assert base.read == [question, talk, text(f"{WORDS}\n\n{RAW[0].content}")]
    assert base.cost.calls == 3


def test_considerations_are_asked_for_first_and_stand_before_the_answer(scripted):
    """q_if_cot: one greedy call that considers, one that answers; both are in the cost."""
    base, policy = said(scripted, [QUESTION], text=WORDS, mode="q_if_cot", place="after", consider_tokens=9)
    asked = user(f"Who did it?\n\n{WORDS}\n\n{CONSIDER}")
    assert base.read == [asked, (*asked, Message("assistant", "It is unknown."), Message("user", NOW_ANSWER))]
    (first, _), (second, keys) = base.asked
    assert (first.temperature, first.max_new_tokens, first.n) == (0, 9, 1)
    assert second == Sampling(max_new_tokens=7, seed=5) and keys == ("k0",)
    assert policy.cost.calls == 2


def test_raw_text_keeps_its_end(scripted):
    """The answer follows "Answer:" also when considerations stand before it."""
    base, _ = said(scripted, [RAW], text=WORDS, mode="q_if_cot")
    first, second = (p[0].content for p in base.read)
    assert first.startswith(f"{WORDS}\n\nTwo people met.") and first.rstrip().endswith(CONSIDER)
    assert second == f"{WORDS}\n\nIt is unknown.\n\n{RAW[0].content}"


@pytest.mark.parametrize(
    ("place", "style"), [("system", "system"), ("before", "instruction"), ("after", "instruction")]
)
def test_the_goal_describes_itself_for_its_place(scripted, place, style):
    goal = Words()
    base, _ = said(scripted, [QUESTION], goal, place=place)
    assert goal.styles == [style] and any(f"{style} of the goal" in m.content for m in base.read[0])
    base, _ = said(scripted, [QUESTION], Words(), text=WORDS)
    assert base.read[0][0].content == WORDS, "words that are given come first"


def test_nothing_to_say_is_an_error(scripted):
    with pytest.raises(ValignError, match="nothing to say"):
        value_instruction(scripted(), Target(), ValueInstructionConfig())
    with pytest.raises(ValignError, match="no user turn"):
        said(scripted, [(Message("system", "x"),)], text=WORDS, place="after")


def test_responses_are_scored_after_the_words(scripted):
    seen = []
    base = scripted(log_probs=lambda prompt, response: seen.append((prompt, response)) or [-1.0, -2.0])
    policy = value_instruction(base, Target(), ValueInstructionConfig(text=WORDS, place="before"))
    (row,) = policy.score([Group(id="g", prompt=QUESTION, responses=(Response("a"), Response("b")))])
    assert seen == [(user(f"{WORDS}\n\nWho did it?"), "a"), (user(f"{WORDS}\n\nWho did it?"), "b")]
    assert [s.log_prob for s in row] == [-3.0, -3.0]


# -------------------------------------------------------------------------------------------------------------- bias


def bbq_items(shared):
    from valign.data import read

    return list(read(shared / "data" / "bbq" / "Religion.jsonl"))


class Biased:
    """Gives the biased answer, and the right one to every third item; asked to be fair, to all but every fifth."""

    id, kind = "biased", "weights"

    def __init__(self, groups):
        self.number = {g.prompt[0].content: i for i, g in enumerate(groups)}

    def card(self):
        return {"id": self.id, "kind": self.kind, "sha256": "", "notes": []}

    def score(self, groups, *, progress=None):
        return [[Scored(np.array([x], np.float32)) for x in self._log_probs(g)] for g in groups]

    def _log_probs(self, group):
        read = group.prompt[-1].content
        number = next(i for question, i in self.number.items() if read.endswith(question))
        right = number % 5 if PLAIN in read else number % 3 == 0
        biased = biased_answer(group.meta["unknown"], group.meta["target"], group.meta["question_polarity"])
        out = np.full(3, -5.0)
        out[group.gold if right or biased is None else biased] = -0.1
        return out


def bias_of(policy, groups, mode):
    said = value_instruction(policy, Target(), ValueInstructionConfig(mode=mode, text=PLAIN))
    return {r.metric: r for r in measure_bbq(said, groups)}["bbq.s_amb"]


@pytest.mark.capability("C01")
def test_the_instruction_lowers_the_bias_of_a_policy_that_listens(shared):
    """BBQ Religion, ambiguous contexts: s_amb falls from q to q_if, the paired interval lies below 0."""
    groups = bbq_items(shared)
    plain, told = (bias_of(Biased(groups), groups, mode) for mode in ("q", "q_if"))
    change = compare(told, plain, statistic=ambiguous_score).result
    print(f"\ns_amb {plain.value:.3f} -> {told.value:.3f}, change {change.value:.3f} {change.interval}, n={change.n}")
    assert told.value < plain.value and change.n > 200
    assert change.value == pytest.approx(told.value - plain.value) and change.interval.high < 0


@pytest.mark.real
def test_the_bias_of_the_embedded_model_is_told_whatever_its_sign(shared, smollm2):
    """R-bbq on few items (all of them in `make real`): both scores with their paired interval."""
    groups = bbq_items(shared)
    if os.environ.get("VALIGN_REAL") != "whole":
        groups = groups[:: len(groups) // 12][:12]
    plain, told = (bias_of(smollm2, groups, mode) for mode in ("q", "q_if"))
    change = compare(told, plain, statistic=ambiguous_score).result
    print(f"\ns_amb of {smollm2.id}: {plain.value} -> {told.value}, change {change.interval}, n={change.n}")
    assert plain.n == told.n > 0 and all(-1 <= r.value <= 1 for r in (plain, told) if r.value is not None)
