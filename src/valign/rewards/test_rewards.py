"""Rewards from goals, functions, classifiers, policies: numbers, the unscored, identity, bad input."""

from __future__ import annotations

import builtins
import subprocess
import sys

import numpy as np
import pytest

from valign.data.group import Comparison, Group, Response, user
from valign.errors import DataError, UsageError, ValignError
from valign.goals import load_goal
from valign.models.policy import Scored
from valign.rewards import (
    REWARDS,
    ImplicitReward,
    Reward,
    constant,
    default_scorers,
    from_callable,
    from_goal,
    length,
    make,
    sentiment,
    standardized,
    toxicity,
)


def group(*texts: str, id: str = "g", feedback=()) -> Group:
    return Group(id, user("What now?"), tuple(map(Response, texts)), feedback)


def words(prompt: str, response: str) -> float:
    return float(len(response.split()))


def unlucky(prompt: str, response: str) -> float:
    raise KeyError(response)


def test_a_goal_as_reward():
    g = group("a", "b", feedback=(Comparison(chosen=1, rejected=0),))
    found = from_goal(load_goal("preference"), by="labels")
    assert isinstance(found, Reward) and found.score([g])[0].tolist() == [0, 1]
    with pytest.raises(ValignError, match="no scorer"):
        from_goal(load_goal("preference")).score([g])
    with pytest.raises(UsageError, match="utility or labels"):
        from_goal(load_goal("preference"), by="label")
    assert from_goal(load_goal("preference")).fingerprint() != found.fingerprint()


def test_a_function_as_reward():
    found = from_callable(lambda prompt, response: None if not response else len(prompt + response), "size")
    scores = found.score([group("ab", ""), group()])
    assert scores[0][0] == len("What now?ab") and np.isnan(scores[0][1]) and scores[1].shape == (0,)
    assert found.fingerprint() != from_callable(words, "size").fingerprint()
    assert from_callable(words, version="2").fingerprint() != from_callable(words).fingerprint()


def test_a_function_that_fails_names_the_response():
    with pytest.raises(DataError, match=r"group g, response 0(.|\n)*KeyError"):
        from_callable(unlucky).score([group("x")])
    with pytest.raises(DataError, match="infinite"):
        from_callable(lambda p, r: float("inf")).score([group("x")])


def test_own_code_is_imported_only_when_named_as_code(tmp_path, monkeypatch):
    (tmp_path / "mine_for_test.py").write_text("def score(prompt, response):\n    return len(response)\nnumber = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("python:mine_for_test.score", "python:mine_for_test:score"):
        assert make(name).score([group("abc")])[0].tolist() == [3]
    with pytest.raises(UsageError, match="python:"):
        from_callable("mine_for_test:score")
    for wrong, reason in (("scores", "has no scores"), ("number", "not a function")):
        with pytest.raises(UsageError, match=reason):
            make(f"python:mine_for_test.{wrong}")
    for wrong in ("python:score", "python:absent_for_test.score"):
        with pytest.raises(UsageError):
            make(wrong)


def test_baselines():
    g = group("a b c", "a")
    assert constant(2).score([g])[0].tolist() == [2, 2]
    assert length().score([g])[0].tolist() == [3, 1]
    assert length(2).score([g])[0].tolist() == [-0.5, -0.5]
    with pytest.raises(UsageError, match="above 0"):
        length(0)


def test_standardization():
    g = [group("a b c", "a", "")]
    found = standardized(length(), g)
    scores = found.score(g)[0]
    assert scores.mean() == pytest.approx(0) and scores.std() == pytest.approx(1)
    assert found.fingerprint() != length().fingerprint()
    with pytest.raises(DataError, match="constant"):
        standardized(constant(1), g)
    with pytest.raises(DataError, match="fewer than two"):
        standardized(length(), [group("a")])


def test_rewards_by_name():
    assert set(REWARDS) >= {"toxicity", "sentiment", "rules", "length", "goal", "constant"}
    assert make("length", target=3).id == "length 3"
    assert make("goal", goal="preference", by="labels").id == "preference"
    with pytest.raises(UsageError, match="length"):
        make("lenght")
    with pytest.raises(UsageError, match="target"):
        make("length", targt=3)
    with pytest.raises(UsageError, match="no options"):
        make("toxicity", threshold=1)
    with pytest.raises(UsageError, match="reward goal needs goal"):
        make("goal")


def test_default_scorers_cost_nothing_until_used():
    """Every level has a scorer (preferences: the reward model that a goal names), and none loads a model before it scores."""
    scorers = default_scorers()
    for name in ("uk", "instruction"):
        load_goal(name, scorers=scorers)
    assert set(scorers) == {"instruction", "value", "principle", "reward_model", "make"}
    code = "import sys, valign.rewards as r; r.default_scorers(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_toxicity_and_sentiment_order_plain_cases():
    pytest.importorskip("profanity_check")
    g = group("You are a fucking idiot.", "Thank you, that was very kind and helpful.", " ")
    for found in (toxicity(), sentiment()):
        rude, kind, empty = found.score([g])[0]
        assert kind > rude and np.isnan(empty) and -1 <= rude <= kind <= 1
        assert found.score([]) == [] and found.score([group()])[0].shape == (0,)
    assert toxicity().fingerprint() != sentiment().fingerprint()


@pytest.mark.parametrize("make_one", [toxicity, sentiment])
def test_a_missing_package_prints_the_install_line(make_one, monkeypatch):
    real = builtins.__import__
    for name in [m for m in sys.modules if m.split(".")[0] in ("profanity_check", "vaderSentiment")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("valign.rewards.classifiers.importlib.import_module", lambda name: real("absent_for_test"))
    with pytest.raises(UsageError, match=r"pip install 'valign\[classifiers\]'"):
        make_one()


class FakePolicy:
    """Gives every response the same log-prob per token."""

    def __init__(self, log_prob: float, tokens: int = 4) -> None:
        self.log_prob, self.tokens, self.id = log_prob, tokens, f"fake {log_prob}"

    def score(self, groups, *, progress=None):
        rows = [[min(self.tokens, len(r.text)) for r in g.responses] for g in groups]
        return [[Scored(np.full(n, self.log_prob * (i + 1), np.float32)) for i, n in enumerate(row)] for row in rows]

    def card(self):
        return {"sha256": self.id}


def test_implicit_reward():
    """β times the sum of log-ratios; 0 for equal policies, NaN for a response without tokens."""
    g = group("abcd", "ab", "")
    found = ImplicitReward(FakePolicy(-1.0), FakePolicy(-1.5), beta=0.5)
    scores = found.score([g])[0]
    assert scores[:2] == pytest.approx([0.5 * 4 * 0.5, 0.5 * 2 * 1.0]) and np.isnan(scores[2])
    same = ImplicitReward(FakePolicy(-1.0), FakePolicy(-1.0)).score([g])[0]
    assert same[:2].tolist() == [0, 0]
    mean = ImplicitReward(FakePolicy(-1.0), FakePolicy(-1.5), beta=0.5, per_token=True)
    assert mean.score([g])[0][:2] == pytest.approx([0.25, 0.5])
    assert len({found.fingerprint(), mean.fingerprint()}) == 2


def test_implicit_reward_refuses():
    with pytest.raises(ValignError, match="beta"):
        ImplicitReward(FakePolicy(-1.0), FakePolicy(-1.0), beta=0)
    with pytest.raises(DataError, match="same tokenizer"):
        ImplicitReward(FakePolicy(-1.0), FakePolicy(-1.0, tokens=3)).score([group("abcd")])
