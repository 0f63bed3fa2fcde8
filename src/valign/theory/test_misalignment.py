"""M1, M2, order agreement and their bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valign.theory import misalignment as mis
from valign.theory.worlds import SequenceWorld, TabularWorld

WORLDS = [TabularWorld(), SequenceWorld()]


def brute_m1(u, v, w, same=True):
    gap = np.abs((u[:, None] - u) - (v[:, None] - v))
    pair = np.outer(w, w) * (1 if same else 1 - np.eye(len(u)))
    return np.sum(pair * gap) / pair.sum()


@pytest.mark.capability("F01")
@pytest.mark.parametrize("world", WORLDS)
def test_m1_on_the_oracle_worlds(world):
    """0 exactly when all pairs agree in difference; unchanged by c(x); at most 2 min_c M2(U_A + c)."""
    human, law = world.utilities, world.reference_table()
    shift = np.linspace(-3, 3, world.shape[0])[:, None]
    assert np.max(mis.m1(human, human + shift, law)) < 1e-12
    for agent in (world.proxies, 0.5 * world.log_reference, -human, 2 * human):
        m1 = mis.m1(human, agent, law)
        assert np.all(m1 > 1e-3)
        assert np.max(np.abs(m1 - mis.m1(human, agent + shift, law))) < 1e-12
        assert np.all(m1 <= mis.m1_bound(human, agent, law) + 1e-12)


@pytest.mark.capability("F01")
def test_one_disagreeing_pair_is_seen():
    """Not zero as soon as one response of positive mass disagrees in difference."""
    world = WORLDS[0]
    agent = world.utilities.copy()
    agent[2, 5] += 1e-3
    m1 = mis.m1(world.utilities, agent, world.reference_table())
    assert m1[2] > 1e-5 and np.max(np.delete(m1, 2)) < 1e-15


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_sorted_forms_equal_the_pairwise_definition(n, seed):
    rng = np.random.default_rng(seed)
    u, v, w = np.round(2 * rng.normal(size=n)), np.round(2 * rng.normal(size=n)), rng.dirichlet(np.ones(n))
    assert mis.m1(u, v, w) == pytest.approx(brute_m1(u, v, w), abs=1e-12)
    assert mis.m1(u, v, same=False) == pytest.approx(brute_m1(u, v, np.full(n, 1 / n), False), abs=1e-12)
    du, dv = np.sign(u[:, None] - u), np.sign(v[:, None] - v)
    pair = np.outer(w, w) * (du != 0)
    if pair.sum() > 0:
        expected = np.sum(pair * (0.5 + 0.5 * du * dv)) / pair.sum()
        assert mis.order_agreement(u, v, w) == pytest.approx(expected, abs=1e-12)
    else:
        assert np.isnan(mis.order_agreement(u, v, w))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_scaled_m1_is_the_weighted_median_of_ratios(seed):
    rng = np.random.default_rng(seed)
    u, v, w = rng.normal(size=7), rng.normal(size=7), rng.dirichlet(np.ones(7))
    i, j = np.triu_indices(7, 1)
    du, dv = u[i] - u[j], v[i] - v[j]
    candidates = np.append(
        np.maximum(du / dv, 0), 0
    )  # the minimum of a convex piecewise linear function is at a kink
    values = [brute_m1(u, a * v, w) for a in candidates]
    found, scale = mis.m1_scaled(u, v, w)
    assert found == pytest.approx(min(values), abs=1e-10)
    assert brute_m1(u, scale * v, w) == pytest.approx(found, abs=1e-10)


def test_scaling_is_forgiven_only_by_the_scaled_form():
    human = WORLDS[0].utilities
    value, scale = mis.m1_scaled(human, 4 * human)
    assert value < 1e-12 and scale == pytest.approx(0.25)
    assert mis.m1(human, 4 * human).mean() > 1
    assert mis.m1_scaled(human, -human)[1] == 0  # a negative scale is not allowed to turn the order around


def test_order_agreement_conventions():
    assert mis.order_agreement([0, 1, 2], [0, 1, 2]) == 1
    assert mis.order_agreement([0, 1, 2], [2, 1, 0]) == pytest.approx(0, abs=1e-15)
    assert mis.order_agreement([0, 1, 2], [5, 5, 5]) == 0.5
    assert mis.order_agreement([0, 0, 1], [0, 7, 9]) == 1  # pairs the human does not order are left out
    assert np.isnan(mis.order_agreement([1, 1], [0, 1]))
    assert mis.kendall_tau([0, 1, 2, 3], [0, 1, 3, 2]) == pytest.approx(4 / 6)
    two_prompts = np.tile([0, 1, 2], (2, 1))
    assert mis.kendall_tau(two_prompts, two_prompts) == pytest.approx([1, 1])


def test_regret_and_kl_bounds_are_reached():
    human, agent = np.array([1.0, 0.0]), np.array([0.0, 0.5])
    assert mis.regret(human, agent) == 1 and mis.regret_bound(human, agent) == 1.5
    assert mis.kl_bound(human, agent, 0.5) == 3


def test_the_estimator_is_unbiased_over_samples():
    """Mean of the n = 4 estimator over 4000 samples equals the exact M1 within 4 standard errors."""
    world, rng = WORLDS[0], np.random.default_rng(0)
    picks = rng.choice(8, size=(4000, 4), p=world.reference_table()[1])
    values = mis.m1(world.utilities[1][picks], world.proxies[1][picks], same=False)
    exact = mis.m1(world.utilities[1], world.proxies[1], world.reference_table()[1])
    assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(4000)


def test_measure_names_its_law_and_brackets_its_value():
    world = WORLDS[0]
    out = mis.measure(world.utilities, world.proxies, world.reference_table(), law_name="reference")
    assert set(out) == {"m1", "m1_scaled", "m2", "misalignment", "kendall_tau"}
    assert out["m1"].name == "m1[reference]" and out["m1"].prompts == 4
    assert out["m1"].value == pytest.approx(0.329844, abs=1e-6)
    assert all(m.low <= m.value <= m.high for m in out.values())
    assert out["m1_scaled"].value <= out["m1"].value
