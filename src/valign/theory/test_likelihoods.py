"""Likelihoods of feedback are laws, stay finite, and give back the utility they were drawn from."""

import json
from pathlib import Path

import numpy as np
import pytest

from valign.theory import likelihoods as lik
from valign.theory.laws import sigmoid

ITEMS = 5
TRUE = np.array([1.0, 0.4, 0.0, -0.5, -0.9])
SIZES = (250, 1000, 4000, 16000)
REPEATS = 24


def draw(model, n, rng):
    if model == "plackett_luce":
        lists = np.argsort(rng.random((n, ITEMS)), axis=1)[:, :3]
        order = np.argsort(-(TRUE[lists] + rng.gumbel(size=lists.shape)), axis=1)
        return lik.fit_plackett_luce(np.take_along_axis(lists, order, 1), ITEMS)
    i = rng.integers(0, ITEMS, n)
    j = (i + rng.integers(1, ITEMS, n)) % ITEMS
    margin = TRUE[i] - TRUE[j]
    if model == "bradley_terry":
        wins = rng.random(n) < sigmoid(margin)
        return lik.fit_bradley_terry(np.where(wins, i, j), np.where(wins, j, i), ITEMS)
    wins = margin + np.sqrt(2) * rng.normal(size=n) > 0  # the generating story, not the formula under test
    return lik.fit_thurstone(np.where(wins, i, j), np.where(wins, j, i), ITEMS)


@pytest.mark.capability("F03")
@pytest.mark.parametrize("model", ["bradley_terry", "plackett_luce", "thurstone"])
def test_utilities_are_recovered_with_error_like_the_square_root_of_n(model):
    """Slope of log error against log n within .12 of -1/2 (24 repeats: its standard error is .023)."""
    rng = np.random.default_rng(7)
    errors = []
    for n in SIZES:
        fits = np.array([draw(model, n, rng) for _ in range(REPEATS)])
        errors.append(np.sqrt(np.mean((fits - TRUE) ** 2)))
        bias = np.abs(fits.mean(0) - TRUE).max()
    slope = np.polyfit(np.log(SIZES), np.log(errors), 1)[0]
    assert abs(slope + 0.5) < 0.12
    assert errors[-1] < 0.05 and bias < 0.03


@pytest.mark.capability("F03")
def test_the_wrong_model_is_biased():
    """Thurstone labels fitted by Bradley-Terry keep the order and miss the scale: recovery can fail."""
    rng = np.random.default_rng(0)
    i = rng.integers(0, ITEMS, 60000)
    j = (i + rng.integers(1, ITEMS, 60000)) % ITEMS
    wins = TRUE[i] - TRUE[j] + np.sqrt(2) * rng.normal(size=60000) > 0
    fit = lik.fit_bradley_terry(np.where(wins, i, j), np.where(wins, j, i), ITEMS)
    assert np.all(np.diff(fit) < 0) and np.abs(fit - TRUE).max() > 0.08


def test_known_values():
    assert np.exp(lik.thurstone(1.0)) == pytest.approx(0.760250, abs=1e-6)
    assert np.exp(lik.bradley_terry(1.0, temperature=0.5)) == pytest.approx(1 / (1 + np.exp(-2)))
    assert np.exp(lik.davidson(1.0, 0.0, 2.0)) == pytest.approx(
        np.array([np.e, 1, 2 * np.exp(0.5)]) / (np.e + 1 + 2 * np.exp(0.5))
    )
    assert np.exp(lik.best_of_k([2.0, 1.0, 0.0])) == pytest.approx(np.exp(2) / (np.exp(2) + np.e + 1))
    assert -lik.plackett_luce([2.0, 1.0, 0.0]) == pytest.approx(0.720867, abs=1e-6)
    assert np.exp(lik.ordered_logit(0.3, [-1.0, 0.0, 2.0])).sum() == pytest.approx(1)
    assert np.exp(lik.ordered_logit([0.0, 9.0], [-1.0, 0.0]))[:, 2] == pytest.approx(sigmoid([0.0, 9.0]))
    assert lik.gaussian_score(1.0, 1.0, 0.5) == pytest.approx(-np.log(0.5 * np.sqrt(2 * np.pi)))
    assert lik.good_label(2.0, 2.0) == pytest.approx(-np.log(2)) and lik.verdict(0.0) == pytest.approx(
        -np.log(2)
    )
    assert lik.regret_preference([1.0, 1.0], [1.0], gamma=0.5) == pytest.approx(np.log(sigmoid(0.5)))
    assert lik.noisy(0.9, 0.1, "uniform") == pytest.approx(0.86) and lik.noisy(
        0.9, 0.1, "flip"
    ) == pytest.approx(0.82)
    assert np.exp(lik.demonstration(np.log([0.5, 0.5]), [0.0, 1.0], 0.5)) == pytest.approx(
        sigmoid([-2.0, 2.0])
    )


def test_nothing_overflows_at_any_margin():
    for value in (
        lik.bradley_terry([-1e4, 1e4]),
        lik.thurstone([-100.0, 100.0]),
        lik.davidson(-800.0, 800.0, 1.0),
    ):
        assert np.all(np.isfinite(value))
    assert lik.reward_bt_loss(-100.0, 0.0) == pytest.approx(100)


def test_reward_goldens():
    root = next(
        p
        for p in Path(__file__).resolve().parents
        if (p / "tests" / "fixtures" / "loss_goldens.json").exists()
    )
    document = json.loads((root / "tests" / "fixtures" / "loss_goldens.json").read_text(encoding="utf-8"))
    case = next(g for g in document["goldens"] if g["id"] == "reward_bt")
    arguments = case["inputs"]["r_chosen"], case["inputs"]["r_rejected"], case["inputs"]["margin"]
    assert lik.reward_bt_loss(*arguments) == pytest.approx(case["expected"]["loss"], rel=1e-9)
    assert lik.reward_bt_gradient(*arguments) == pytest.approx(case["expected"]["grad_chosen"], rel=1e-9)


def test_excess_risk_is_zero_only_up_to_a_constant():
    assert lik.bt_excess_risk(TRUE, TRUE + 3) == pytest.approx(0, abs=1e-15)
    assert lik.bt_excess_risk(TRUE, 2 * TRUE) > 1e-3


def test_bad_settings_are_refused():
    for bad in (
        lambda: lik.davidson(0.0, 0.0, -1.0),
        lambda: lik.noisy(0.5, 1.5, "flip"),
        lambda: lik.noisy(0.5, 0.1, "other"),
        lambda: lik.ordered_logit(0.0, [1.0, 0.0]),
    ):
        with pytest.raises(ValueError):
            bad()
