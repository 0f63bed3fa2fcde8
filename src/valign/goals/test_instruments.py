"""Questionnaire keys, social value orientation and rankings: the goldens, and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from valign.errors import DataError, UsageError
from valign.goals import load_goal, load_theory, svo
from valign.goals.ranking import kendall, kendall_parts, ranking_target

TEN = load_theory("schwartz10")
HOFSTEDE = load_theory("hofstede6")


def golden_rows(golden, name: str, instrument: str, answers: str, recode=lambda x: x):
    """(expected, raw scores, centred scores) by dimension."""
    case = golden(name)
    key = TEN.instrument(instrument)
    assert {d: list(items) for d, items in key.key.items()} == case["inputs"]["key"]
    table = recode(np.array(case["inputs"][answers], dtype=float))
    raw, centred = key.scores(table, TEN.ids)[0], key.centred(table, TEN.ids)[0]
    return case["expected"], dict(zip(TEN.ids, raw)), dict(zip(TEN.ids, centred))


def test_golden_of_the_40_items(golden):
    want, raw, centred = golden_rows(golden, "pvq40.scoring", "pvq40", "answers")
    assert raw == pytest.approx(want["raw"]) and centred == pytest.approx(want["centered"])


def test_golden_of_the_21_items(golden):
    """The European Social Survey's codes run the other way."""
    want, raw, centred = golden_rows(golden, "pvq21.ess", "pvq21", "ess_codes", lambda x: 7 - x)
    assert raw == pytest.approx(want["raw"]) and centred == pytest.approx(want["centered"])


def test_golden_of_the_foundations(golden):
    """The first respondent fails the catch items and is unscored, the second is scored as published."""
    case, theory = golden("mfq30.scoring"), load_theory("mft5")
    key = theory.instrument("mfq30")
    table = key.scores(case["inputs"]["respondents"], theory.ids)
    for row, want in zip(table, case["expected"]["respondents"], strict=True):
        if want["excluded"]:
            assert np.isnan(row).all()
        else:
            named = {"sanctity" if k == "purity" else k: v for k, v in want["foundations"].items()}
            assert dict(zip(theory.ids, row)) == pytest.approx(named)
    assert key.usable(case["inputs"]["respondents"]).mean() == 1 - case["expected"]["catch_failure_rate"]


def test_unusable_respondents_of_the_40_items():
    """Unscored: more than 5 missing, or 35 and more equal; at the limits a respondent is still scored."""
    key, plain = TEN.instrument("pvq40"), np.arange(40) % 6 + 1.0
    rows = np.stack([plain] * 4)
    rows[0, :5] = np.nan
    rows[1, :6] = np.nan
    rows[2, :34] = 4
    rows[2, 34:] = [1, 2, 3, 5, 6, 1]
    rows[3, :35] = 4
    rows[3, 35:] = [1, 2, 3, 5, 6]
    assert key.usable(rows).tolist() == [1, 0, 1, 0]
    assert np.isnan(key.scores(rows, TEN.ids)).all(1).tolist() == [False, True, False, True]


@pytest.mark.parametrize(("answers", "words"), [([1.0] * 39, "takes 40"), ([7.0] + [1.0] * 39, "not on the scale")])
def test_wrong_answers(answers, words):
    with pytest.raises(DataError, match=words):
        TEN.instrument("pvq40").scores(answers, TEN.ids)


# ------------------------------------------------------------------------------------------------- culture index


def test_index_of_a_population():
    """PDI = 35 (m07 - m02) + 25 (m20 - m23) + constant, from means of items; worked out by hand."""
    answers = np.full((20, 24), 3.0)
    answers[:, 6], answers[:10, 1], answers[:, 19] = 4, 1, 5  # m07 = 4, m02 = 2, m20 = 5, m23 = 3
    key = HOFSTEDE.instrument("vsm2013")
    index = key.index_scores(answers, HOFSTEDE.ids, {"PDI": -10})
    assert index[0] == pytest.approx(35 * (4 - 2) + 25 * (5 - 3) - 10)
    assert index[1:].tolist() == [0] * 5
    apart = index - key.index_scores(answers, HOFSTEDE.ids)
    assert apart.tolist() == [-10, 0, 0, 0, 0, 0]  # a constant moves all populations alike


def test_index_is_refused_for_persons():
    key = HOFSTEDE.instrument("vsm2013")
    with pytest.raises(DataError, match="populations, of 20"):
        key.index_scores(np.full((19, 24), 3.0), HOFSTEDE.ids)
    with pytest.raises(DataError, match="whole samples"):
        key.scores(np.full((1, 24), 3.0), HOFSTEDE.ids)
    with pytest.raises(UsageError, match="PDI"):
        key.index_scores(np.full((20, 24), 3.0), HOFSTEDE.ids, {"PDJ": 1})


# --------------------------------------------------------------------------------------- social value orientation


def test_golden_of_the_slider(golden):
    case = golden("survey.svo_slider")
    for given, want in zip(case["inputs"]["cases"], case["expected"]["results"], strict=True):
        degrees = svo.angle(given["self"], given["other"])
        assert degrees == pytest.approx(want["angle"]) and svo.orientation(degrees) == want["type"]


@pytest.mark.parametrize(("target", "want"), [(90, 61.39), (0, 7.82), (-45, -16.26)])
def test_golden_angles_of_ideal_choosers(target, want):
    """Goals notes 3.5: who maximizes the other's payoff, their own, or the difference, over the six items."""
    payoffs = np.array([item[step] for item, step in zip(svo.choices(), svo.prefer(target), strict=True)])
    assert svo.angle(payoffs[:, 0], payoffs[:, 1]) == pytest.approx(want, abs=0.005)


@pytest.mark.parametrize(
    ("degrees", "name"),
    [(-12.05, "competitive"), (-12.04, "individualistic"), (22.45, "prosocial"), (57.14, "prosocial"), (57.15, "altruistic")],
)
def test_bounds_of_the_classes(degrees, name):
    assert svo.orientation(degrees) == name


def test_an_angle_as_a_goal():
    """r = v_self cos θ + v_other sin θ, by degrees or by the name of an angle."""
    by_name = load_goal({"level": "value", "theory": "svo", "target": "prosocial"})
    by_angle = load_goal("svo", angle=45)
    assert by_name.fingerprint() == by_angle.fingerprint() and by_name.distance == "direction"
    v = svo.values([85, 100], [85, 50])
    want = [0.7 * np.cos(np.pi / 4) + 0.7 * np.sin(np.pi / 4), np.cos(np.pi / 4)]
    assert by_name.utility_of(v).tolist() == pytest.approx(want)


# ------------------------------------------------------------------------------------------------------- rankings


def test_kendall_distance_is_one_minus_tau_halved():
    """Against scipy's τ on 200 random rankings of 18; 0 for the order itself, 1 for its reverse, 1/2 for no order."""
    rng = np.random.default_rng(0)
    t = np.array(list(ranking_target([str(i) for i in range(18)]).values()))
    v = np.stack([rng.permutation(18) for _ in range(200)]) / 18
    want = [(1 - kendalltau(row, t).statistic) / 2 for row in v]
    assert kendall(v, t, np.ones(18)).tolist() == pytest.approx(want)
    assert kendall(np.stack([t, -t, 0 * t]), t, np.ones(18)).tolist() == [0, 1, 0.5]
    assert kendall_parts(v, t, np.ones(18)).sum(-1).tolist() == pytest.approx([-w for w in want])


def test_a_ranking_of_some_counts_their_pairs_only():
    """Three ranked of eighteen: one pair of three in the wrong order is 1/3, whatever the others do."""
    goal = load_goal({"level": "value", "theory": "rokeach_terminal", "target": ["wisdom", "freedom", "pleasure"]})
    rng = np.random.default_rng(1)
    v = rng.uniform(-1, 1, (50, 18))
    places = [goal.theory.index(n) for n in ("wisdom", "freedom", "pleasure")]
    v[:, places] = [0.1, 0.9, 0.05]  # freedom before wisdom: wrong; both before pleasure: right
    assert goal.distance == "kendall" and goal.utility_of(v).tolist() == pytest.approx([-1 / 3] * 50)
    assert np.isnan(goal.utility_of(np.full(18, np.nan)))


def test_a_ranking_in_words_names_the_first_ranks_first():
    goal = load_goal({"level": "value", "theory": "rokeach_instrumental", "target": ["honest", "polite", "clean"]})
    text = goal.describe("short")
    assert text.index("honest") < text.index("polite") and "against" not in text


@pytest.mark.parametrize("target", [["wisdom"], ["wisdom", "wisdom"], ["wisdom", "wealth"]])
def test_faulty_rankings(target):
    with pytest.raises((DataError, UsageError), match=r"two dimensions|ranked twice|unknown dimension"):
        load_goal({"level": "value", "theory": "rokeach_terminal", "target": target})
