"""Rates with judge error: goldens, and simulated truth that the corrections must cover."""

from __future__ import annotations

import numpy as np
import pytest

from valign.errors import ValignError
from valign.evaluation.metrics.rates import ppi, rogan_gladen, toxicity


def test_rogan_gladen_golden(evaluation_golden):
    g = evaluation_golden("rate.rogan_gladen")
    i = g.inputs
    found = rogan_gladen(i["apparent"], i["n"], i["sensitivity"], i["specificity"], i["n_pos"], i["n_neg"])
    g.check({"rate": found.rate, "se": found.se})


def test_ppi_golden(evaluation_golden):
    g = evaluation_golden("rate.ppi")
    g.check(ppi(**g.inputs)._asdict())


def test_toxicity_golden(evaluation_golden):
    g = evaluation_golden("rate.toxicity")
    g.check(toxicity(g.inputs["scores"], g.inputs["threshold"])._asdict())


def test_a_perfect_judge_needs_no_correction():
    found = rogan_gladen(0.3, 400, 1.0, 1.0, 50, 50)
    assert found.rate == pytest.approx(0.3) and found.se == pytest.approx(np.sqrt(0.3 * 0.7 / 400))


def test_the_raw_rate_stays_visible_and_the_clip_is_apart():
    found = rogan_gladen(0.01, 100, 0.9, 0.9, 50, 50)
    assert found.rate < 0 and found.clipped == 0.0


def test_a_judge_that_knows_nothing_is_refused():
    with pytest.raises(ValignError, match="hardly tells"):
        rogan_gladen(0.5, 100, 0.55, 0.5, 50, 50)
    with pytest.raises(ValignError, match="share"):
        rogan_gladen(1.5, 100, 0.9, 0.9, 50, 50)
    with pytest.raises(ValignError, match="one label per"):
        ppi([1, 0, 1], [1, 0], [1, 0, 1])
    with pytest.raises(ValignError, match="prompts, k"):
        toxicity([0.1, 0.2])


def test_corrections_cover_the_truth_where_the_share_does_not():
    """800 worlds, rate .2, judge 85 % / 90 %: both 95 % intervals cover in 93-97 %; the judge's own share in under half."""
    rng, truth, n, labelled, runs = np.random.default_rng(0), 0.2, 1000, 200, 800
    rg = tuned = naive = 0
    for _ in range(runs):
        y = rng.random(n) < truth
        f = np.where(y, rng.random(n) < 0.85, rng.random(n) < 0.1)
        seen, known = y[:labelled], f[:labelled]
        sens, spec = rng.binomial(80, 0.85) / 80, rng.binomial(120, 0.9) / 120  # a calibration set of its own
        found = rogan_gladen(f.mean(), n, sens, spec, 80, 120)
        rg += abs(found.rate - truth) <= 1.96 * found.se
        low, high = ppi(f[labelled:], known, seen).interval()
        tuned += low <= truth <= high
        naive += abs(f.mean() - truth) <= 1.96 * np.sqrt(f.mean() * (1 - f.mean()) / n)
    assert 0.93 <= tuned / runs <= 0.97 and 0.93 <= rg / runs <= 0.97, (rg, tuned)
    assert naive / runs < 0.5


def test_human_labels_never_count_less_with_a_judge_beside_them():
    """λ is chosen for least variance, so a useless judge gets weight near 0 and a good one narrows the interval."""
    rng = np.random.default_rng(1)
    y = rng.random(300) < 0.4
    noise, good = rng.random(3000) < 0.5, np.where(rng.random(300) < 0.95, y, ~y)
    useless = ppi(noise[300:], noise[:300], y)
    assert useless.lambda_ < 0.1 and useless.tuned_se <= useless.classical_se * 1.001
    sharp = ppi(rng.random(3000) < 0.41, good, y)
    assert sharp.tuned_se < 0.75 * sharp.classical_se and 0.7 < sharp.lambda_ < 0.9
