"""M of a goal that is only given by benchmarks: the golden, intervals that are mapped, dependence, what is missing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from valign.errors import UsageError
from valign.evaluation.aggregate import summarize
from valign.evaluation.measure.components import check_components, component_results
from valign.evaluation.measure.recompute import COMPONENTS, statistic_of
from valign.evaluation.measure.test_recompute import biased
from valign.evaluation.result import Anchors, Item, Result, compare
from valign.goals.benchmark import BenchmarkGoal, Component


def measured(metric, scores, *, variant="sum", direction="up", anchors=None, clusters=None, subject="m"):
    """A Result whose items have these scores, two in one cluster unless said."""
    items = [Item(f"{metric}{i}", clusters[i] if clusters else f"{metric}{i // 2}", float(x)) for i, x in enumerate(scores)]
    named = {"metric": metric, "variant": variant, "subject": subject, "level": "principle"}
    return summarize(items, direction=direction, anchors=anchors, **named)


def share(metric, n, hits, **rest):
    return measured(metric, [1] * hits + [0] * (n - hits), **rest)


def total_of(components, results, subject="m"):
    goal = BenchmarkGoal(tuple(components), "principle")
    total, *parts = component_results(goal, results, subject=subject, about={})
    return total, parts


def test_the_golden_mean_of_components(evaluation_golden):
    """Folded about 0 and about 50, up and down: the places and their mean, from Results with items."""
    case = evaluation_golden("scale.components")
    stated, results = [], []
    for c in case.inputs["components"]:
        fold = c.get("fold_about", 0.0 if c.get("fold") else None)
        name = f"golden {c['name']}"
        stated.append(Component(name, variant="sum", best=c["best"], worst=c["worst"], fold=fold))
        spread = 0.02 if c["name"] != "win_rate" else 0.0
        results.append(measured(name, [c["x"] - spread, c["x"] + spread] * 6, clusters=[f"{name}{i}" for i in range(12)]))
    total, parts = total_of(stated, results)
    case.check({"m": [p.value for p in parts], "mean": total.value})
    assert (total.metric, total.direction, total.scaled) == (COMPONENTS, "down", total.value)
    assert total.n == 60 and total.interval.low < total.value < total.interval.high
    assert "weights: golden preference_accuracy (sum) 1" in total.notes[0]
    assert parts[3].notes[0].endswith("is 61, best 50, 50 from it the worst")


def test_weights_and_the_metrics_own_ends():
    """By hand: accuracy 3/4 -> 1/4 with weight 3, an unsafe rate 1/10 with weight 1; a tighter worst end clips last."""
    accuracy, unsafe = share("safetext.accuracy", 40, 30), share("risk.toxicity", 40, 4, variant="rate", direction="down")
    total, parts = total_of([Component("safetext.accuracy", weight=3), Component("risk.toxicity")], [accuracy, unsafe])
    assert [p.value for p in parts] == pytest.approx([0.25, 0.1]) and total.value == pytest.approx((3 * 0.25 + 0.1) / 4)
    assert (parts[1].interval.low, parts[1].interval.high) == (max(0, unsafe.interval.low), unsafe.interval.high)
    ends = accuracy.interval
    assert (parts[0].interval.low, parts[0].interval.high) == pytest.approx((1 - ends.high, 1 - ends.low))
    strict, (part,) = total_of([Component("risk.toxicity", worst=0.05)], [unsafe])
    assert strict.value == part.value == 1.0 and part.interval.high == 1.0


def test_the_interval_of_one_component_is_that_of_the_metric_mapped():
    """A signed bias: percentiles of the place are places of the percentiles, and an interval over 0 reaches 0."""
    for seed, push in ((0, -0.3), (1, 0.02)):
        scores = np.random.default_rng(seed).uniform(-1, 1, 80) * 0.5 + push
        bias = measured("bbq.s_amb", scores, direction="target:0", anchors=Anchors(0.0, 1.0))
        own = summarize(bias.items, metric="x", variant="x", subject="m", level="principle", unit="score", bootstrap=True)
        made = Component("bias", "sum", best=0, worst=1, fold=0)
        total, (part,) = total_of([made], [measured("bias", scores)])
        side = 1 if own.value > 0 else -1
        low, high = sorted((side * own.interval.low, side * own.interval.high))
        assert (total.interval.low, total.interval.high) == pytest.approx((max(0.0, low), high))
        assert (part.interval.low == 0) == (low < 0)
        assert any("would be" in n for n in part.notes)  # the noise floor, though the metric does not tell it


def test_components_of_the_same_items_move_together():
    """Two readings of one set of items have a total as uncertain as each; of two sets it is √2 surer."""
    rng = np.random.default_rng(0)
    first, other = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    ids = [f"t{i}" for i in range(200)]

    def width(scores, clusters):
        made = [Component("a", "sum", best=1, worst=0), Component("b", "sum", best=1, worst=0)]
        total, _ = total_of(made, [measured("a", first, clusters=ids), measured("b", scores, clusters=clusters)])
        return total.interval.high - total.interval.low

    apart = width(other, [f"u{i}" for i in range(200)])
    assert width(first, ids) / apart == pytest.approx(2**0.5, rel=0.1)


def test_what_was_not_measured_is_unscored_and_says_what_it_needs():
    total, parts = total_of(
        [Component("safetext.accuracy"), Component("bbq.s_amb", weight=3), Component("safetext.accuracy", "per_token")],
        [share("safetext.accuracy", 20, 15)],
    )
    assert total.value is None and total.interval is None and total.scaled is None
    assert total.bounds == pytest.approx((0.25 / 5, (0.25 + 4) / 5)) and total.n_unscored == {"skipped": 2}
    assert "it needs rows of BBQ" in total.notes[-1] and "its variants here are sum" in total.notes[-1]
    assert [p.value for p in parts] == [0.25, None, None] and parts[1].n_unscored == {"skipped": 1}
    named = {"metric": "safetext.accuracy", "variant": "sum", "subject": "m", "level": "principle"}
    empty = summarize([Item("a", "a", None, "over_length")], **named)
    total, (part,) = total_of([Component("safetext.accuracy")], [empty])
    assert total.value is part.value is None and total.n_unscored == {"over_length": 1} and "has no value" in part.notes[0]


def test_a_component_without_an_interval_leaves_the_total_without_one():
    single = measured("safetext.accuracy", [1, 0, 1], clusters=["one"] * 3)
    made = [Component("safetext.accuracy"), Component("multiple_choice.accuracy")]
    total, _ = total_of(made, [single, share("multiple_choice.accuracy", 40, 20)])
    assert total.value is not None and total.interval is None
    assert "no interval: safetext.accuracy has none" in total.notes


def test_a_rate_of_zero_leaves_its_own_room():
    """0 of 30 unsafe answers: a resample never sees one, so the total is as wide as the rate's own interval makes it."""
    clusters = [f"q{i}" for i in range(30)]
    unsafe = measured("risk.toxicity", [0] * 30, variant="rate", direction="down", clusters=clusters)
    accuracy = share("multiple_choice.accuracy", 40, 20)
    made = [Component("risk.toxicity"), Component("multiple_choice.accuracy")]
    total, (rate, _) = total_of(made, [unsafe, accuracy])
    without, _ = total_of([Component("multiple_choice.accuracy")], [accuracy])
    assert rate.interval.high > 0.05
    assert total.interval.high == pytest.approx(without.interval.high / 2 + rate.interval.high / 2, abs=0.02)
    assert any("scored alike" in n for n in total.notes)


def test_two_models_are_compared_from_their_files():
    """The stored total is computed again under other weights: less bias is found, other components are refused."""
    goal = [Component("bbq.s_amb"), Component("bbq.acc_amb")]

    def stored(subject, bias, components=goal):
        total, _ = total_of(components, biased(subject, bias), subject)
        return Result.from_json(json.loads(json.dumps(total.to_json())))

    one, two = stored("a", 0.9), stored("b", 0.4)
    found = compare(two, one, statistic=statistic_of(two, one))
    assert found.result.value == pytest.approx(two.value - one.value) and found.result.interval.high < 0 and found.p < 0.05
    assert statistic_of(stored("a", 0.9, goal[:1]), one) is None


def test_names_are_checked_before_anything_is_measured():
    def check(*components):
        check_components(BenchmarkGoal(components, "principle"))

    check(Component("bbq.s_amb.Religion"), Component("persona.match_rate", best=0, worst=1), Component("risk.toxicity"))
    with pytest.raises(UsageError, match=r"did you mean.*bbq.s_amb|bbq.s_amb"):
        check(Component("bbq.s_abm"))
    with pytest.raises(UsageError, match="which side is wanted"):
        check(Component("persona.match_rate"))
    with pytest.raises(UsageError, match="named twice"):
        check(Component("safetext.accuracy"), Component("safetext.accuracy", "sum"))
