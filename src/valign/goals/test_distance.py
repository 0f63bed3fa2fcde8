"""Distances of value space: golden numbers, and the properties their names promise."""

from __future__ import annotations

import numpy as np
import pytest

from valign.goals import distance as d
from valign.goals.targets import named_target
from valign.goals.theory import load_theory

SCHWARTZ = load_theory("schwartz10")
SCORES = [0.1, -2, 0, 0.5, 0.4, -1.2, 0, 0.31, 2, 0.2]
V = np.tanh(SCORES)
ONES = np.ones(10)


def target(name: str) -> np.ndarray:
    return SCHWARTZ.vector(named_target(name).values)


@pytest.mark.parametrize("name", ["fulcra.basealign", "fulcra.national_target"])
def test_goldens_of_the_fixture(golden, name):
    """Every number of the two FULCRA goldens, which this code did not make."""
    case = golden(name)
    t, want = np.array(case["inputs"]["target"], float), case["expected"]
    v = np.tanh(case["inputs"]["scores"])
    assert np.allclose(v, want["v"], atol=1e-9)
    assert d.basealign(v, t) == pytest.approx(want["distance"], abs=1e-9)
    assert d.basealign_parts(v, t).sum() == pytest.approx(want["reward"], abs=1e-9)
    for key, w in (("profile_w1", ONES), ("profile_w_target", np.abs(t))):
        assert d.alignment(v, t, w) == pytest.approx(want[key]["alignment"], abs=1e-9)
        assert d.neutral_alignment(t, w) == pytest.approx(want[key]["neutral"], abs=1e-9)
        assert d.chance_corrected(v, t, w) == pytest.approx(want[key]["chance_corrected"], abs=1e-9)
    silence = np.zeros(10)
    assert d.basealign(silence, t) == want["silence_distance"]
    assert d.chance_corrected(silence, t, ONES) == pytest.approx(0)
    if "opposite_alignment_full_target" in want:
        full = np.array([1.0, -1] * 5)
        assert d.alignment(-full, full, ONES) == pytest.approx(want["opposite_alignment_full_target"])


@pytest.mark.capability("G07")
@pytest.mark.parametrize(
    ("name", "basealign", "profile"),
    [
        ("ideal_a", 3.107073, 0.383084),
        ("uk", 1.071347, 0.312638),
        ("nl", 0.856223, 0.294595),
        ("fr", 1.097227, 0.311294),
    ],
)
def test_goldens_of_named_targets(name, basealign, profile):
    """The numbers of goals notes section 4, with the targets that ship."""
    t = target(name)
    assert d.basealign(V, t) == pytest.approx(basealign, abs=1e-6)
    assert d.profile(V, t, ONES) == pytest.approx(profile, abs=1e-6)


def test_profile_weighted_by_target():
    assert d.profile(V, target("ideal_a"), np.abs(target("ideal_a"))) == pytest.approx(0.489208, abs=1e-6)


def test_profile_ends():
    """0 on the target, 1 at the opposite pole; the parts sum to -D, and to 0 on the target."""
    t = np.array([1.0, -1, 1])
    assert d.profile(t, t, np.ones(3)) == 0
    assert d.profile(-t, t, np.ones(3)) == pytest.approx(1)
    assert (d.profile_parts(t, t, np.ones(3)) == 0).all()


@pytest.mark.parametrize("shape", [(10,), (4, 10), (2, 3, 10)])
def test_parts_sum_to_the_reward(shape):
    v = np.random.default_rng(0).uniform(-1, 1, shape)
    t, w = target("uk"), np.abs(target("fr"))
    assert np.allclose(d.profile_parts(v, t, w).sum(-1), -d.profile(v, t, w))
    assert np.allclose(d.basealign_parts(v, t).sum(-1), -d.basealign(v, t))
    assert np.allclose(d.direction_parts(v, t, w).sum(-1), d.direction(v, t, w))


def test_unknown_values_stay_unknown():
    """NaN in v is NaN in every number, never 0."""
    v = np.full(10, np.nan)
    t = target("uk")
    numbers = [d.basealign(v, t), d.profile(v, t, ONES), d.direction(v, t, ONES), d.cosine(v, t), d.silent(v)]
    assert np.isnan(numbers).all()
    assert np.isnan(d.profile_parts(v, t, ONES)).all()


def test_silence_pays_in_basealign_only():
    """The fault of the published form: a text without values is best paid; `silent` counts such texts."""
    t = target("ideal_a")
    quiet, good = np.full(10, 0.2), np.where(t > 0, 0.8, 0)
    assert d.basealign(quiet, t) < d.basealign(good, t)
    assert d.profile(quiet, t, ONES) > d.profile(good, t, ONES)
    assert d.silent(np.stack([quiet, good])).tolist() == [1, 0]


def test_cosines():
    """Scale does not matter, a zero vector has no direction, and the circle lends near values their
    neighbours' pull.
    """
    t = SCHWARTZ.vector({"BE": 1})
    assert d.cosine(3 * t, t) == pytest.approx(1)
    assert d.cosine(-t, t) == pytest.approx(-1)
    assert np.isnan(d.cosine(0 * t, t))
    s = SCHWARTZ.similarity()
    neighbour, opposed = SCHWARTZ.vector({"UN": 1}), SCHWARTZ.vector({"AC": 1})
    assert d.cosine(neighbour, t) == 0
    assert d.circle_cosine(neighbour, t, s) == pytest.approx(np.cos(np.radians(40)))
    assert d.circle_cosine(opposed, t, s) == pytest.approx(np.cos(np.radians(160)))
    assert d.circle_product(neighbour, t, s) == pytest.approx(np.cos(np.radians(40)))


def test_chance_correction_of_a_neutral_target_is_undefined():
    assert np.isnan(d.chance_corrected(V, np.zeros(10), ONES))
