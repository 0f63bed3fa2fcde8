"""Intervals, tests and sample sizes against goldens and against simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from valign.evaluation import statistics as stats


def test_t_interval_golden(evaluation_golden):
    g = evaluation_golden("stats.t_interval")
    e = stats.t_cluster(g.inputs["x"], level=1 - g.inputs["alpha"])
    g.check({"mean": e.value, "se": e.se, "low": e.low, "high": e.high})


def test_wilson_golden(evaluation_golden):
    g = evaluation_golden("stats.wilson")
    g.check({"intervals": [list(stats.wilson(k, n)) for k, n in g.inputs["cases"]]})
    assert stats.wilson(20, 20)[1] == 1 and stats.wilson(0, 15)[0] == 0


def test_clustered_golden(evaluation_golden):
    g = evaluation_golden("stats.clustered")
    x = np.concatenate(g.inputs["clusters"])
    names = [str(c) for c, rows in enumerate(g.inputs["clusters"]) for _ in rows]
    mean, plain = stats.clustered_se(x)
    _, corrected = stats.clustered_se(x, names)
    _, raw = stats.clustered_se(x, names, small_sample=False)
    g.check({"mean": mean, "se": plain, "se_clustered": raw, "se_clustered_cr1": corrected})


def test_paired_golden(evaluation_golden):
    g = evaluation_golden("stats.paired")
    a, b = np.array(g.inputs["a"]), np.array(g.inputs["b"])
    e = stats.paired_t(a, b)
    unpaired, rho = stats.unpaired_se(a, b)
    won, lost = int((a > b).sum()), int((a < b).sum())
    g.check({
        "difference": e.value, "se_paired": e.se, "se_unpaired": unpaired, "correlation": rho,
        "mcnemar_b": won, "mcnemar_c": lost, "mcnemar_exact_p": stats.mcnemar(won, lost),
    })  # fmt: skip


def test_power_golden(evaluation_golden):
    g = evaluation_golden("stats.power")
    i = g.inputs
    n = stats.items_needed(
        i["delta"], i["omega2"], i["sigma2_a"], i["sigma2_b"], i["k"], alpha=i["alpha"], power=i["power"]
    )
    mde = stats.detectable(i["n"], stats.accuracy_difference_variance(i["p"], i["rho"]))
    g.check({"n_needed": n, "n_needed_ceil": math.ceil(n), "mde": mde})
    assert stats.detectable(969, i["omega2"]) == pytest.approx(0.03, abs=1e-5)
    uneven = stats.items_needed(0.1, 0.2, 0.3, 0.6, 3, samples_b=6)
    assert uneven == pytest.approx(stats.items_needed(0.1, 0.2 + 0.1 + 0.1)), "each model has its own number of samples"
    assert stats.detectable(round(uneven), 0.2, 0.3, 0.6, 3, samples_b=6) == pytest.approx(0.1, rel=1e-3)


def test_k_samples_golden(evaluation_golden):
    g = evaluation_golden("stats.k_samples")
    k = stats.k_samples(g.inputs["samples"])
    g.check(
        {
            "mean": k.mean,
            "se": k.se,
            "within_part": k.within,
            "between_part": k.between,
            "se_if_k_infinite": k.se_if_endless,
        }
    )


def test_multiplicity_golden(evaluation_golden):
    g = evaluation_golden("stats.multiplicity")
    holm, bh = stats.holm(g.inputs["p"]), stats.benjamini_hochberg(g.inputs["p"])
    g.check(
        {
            "holm": holm,
            "benjamini_hochberg": bh,
            "holm_rejected_05": (holm <= 0.05).sum(),
            "bh_rejected_05": (bh <= 0.05).sum(),
        }
    )
    back = np.argsort([3, 0, 2, 1, 7, 6, 5, 4])
    shuffled = np.array(g.inputs["p"])[[3, 0, 2, 1, 7, 6, 5, 4]]
    np.testing.assert_allclose(stats.holm(shuffled)[back], holm)
    np.testing.assert_allclose(stats.benjamini_hochberg(shuffled)[back], bh)


def test_human_sample_size_golden(evaluation_golden):
    g = evaluation_golden("stats.human_sample_size")
    i = g.inputs
    votes, items = stats.votes_needed(
        i["win_rate"], i["votes_per_item"], i["icc"], alpha=i["alpha"], power=i["power"]
    )
    effect = 1 + (i["votes_per_item"] - 1) * i["icc"]
    g.check({"n_votes": votes, "n_votes_ceil": math.ceil(votes), "design_effect": effect, "n_items": items})


def test_bootstrap_se_is_the_spread_of_the_replicates(evaluation_golden):
    g = evaluation_golden("stats.bootstrap_se")
    x = np.array(g.inputs["x"], float)
    e = stats.bootstrap_cluster(stats.mean_statistic(x), len(x))
    assert abs(e.se / g.expected["exact_bootstrap_se"] - 1) < 0.05
    assert e.value == x.mean() and e.low < e.value < e.high
    thousand = stats.bootstrap_cluster(stats.mean_statistic(x), len(x), draws=1000)
    wrong = g.expected["wrong_factor_at_B_1000"] * g.expected["exact_bootstrap_se"]
    assert thousand.se > 0.9 / g.expected["wrong_factor_at_B_1000"] * wrong, "it is not divided by √draws again"


def test_clusters_of_one_item_are_the_plain_error():
    x = np.random.default_rng(0).normal(size=30)
    assert stats.clustered_se(x)[1] == pytest.approx(x.std(ddof=1) / np.sqrt(30), abs=1e-15)


def test_duplicating_the_set_within_its_clusters_changes_nothing():
    """The same items twice are no new evidence as long as they stay in their cluster."""
    x = np.random.default_rng(0).normal(size=12)
    names = [str(i // 2) for i in range(12)]
    once, twice = stats.t_cluster(x, names), stats.t_cluster(np.r_[x, x], names * 2)
    np.testing.assert_allclose(once, twice, atol=1e-12)
    a = stats.bootstrap_cluster(stats.mean_statistic(x), 12, names)
    b = stats.bootstrap_cluster(stats.mean_statistic(np.r_[x, x]), 24, names * 2)
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_order_of_items_changes_nothing():
    rng = np.random.default_rng(1)
    x, names, order = rng.normal(size=20), [f"c{i % 7}" for i in range(20)], rng.permutation(20)
    shuffled = [names[i] for i in order]
    np.testing.assert_allclose(stats.t_cluster(x, names), stats.t_cluster(x[order], shuffled), atol=1e-12)
    a = stats.bootstrap_cluster(stats.mean_statistic(x), 20, names)
    b = stats.bootstrap_cluster(stats.mean_statistic(x[order]), 20, shuffled)
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_one_cluster_has_no_interval():
    assert stats.t_cluster([1.0, 2.0], ["a", "a"])[1:4] == (None, None, None)
    assert stats.bootstrap_cluster(stats.mean_statistic([1.0, 2.0]), 2, ["a", "a"]).se is None


def test_chunks_of_the_bootstrap_change_nothing(monkeypatch):
    x = np.arange(9.0)
    whole = stats.bootstrap_replicates(stats.mean_statistic(x), 9, draws=100)
    monkeypatch.setattr(stats, "CHUNK", 63)
    np.testing.assert_array_equal(whole, stats.bootstrap_replicates(stats.mean_statistic(x), 9, draws=100))


def test_undefined_replicates_are_left_out():
    """A ratio whose denominator is resampled to zero does not poison the interval."""
    top, bottom = np.array([1.0, 0, 0, 0]), np.array([1.0, 1, 0, 0])
    e = stats.bootstrap_cluster(lambda w: (w @ top) / (w @ bottom), 4)
    assert e.value == 0.5 and e.se is not None and np.isfinite([e.se, e.low, e.high]).all()


def test_bootstrap_covers_at_200_draws():
    """95 % intervals of 30 clusters cover the truth in 90-99 % of 300 worlds."""
    rng, covered = np.random.default_rng(2), 0
    for world in range(300):
        x = rng.normal(size=30)
        e = stats.bootstrap_cluster(stats.mean_statistic(x), 30, draws=200, seed=world)
        covered += e.low <= 0 <= e.high
    assert 0.90 <= covered / 300 <= 0.99


def test_percentiles_of_few_clusters_reach_as_far_as_students_t():
    """Of 2000 resampled means the interval is that of t; plain percentiles of 8 clusters are a fifth shorter."""
    x = np.random.default_rng(5).normal(size=8)
    e, t = stats.bootstrap_cluster(stats.mean_statistic(x), 8, draws=40_000), stats.t_cluster(x)
    assert e.high - e.low == pytest.approx(t.high - t.low, rel=0.05)
    assert stats.widened(0.025, 8) < 0.007 and stats.widened(0.025, 10**6) == pytest.approx(0.025, rel=1e-4)


@pytest.mark.parametrize("clusters", [6, 12, 300])
def test_the_bootstraps_p_is_the_level_at_which_its_interval_reaches_0(clusters):
    draws = np.random.default_rng(6).normal(size=4000)
    for level in (0.8, 0.95):
        low = stats.of_replicates(0.0, draws, clusters, level=level).low
        assert stats.bootstrap_p(draws - low, clusters) == pytest.approx(1 - level, rel=0.1)
    assert stats.bootstrap_p(draws, clusters) > 0.9 and stats.bootstrap_p(draws, 1) is None


def test_the_jackknife_of_a_reliability_is_the_formula():
    """Student t of log(1 - x): ends below 1 and not below -1; without spread, or at 1, there is none."""
    left = np.array([0.78, 0.8, 0.79, 0.82, 0.77])
    e, log = stats.jackknife_log(0.8, left), np.log(1 - left)
    half = 2.7764451 * math.sqrt(0.8 * ((log - log.mean()) ** 2).sum())
    assert (e.low, e.high) == pytest.approx((1 - 0.2 * math.exp(half), 1 - 0.2 * math.exp(-half)), abs=1e-6)
    assert e.se == pytest.approx(math.sqrt(0.8 * ((left - left.mean()) ** 2).sum())) and e.clusters == 5
    assert stats.jackknife_log(-0.5, [-0.9, 0.2, -0.8]).low == -1 and e.high < 1
    for value, rows in ((1.0, [1.0, 1.0, 1.0]), (0.5, [0.5, float("nan")]), (float("nan"), [0.5, 0.4]), (0.5, [0.4])):
        assert stats.jackknife_log(value, rows).low is None
    x = np.random.default_rng(7).uniform(size=(12, 2))
    share = stats.jackknife_cluster(lambda w: (w @ x[:, 0]) / (w @ x.sum(1)), 12, [str(i // 2) for i in range(12)])
    gone = [x[np.arange(12) // 2 != c] for c in range(6)]
    whole = stats.jackknife_log(x[:, 0].sum() / x.sum(), [g[:, 0].sum() / g.sum() for g in gone])
    np.testing.assert_allclose(share, whole, atol=1e-12)


@pytest.mark.capability("E15")
def test_a_model_against_itself_is_rejected_in_at_most_five_percent():
    """A/A: 500 pairs of equal models; both tests stay below 5 % + 2 SE of the simulation."""
    rng, runs = np.random.default_rng(3), 500
    rejected = {"t": 0, "mcnemar": 0, "permutation": 0}
    for _ in range(runs):
        skill = rng.uniform(0.2, 0.95, size=120)
        a, b = (rng.random((2, 120)) < skill).astype(float)
        e = stats.paired_t(a, b)
        rejected["t"] += not e.low <= 0 <= e.high
        rejected["mcnemar"] += stats.mcnemar(int((a > b).sum()), int((a < b).sum())) <= 0.05
        rejected["permutation"] += stats.permutation_p(a - b, draws=199) <= 0.05
    limit = 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)
    assert all(count / runs <= limit for count in rejected.values()), rejected


def test_a_planted_difference_of_one_mde_is_found_in_four_of_five():
    """500 worlds; the band is 80 % ± 3 SE of the simulation."""
    rng, n, spread = np.random.default_rng(4), 200, 0.5
    delta = stats.detectable(n, spread**2)
    found = 0
    for _ in range(500):
        e = stats.paired_t(rng.normal(delta, spread, n), np.zeros(n))
        found += not e.low <= 0 <= e.high
    assert abs(found / 500 - 0.8) < 3 * math.sqrt(0.16 / 500)


def test_mcnemar_without_discordant_pairs_is_one():
    assert stats.mcnemar(0, 0) == 1.0 and stats.mcnemar(5, 5) == 1.0


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError):
        stats.wilson(3, 2)
    with pytest.raises(ValueError):
        stats.t_cluster([1.0], ["a", "b"])
