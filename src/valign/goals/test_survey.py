"""Targets from a survey file: centring, scale, groups, persons, weights, and what a faulty file is told."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from valign.errors import DataError, UsageError, ValignError
from valign.goals import load_goal, load_theory
from valign.goals.survey import ESS, read_answers, survey_target
from valign.goals.targets import named_target, named_targets

TEN = load_theory("schwartz10")


@pytest.fixture
def table(tmp_path):
    def write(rows: list[dict], name: str = "answers.csv") -> Path:
        path = tmp_path / name
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


def respondent(**held: float) -> dict:
    """Scores by dimension: 3 each, and what is named."""
    return {d.name: held.get(d.id, 3) for d in TEN.dimensions}


@pytest.mark.capability("G07")
def test_national_and_other_vectors_load_with_their_source():
    """The vectors of goals notes section 4, digit by digit, each with source and licence."""
    want = {
        "ideal_a": [0, 0, 0, 1, 0, 1, 0, 1, 1, 1],
        "ideal_b": [0, 0, 0, 0, 0, 1, 0, 1, 1, 1],
        "uk": [0.4809, 0.1305, 0.1004, 0.0029, -0.2383, 0.4362, 0.2712, 0.1420, 0.6520, 0.5906],
        "nl": [0.5190, 0.1148, 0.3016, 0.1311, -0.1124, 0.3389, 0.2165, 0.2578, 0.5661, 0.5243],
        "fr": [0.3761, -0.0296, 0.3384, -0.1741, -0.3195, 0.4078, 0.2587, 0.0698, 0.6212, 0.5705],
        "hhh_like": [0, 0, 0, 0, -0.5, 1, 0, 1, 1, 1],
    }
    assert set(named_targets()) == set(want)
    for id, vector in want.items():
        found = named_target(id)
        assert TEN.vector(found.values).tolist() == vector and found.source and found.licence


def test_everybody(table):
    """t_k = centred mean / largest absolute centred mean, worked out by hand for two respondents."""
    path = table([respondent(BE=6, PO=1), respondent(BE=6)])
    # centres 3.1 and 3.3, so centred means: BE 2.8, PO (-2.1 - .3) / 2 = -1.2, the rest (-.1 - .3) / 2 = -.2
    t = survey_target(f"survey:{path}")
    want = dict.fromkeys(TEN.ids, -0.2 / 2.8) | {"BE": 1.0, "PO": -1.2 / 2.8}
    assert dict(t.values) == pytest.approx(want)
    assert "2 respondents" in t.source and "sha256" in t.source and t.theory == "schwartz10"


def test_a_country_is_scaled_by_the_largest_of_all_countries(table):
    rows = [{"cntry": "NL", **respondent(BE=4)}, {"cntry": "GB", **respondent(BE=6)}]
    path = table(rows)
    nl, gb = (survey_target(f"survey:{path}#cntry={c}") for c in ("NL", "GB"))
    # centred BE: .9 in NL, 2.7 in GB, which sets the scale of both
    assert nl.values["BE"] == pytest.approx(0.9 / 2.7) and gb.values["BE"] == pytest.approx(1)


def test_weights_count(table):
    path = table([{"weight": 3, **respondent(BE=6)}, {"weight": 1, **respondent(PO=6)}])
    t = survey_target(f"survey:{path}").values
    # centred: 2.7 and -.3 each way, weights 3/4 and 1/4
    assert t["PO"] / t["BE"] == pytest.approx((0.75 * -0.3 + 0.25 * 2.7) / (0.75 * 2.7 - 0.25 * 0.3))


def test_answers_to_a_questionnaire_agree_with_the_golden(table, golden):
    case = golden("pvq40.scoring")
    path = table([{"id": "p1", **{f"q{i}": a for i, a in enumerate(case["inputs"]["answers"], 1)}}])
    centred, want = read_answers(path).centred[0], case["expected"]["centered"]
    assert dict(zip(TEN.ids, centred)) == pytest.approx(want)
    person = survey_target(f"person:{path}#p1").values
    assert dict(person) == pytest.approx({d: x / 1.5 for d, x in want.items()})  # the largest is ST, -1.5


def test_columns_of_the_european_social_survey(table, golden):
    """Codes run 1 = very much like me; 7 and above are no answers; who leaves more than five out is left out."""
    case = golden("pvq21.ess")
    codes = case["inputs"]["ess_codes"]
    silent = [9] * 6 + codes[6:]
    rows = [dict(zip(ESS, codes, strict=True)) | {"cntry": "NL"}, dict(zip(ESS, silent, strict=True)) | {"cntry": "NL"}]
    path = table(rows)
    found = read_answers(path)
    assert dict(zip(TEN.ids, found.centred[0])) == pytest.approx(case["expected"]["centered"])
    assert np.isnan(found.centred[1]).all()
    assert "1 left out" in survey_target(f"survey:{path}").source


def test_a_file_of_nineteen_values(table):
    nineteen = load_theory("schwartz19")
    path = table([{d.id: 1 + (d.id == "UNN") for d in nineteen.dimensions}])
    assert survey_target(f"survey:{path}").theory == "schwartz19"


def test_as_a_goal(table):
    """A survey's target has its own id, and is stored as numbers, so that it stays when the file is gone."""
    path = table([respondent(BE=6, PO=1)])
    goal = load_goal(f"survey:{path}")
    assert goal.id == "survey:answers.csv" and goal.t[TEN.index("BE")] == 1
    content = goal.to_json()
    path.unlink()
    assert load_goal(content).fingerprint() == goal.fingerprint()
    with pytest.raises(DataError, match="cannot be read"):
        load_goal(f"survey:{path}")


def test_lines_of_json(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"SD": 1, "ST": 1, "HE": 1, "AC": 1, "PO": 1, "SE": 1, "TR": 1, "CO": 1, "BE": 1, "UN": 3}\n')
    assert survey_target(f"survey:{path}").values["UN"] == 1


@pytest.mark.parametrize(
    ("rows", "spec", "words"),
    [
        ([{"a": 1}], "survey:{}", "neither a theory's dimensions nor"),
        ([respondent(BE="much")], "survey:{}", "'much' is not a number"),
        ([respondent(BE=6)], "survey:{}#cntry=NL", "unknown column"),
        ([{"cntry": "NL", **respondent(BE=6)}], "survey:{}#cntry=UK", "unknown group"),
        ([{"cntry": "NL", **respondent(BE=6)}], "survey:{}#NL", "COLUMN=VALUE"),
        ([respondent(BE=6)], "person:{}#2", "unknown respondent"),
        ([respondent()], "survey:{}", "held alike"),
        ([{"weight": -1, **respondent(BE=6)}], "survey:{}", "0 or more"),
        ([{f"q{i}": 3 for i in range(1, 41)}], "survey:{}", "no respondent can be scored"),
        ([{f"q{i}": 9 for i in range(1, 41)}], "survey:{}", "not on the scale"),
    ],
)
def test_faulty_files(table, rows, spec, words):
    with pytest.raises((DataError, UsageError), match=words):
        survey_target(spec.format(table(rows)))


def test_unscorable_person(table):
    path = table([{"id": "p", **{f"q{i}": 3 for i in range(1, 41)}}, {"id": "o", **{f"q{i}": i % 6 + 1 for i in range(1, 41)}}])
    with pytest.raises(ValignError, match="cannot be scored"):
        survey_target(f"person:{path}#p")
