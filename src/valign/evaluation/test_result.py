"""Results: what they refuse, how they travel as JSON, how two are compared and several pooled."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from valign.errors import DataError, ValignError
from valign.evaluation.aggregate import bounds, summarize
from valign.evaluation.record import Anchors, Interval, Item, Result
from valign.evaluation.result import compare, is_mean, pool
from valign.evaluation.results_file import read_results, write_results
from valign.evaluation.statistics import Array


def items(scores, clusters=None, prefix="i"):
    return [
        Item(
            f"{prefix}{k:04d}",
            clusters[k] if clusters else f"{prefix}{k:04d}",
            s,
            None if s is not None else "parse_failure",
        )
        for k, s in enumerate(scores)
    ]


def result(scores, subject="a", clusters=None, prefix="i", **changes) -> Result:
    about = {"metric": "m", "variant": "sum", "level": "capability"} | changes
    return summarize(items(scores, clusters, prefix), subject=subject, **about)


def test_unscored_bounds_golden(evaluation_golden):
    g = evaluation_golden("result.unscored_bounds")
    r = result(g.inputs["scores"], anchors=Anchors(g.inputs["best"], g.inputs["worst"]))
    g.check({"value": r.value, "n": r.n, "n_unscored": r.unscored, "bounds": list(r.bounds)})
    assert r.n_unscored == {"parse_failure": 2}


def test_json_round_trip():
    r = result([1, 0, None, 1, 0.5], provenance={"seed": 0, "model": {"id": "x"}}, notes=["look"])
    text = json.dumps(r.to_json(), allow_nan=False)
    assert Result.from_json(json.loads(text)) == r
    assert set(r.to_json()) >= {
        *("metric", "variant", "subject", "level", "value", "unit", "direction", "anchors", "scaled", "n"),
        *("n_unscored", "bounds", "se", "interval", "cluster", "items", "provenance", "notes"),
    }


BASE = {
    "metric": "m",
    "variant": "v",
    "subject": "s",
    "level": "value",
    "value": 0.5,
    "unit": "share",
    "direction": "up",
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"metric": ""},
        {"variant": " "},
        {"subject": ""},
        {"level": "ethics"},
        {"unit": "points"},
        {"direction": "left"},
        {"direction": "target:x"},
        {"direction": "target:nan"},
        {"value": math.nan},
        {"value": math.inf},
        {"scaled": 1.5},
        {"se": 0.1},
        {"se": math.nan, "interval": Interval(0, 1)},
        {"n": -1},
        {"n_unscored": {"lost": 1}},
        {"n_unscored": {"refusal": 0}},
        {"provenance": {"x": math.nan}},
        {"provenance": {"x": object()}},
    ],
)
def test_a_malformed_result_is_refused(wrong):
    Result(**BASE)
    with pytest.raises(ValignError):
        Result(**BASE | wrong)


def test_malformed_parts_are_refused():
    for make in (
        lambda: Interval(1, 0),
        lambda: Interval(0, math.inf),
        lambda: Interval(0, 1, method="guess"),
        lambda: Interval(0, 1, level=95),
        lambda: Item("a", "a", None),
        lambda: Item("a", "a", 1.0, "refusal"),
        lambda: Item("a", "a", None, "tired"),
        lambda: Item("a", "a", math.nan),
    ):
        with pytest.raises(ValignError):
            make()
    with pytest.raises(ValignError, match="p_value"):
        Result.from_json(BASE | {"p_value": 1})
    with pytest.raises(ValignError, match="not a result"):
        Result.from_json({"metric": "m"})


# -------------------------------------------------------------------------------------- from items to Results


def test_interval_by_kind_of_metric():
    """Table 1.2: few 0/1 items Wilson, others t, statistics bootstrap; clusters rule Wilson out."""
    rng = np.random.default_rng(0)
    assert result([1, 0, 1, 1]).interval.method == "wilson"
    assert result((rng.random(200) < 0.5).astype(float)).interval.method == "t_cluster"
    assert result([1.0] * 195 + [0.0] * 5).interval.method == "wilson"
    assert result([0.2, 0.4, 0.9]).interval.method == "t_cluster"
    assert result([1, 0, 1, 1], clusters=["a", "a", "b", "b"]).interval.method == "t_cluster"
    assert result([0.2, 0.4], bootstrap=True).interval.method == "bootstrap_cluster"


def test_nothing_scored_is_none_and_one_cluster_has_no_interval():
    empty = result([None, None])
    assert empty.value is None and empty.interval is None and empty.bounds is None and empty.n == 0
    one = result([1, 0], clusters=["a", "a"])
    assert one.value == 0.5 and one.se is None and "one cluster: no interval" in one.notes
    assert any("clusters" in n for n in result([0.1, 0.2, 0.4]).notes)


def test_undefined_statistics_are_none():
    r = result([1.0, 0.0], statistic=lambda rows, w: np.full(len(w), np.nan))
    assert r.value is None and r.interval is None and "undefined on these items" in r.notes


def test_a_folded_metric_says_how_far_luck_alone_would_take_it(evaluation_golden):
    """√(2/π) SE stands beside a distance from its ideal, and bias is not called where the interval covers the ideal."""
    g = evaluation_golden("scale.noise_floor")
    floor = g.expected["expected_abs_if_unbiased"]
    about = {"direction": "target:0", "anchors": Anchors(0.0, 1.0, 0.0), "unit": "score"}
    spread = g.inputs["se"] * math.sqrt(19)  # of 20 ± values whose mean has the golden's standard error
    even = result([spread, -spread] * 10, **about)
    assert even.se == pytest.approx(g.inputs["se"]) and f"{floor:.3g}" in even.notes[-1] and "no bias" in even.notes[-1]
    turned = result([0.4 + spread, 0.4 - spread] * 10, **about)
    assert f"{floor:.3g}" in turned.notes[-1] and "no bias" not in turned.notes[-1]
    assert not [n for n in result([0.2, -0.3] * 6).notes if "bias" in n], "a metric that is not folded has no floor"


def test_order_of_items_changes_nothing():
    scores = list(np.random.default_rng(1).random(30).round(2))
    rows = items(scores, clusters=[f"c{k % 5}" for k in range(30)])
    about = {"metric": "m", "variant": "v", "subject": "s", "level": "value", "bootstrap": True}
    assert summarize(rows, **about) == summarize(rows[::-1], **about)


def test_place_on_the_gap_axis():
    assert result([0.75, 0.75]).scaled == 0.25
    assert result([0.3, 0.3], direction="down", anchors=Anchors(0.0, 1.0)).scaled == pytest.approx(0.3)
    folded = result([-0.2, -0.2], direction="target:0", anchors=Anchors(0.0, 1.0, 0.0), unit="score")
    assert folded.value == pytest.approx(-0.2) and folded.scaled == pytest.approx(0.2), "raw stays visible"
    crows = result([61.0, 61.0], unit="percent", direction="target:50", anchors=Anchors(50.0, 100.0, 50.0))
    assert crows.scaled == pytest.approx(0.22)
    assert result([3.0, 4.0], unit="nats", direction="down", anchors=Anchors(best=0.0)).scaled is None


def test_ends_that_nobody_named_are_not_invented():
    """A share runs from 0 to 1, the better end by its direction; a utility in scores or nats has no ends and no place."""
    about = {"metric": "m", "variant": "v", "subject": "s", "level": "value"}
    up, down, open_ended = (
        summarize(items([0.25, 0.25, 0.25]), **about, **more)
        for more in ({}, {"direction": "down"}, {"unit": "score"})
    )
    assert (up.scaled, down.scaled) == (0.75, 0.25) and up.anchors.best == 1 and down.anchors.best == 0
    assert open_ended.scaled is None and open_ended.anchors == Anchors() and open_ended.bounds is None


def test_weights_count():
    rows = [Item("a", "a", 1.0, weight=3.0), Item("b", "b", 0.0, weight=1.0)]
    r = summarize(rows, metric="m", variant="v", subject="s", level="value")
    assert r.value == 0.75 and is_mean(r)
    assert bounds(rows, 1, Anchors(1.0, 0.0)) == (3 / 5, 4 / 5)


# ---------------------------------------------------------------------------------------------- compare, pool


def test_compare_golden(evaluation_golden):
    """Paired difference, its error and McNemar's exact p."""
    g = evaluation_golden("stats.paired")
    a, b = result(g.inputs["a"], "A"), result(g.inputs["b"], "B")
    d = compare(a, b)
    assert d.result.subject == "A vs B" and d.result.interval.method == "paired_t" and d.test == "mcnemar"
    g.check(d.result.value, "difference")
    g.check(d.result.se, "se_paired")
    g.check(d.p, "mcnemar_exact_p")
    back = compare(b, a)
    assert back.result.value == -d.result.value and back.p == d.p


def test_compare_refuses_what_is_not_comparable():
    a = result([1, 0, 1])
    for other in (
        result([1, 0, 1], metric="other"),
        result([1, 0, 1], variant="mean"),
        result([1, 0, 1], direction="down", anchors=Anchors(0.0, 1.0)),
        result([1, 0], subject="b"),
        result([1, 0, 1], prefix="j"),
    ):
        with pytest.raises(ValignError):
            compare(a, other)


def test_compare_on_a_subset_says_what_was_left_out():
    d = compare(result([1, 0, 1, 1]), result([0, 0, 1], "b"), subset=True)
    assert (d.left_out, d.result.n) == (1, 3) and d.result.value == pytest.approx(1 / 3)
    assert any("left out" in n for n in d.result.notes)


def test_items_unscored_in_either_leave_the_pair():
    d = compare(result([1, None, 1, 0.5]), result([0.5, 1, None, 0.5], "b"))
    assert (d.unpaired, d.result.n, d.result.value, d.test) == (2, 2, 0.25, "permutation")
    nothing = compare(result([None, 1]), result([1, None], "b"))
    assert nothing.result.value is None and nothing.p is None


def ratio(rows: list[Item], weights: Array) -> Array:
    """No mean of items: Σ w s / Σ w d."""
    return weights @ np.array([i.score for i in rows]) / (weights @ np.array([i.detail["d"] for i in rows]))


def ratios(scores, subject="a", prefix="i", **changes) -> Result:
    rows = [Item(f"{prefix}{k}", f"{prefix}{k}", s, detail={"d": 2.0 + k}) for k, s in enumerate(scores)]
    about = {"metric": "r", "variant": "v", "level": "value", "statistic": ratio} | changes
    return summarize(rows, subject=subject, **about)


def test_metrics_that_are_no_means_need_their_statistic():
    a, b = ratios([1, 2, 3.0]), ratios([1, 1, 1.0], "b")
    assert not is_mean(a)
    with pytest.raises(ValignError, match="statistic"):
        compare(a, b)
    with pytest.raises(ValignError, match="statistic"):
        pool([a, ratios([1.0, 4.0], prefix="j")])
    d = compare(a, b, statistic=ratio)
    assert d.result.value == pytest.approx(6 / 9 - 3 / 9)
    assert d.result.interval.method == "bootstrap_cluster" and d.test == "bootstrap"
    p = pool([a, ratios([1.0, 4.0], prefix="j")], statistic=ratio)
    assert p.value == pytest.approx(11 / 14)


def test_pool_recomputes_from_items():
    """Three items at 1 and one at 0 pool to 3/4, not to the average of averages."""
    p = pool([result([1, 1, 1]), result([0], prefix="j"), result([None], prefix="k")])
    assert (p.value, p.n, p.n_unscored) == (0.75, 4, {"parse_failure": 1})
    whole = result([0.1, 0.4, 0.7, 0.9, 0.2])
    parts = [pool([r]) for r in (whole,)]
    assert parts[0].value == whole.value and parts[0].se == whole.se


def test_pool_refuses_mixtures_and_duplicates():
    a = result([1, 0])
    for other in (result([1, 0]), result([1, 0], prefix="j", variant="x"), result([1, 0], "b", prefix="j")):
        with pytest.raises(ValignError):
            pool([a, other])
    with pytest.raises(ValignError):
        pool([])


# ------------------------------------------------------------------------------------------------------ files


def test_results_file_round_trip(tmp_path):
    """Short item lists stand inside, long ones beside; both come back."""
    short, long = result([1, 0]), result(np.random.default_rng(0).random(201).round(3), variant="long")
    path = write_results([short, long], tmp_path / "run" / "result.json")
    document = json.loads(path.read_text())
    assert document["schema"] == 1 and isinstance(document["results"][0]["items"], list)
    beside = document["results"][1]["items"]
    assert set(beside) == {"path", "sha256"} and (path.parent / beside["path"]).is_file()
    assert read_results(path) == [short, long]
    lazy = read_results(path, items=False)[1]
    assert lazy.items == () and lazy.items_file == beside and lazy.value == long.value
    with pytest.raises(ValignError, match="not loaded"):
        compare(lazy, lazy)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_changed_or_missing_item_file_is_noticed(tmp_path):
    path = write_results([result([0.5] * 201)], tmp_path / "r.json")
    (file,) = (tmp_path / "r.items").iterdir()
    file.write_text(file.read_text().replace("0.5", "0.6", 1))
    with pytest.raises(DataError, match="changed"):
        read_results(path)
    file.unlink()
    with pytest.raises(DataError, match="missing"):
        read_results(path)


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"schema": 2, "results": []}', '{"results": []}', '{"schema": 1, "results": 3}', '{"schema": 1, "results": [3]}',
     '{"schema": 1, "results": [{}]}'],
)  # fmt: skip
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=r"x\.json"):
        read_results(tmp_path / "x.json")
    with pytest.raises(DataError, match="no such file"):
        read_results(tmp_path / "none.json")
