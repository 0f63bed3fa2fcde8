"""Value theories: the circle of the ten values, names, and what a broken theory file is told."""

from __future__ import annotations

import numpy as np
import pytest

from valign.errors import DataError, UsageError, ValignError
from valign.goals.targets import named_target, named_targets, weight_vector
from valign.goals.theory import load_theory, theories

SCHWARTZ = load_theory("schwartz10")
OWN = {"id": "own", "dimensions": [{"id": "A", "name": "calm", "definition": "being calm"}]}


def test_the_ten_values_stand_in_vector_order():
    assert SCHWARTZ.ids == ("SD", "ST", "HE", "AC", "PO", "SE", "TR", "CO", "BE", "UN")
    assert all(x.definition and x.toward and x.away and x.groups for x in SCHWARTZ.dimensions)


def test_circle():
    """Nine wedges of 40 degrees, tradition and conformity in one; opposites are over 90 degrees apart."""
    angles = sorted(set(SCHWARTZ.angles.values()))
    assert angles == [40.0 * k for k in range(9)] and SCHWARTZ.angles["TR"] == SCHWARTZ.angles["CO"]
    s = SCHWARTZ.similarity()
    assert np.allclose(s, s.T) and np.allclose(np.diag(s), 1)
    for one, other in SCHWARTZ.opposites:
        assert all(s[SCHWARTZ.index(a), SCHWARTZ.index(b)] < 0 for a in one for b in other)


@pytest.mark.parametrize("name", ["SD", "self-direction", "Self_Direction", "self direction"])
def test_names_in_every_spelling(name):
    assert SCHWARTZ.index(name) == 0


def test_unknown_dimension_suggests():
    with pytest.raises(UsageError, match="benevolence"):
        SCHWARTZ.vector({"benevolance": 1})


@pytest.mark.parametrize("value", [1.5, -2, float("nan"), "much", True, None])
def test_values_out_of_range_are_refused(value):
    with pytest.raises(ValignError, match="power"):
        SCHWARTZ.vector({"power": value})


def test_one_dimension_under_two_names_is_refused():
    with pytest.raises(ValignError, match="another name of PO"):
        SCHWARTZ.vector({"power": 1, "PO": 1})


def test_own_theory(tmp_path):
    """A theory from a mapping or a file; without a circle, similarity is 1 within a group and 0 across."""
    import yaml

    theory = load_theory(OWN)
    assert theory.similarity().tolist() == [[1.0]]
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(OWN))
    assert load_theory(path) == theory
    assert load_theory(theory.to_json()) == theory


def test_every_shipped_theory_round_trips():
    for name in theories():
        theory = load_theory(name)
        assert load_theory(theory.to_json()).fingerprint() == theory.fingerprint()
        assert theory.source and theory.wording == "own"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"structure": "circel"}, "circle"),
        ({"structure": "circle"}, "no angle"),
        ({"dimension": []}, "dimensions"),
        ({"dimensions": []}, "dimensions"),
        ({"dimensions": [{"id": "A", "name": "a"}]}, "definition"),
        ({"dimensions": [*OWN["dimensions"], *OWN["dimensions"]]}, "used once"),
        ({"opposites": [{"one": ["B"], "other": ["A"]}]}, "unknown dimension"),
        ({"range": [0]}, "2 numbers"),
    ],
)
def test_broken_theories(change, words):
    with pytest.raises(ValignError, match=words):
        load_theory({**OWN, **change})


def test_unknown_theory():
    with pytest.raises(UsageError, match="schwartz10"):
        load_theory("schwarz10")


@pytest.mark.capability("G07")
def test_targets_have_sources():
    """National and ideal vectors load with source and licence, and lie in their theory's range."""
    assert {"ideal_a", "ideal_b", "uk", "nl", "fr", "hhh_like"} <= set(named_targets())
    for target in named_targets().values():
        assert target.source and target.licence
        assert len(target.values) == len(load_theory(target.theory).vector(target.values))


def test_unknown_target_suggests():
    with pytest.raises(UsageError, match="ideal_a"):
        named_target("ideal")


def test_weights():
    """A dimension that is not written is no target; one written as 0 is."""
    written = {"BE": 1, "HE": 0, "PO": -0.5}
    assert weight_vector(SCHWARTZ, written, "named").tolist() == [0, 0, 1, 0, 1, 0, 0, 0, 1, 0]
    assert weight_vector(SCHWARTZ, written, "abs_target").tolist() == [0, 0, 0, 0, 0.5, 0, 0, 0, 1, 0]
    assert weight_vector(SCHWARTZ, written, "ones").tolist() == [1] * 10
    assert weight_vector(SCHWARTZ, written, {"power": 2}).tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("weights", [[1, 2], [0] * 10, [-1] + [1] * 9, "equal", [float("nan")] * 10])
def test_bad_weights(weights):
    with pytest.raises(ValignError, match="weights"):
        weight_vector(SCHWARTZ, {"BE": 1}, weights)


def test_a_file_that_is_no_theory(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("- 1\n")
    with pytest.raises(DataError, match="one mapping"):
        load_theory(path)
