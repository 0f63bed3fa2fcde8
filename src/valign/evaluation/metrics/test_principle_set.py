"""Agreement and the quality of principle sets, by golden numbers and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from valign.evaluation.metrics.agreement import METRICS, krippendorff
from valign.evaluation.metrics.principle_set import by_priority, compatibility, comprehensiveness, precision


def units(golden: dict) -> np.ndarray:
    return np.array([[np.nan if x is None else x for x in row] for row in golden["inputs"]["units"]], float)


def test_krippendorff_golden(golden):
    """The textbook data with four raters and missing ratings, under all four metrics."""
    g = golden("agreement.krippendorff_c")
    for metric in METRICS:
        assert krippendorff(units(g), metric) == pytest.approx(g["expected"][metric], abs=1e-9)


def test_alpha_without_one_rater_golden(golden):
    g = golden("agreement.alpha_if_removed")
    x = units(g)
    found = [krippendorff(np.delete(x, k, axis=1)) for k in range(x.shape[1])]
    assert found == pytest.approx(g["expected"]["nominal"], abs=1e-9)


def test_alpha_has_no_value_where_nothing_can_disagree():
    assert krippendorff([[1, 1], [1, 1]]) is None and krippendorff([[1, np.nan]]) is None
    rng = np.random.default_rng(0)
    assert abs(krippendorff(rng.integers(0, 3, (4000, 3)))) < 0.03  # chance


NONE = np.zeros((2, 2), bool)


def test_coverage_and_clashes_by_hand():
    """Three situations, two principles, one judge: the second situation is nobody's; in the third they clash."""
    applies = np.array([[[1.0, 0.0], [0.2, 0.4], [0.9, 0.8]]])
    verdicts = np.array([[[1.0, -1.0], [1.0, 1.0], [0.8, -0.9]]])
    assert comprehensiveness(applies, ["a", "b", "b"]) == {"all": pytest.approx(2 / 3), "a": 1.0, "b": 0.5}
    value, n, (clash,) = compatibility(applies, verdicts, NONE)
    assert (value, n) == (0.0, 1) and (clash.one, clash.other, clash.examples) == (0, 1, (2,))
    assert compatibility(applies, verdicts, by_priority([1, 2]))[0] == 1.0
    excepted = by_priority([1, 1], {0: np.array([False, False, True])}, 3)
    assert compatibility(applies, verdicts, excepted)[0] == 1.0
    assert compatibility(applies, verdicts, by_priority([1, 1], {0: np.array([True, False, False])}, 3))[0] == 0.0


def test_doubt_is_no_clash_and_the_unscored_enter_nothing():
    both = np.ones((1, 2, 2))
    verdicts = np.array([[[1.0, -0.2], [1.0, np.nan]]])
    assert compatibility(both, verdicts, NONE)[:2] == (1.0, 2)
    gone = np.full((1, 2, 2), np.nan)
    assert comprehensiveness(gone) == {"all": None} and precision(gone, gone) == [None, None]


def test_precision_by_hand():
    """Judges that agree have α 1; one that turns the others' verdicts round brings it below 0; never applied is None."""
    applies = np.stack([np.tile([1.0, 1.0, 0.0], (4, 1))] * 3)
    said = np.array([1.0, -1.0, 1.0, -1.0])
    verdicts = np.stack([np.stack([said, s * said, said], axis=1) for s in (1, 1, -1)])
    agreed, turned, unused = precision(applies, verdicts)
    assert agreed == 1.0 and turned < 0 and unused is None
