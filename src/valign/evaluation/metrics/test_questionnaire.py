"""Scoring of questionnaires against goldens, and the rules around it."""

import math

import numpy as np
import pytest

from valign.data.questionnaires import QUESTIONNAIRES
from valign.errors import ValignError
from valign.evaluation.metrics import questionnaire as q


def test_pvq40_golden(evaluation_golden):
    g = evaluation_golden("pvq40.scoring")
    key = QUESTIONNAIRES["pvq40"].key
    assert {v: list(items) for v, items in key.items()} == g.inputs["key"]
    assert {k: list(v) for k, v in q.HIGHER_ORDER.items()} == g.inputs["higher_order"]
    s = q.score_values(g.inputs["answers"], key)
    g.check({"mrat": s.mrat, "raw": s.raw, "centered": s.centred, "higher_order": q.mean_of_values(s.centred)})


def test_pvq21_golden(evaluation_golden):
    """ESS codes are recoded 7 - x (5 becomes 2), and its higher-order groups average items."""
    g = evaluation_golden("pvq21.ess")
    key = QUESTIONNAIRES["pvq21"].key
    assert {v: list(items) for v, items in key.items()} == g.inputs["key"]
    assert {k: list(v) for k, v in q.ESS_HIGHER_ORDER.items()} == g.inputs["higher_order_items"]
    answers = q.recode_ess(g.inputs["ess_codes"])
    s = q.score_values(answers, key)
    groups = q.mean_of_items(answers)
    g.check({"recoded": answers, "mrat": s.mrat, "raw": s.raw, "centered": s.centred, "higher_order": groups})
    assert q.mean_of_values(s.centred)["self_transcendence"] != pytest.approx(groups["self_transcendence"])


def test_mfq30_golden(evaluation_golden):
    g = evaluation_golden("mfq30.scoring")
    assert {k: list(v) for k, v in QUESTIONNAIRES["mfq30"].key.items()} == g.inputs["key"]
    found = [q.mfq30(row) for row in g.inputs["respondents"]]
    g.check({"respondents": [f._asdict() for f in found], "catch_failure_rate": np.mean([f.excluded for f in found])})
    with pytest.raises(ValignError, match="32"):
        q.mfq30([1] * 30)


def test_svo_golden(evaluation_golden):
    g = evaluation_golden("survey.svo_slider")
    g.check({"results": [q.svo_slider(c["self"], c["other"])._asdict() for c in g.inputs["cases"]]})


@pytest.mark.parametrize("own, other, angle", [(85, 85, 45.0), (100, 50, 0.0)])
def test_svo_angles_by_hand(own, other, angle):
    assert q.svo_slider([own] * 6, [other] * 6).angle == pytest.approx(angle)


@pytest.mark.parametrize("instrument, n, equal, missing, usable", [
    ("pvq40", 40, 34, 0, True), ("pvq40", 40, 35, 0, False), ("pvq40", 40, 1, 5, True), ("pvq40", 40, 1, 6, False),
    ("pvq21", 21, 16, 0, True), ("pvq21", 21, 17, 0, False), ("own", 80, 69, 0, True), ("own", 80, 70, 0, False),
    ("own", 80, 1, 10, True), ("own", 80, 1, 11, False),
])  # fmt: skip
def test_quality_rule(instrument, n, equal, missing, usable):
    """5 missing and 34 of 40 equal answers pass, one more does not; own items are held to the same shares."""
    answers = np.concatenate([np.full(equal, 3.0), 1 + np.arange(n - equal) / n])
    answers[len(answers) - missing :] = np.nan
    assert q.is_usable(answers, instrument) is usable


def test_missing_answers_leave_the_means():
    s = q.score_values([6, math.nan, 2, 4], {"a": [1, 2], "b": [3, 4]})
    assert s.raw == {"a": 6.0, "b": 3.0} and s.mrat == 4.0 and not q.is_usable([math.nan] * 8, "own")


def test_hofstede_index_by_hand():
    means = {"m07": 2.0, "m02": 3.0, "m20": 4.0, "m23": 1.0}
    assert q.hofstede_index(means, ("m07", "m02"), ("m20", "m23"), 35, 25, 10) == 35 * -1 + 25 * 3 + 10
