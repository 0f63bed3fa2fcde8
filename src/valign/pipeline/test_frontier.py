"""The reference curves of the reward-KL plane: nothing lies above the enumerated optimum."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from valign.pipeline.frontier import best_of_n_curve, gibbs_curve
from valign.theory.best_of_n import best_of_n_law
from valign.theory.divergence import kl
from valign.theory.worlds.tabular import TabularWorld

REFERENCE = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
REWARD = np.array([[0.0, 1.0, 2.0], [1.0, -1.0, 0.5]])


def height(curve: list[list[float]], x: float) -> float:
    xs, ys = np.array(curve).T
    return float(np.interp(x, xs, ys))


def test_gibbs_points_are_the_formula():
    """At β = 1, by hand: π ∝ π_ref e^r."""
    (start, point) = gibbs_curve(REFERENCE, REWARD, betas=[1.0])["points"]
    law = REFERENCE * np.exp(REWARD)
    law /= law.sum(1, keepdims=True)
    assert start == [0.0, pytest.approx((REFERENCE * REWARD).sum(1).mean())]
    assert point[0] == pytest.approx((law * np.log(law / REFERENCE)).sum(1).mean())
    assert point[1] == pytest.approx((law * REWARD).sum(1).mean())


def test_no_policy_has_more_reward_at_its_distance():
    """Concave and rising, and random policies of one prompt lie below it (a prompt's KL budget is then the whole one)."""
    p, r = REFERENCE[:1], REWARD[:1]
    curve = gibbs_curve(p, r, betas=tuple(np.geomspace(200, 0.02, 400)))["points"]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(curve) if b[0] - a[0] > 1e-6]
    assert all(a >= b - 1e-6 for a, b in itertools.pairwise(slopes)) and slopes[-1] > 0
    rng = np.random.default_rng(0)
    for law in rng.dirichlet(np.ones(3), 300):
        x = float(kl(law, p[0]))
        if x < curve[-1][0]:
            assert float(law @ r[0]) <= height(curve, x) + 1e-4


def test_best_of_n_lies_below_the_optimum_of_the_oracle_world():
    world = TabularWorld()
    reference, reward = world.reference_table()[:1], world.utilities[:1]
    curve = gibbs_curve(reference, reward)["points"]
    for n in (2, 4, 8, 16):
        law = np.asarray(best_of_n_law(reference, reward, n))
        x, y = float(kl(law, reference)[0]), float((law * reward).sum())
        assert y <= height(curve, x) + 1e-3


def test_best_of_n_curve_of_scored_samples():
    """Two prompts of three scores, by hand: the best of all pairs, then of all three."""
    samples = [{"responses": [{"score": s} for s in row]} for row in ([0.0, 1.0, 2.0], [3.0, 3.0, 0.0])]
    curve = best_of_n_curve(samples)
    assert curve is not None
    assert [x for x, _ in curve["points"]] == pytest.approx([0.0, math.log(2) - 0.5, math.log(3) - 2 / 3])
    pairs = [np.mean([max(a, b) for a, b in itertools.combinations(row, 2)]) for row in ([0, 1, 2], [3, 3, 0])]
    assert [y for _, y in curve["points"]] == pytest.approx([1.5, np.mean(pairs), 2.5])
    assert best_of_n_curve([{"responses": [{"score": 1.0}]}]) is None and best_of_n_curve([]) is None
