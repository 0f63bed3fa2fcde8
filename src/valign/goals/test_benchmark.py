"""Goals that are only given by benchmarks: files, round trips, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from valign.data.group import Group, Response, user
from valign.errors import ValignError
from valign.goals import BenchmarkGoal, Component, load_goal, to_yaml

FILE = """
id: fair-and-safe
level: principle
components:
  - {metric: bbq.s_amb, weight: 2}
  - {metric: persona.match_rate, variant: chat, best: 0, worst: 1}
"""


def written(tmp_path, text):
    file = tmp_path / "goal.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_file_gives_the_goal_and_the_goal_the_file(tmp_path):
    goal = load_goal(written(tmp_path, FILE))
    assert isinstance(goal, BenchmarkGoal) and goal.level == "principle"
    assert goal.components == (Component("bbq.s_amb", weight=2.0), Component("persona.match_rate", "chat", best=0.0, worst=1.0))
    again = load_goal(written(tmp_path, to_yaml(goal)))
    assert again == goal and again.fingerprint() == goal.fingerprint()
    assert goal.describe() == "do well on bbq.s_amb, persona.match_rate (chat)"
    assert load_goal({**goal.to_json(), "text": "be fair"}).describe() == "be fair"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("level: principle\ncomponents: []", "components is empty"),
        ("level: principle\ncomponents: [{metric: a, wieght: 2}]", "unknown key 'wieght'"),
        ("level: principle\ncomponents: [{metric: a, weight: 0}]", "weight"),
        ("level: principle\ncomponents: [{metric: a, best: 1, worst: 1}]", "best and worst are the same"),
        ("level: principle\ncomponents: [{metric: a}, {metric: a}]", "named twice"),
        ("level: principle\ncomponents: [{metric: a}]\nset: core", "unknown key 'set'"),
        ("level: composite\nparts: [{goal: {level: value, components: [{metric: a}]}}]", "cannot be a part"),
    ],
)
def test_a_wrong_file_says_what_and_where(tmp_path, text, message):
    with pytest.raises(ValignError) as caught:
        load_goal(written(tmp_path, text))
    assert message in str(caught.value) and "goal" in str(caught.value)


def test_it_judges_no_response():
    goal = BenchmarkGoal((Component("bbq.s_amb"),), "principle")
    group = Group(id="g", prompt=user("?"), responses=(Response("a"), Response("b")))
    assert np.isnan(goal.labels([group])[0]).all()
    with pytest.raises(ValignError, match="judges no response"):
        goal.utility([group])
