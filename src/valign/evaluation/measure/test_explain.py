"""Records that say what moved the reward: sums, planted phrases, quotes and flips."""

from __future__ import annotations

import numpy as np
import pytest

from valign.data.group import Group, Response, user
from valign.errors import DataError, ValignError
from valign.evaluation.measure.explain import Question, explain, segments
from valign.goals.principle import Principle, PrincipleGoal
from valign.goals.theory import load_theory
from valign.goals.value import ValueGoal
from valign.models.policy import Cost, Scored
from valign.rewards.base import from_callable

THEORY = load_theory("schwartz10")
TEXT = "Hello there. Be kind to her. Then take the money!"
GROUP = Group(id="g", prompt=user("What now?"), responses=(Response(TEXT), Response("Leave. It is late.")))


class Bytes:
    """A policy over bytes; `nats` of a byte by its value."""

    id, kind, cost = "bytes", "weights", Cost()

    def __init__(self, nats):
        self.nats = nats

    def card(self):
        return {"id": self.id}

    def score(self, groups, *, progress=None):
        return [
            [Scored(np.array([self.nats(b) for b in r.text.encode()], np.float32)) for r in g.responses] for g in groups
        ]


def letters(groups):
    return [[[chr(b) for b in r.text.encode()] for r in g.responses] for g in groups]


@pytest.mark.capability("F10")
def test_token_credits_sum_to_the_implicit_reward():
    """One planted letter is all the two policies differ in: it has all the credit, and the sum is the reward to 1e-6."""
    policy, reference = Bytes(lambda b: -1.0 if b == ord("k") else -2.0), Bytes(lambda b: -2.0)
    found = explain([GROUP], Question(policy, reference, 0.1, letters))
    one = found[0]["implicit"]
    assert one["reward"] == pytest.approx(0.1 * TEXT.count("k")) and abs(one["residual"]) < 1e-6
    assert sum(t["credit"] for t in one["tokens"]) == pytest.approx(one["reward"], abs=1e-6)
    assert [t["text"] for t in one["tokens"] if t["credit"]] == ["k"] * TEXT.count("k")
    assert len(found) == 2 and found[1]["implicit"]["reward"] == 0


def test_credit_golden_through_the_record(evaluation_golden):
    g = evaluation_golden("interpretability.token_credit")
    own, ref = (dict(zip(b"abcd", g.inputs[k])) for k in ("logp", "ref_logp"))
    group = Group(id="g", prompt=user("?"), responses=(Response("abcd"),))
    record = explain([group], Question(Bytes(own.__getitem__), Bytes(ref.__getitem__), g.inputs["beta"], letters))[0][
        "implicit"
    ]
    assert [t["credit"] for t in record["tokens"]] == pytest.approx(g.expected["credit"], abs=1e-7)
    assert record["reward"] == pytest.approx(g.expected["total"], abs=1e-7)


def test_two_tokenizers_cannot_be_credited():
    class Half(Bytes):
        def score(self, groups, *, progress=None):
            return [[Scored(s.log_probs[::2]) for s in row] for row in super().score(groups)]

    with pytest.raises(DataError, match="same tokenizer"):
        explain([GROUP], Question(Bytes(lambda b: -1.0), Half(lambda b: -1.0)))
    with pytest.raises(ValignError, match="segment"):
        Question(by="line")


def test_segments_are_the_text():
    for by in ("sentence", "word"):
        spans = segments(TEXT, by)
        assert "".join(TEXT[a:b] for a, b in spans) == TEXT
    assert [TEXT[a:b].strip() for a, b in segments(TEXT, "sentence")] == [
        "Hello there.",
        "Be kind to her.",
        "Then take the money!",
    ]
    assert segments("", "word") == [] and len(segments("no end", "sentence")) == 1


KIND = from_callable(lambda p, r: 2.0 * ("kind" in r) - ("money" in r) + 0.5, id="kind - money")


def test_removal_credits_name_the_planted_sentences_and_print_what_they_leave():
    """+2 and -1 stand in two sentences; the constant .5 is in none, so it is the residual."""
    record = explain([GROUP], Question(judge=KIND))[0]["reward"]
    assert [s["credit"] for s in record["segments"]] == [0.0, 2.0, -1.0] and record["score"] == 1.5
    assert record["residual"] == pytest.approx(0.5)
    assert TEXT[slice(*record["segments"][1]["span"])].strip() == "Be kind to her."


def test_the_smallest_removed_segment_that_flips_the_decision():
    """Against the other response (.5) one sentence is enough; for a threshold that no removal reaches there is none."""
    first, second = (r["flip"] for r in explain([GROUP], Question(judge=KIND)))
    assert (
        first["removed"].strip() == "Be kind to her."
        and first["segments"] == 1
        and first["against"] == "best other response"
    )
    assert (first["before"], first["after"], first["limit"]) == (1.5, -0.5, 0.5)
    assert second is None, "without any of it, it is still .5"
    both = from_callable(lambda p, r: float("Hello" in r or "kind" in r), id="either")
    two = explain([GROUP], Question(judge=both, threshold=0.5))[0]["flip"]
    assert two["segments"] == 2 and two["removed"].strip() == "Hello there. Be kind to her."
    alone = Group(id="a", prompt=user("?"), responses=(Response(TEXT),))
    assert explain([alone], Question(judge=KIND))[0]["flip"] is None, (
        "one response and no threshold: there is no decision"
    )


class Words:
    id, theory = "words", THEORY.id

    def values(self, groups):
        out = []
        for g in groups:
            rows = np.zeros((len(g.responses), len(THEORY.ids)))
            for row, r in zip(rows, g.responses):
                row[THEORY.ids.index("BE")], row[THEORY.ids.index("PO")] = "kind" in r.text, -1.0 * ("money" in r.text)
            out.append(rows)
        return out

    def verdicts(self, groups, principles):
        return [
            np.array([[1.0 * ("kind" in r.text), -1.0 * ("money" in r.text), 0.0] for r in g.responses]) for g in groups
        ]


@pytest.mark.capability("F10")
def test_values_and_principles_are_quoted():
    """Each dimension and each verdict, of either sign, is quoted by the sentence that says it; silence has no quote."""
    values = explain([GROUP], Question(goal=ValueGoal(THEORY, {"BE": 1.0, "PO": -1.0}, evaluator=Words())))[0]["values"]
    dims = values["dimensions"]
    assert dims["BE"]["quote"] == "Be kind to her." and dims["PO"]["quote"] == "Then take the money!"
    assert dims["PO"]["credit"] == -1.0 and dims["SE"]["quote"] is None
    assert sum(d["part"] for d in dims.values()) == pytest.approx(values["utility"])
    rules = PrincipleGoal(tuple(Principle(i, f"rule {i}") for i in "abc"), scorer=Words())
    a, b, c = explain([GROUP], Question(goal=rules))[0]["principles"]
    assert (a["verdict"], a["quote"], b["verdict"], b["quote"]) == (
        1.0,
        "Be kind to her.",
        -1.0,
        "Then take the money!",
    )
    assert c["quote"] is None and a["judge"] == "words" and TEXT[slice(*b["span"])].strip() == b["quote"]
