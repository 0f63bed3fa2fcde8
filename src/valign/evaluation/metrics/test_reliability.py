"""Reliability against second implementations, and its behaviour on noise and on signal."""

import numpy as np
import pytest

from valign.evaluation.metrics import circle
from valign.evaluation.metrics import reliability as rel

INDEX = np.repeat(np.arange(10), 8)
SIGNS = np.tile([1, 1, 1, 1, -1, -1, -1, -1], 10)


def test_halves_share_out_every_item_with_both_keyings_alike():
    one, two = rel.halves(INDEX.tolist(), SIGNS.tolist(), splits=20)
    for s in range(20):
        for k in range(10):
            a, b = (set(np.flatnonzero(t[s, k])) for t in (one, two))
            assert len(a) == len(b) == 4 and a | b == set(np.flatnonzero(k == INDEX)) and not a & b
            assert sum(SIGNS[i] for i in a) == sum(SIGNS[i] for i in b) == 0
    assert len({tuple(np.flatnonzero(one[s, 0])) for s in range(20)}) > 5, "splits differ"


def test_halves_of_odd_numbers_differ_by_one():
    one, two = rel.halves([0, 0, 0, 1, 1], [1] * 5, splits=40)
    sizes = {(int((one[s, 0] > 0).sum()), int((two[s, 0] > 0).sum())) for s in range(40)}
    assert sizes == {(1, 2), (2, 1)}


def test_split_half_equals_a_plain_loop():
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(2, 80)) + rng.normal(size=10)[INDEX]
    one, two = rel.halves(INDEX.tolist(), SIGNS.tolist(), splits=7)
    for row, got in zip(scores, rel.split_half(scores, (one, two))):
        rs = []
        for s in range(7):
            a, b = ([np.mean([row[i] for i in range(80) if t[s, k, i] > 0]) for k in range(10)] for t in (one, two))
            rs.append(np.corrcoef(a, b)[0, 1])
        r = sum(rs) / 7
        assert got == pytest.approx(2 * r / (1 + r))
    contrary = np.where(np.arange(80) % 8 < 4, 1, -1) * np.repeat(rng.normal(size=10), 8)
    first = np.arange(80) % 8 < 4
    tables = tuple(np.stack([(k == INDEX) & (first == side) for k in range(10)])[None] / 4 for side in (True, False))
    assert rel.split_half(contrary[None], tables)[0] == pytest.approx(-1), "halves that contradict: no step, no pole"


def test_split_half_estimates_the_share_of_true_variance():
    """Between-value variance 1, item variance 4, 8 items: reliability 1 / (1 + 4/8) = 2/3."""
    rng, tables = np.random.default_rng(0), rel.halves(np.repeat(np.arange(60), 8).tolist(), [1] * 480, splits=30)
    scores = rng.normal(size=(200, 60))[:, np.repeat(np.arange(60), 8)] + 2 * rng.normal(size=(200, 480))
    assert rel.split_half(scores, tables).mean() == pytest.approx(2 / 3, abs=0.03)


def test_split_half_of_prompts_equals_a_plain_loop():
    """With unequal numbers of answers, as a whole and with one prompt left out."""
    rng = np.random.default_rng(4)
    x, answers = rng.normal(size=10) + rng.normal(size=(13, 10)), rng.integers(1, 4, 13)
    sides = rel.halves([0] * 13, [1] * 13, 9)[0][:, 0] > 0

    def plain(keep):
        rs = []
        for side in sides:
            a, b = (np.average(x[s & keep], axis=0, weights=answers[s & keep]) for s in (side, ~side))
            rs.append(np.corrcoef(a, b)[0, 1])
        return float(rel.spearman_brown(np.mean(rs)) if np.mean(rs) > 0 else np.mean(rs))

    found = rel.prompt_split_half(x, answers, splits=9)
    assert found.value == pytest.approx(plain(np.ones(13, bool)))
    assert found.left_out == pytest.approx([plain(np.arange(13) != k) for k in range(13)])


def test_chunks_of_prompts_change_nothing(monkeypatch):
    x = np.random.default_rng(5).normal(size=(11, 4))
    whole = rel.prompt_split_half(x, np.ones(11)).left_out
    monkeypatch.setattr(rel, "CHUNK", 3 * rel.SPLITS * 4)
    np.testing.assert_array_equal(rel.prompt_split_half(x, np.ones(11)).left_out, whole)


def test_a_half_without_values_agrees_with_nothing():
    """One prompt of twelve shows values: in each split the other half is silent, which is no agreement and not undefined."""
    x = np.zeros((12, 10))
    assert np.isnan(rel.prompt_split_half(x, np.ones(12)).value), "nobody says anything"
    x[3] = np.arange(10)
    assert rel.prompt_split_half(x, np.ones(12)).value == 0
    assert np.isnan(rel.prompt_split_half(np.eye(3), np.ones(3)).value), "three prompts have no halves"


def test_equal_scores_have_no_reliability_and_no_spread():
    assert np.isnan(rel.split_half(np.full((1, 80), 3.5), rel.halves(INDEX.tolist(), SIGNS.tolist(), splits=3))).all()
    assert rel.spread_p(np.full(80, 3.5), INDEX, SIGNS, draws=50) == 1


def test_spread_p_is_uniform_on_noise_and_small_on_signal():
    """200 noise profiles: a share below .05 of 5 % +- 2 SE (.031); a signal of half the noise is found."""
    rng = np.random.default_rng(1)
    ps = np.array([rel.spread_p(rng.normal(size=80), INDEX, SIGNS, draws=199, seed=k) for k in range(200)])
    assert 0.01 <= (ps < 0.05).mean() <= 0.09 and 0.4 < ps.mean() < 0.6
    assert rel.spread_p(rng.normal(size=80) + rng.normal(size=10)[INDEX], INDEX, SIGNS) < 0.01


def test_spread_does_not_count_what_only_the_keying_makes():
    """Scores that differ by keying alone (yes-saying) are no spread of values, however large."""
    index = np.repeat(np.arange(4), 4)
    signs = np.array([1] * 8 + [-1] * 8)  # unbalanced on purpose: the values differ by keying
    assert rel.spread_p(np.where(signs > 0, 6.0, 1.0), index, signs, draws=99) == 1


def test_cronbach_alpha_by_covariances():
    """k/(k-1) (1 - trace / sum of the covariance matrix); parallel items: k r / (1 + (k-1) r)."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 1)) + rng.normal(size=(400, 5))
    c = np.cov(x.T)
    assert rel.cronbach_alpha(x) == pytest.approx(5 / 4 * (1 - np.trace(c) / c.sum()))
    assert rel.cronbach_alpha(x) == pytest.approx(rel.spearman_brown(0.5, 5), abs=0.05)
    assert np.isnan(rel.cronbach_alpha(np.ones((5, 3)))) and rel.spearman_brown(0.5) == pytest.approx(2 / 3)


@pytest.mark.parametrize("half, retest, p, asked, ok, said", [
    (0.7, 0.7, 0.01, True, True, ""), (0.69, 0.9, 0.01, True, False, "two halves"), (0.9, 0.69, 0.01, True, False, "other words"),
    (0.9, 0.9, 0.05, True, False, "at random"), (None, None, 1.0, True, False, "undefined"), (0.9, None, 0.01, False, True, ""),
])  # fmt: skip
def test_all_conditions_are_needed(half, retest, p, asked, ok, said):
    found = rel.verdict(half, retest, p, asked_again=asked)
    assert found.reliable is ok and said in "; ".join(found.reasons)


def test_the_verdict_says_what_was_split_and_leaves_out_what_was_not_tested():
    bad = rel.verdict(0.4, asked_again=False, of="prompts")
    assert bad.warning == rel.UNRELIABLE + "two halves of the prompts disagree (reliability 0.40; at least 0.7 is needed)"
    assert rel.verdict(0.9, asked_again=False).warning == ""
    assert "undefined: too few;" in rel.verdict(None, asked_again=False, undefined="too few").warning


def test_many_circle_fits_equal_the_single_one():
    rng, names = np.random.default_rng(0), list(circle.POSITIONS)
    rows = rng.normal(size=(5, 10))
    want = [circle.sinusoid(dict(zip(names, row))).r2 for row in rows]
    assert circle.fits(rows, circle.angles(names)) == pytest.approx(want)
    assert np.isnan(circle.fits(np.ones((1, 10)), circle.angles(names))).all()
    many = circle.fits(rng.normal(size=(20000, 10)), circle.angles(names))
    assert many.mean() == pytest.approx(2 / 9, abs=0.005), "the null that is printed beside"
