"""The statistical protocol as simulations: what a nominal 95 % is worth, and what may be said of a difference.

Bands: 2000 worlds have a standard error of .005, so 93-97 % is four of them to either side.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from valign.errors import ValignError
from valign.evaluation import statistics as stats
from valign.evaluation.aggregate import NO_WIDTH, estimate_items, summarize
from valign.evaluation.comparisons import adjusted, compare_all, is_found
from valign.evaluation.conclusion import conclude, in_words
from valign.evaluation.result import Anchors, Interval, Item, compare
from valign.evaluation.seeds import compare_seeds
from valign.evaluation.sequential import FIRST_LOOK, always_valid, always_valid_p, at_every_look, radius

WORLDS = 2000


def result(scores, subject="a", clusters=None, metric="m", **about):
    names = [f"i{k}" for k in range(len(scores))]
    rows = [Item(i, str(c), float(s)) for i, c, s in zip(names, clusters or names, scores)]
    return summarize(rows, **({"metric": metric, "variant": "v", "subject": subject, "level": "value"} | about))


def covers(estimate, truth):
    return estimate.low <= truth <= estimate.high


# --------------------------------------------------------------------------------------------------- coverage


def test_t_cluster_covers_with_unequal_clusters():
    """40 clusters of 1 to 6 items that share half of their variance; ignoring them covers far too little."""
    rng, sizes = np.random.default_rng(0), np.arange(40) % 6 + 1
    names = np.repeat(np.arange(40), sizes)
    shared, own = rng.normal(size=(WORLDS, 40))[:, names], rng.normal(size=(WORLDS, len(names)))
    right = wrong = 0
    for row in shared + own:
        right += covers(stats.t_cluster(row, names.tolist()), 0)
        wrong += covers(stats.t_cluster(row), 0)
    assert 0.93 <= right / WORLDS <= 0.97 and wrong / WORLDS < 0.9, (right, wrong)


def test_votes_take_the_wider_of_two_clusterings():
    """400 worlds in which annotators differ much and items little: by items the share of votes looks far too sure."""
    rng, hits, naive = np.random.default_rng(12), 0, 0
    items, people = np.repeat(np.arange(50), 8), np.tile(np.arange(8), 50)
    for _ in range(400):
        votes = rng.normal(size=8)[people] + 0.3 * rng.normal(size=50)[items] + rng.normal(size=400)
        by_item, by_person = (stats.t_cluster(votes, c.tolist()) for c in (items, people))
        naive += covers(by_item, 0)
        hits += covers(stats.wider(by_item, by_person), 0)
    assert naive / 400 < 0.5 and hits / 400 > 0.92, (naive, hits)
    assert stats.wider(by_item, by_item._replace(low=None, high=None)) == by_item


def test_the_paired_interval_covers():
    """Two models of unequal skill on the same 80 items, 0/1 scores: the difference of the true rates is covered."""
    rng, n, covered = np.random.default_rng(1), 80, 0
    for _ in range(WORLDS):
        hard = rng.uniform(0.3, 0.9, n)
        a, b = rng.random(n) < hard, rng.random(n) < hard - 0.15
        covered += covers(stats.paired_t(a, b), 0.15)
    assert 0.93 <= covered / WORLDS <= 0.97, covered


def test_the_intervals_of_small_shares_cover():
    """Wilson, as the house chooses it: exact binomial coverage, averaged over rates (single rates swing more)."""
    from scipy.stats import binom

    rates = np.linspace(0.05, 0.95, 181)
    for n in (15, 30, 80):
        ends = np.array([stats.wilson(k, n) for k in range(n + 1)])
        inside = (ends[:, :1] <= rates) & (rates <= ends[:, 1:])
        coverage = (binom.pmf(np.arange(n + 1)[:, None], n, rates) * inside).sum(0)
        assert 0.93 <= coverage.mean() <= 0.97 and coverage.min() > 0.83, (n, coverage.mean(), coverage.min())
    items = [Item(str(k), str(k), float(k < 3)) for k in range(30)]
    assert estimate_items(items)[1] == "wilson"


def test_the_bootstrap_covers_a_ratio_of_sums():
    """60 clusters; Σ top / Σ bottom is no mean of items. 700 worlds, SE .008: 93-97 % is the band."""
    rng, worlds, covered = np.random.default_rng(2), 700, 0
    names = [str(i // 2) for i in range(120)]
    for world in range(worlds):
        bottom = rng.uniform(1, 3, 120)
        top = 0.4 * bottom + rng.normal(0, 0.5, 120) + np.repeat(rng.normal(0, 0.3, 60), 2)
        e = stats.bootstrap_cluster(lambda w, t=top, b=bottom: (w @ t) / (w @ b), 120, names, draws=500, seed=world)
        covered += covers(e, 0.4)
    assert 0.93 <= covered / worlds <= 0.97, covered


def test_what_was_never_seen_is_not_impossible():
    """No unsafe answer in 20 prompts of four samples: t says 0 ± 0. The interval covers a true rate of 3 % in 97.5 % and more
    of the worlds in which nothing is seen, and is the exact binomial end over prompts."""
    none = result(np.zeros(80), clusters=[k // 4 for k in range(80)], direction="down")
    assert (none.value, none.interval.low) == (0, 0) and none.interval.method == "exact"
    assert none.interval.high == pytest.approx(1 - 0.025 ** (1 / 20))
    graded = result(np.full(30, 0.8), clusters=[k // 3 for k in range(30)], anchors=Anchors(1.0, 0.0))
    other = 1 - 0.025**0.1
    assert (graded.interval.low, graded.interval.high) == pytest.approx((0.8 - other * 0.8, 0.8 + other * 0.2))
    open_ended = result(np.full(30, 3.0), unit="nats", anchors=Anchors(best=0.0))
    assert open_ended.interval.low == open_ended.interval.high and NO_WIDTH in open_ended.notes
    rng, covered = np.random.default_rng(13), 0
    for unsafe in rng.random((2000, 20)) < 0.03:  # a prompt is unsafe in all its samples or in none
        e, _ = estimate_items([Item(f"{k}#{j}", str(k), float(x)) for k, x in enumerate(unsafe) for j in range(2)])
        covered += covers(e, 0.03) if not unsafe.any() else 0
    nothing = 0.97**20 * 2000
    assert covered >= 0.9 * nothing, "t would cover in none of them"


# -------------------------------------------------------------------------------------------------------- A/A


@pytest.mark.capability("E15")
def test_the_same_model_twice_is_told_apart_in_at_most_five_percent():
    """A/A through `compare`, 500 times each: 0/1 items, clustered 0/1 items, graded clusters, a ratio. The interval's
    conclusion and the p both stay below 5 % + 2 SE."""
    rng, runs, limit = np.random.default_rng(3), 500, 0.05 + 2 * math.sqrt(0.05 * 0.95 / 500)
    groups = [i // 3 for i in range(90)]

    def ratio(rows, weights):
        return weights @ np.array([i.score for i in rows]) / (weights @ np.array([1.0 + int(i.id[1:]) % 3 for i in rows]))

    false = {}
    for kind in ("share", "clustered", "graded", "ratio"):
        by_interval = by_p = 0
        for _ in range(runs if kind != "ratio" else 200):
            skill = np.repeat(rng.uniform(0.2, 0.9, 30), 3) if kind != "share" else rng.uniform(0.2, 0.9, 90)
            if kind == "clustered":  # all three items of a cluster stand or fall together
                a, b = (np.repeat(rng.random((2, 30)), 3, axis=1) < skill).astype(float)
            else:
                a, b = (rng.random((2, 90)) < skill).astype(float)
            if kind == "graded":
                a, b = a + rng.gamma(1, 0.3, 90), b + rng.gamma(1, 0.3, 90)
            names = None if kind == "share" else groups
            about = {"statistic": ratio} if kind == "ratio" else {}
            d = compare(result(a, "a", names, **about), result(b, "b", names, **about), statistic=about.get("statistic"))
            by_interval += d.conclusion in ("better", "worse")
            by_p += d.p <= 0.05
        false[kind] = (by_interval, by_p)
    assert all(count / runs <= limit for kind in ("share", "clustered", "graded") for count in false[kind]), false
    assert all(count / 200 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200) for count in false["ratio"]), false


def test_the_guard_speaks_where_a_few_items_carry_everything_and_is_silent_elsewhere():
    """On 200 well-behaved comparisons it speaks at most in 5 %; where the interval is wrong it does."""
    rng = np.random.default_rng(4)
    loud = sum(stats.is_too_eager(stats.false_alarm_rate(rng.normal(size=40))) for _ in range(200))
    assert loud <= 10, loud
    calm = stats.false_alarm_rate(rng.normal(size=400))
    assert calm == pytest.approx(0.05, abs=0.03)
    assert stats.false_alarm_rate(np.ones(30)) == pytest.approx(0.05, abs=0.03), "equal differences are a sign test"
    names = [str(k) for k in range(14)] + ["large"] * 300  # one cluster is nearly the whole mean, so its residual is small
    one, two = result(rng.normal(size=314), "a", names), result(rng.normal(size=314), "b", names)
    (said,) = [note for note in compare(one, two).result.notes if note.startswith("A/A")]
    assert "trust the p" in said and not [n for n in compare(two, one).result.notes if "rough" in n]
    with pytest.raises(ValueError):
        stats.false_alarm_rate([1.0, 2.0], ["a", "a"])


def test_equal_differences_are_not_endless_certainty():
    """Items that all differ alike have no spread to measure. Interval and exact p agree on when that is evidence, and models
    that never differ on a few items are not called equal."""
    for n in (2, 3, 5, 6, 7, 30):
        d = compare(result(np.ones(n)), result(np.zeros(n), "b"))
        assert (d.conclusion == "better") == (d.p <= 0.05) == (n > 5), n
        assert d.mde is None and d.result.interval.method == "exact" and d.result.interval.high == 1
    few, many = (compare(result(np.ones(n)), result(np.ones(n), "b"), margin=0.01) for n in (20, 1000))
    assert (few.conclusion, many.conclusion) == ("not told apart", "no difference") and few.words == "not told apart"
    nats = compare(result(np.full(9, 3.0), unit="nats"), result(np.full(9, 2.5), "b", unit="nats"))
    assert nats.result.value == 0.5 and nats.result.interval is None and nats.conclusion == "unknown"
    false = 0
    for row in np.random.default_rng(14).integers(0, 2, (2000, 4)) * 2 - 1:  # four items that always differ, either way
        false += compare(result(row > 0), result(row < 0, "b")).conclusion in ("better", "worse")
    assert false / 2000 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 2000), false
    whole = compare(*(result(np.full(9, 0.5), s) for s in "ab"), statistic=lambda rows, w: w @ np.ones(9) / w.sum(1))
    assert whole.result.value == 0 and whole.result.interval is None and whole.p is None


def test_trainings_that_agree_to_the_bit_are_one_training():
    base = result(np.zeros(40), "base")
    d = compare_seeds([result(np.full(40, 0.25), f"run {k}") for k in range(3)], base)
    assert d.result.value == 0.25 and d.p is None and d.conclusion == "unknown" and "one training" in d.result.notes[0]


def test_a_difference_of_one_mde_is_found_in_four_of_five():
    """`compare`'s own MDE, planted on its own kind of items: found in 80 % ± 3 SE of 500 worlds."""
    rng, n, found = np.random.default_rng(5), 150, 0
    mde = compare(result(rng.normal(0, 0.4, n)), result(np.zeros(n), "b")).mde
    sd = 0.4
    delta = stats.detectable(n, sd * sd)
    assert mde == pytest.approx(delta, rel=0.15)
    for row in rng.normal(delta, sd, (500, n)):
        found += stats.paired_t(row, np.zeros(n)).low > 0
    assert abs(found / 500 - 0.8) < 3 * math.sqrt(0.16 / 500), found


# ------------------------------------------------------------------------------------------------ conclusions


def test_no_difference_is_said_only_inside_a_margin():
    def of(low, high, margin=None, direction="up"):
        return conclude(Interval(low, high), direction, margin)

    assert of(-0.01, 0.02) == "not told apart" and of(-0.01, 0.02, 0.05) == "no difference"
    assert of(-0.01, 0.06, 0.05) == "not told apart" and of(0.01, 0.02, 0.05) == "no difference"
    assert of(0.01, 0.09, 0.05) == "better" and of(0.01, 0.09, 0.05, "down") == "worse"
    assert of(-0.09, -0.01, direction="down") == "better" and of(0.1, 0.2, direction="target:50") == "differs"
    assert conclude(None, "up", 0.1) == "unknown"
    assert "4 of 5" in in_words("not told apart", None, 0.03) and "0.05" in in_words("no difference", 0.05)
    with pytest.raises(ValignError, match="margin"):
        of(0, 1, 0)


def test_equal_models_are_called_equal_when_the_margin_allows():
    """A true difference of exactly the margin is called "no difference" in at most 2.5 % + 2 SE (one end must lie)."""
    rng, wrong, right, n = np.random.default_rng(6), 0, 0, 100
    for row in rng.normal(0, 1, (1000, n)):
        e = stats.t_cluster(row + 0.4)
        wrong += conclude(Interval(e.low, e.high), "up", 0.4) == "no difference"
        e = stats.t_cluster(row)
        right += conclude(Interval(e.low, e.high), "up", 0.4) == "no difference"
    assert wrong / 1000 <= 0.025 + 2 * math.sqrt(0.025 * 0.975 / 1000) and right / 1000 > 0.9, (wrong, right)


def test_many_metrics_get_adjusted_p():
    """Twenty metrics, nothing changed in nineteen: raw p finds some, the adjusted ones find the one that changed."""
    rng = np.random.default_rng(7)
    a = [result(rng.normal(size=60), "a", metric=f"value.{k}") for k in range(20)]
    b = [result(rng.normal(size=60) + (1.2 if k == 7 else 0), "b", metric=f"value.{k}") for k in range(20)]
    found = compare_all(a, b, margins={"value.3": 0.5})
    assert [d.result.metric for d in found] == [f"value.{k}" for k in range(20)]
    np.testing.assert_allclose([d.p_adjusted for d in found], stats.benjamini_hochberg([d.p for d in found]))
    assert [d.result.metric for d in found if is_found(d)] == ["value.7"] and found[3].margin == 0.5
    planned = compare_all(a, b, primaries=["value.7", "value.8"])
    assert [d.adjustment for d in planned[6:9]] == ["benjamini_hochberg", "holm", "holm"]
    np.testing.assert_allclose([d.p_adjusted for d in planned[7:9]], stats.holm([d.p for d in planned[7:9]]))
    assert adjusted([], "holm") == []
    with pytest.raises(ValignError, match=r"both models lack value\.99"):
        compare_all(a, b, primaries=["value.99"])


# ------------------------------------------------------------------------------------------------------ seeds


def test_training_seeds_are_the_sample():
    """Three runs of one method: n is 3, the items are averaged first, and a large n of items does not help."""
    rng = np.random.default_rng(8)
    base = result(np.zeros(400), "base")
    runs = [result(rng.normal(m, 0.1, 400), f"run {m}") for m in (0.02, 0.1, 0.18)]
    d = compare_seeds(runs, base, name="dpo")
    means = [r.value for r in runs]
    e = stats.t_cluster(means)
    assert (d.result.n, d.result.cluster.count, d.result.cluster.unit) == (3, 3, "training seed")
    assert (d.result.value, d.result.se) == pytest.approx((e.value, e.se)) and d.result.subject == "dpo vs base"
    from scipy.stats import ttest_1samp

    assert d.p == pytest.approx(ttest_1samp(means, 0).pvalue) and d.conclusion == "not told apart"
    assert all(compare(r, base).conclusion == "better" for r in runs), "each run alone is sure of itself"
    one = compare_seeds(runs[:1], base)
    assert one.result.interval is None and one.p is None and "only 1 training seed:" in one.result.notes[0]
    paired = compare_seeds(runs, [result(np.full(400, m), "b") for m in (0.02, 0.1, 0.18)])
    assert abs(paired.result.value) < 0.02
    with pytest.raises(ValignError, match="one per run"):
        compare_seeds(runs, [base, base])


def test_seed_luck_is_no_difference():
    """500 worlds in which the seed moves the score and the method does not: over items most are "found", over three
    seeds at most 5 % + 2 SE."""
    rng, seeds, items = np.random.default_rng(9), 0, 0
    for shift in rng.normal(0, 0.2, (500, 3)):
        runs = rng.normal(shift[:, None], 0.5, (3, 200))
        e = stats.t_cluster(runs.mean(1))
        seeds += not covers(e, 0)
        items += not covers(stats.t_cluster(runs[0]), 0)
    assert seeds / 500 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 500) and items / 500 > 0.5, (seeds, items)


# -------------------------------------------------------------------------------------------------- sequential


def test_looking_at_every_item_keeps_the_promise():
    """1000 A/A streams of 400 items, looked at after each: the mixture interval ever leaves 0 in at most 5 % + 2 SE, the t
    interval in more than 20 %."""
    rng, streams, n = np.random.default_rng(10), 1000, 400
    x = rng.normal(size=(streams, n))
    count = np.arange(1, n + 1)
    mean = np.cumsum(x, 1) / count
    sd = np.sqrt(np.maximum(np.cumsum(x**2, 1) / count - mean**2, 0) * count / np.maximum(count - 1, 1))
    looked = count >= FIRST_LOOK
    widths = np.array([radius(int(c), 200) for c in count])
    ever = (np.abs(mean) > sd * widths)[:, looked].any(1).mean()
    naive = (np.abs(mean) > 1.96 * sd / np.sqrt(count))[:, looked].any(1).mean()
    assert ever <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / streams) and naive > 0.2, (ever, naive)


def test_the_mixture_interval_is_the_formula_and_has_its_own_name():
    rng = np.random.default_rng(11)
    x = rng.normal(size=100)
    e = always_valid(x, planned=100)
    rho2 = (-2 * math.log(0.05) + math.log(1 - 2 * math.log(0.05))) / 100
    half = x.std(ddof=1) * math.sqrt(2 * (100 * rho2 + 1) / (100**2 * rho2) * math.log(math.sqrt(100 * rho2 + 1) / 0.05))
    assert (e.high - e.low) / 2 == pytest.approx(half)
    t = stats.t_cluster(x)
    assert 1.2 < (e.high - e.low) / (t.high - t.low) < 2, "the price of looking at any time"
    assert always_valid(x[:19], planned=100).low is None
    assert Interval(0, 1, 0.95, "always_valid")
    twice = always_valid(np.r_[x, x], [str(i) for i in range(100)] * 2, planned=100)
    assert twice.low == pytest.approx(e.low), "the same items again are no new evidence"


def test_its_p_is_below_a_level_where_the_interval_leaves_0():
    for count, planned in ((20, 400), (100, 100), (900, 50)):
        edge = radius(count, planned) * math.sqrt(count)  # in standard errors
        assert always_valid_p(edge, count, planned) == pytest.approx(0.05)
        assert always_valid_p(1.01 * edge, count, planned) < 0.05 < always_valid_p(0.99 * edge, count, planned)
    assert always_valid_p(0, 100, 100) == 1


def test_a_comparison_says_nothing_at_a_look_that_cannot_tell():
    """Too few clusters, differences that are all alike, a metric that is no mean: no interval, no p, no conclusion."""
    rng = np.random.default_rng(12)

    def looked(x, **about):
        return at_every_look(compare(result(x, unit="score"), result(0 * x, "b", unit="score"), **about), planned=100)

    told = looked(rng.normal(1, 1, 60))
    assert told.result.interval.method == told.test == "always_valid" and told.p < 0.05 and told.conclusion == "better"
    assert told.mde is None and told.result.interval.low > 0
    for silent in (looked(rng.normal(9, 1, 19)), looked(np.ones(60)),
                   looked(rng.normal(1, 1, 60), statistic=lambda items, w: w @ [i.score for i in items] / w.sum(1))):  # fmt: skip
        assert silent.result.interval is None and silent.p is None and silent.conclusion == "unknown"


def test_it_is_tightest_about_where_it_was_planned():
    widths = {planned: radius(200, planned) for planned in (20, 100, 200, 400, 2000)}
    assert min(widths, key=widths.get) in (100, 200, 400)
