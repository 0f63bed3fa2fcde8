"""The shipped heads on the embedded model: their cards, their promises on unseen situations, and their
honesty.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from valign.data import builtin
from valign.data.group import Group, Response, user
from valign.errors import UsageError
from valign.goals import load_goal
from valign.rewards import ValueEvaluator, VerdictScorer, default_scorers, make
from valign.rewards.value_evaluator import VALUES_FILE, VERDICTS_FILE, WEIGHTS, label_rows, shipped


@pytest.fixture(scope="module")
def evaluator() -> ValueEvaluator:
    return ValueEvaluator.load()


@pytest.fixture(scope="module")
def some_test() -> list[Group]:
    """A third of the unseen situations."""
    return list(builtin("dilemmas", "test"))[::3]


@pytest.mark.parametrize("file", [VALUES_FILE, VERDICTS_FILE])
def test_cards_say_how_good_and_how_made(file):
    """Macro-F1 with interval and baseline, data and model by sha256, command, limits; small files without
    pickle.
    """
    head = shipped(file)
    card, found = head.card, head.card["test"]
    f1 = found["macro_f1"]
    assert f1["low"] < f1["value"] < f1["high"]
    assert f1["low"] > found["majority_macro_f1"]  # else the head would not be worth shipping
    assert set(found["per_output"]) == set(head.names)
    assert card["data"]["sha256"] and card["model"]["digest"] == head.model
    assert card["limits"] and "train_value_evaluator" in card["reproduce"]
    assert sum((WEIGHTS / f).stat().st_size for f in (VALUES_FILE, VERDICTS_FILE)) < 3e6


@pytest.mark.parametrize("file", [VALUES_FILE, VERDICTS_FILE])
def test_cards_belong_to_the_data_that_ship(file):
    """A head trained on other situations than the ones in the package is told at once."""
    assert shipped(file).card["data"]["sha256"] == builtin("dilemmas").sha256


@pytest.mark.real
@pytest.mark.slow
def test_values_of_unseen_answers(evaluator, some_test):
    """On unseen situations the head orders answers as the labels do, far above chance."""
    labels, values = np.concatenate(label_rows(some_test)), np.concatenate(evaluator.values(some_test))
    assert values.shape == labels.shape and np.abs(values).max() <= 1
    each = [np.corrcoef(labels[:, k], values[:, k])[0, 1] for k in range(10) if labels[:, k].std() > 0]
    assert np.mean(each) > 0.25  # 0 by chance; sd of the mean of ten about .04 at 60 answers


@pytest.mark.real
@pytest.mark.slow
def test_alone_or_together(evaluator, some_test):
    """A response has the same values alone as among others: nothing is compared within its group."""
    together = np.concatenate(evaluator.values(some_test[:3]))
    singles = [replace(g, responses=(r,), feedback=()) for g in some_test[:3] for r in g.responses]
    alone = np.concatenate(evaluator.values(singles))
    assert np.allclose(together, alone, atol=2e-4)


@pytest.mark.real
@pytest.mark.slow
def test_goals_use_the_heads_by_default(evaluator):
    g = Group(
        "g",
        user("A colleague is ill and asks me to share my notes before the exam. What should I do?"),
        (
            Response("Share them and offer to explain the hard parts. She is ill, and helping costs you an hour."),
            Response("Keep them. Every mark she loses puts you ahead, and only the first place is remembered."),
            Response(""),
        ),
    )
    scorers = default_scorers(evaluator.model)
    kind = load_goal("schwartz10", scorers=scorers, benevolence=1, universalism=1, power=-1)
    (u,) = kind.utility([g])
    assert u[0] > u[1] and np.isnan(u[2])
    known = VerdictScorer.load(evaluator.model).head.names
    spec = {"level": "principle", "set": "core", "only": list(known)}
    (v,) = load_goal(spec, scorers=scorers).utility([g])
    assert np.isfinite(v[:2]).all() and np.isnan(v[2])
    assert make("goal", goal=kind).score([g])[0][0] == u[0]


def test_a_principle_the_head_does_not_know():
    """Refused by name, with the ones it knows."""
    scorer = VerdictScorer.__new__(VerdictScorer)
    object.__setattr__(scorer, "head", shipped(VERDICTS_FILE))
    with pytest.raises(UsageError, match=r"does not judge(.|\n)*only: \["):
        scorer.columns(load_goal("hhh").principles)
