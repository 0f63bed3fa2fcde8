"""Goal files: names, keys, scorers, and the refusal of everything that is not data."""

from __future__ import annotations

import re

import numpy as np
import pytest

from valign.errors import DataError, UsageError, ValignError
from valign.goals import goal_names, load_goal, to_yaml

COMPOSITE = """
id: careful
version: 2
level: composite
conflict: lexicographic
parts:
  - goal: {level: principle, set: core, only: [harm, law, private]}
    priority: 1
  - goal: preference
    priority: 2
  - goal:
      level: value
      theory: schwartz10
      target: {benevolence: 1, universalism: 1, power: -1}
      weights: abs_target
    priority: 2
    weight: 0.5
notes: who chose this, when, and why
"""


class Values:
    id, theory = "v", "schwartz10"

    def values(self, groups):
        return [np.zeros((len(g.responses), 10)) for g in groups]


class Verdicts:
    id = "p"

    def verdicts(self, groups, principles):
        return [np.zeros((len(g.responses), len(principles))) for g in groups]


class Reward:
    id = "r"

    def score(self, groups):
        return [np.zeros(len(g.responses)) for g in groups]

    def fingerprint(self) -> str:
        return "r"


@pytest.fixture
def file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "goal.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_composite_file(file):
    goal = load_goal(file(COMPOSITE))
    assert [p.goal.level for p in goal.parts] == ["principle", "preference", "value"]
    assert [p.priority for p in goal.parts] == [1, 2, 2] and goal.version == 2
    assert load_goal(file(to_yaml(goal))).fingerprint() == goal.fingerprint()


def test_scorers_go_to_the_level_that_needs_them(file):
    scorers = {"value": Values(), "principle": Verdicts(), "preference": Reward()}
    parts = load_goal(file(COMPOSITE), scorers=scorers).parts
    assert parts[0].goal.scorer is scorers["principle"] and parts[1].goal.reward is scorers["preference"]
    assert parts[2].goal.evaluator is scorers["value"]


def test_one_scorer_for_goals_that_need_different_ones(file):
    """One clear error that says how to pass several."""
    with pytest.raises(UsageError, match=r"different scorers(.|\n)*scorers=\{\"principle\""):
        load_goal(file(COMPOSITE), scorers=Values())


def test_scorers_by_the_name_a_file_uses():
    spec = {"level": "value", "theory": "schwartz10", "target": "uk", "evaluator": "mine"}
    mine = Values()
    assert load_goal(spec, scorers={"mine": mine}).evaluator is mine
    with pytest.raises(UsageError, match="mine"):
        load_goal(spec, scorers={"value": mine})
    with pytest.raises(UsageError, match="none was passed"):
        load_goal(spec)


@pytest.mark.parametrize("name", ["uk", "core", "preference", "instruction"])
def test_a_scorer_of_the_wrong_kind(name):
    with pytest.raises(UsageError, match="needs"):
        load_goal(name, scorers=object())


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("level: value\ntheory: schwartz10\ntarget: uk\nweigths: ones\n", "goal.yaml", "weights"),
        ("level: vale\n", "goal.yaml: level", "value"),
        ("theory: schwartz10\n", "goal.yaml: level", "missing"),
        ("level: value\ntheory: schwartz10\ntarget: {benevolance: 1}\n", r"target.benevolance \(line 3\)", "benevolence"),
        ("level: value\ntheory: schwartz10\ntargt: {benevolence: 1}\n", r"targt \(line 3\)", "target"),
        ("level: value\ntheory: schwartz10\ntarget: {power: 3}\n", "power", "must be"),
        ("level: value\ntheory: schwartz10\ntarget: {power: high}\n", "target.power", "number"),
        ("level: value\ntheory: schwartz10\ntarget: ukk\n", "", "uk"),
        ("level: value\ntheory: schwartz10\n", "", "needs a target"),
        ("level: value\ntheory: schwartz10\ntarget: uk\ndistance: profil\n", "distance", "profile"),
        ("level: principle\nset: cor\n", "", "core"),
        ("level: principle\n", "principles", "missing"),
        ("level: principle\nset: core\nonly: harm\n", "only", "list"),
        ("level: principle\nprinciples: [{id: a, text: x, wieght: 2}]\n", r"principles\[0\]", "weight"),
        ("level: principle\nprinciples: [{id: a, text: x, kind: must}]\n", r"principles\[0\]: kind", "dont"),
        (
            "level: composite\nparts: [{goal: {level: principle, set: hhh, onyl: [a]}}, {goal: hhh}]\n",
            r"parts\[0\]: goal",
            "only",
        ),
        (
            "level: composite\nparts: [{goal: other.yaml}, {goal: hhh}]\n",
            r"parts\[0\]: goal",
            "no built-in goal",
        ),
        ("level: composite\nparts: []\n", "", "at least two"),
        ("level: composite\nconflict: lexical\nparts: []\n", "conflict", "lexicographic"),
        ("level: preference\nversion: 1.5\n", "version", "whole number"),
        ("level: preference\nfeedback: 3\n", "feedback", "text"),
        ("level: preference\nlevel: value\n", "goal.yaml", "given twice, line 2"),
        ("- level\n", "goal.yaml", "one mapping"),
        ("level: [\n", "goal.yaml", "not one YAML document"),
        ("level: preference\n---\nlevel: value\n", "goal.yaml", "not one YAML document"),
    ],
)
def test_files_are_read_strictly(file, text, place, words):
    """Every fault is told with its place and the nearest thing that would be right."""
    with pytest.raises(ValignError, match=words) as caught:
        load_goal(file(text))
    assert re.search(place, caught.value.where)


@pytest.mark.parametrize(
    "attack",
    [
        "level: !!python/object/apply:os.system ['touch TOUCHED']\n",
        "level: !!python/name:os.system\n",
        "level: preference\nnotes: !!python/object:valign.errors.ValignError {}\n",
        "level: preference\nnotes: !own {}\n",
    ],
)
def test_code_in_a_file_is_refused(file, attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="never code"):
        load_goal(file(attack))
    assert not (tmp_path / "TOUCHED").exists()


def test_unknown_names_list_the_known():
    with pytest.raises(UsageError, match="schwartz10"):
        load_goal("schwarz10")
    with pytest.raises(DataError, match="no such file"):
        load_goal("absent.yaml")
    assert {"schwartz10", "uk", "core", "preference", "instruction"} <= set(goal_names())


@pytest.mark.parametrize("spec", ["core", "preference", {"level": "preference"}, "uk"])
def test_only_a_theory_takes_a_target_by_name(spec):
    with pytest.raises(UsageError, match="only a value theory"):
        load_goal(spec, benevolence=1)


def test_target_of_another_theory(file):
    own = "level: value\ntheory: {id: own, dimensions: [{id: A, name: a, definition: a}]}\ntarget: "
    assert load_goal(file(own + "{A: 1}\n")).describe("short") == "for a"
    with pytest.raises(DataError, match="belongs to theory schwartz10"):
        load_goal(file(own + "uk\n"))


def test_standard_numbers_are_read(file):
    text = "level: composite\nparts: [{goal: hhh}, {goal: preference}]\nstandard: "
    assert load_goal(file(text + "{hhh: [0, 1], preference: [2, 3]}\n")).standard["preference"] == (2, 3)
    assert load_goal(file(text + "raw\n")).standard == "raw"
    for wrong in ("rough\n", "{hhh: [0, 1]}\n", "{hhh: [0], preference: [1, 2]}\n"):
        with pytest.raises(ValignError, match="standard"):
            load_goal(file(text + wrong))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("level: value\ntheory: schwartz10\ntarget: uk\nweigths: ones\n", 4),
        ("id: a\nlevel: vale\n", 2),
        ("level: value\ntheory: schwartz10\ntarget:\n  benevolence: 1\n  power: 3\n", 5),
        ("level: value\ntheory: schwartz10\ntarget:\n  benevolence: 1\n  power: high\n", 5),
        ("level: principle\nprinciples:\n  - {id: a, text: x}\n  - {id: b, text: y, kind: must}\n", 4),
        ("level: principle\nprinciples:\n  - {id: a, text: x}\n  - id: b\n    text: y\n    weight: -1\n", 6),
        ("level: principle\nprinciples:\n  - {id: a, text: x}\n  - {id: b, txt: y}\n", 4),
        ("level: composite\nparts:\n  - goal: hhh\n  - goal:\n      level: value\n      theory: schwarz\n", 6),
        ("level: composite\nparts:\n  - goal: hhh\n  - goal: core\n    weight: -2\n", 5),
        ("level: value\ntheory: schwartz10\ntarget: ukk\n", 3),
        ("level: principle\nset: cor\n", 2),
        ("level: principle\nset: core\nonly: [harm, lie]\n", 3),
    ],
)
def test_errors_name_file_line_and_field(file, text, line):
    with pytest.raises(ValignError) as caught:
        load_goal(file(text))
    assert "goal.yaml" in caught.value.where and f"(line {line})" in caught.value.where, caught.value.where
