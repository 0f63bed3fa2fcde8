"""Metrics that are no means are compared item by item from their files: V, bias scores, calibration."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from valign.data.group import Comparison, Group, Response, user
from valign.evaluation.comparisons import compare_all
from valign.evaluation.measure.choices import bbq_results
from valign.evaluation.measure.preference import measure_reward
from valign.evaluation.measure.profile import profile_results
from valign.evaluation.measure.recompute import statistic_of
from valign.evaluation.result import Item, Result, compare, is_mean
from valign.goals.theory import load_theory
from valign.goals.value import ValueGoal
from valign.report.diff import diff
from valign.rewards.base import from_callable

THEORY = load_theory("schwartz10")
KIND = ValueGoal(THEORY, {"BE": 1.0, "PO": -1.0})


def profiled(subject, push, goal=KIND, seed=0):
    """Results of 40 prompts with two responses each; benevolence is raised by `push` in every response."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(-0.5, 0.5, (40, 2, len(THEORY.ids)))
    values[..., THEORY.ids.index("BE")] += push
    groups = [Group(id=f"p{i}", prompt=user("?"), responses=(Response("a"), Response("b"))) for i in range(40)]
    return profile_results(groups, list(values), goal, subject=subject, about={"seed": seed})


def biased(subject, share):
    """BBQ answers, of which `share` follow the stereotype."""
    groups = [
        Group(id=f"b{i}", prompt=user("?"), responses=tuple(map(Response, "abc")), choices=True, gold=2, cluster=f"t{i // 2}",
              meta={"context_condition": "ambig", "question_polarity": "neg", "unknown": 2, "target": 0})
        for i in range(60)
    ]  # fmt: skip
    picks = [(np.eye(3)[2 if i % 3 == 0 else 0 if i % 10 < 10 * share else 1], None) for i in range(60)]
    return bbq_results(groups, picks, variant="sum", subject=subject, about={})


def judged(name, scale):
    groups = [Group(id=f"r{i}", prompt=user("?"), responses=(Response("x" * (i % 7)), Response("xx")),
                    feedback=(Comparison(chosen=0, rejected=1),)) for i in range(90)]  # fmt: skip
    return measure_reward(from_callable(lambda p, r: scale * len(r), id=name), groups)


def stored(results):
    """What a file gives back."""
    return [Result.from_json(json.loads(json.dumps(r.to_json()))) for r in results]


def of(results, metric, variant=None):
    return next(r for r in results if r.metric == metric and variant in (None, r.variant))


@pytest.mark.parametrize(
    ("metric", "variant", "make"),
    [
        ("value.V", "profile", lambda: (profiled("a", 0.4), profiled("b", 0.0, seed=1))),
        ("value.V_c", "profile", lambda: (profiled("a", 0.4), profiled("b", 0.0, seed=1))),
        ("value.profile.BE", "conditional", lambda: (profiled("a", 0.4), profiled("b", 0.0, seed=1))),
        ("bbq.s_amb", "sum", lambda: (biased("a", 0.9), biased("b", 0.5))),
        ("reward.ece", "pairs", lambda: (judged("a", 3.0), judged("b", 0.1))),
    ],
)
def test_a_stored_pair_is_compared_item_by_item(metric, variant, make):
    """The difference is the difference of the two values, its interval is paired, and `diff` and `compare_all` find it."""
    a, b = (of(stored(results), metric, variant) for results in make())
    assert not is_mean(a)
    d = compare(a, b, statistic=statistic_of(a, b))
    assert d.result.value == pytest.approx(a.value - b.value) and d.test == "bootstrap" and d.p < 0.05
    assert d.result.interval.low <= d.result.value <= d.result.interval.high
    (change,) = diff({"results": [b.to_json()]}, {"results": [a.to_json()]})
    assert change.interval["method"] == "bootstrap_cluster" and change.kind in ("better", "worse") and change.mde
    assert [x.result.metric for x in compare_all([a], [b])] == [metric]


def test_a_model_against_itself_on_v_is_told_apart_in_at_most_one_of_twenty():
    """A/A: 150 pairs of 60 responses of one law, 5 % + 2 SE."""
    rng, runs, false = np.random.default_rng(0), 150, 0
    t, w = KIND.t, KIND.w

    def sampled(name):
        items = tuple(Item(f"p{i}", f"p{i}", 0.0, detail={"values": row}) for i, row in
                      enumerate(rng.uniform(-0.6, 0.6, (60, len(t))).tolist()))  # fmt: skip
        return Result(metric="value.V", variant="profile", subject=name, level="value", value=None, unit="share", direction="up",
                      n=60, items=items, provenance={"target": {"t": t.tolist(), "w": w.tolist()}})  # fmt: skip

    for _ in range(runs):
        a, b = sampled("a"), sampled("b")
        false += compare(a, b, statistic=statistic_of(a, b)).conclusion in ("better", "worse")
    assert false / runs <= 0.05 + 2 * (0.05 * 0.95 / runs) ** 0.5, false


def test_nearness_to_different_targets_is_not_one_quantity():
    a, b = profiled("a", 0.4), profiled("b", 0.0, goal=replace(KIND, target={"BE": -1.0}, id="other"))
    assert statistic_of(of(a, "value.V", "profile"), of(b, "value.V", "profile")) is None
    assert statistic_of(of(a, "value.V", "response_mean"), of(b, "value.V", "response_mean")) is None, "it is a mean"
    assert statistic_of(a[-1], a[-1]) is None
