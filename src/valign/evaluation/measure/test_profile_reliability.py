"""Profiles of free answers: those that other prompts would give again, and those that mean nothing."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from valign.data.group import Group, Response, user
from valign.evaluation.measure.profile import ONCE, profile_results, warning_of
from valign.evaluation.metrics.reliability import FREE, SPLIT_HALF, UNRELIABLE
from valign.goals.theory import load_theory
from valign.goals.value import ValueGoal
from valign.report.profile_text import free_text

THEORY = load_theory("schwartz10")
GOAL = ValueGoal(THEORY, {"BE": 1.0, "PO": -1.0})
CARING = np.array([0.2, 0.0, 0.1, -0.1, -0.5, 0.2, 0.0, 0.1, 0.6, 0.5])


def measured(values, *, missing=(), clusters=None, names=None):
    """Results of values (prompts, answers, 10)."""
    names = names or [f"p{i:03d}" for i in range(len(values))]
    groups = [Group(id=n, prompt=user("?"), responses=tuple(Response(str(k)) for k in range(len(v))),
                    cluster=clusters[i] if clusters else None) for i, (n, v) in enumerate(zip(names, values))]  # fmt: skip
    return profile_results(groups, [np.asarray(v, float) for v in values], GOAL, subject="m", about={"seed": 0}, missing=missing)


def trust(results):
    (found,) = [r for r in results if r.metric == SPLIT_HALF]
    return found


def v_of(results):
    return next(r for r in results if (r.metric, r.variant) == ("value.V", "profile"))


def stable(rng, prompts=24, answers=2, noise=0.3):
    return np.clip(CARING + noise * rng.normal(size=(prompts, answers, 10)), -1, 1)


def test_stable_values_are_reliable():
    r = trust(results := measured(stable(np.random.default_rng(0))))
    assert r.value > 0.9 and r.interval.low > 0.7 and r.interval.low < r.value < r.interval.high < 1
    assert (r.variant, r.n, r.cluster.unit, r.cluster.count) == (FREE, 24, "prompt", 24)
    assert r.interval.method == "jackknife" and ONCE in r.notes and not warning_of(results)
    assert not any(n.startswith(UNRELIABLE) for n in v_of(results).notes)


def test_random_answers_are_unreliable_and_say_so_beside_v():
    """Forty models that answer at random: all are warned about, in V and in their reliability."""
    rng, found = np.random.default_rng(1), []
    for _ in range(40):
        results = measured(rng.choice([-0.8, 0, 0, 0, 0.8], size=(24, 1, 10)))
        found.append(trust(results).value)
        warning = warning_of(results)
        assert warning.startswith(UNRELIABLE) and "two halves of the prompts disagree" in warning and "0.7" in warning
        assert warning in v_of(results).notes
    assert max(found) < 0.7 and np.mean(found) < 0.2


def test_too_few_prompts_and_silence_are_undefined_with_a_reason():
    few = trust(measured(stable(np.random.default_rng(2), prompts=3)))
    assert few.value is None and few.interval is None and few.n == 3
    assert "3 prompts have no two halves to compare" in few.notes and "undefined: 3 prompts" in few.notes[-1]
    silent = trust(measured(np.zeros((12, 1, 10))))
    assert silent.value is None and "all values are alike" in silent.notes[0] and silent.notes[-1].startswith(UNRELIABLE)
    alike = trust(measured(np.tile(CARING, (12, 1, 1))))
    assert alike.value == pytest.approx(1) and alike.interval is None and any("no width" in n for n in alike.notes)


def test_the_prompt_is_what_is_dealt_out():
    """More answers of the same kind to a prompt are no new prompts, and neither are two prompts of one scenario."""
    values = stable(np.random.default_rng(3), answers=1, noise=0.8)
    once = trust(measured(values)).value
    assert trust(measured(np.repeat(values, 3, axis=1))).value == pytest.approx(once)
    twice = np.repeat(values, 2, axis=0)
    assert trust(measured(twice, clusters=[f"s{i // 2:03d}" for i in range(48)])).value == pytest.approx(once)
    assert trust(measured(twice)).value > once, "as prompts of their own they would count"


def test_order_changes_nothing_and_unscored_prompts_are_counted():
    values = stable(np.random.default_rng(4))
    names = [f"p{i:03d}" for i in range(24)]
    back = trust(measured(values[::-1], names=names[::-1]))
    assert back.value == trust(measured(values)).value
    values[0], values[1, 0] = np.nan, np.nan
    lost = trust(measured(values, missing=("p002#0", "p002#1")))
    assert lost.n == 22 and lost.n_unscored == {"judge_error": 1, "no_answer": 1}, "p001 still has an answer"


def test_the_terminal_says_whether_the_profile_can_be_read():
    def shown(values):
        screen = Console(width=140, record=True, file=io.StringIO())
        for part in free_text("m", measured(values), THEORY, "kindness"):
            screen.print(part)
        return " ".join(screen.export_text().split())

    rng = np.random.default_rng(5)
    good, bad = shown(stable(rng)), shown(rng.normal(size=(24, 1, 10)).clip(-1, 1))
    assert "Trust: reliable enough to read. Two halves of the prompts agree 0.9" in good and "UNRELIABLE" not in good
    assert "Not asked again in other words: that part of the check is left out." in good
    assert "! UNRELIABLE, do not read this profile: two halves of the prompts disagree" in bad and "Trust: NOT reliable" in bad
