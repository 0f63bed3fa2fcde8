"""Plans before a run: goldens, pilots of known spread, and a planned run that finds what it was planned for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from valign.errors import ValignError
from valign.evaluation.aggregate import summarize
from valign.evaluation.planning import (
    Options,
    Spread,
    design_effect,
    found_with,
    items_for,
    pilot_of,
    samples_that_pay,
    spread_of_shares,
)
from valign.evaluation.result import Item


def result(scores, subject="a", clusters=None, ids=None):
    ids = ids or [f"i{k}" for k in range(len(scores))]
    rows = [Item(i, c, float(s)) for i, c, s in zip(ids, clusters or ids, scores)]
    return summarize(rows, metric="m", variant="v", subject=subject, level="value")


def test_power_golden_by_the_planner(evaluation_golden):
    g = evaluation_golden("stats.power")
    i = g.inputs
    spread = Spread(i["omega2"], i["sigma2_a"] + i["sigma2_b"])
    options = Options(i["alpha"], i["power"])
    g.check(items_for(i["delta"], spread, i["k"], options), "n_needed_ceil")
    g.check(found_with(i["n"], spread_of_shares(i["p"], i["rho"]), options=options), "mde")


def test_items_and_detectable_difference_are_inverse():
    spread = Spread(0.1, 0.2, 1.7)
    for n in (50, 800):
        delta = found_with(n, spread, 3)
        assert items_for(delta, spread, 3) == n
    assert items_for(0.05, spread, options=Options(tests=10)) > items_for(0.05, spread)
    assert items_for(0.05, Spread(0.1, 0, design_effect(5, 0.25))) == items_for(0.05, Spread(0.1 * 2))


def test_more_samples_pay_until_noise_is_a_tenth():
    assert samples_that_pay(Spread(0.1)) == 1 and samples_that_pay(Spread(0.1, 0.2)) == 20
    assert samples_that_pay(Spread(0.0, 1.0)) == 0


def test_a_pilot_of_samples_tells_noise_from_spread():
    """400 prompts, true differences of variance .04, noise .09 of each model, K = 4: both are found again."""
    rng, n, k = np.random.default_rng(0), 400, 4
    true = rng.normal(0.1, 0.2, n)
    ids = [f"p{i}#{j}" for i in range(n) for j in range(k)]
    prompts = [f"p{i}" for i in range(n) for _ in range(k)]
    a = result((true[:, None] + rng.normal(0, 0.3, (n, k))).ravel(), "a", prompts, ids)
    b = result(rng.normal(0, 0.3, (n, k)).ravel(), "b", prompts, ids)
    spread = pilot_of(a, b)
    assert spread.between == pytest.approx(0.04, rel=0.2) and spread.noise == pytest.approx(0.18, rel=0.1)
    assert spread.design == pytest.approx(1, abs=1e-9) and "4 samples" in spread.origin


def test_a_pilot_of_clusters_shows_their_design_effect():
    rng, c, m = np.random.default_rng(1), 200, 5
    shared = np.repeat(rng.normal(0, 1, c), m)  # icc = 1/2
    names = [f"c{i // m}" for i in range(c * m)]
    a, b = result(shared + rng.normal(0, 1, c * m), "a", names), result(np.zeros(c * m), "b", names)
    spread = pilot_of(a, b)
    assert spread.design == pytest.approx(1 + (m - 1) / 2, rel=0.2)
    assert f"{c} clusters" in spread.origin


def test_a_planned_run_finds_what_it_was_planned_for():
    """Plan from a pilot, run the plan 400 times: the planned difference is found in 80 % ± 3 SE."""
    from valign.evaluation.statistics import paired_t

    rng = np.random.default_rng(2)
    pilot = rng.normal(0.0, 0.5, 4000)
    spread = pilot_of(result(pilot), result(np.zeros(4000), "b"))
    n = items_for(0.08, spread)
    found = 0
    for _ in range(400):
        e = paired_t(rng.normal(0.08, 0.5, n), np.zeros(n))
        found += e.low > 0
    assert abs(found / 400 - 0.8) < 3 * math.sqrt(0.16 / 400), found


def test_impossible_plans_are_refused():
    same = result([1, 0, 1, 1])
    with pytest.raises(ValignError, match="never differ"):
        pilot_of(same, result([1, 0, 1, 1], "b"))
    for wrong in (lambda: items_for(0, Spread(1.0)), lambda: items_for(0.1, Spread(1.0), 0), lambda: Spread(-1.0),
                  lambda: Spread(0.0), lambda: found_with(1, Spread(1.0)), lambda: spread_of_shares(1.0, 0.5),
                  lambda: design_effect(0, 0.1), lambda: items_for(0.1, Spread(1.0), 1, Options(power=1.0))):  # fmt: skip
        with pytest.raises(ValignError):
            wrong()
