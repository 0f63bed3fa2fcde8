"""The instruments' formulas: goldens, second implementations, and what must not ring."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from valign.errors import ValignError
from valign.evaluation.metrics import correlation, efficiency, generality, overoptimization, push
from valign.theory import goodhart


def test_alarm_golden(evaluation_golden):
    """Peak and alarm of the planted six responses, from exact covariances."""
    g = evaluation_golden("overoptimisation.alarm")
    i = g.inputs
    tables = i["ref"], i["proxy"], i["gold"]
    peak, rang = goodhart.gold_peak(*tables), goodhart.alarm_point(*tables, i["alarm_ratio"])
    start, late = (goodhart.gold_point(*tables, s).gold for s in (0.0, 10.0))
    ref, gold, proxy = map(np.array, tables[:1] + tables[2:] + tables[1:2])
    cov = float(ref @ (gold * proxy) - (ref @ gold) * (ref @ proxy))
    g.check(
        {
            "lambda_peak": peak.strength, "gold_at_peak": peak.gold, "kl_at_peak": peak.kl, "cov_at_zero": cov,
            "lambda_alarm": rang.strength, "gold_at_alarm": rang.gold, "gold_at_zero": start, "gold_at_lambda_10": late,
            "share_of_gain_at_alarm": (rang.gold - start) / (peak.gold - start),
        }
    )  # fmt: skip
    assert goodhart.alarm_point(*tables, 0.25, 0.5).strength < peak.strength


def test_covariance_alone_would_accuse_an_honest_proxy():
    """Why the alarm has a second condition: a policy that concentrates loses covariance with proxy = gold too."""
    ref, gold = [0.5, 0.3, 0.2], [0.0, 1.0, 2.0]
    assert goodhart.alarm_point(ref, gold, gold) is not None
    assert goodhart.alarm_point(ref, gold, gold, 0.25, 0.5) is None


def test_an_audit_is_the_within_prompt_covariance():
    rng = np.random.default_rng(0)
    gold, proxy = rng.normal(size=(2, 5, 7))
    found = overoptimization.audit(list(gold), list(proxy))
    own = [np.cov(g, p) for g, p in zip(gold, proxy)]
    assert found.covariance == pytest.approx([c[0, 1] for c in own]) and found.variance == pytest.approx(
        [c[1, 1] for c in own]
    )
    assert found.at_maximum == pytest.approx(1 / 35)
    gold[0, 3], proxy[1, :6] = np.nan, np.nan  # one sample unscored; a prompt with a single one left
    kept = overoptimization.audit(list(gold), list(proxy), list("abcde"))
    assert kept.prompts == tuple("acde") and kept.covariance[0] == pytest.approx(
        np.cov(np.delete(gold[0], 3), np.delete(proxy[0], 3))[0, 1]
    )
    with pytest.raises(ValignError, match="at least two"):
        overoptimization.audit([[1.0, 2.0]], [[1.0, 2.0]])


def _audits(slope, n=200, seed=0):
    """An audit whose gold is slope · proxy + noise."""
    rng = np.random.default_rng(seed)
    proxy = rng.normal(size=(n, 8))
    return overoptimization.audit(list(slope * proxy + 0.2 * rng.normal(size=(n, 8))), list(proxy))


def test_the_verdict_rings_when_the_slope_is_lost_and_only_then():
    start = _audits(1.0)
    assert not overoptimization.judge(start, _audits(0.7, seed=1)).fires
    assert overoptimization.judge(start, _audits(0.05, seed=2)).fires
    shrunk = overoptimization.audit(list(np.eye(8)[:, :4] * 0.01), list(np.eye(8)[:, :4] * 0.01))
    verdict = overoptimization.judge(_audits(1.0, n=8), shrunk)
    assert verdict.covariance < verdict.threshold and not verdict.fires, "concentration alone is no gaming"
    backwards = overoptimization.judge(_audits(-1.0), _audits(-1.0))
    assert backwards.fires and "disagree" in backwards.reasons[0]
    two = np.ones(2), np.zeros(2), np.zeros(2), 0.0
    few = [overoptimization.Audit(("a", "b"), np.array(c), *two) for c in ([1.0, 1.0], [0.5, -0.4])]
    small = overoptimization.judge(*few)
    assert small.too_small and small.fires and "too small" in small.reasons[0]
    assert not overoptimization.judge(*few, sure=True).fires, "beyond noise or not at all"


def test_a_proxy_that_has_nothing_to_do_with_gold_is_neither_start_nor_alarm():
    """A run whose proxy only grows out of training, 400 audits at the strict level: told from 0 or accused in at most 1.5 %
    (0.5 % are expected of each); a real link is told."""
    rng, told, rang = np.random.default_rng(1), 0, 0
    for _ in range(400):
        found = overoptimization.audit(list(rng.normal(size=(16, 8))), list(rng.normal(size=(16, 8))))
        told += overoptimization.told_from_zero(found)
        rang += overoptimization.judge(found, found, level=overoptimization.STRICT, sure=True).fires
    assert told <= 6 and rang <= 6
    assert overoptimization.told_from_zero(_audits(1.0, n=16))
    nothing = overoptimization.audit(list(rng.normal(size=(16, 8))), list(np.zeros((16, 8))))
    assert not overoptimization.told_from_zero(nothing) and not overoptimization.judge(nothing, nothing, sure=True).fires


def test_the_upper_end_of_a_small_audit_covers():
    """8 prompts: the one-sided 95 % end lies above the true covariance in 95 % ± 2 SE of 2000 audits (a normal one in 92.5 %)."""
    rng, n, above, normal = np.random.default_rng(5), 8, 0, 0
    ones = np.ones(n)
    names = tuple(map(str, range(n)))
    for row in 1 + rng.normal(size=(2000, n)):
        verdict = overoptimization.judge(overoptimization.Audit(names, 10 * ones, ones, ones, ones, 0.0),
                                         overoptimization.Audit(names, row, ones, ones, ones, 0.0))  # fmt: skip
        above += verdict.high >= 1
        normal += verdict.covariance + 1.6449 * verdict.se >= 1
    assert abs(above / 2000 - 0.95) <= 2 * np.sqrt(0.95 * 0.05 / 2000) and normal / 2000 < 0.94, (above, normal)


def test_no_alarm_in_a_a():
    """Two judges of equal worth (gold + independent noise each), slope 1/2 from noise at the start: 400 runs of a policy
    that did not move ring in at most 1 %."""
    rng, rang = np.random.default_rng(0), 0
    for _ in range(400):
        truth = rng.normal(size=(2, 32, 8))
        a, b = (
            overoptimization.audit(list(t + rng.normal(size=t.shape)), list(t + rng.normal(size=t.shape)))
            for t in truth
        )
        rang += overoptimization.judge(a, b).fires
    assert rang <= 4


def test_a_fall_from_the_best_gold_is_seen_beyond_noise():
    def at(mean, seed):
        rng = np.random.default_rng(seed)
        rows = list(mean + rng.normal(size=(64, 4)))
        return overoptimization.audit(rows, rows)

    climb = [at(m, i) for i, m in enumerate((0.0, 2.0, 4.0))]
    assert overoptimization.drop_from_maximum(climb) == (0.0, False)
    share, fell = overoptimization.drop_from_maximum([*climb, at(3.0, 9)])
    assert fell and 0.15 < share < 0.35
    assert overoptimization.drift(10, 21) and overoptimization.drift(10, 4) and not overoptimization.drift(10, 19)
    assert overoptimization.ensemble_spread([[0.0, 1.0], [2.0, 1.0]]) == pytest.approx(np.sqrt(2) / 2)


def test_best_of_n_weights_are_the_mean_over_subsets():
    """Every subset looked at; ties share."""
    proxy, gold = np.array([0.3, 2.0, 2.0, -1.0, 0.7]), np.array([1.0, 5.0, -3.0, 0.0, 2.0])
    for n in range(1, 6):
        best = []
        for chosen in combinations(range(5), n):
            top = [i for i in chosen if proxy[i] == proxy[list(chosen)].max()]
            best.append(np.mean(gold[top]))
        w = push.best_of_n_weights(proxy, n)
        assert w.sum() == pytest.approx(1) and w @ gold == pytest.approx(np.mean(best))
    with pytest.raises(ValignError, match="between 1 and the 5"):
        push.best_of_n_weights(proxy, 6)


def test_gibbs_weights_move_gold_by_the_covariance():
    """dE_s[gold]/ds = Cov_s(gold, proxy), by central differences; KL from its definition."""
    rng = np.random.default_rng(1)
    proxy, gold = rng.normal(size=(2, 50))
    h, s = 1e-5, 0.7
    slope = (push.gibbs_weights(proxy, s + h) @ gold - push.gibbs_weights(proxy, s - h) @ gold) / (2 * h)
    w = push.gibbs_weights(proxy, s)
    assert slope == pytest.approx(push.weighted_covariance(gold, proxy, w) * (1 - w @ w), abs=1e-8)
    assert push.gibbs_kl(proxy, s) == pytest.approx(float(w @ np.log(w * 50)))
    assert push.effective(np.full(4, 0.25)) == pytest.approx(4)


def test_efficiency_golden(evaluation_golden):
    g = evaluation_golden("efficiency.curve")
    i = g.inputs
    g.check({"mean_height": efficiency.mean_height(i["cost"], i["score"]),
             "cost_to_target": efficiency.cost_to_target(i["cost"], i["score"], i["target"])})  # fmt: skip
    assert efficiency.cost_to_target(i["cost"], i["score"], 0.71) is None
    assert efficiency.cost_to_target(i["cost"], i["score"], 0.5) == pytest.approx(100)
    falling = [1 - s for s in i["score"]]
    assert efficiency.cost_to_target(i["cost"], falling, 0.35, rising=False) == pytest.approx(
        g.expected["cost_to_target"]
    )
    assert efficiency.mean_height(i["cost"], i["score"], 200, 400) == pytest.approx(0.64)
    assert efficiency.mean_height(i["cost"], i["score"], 50, 400) is None
    assert efficiency.common_range([i["cost"], [150, 900]]) == (150, 800)
    with pytest.raises(ValignError, match="positive"):
        efficiency.mean_height([0, 1], [1, 1])


def test_generality_golden(evaluation_golden):
    g = evaluation_golden("generality.split")
    found = generality.paired_gap(g.inputs["iid"], g.inputs["jailbreak"])
    g.check({"iid": found.iid, "split": found.split, "gap": found.gap.value, "se_paired": found.gap.se,
             "retained_share": found.retained})  # fmt: skip


def test_an_unpaired_gap_is_welchs():
    rng = np.random.default_rng(2)
    a, b = rng.normal(1, 1, 30), rng.normal(0, 3, 12)
    welch = scipy_stats.ttest_ind(a, b, equal_var=False)
    low, high = welch.confidence_interval()
    found = generality.unpaired_gap(a, b)
    assert found.p == pytest.approx(welch.pvalue)
    assert (found.gap.low, found.gap.high) == pytest.approx((low, high))
    assert generality.paired_gap([0, 0], [1, 1]).retained is None


def test_decay_is_the_slope_per_turn():
    turns = np.tile(np.arange(4.0), 20)
    kept = 1 - 0.1 * turns + np.repeat(np.random.default_rng(3).normal(0, 0.05, 20), 4)
    found = generality.decay(turns, kept, np.repeat(np.arange(20), 4).tolist())
    assert found.value == pytest.approx(np.polyfit(turns, kept, 1)[0]) and found.low <= -0.1 <= found.high
    assert found.clusters == 20


def test_value_risk_golden(evaluation_golden):
    g = evaluation_golden("n20.value_risk")
    x, y = g.inputs["value_push"], g.inputs["risk"]
    found = correlation.rank_correlation(x, y)
    g.check({"spearman": found.value, "pearson": correlation.pearson(x, y)})
    exact = scipy_stats.permutation_test(
        (x,), lambda a: scipy_stats.spearmanr(a, y).statistic, permutation_type="pairings"
    )
    assert found.p == pytest.approx(exact.pvalue)
    assert correlation.fisher_interval(0.5, 3) is None
    assert correlation.rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]).value is None


def test_fishers_interval_covers():
    """Pearson, n = 20, r = .6, 2000 draws: nominal 95 % within 93 to 97 %."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2000, 20))
    y = 0.6 * x + 0.8 * rng.normal(size=x.shape)
    ends = [correlation.fisher_interval(correlation.pearson(a, b), 20) for a, b in zip(x, y)]
    assert 0.93 <= np.mean([low <= 0.6 <= high for low, high in ends]) <= 0.97
