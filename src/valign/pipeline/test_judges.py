"""Who is asked: judges are found wherever goals and rewards hold them, and are the user's own again afterwards."""

from __future__ import annotations

import pytest

from valign.goals import load_goal
from valign.methods.decoding.best_of_n import BestOfNConfig, best_of_n
from valign.methods.target import Target
from valign.models.policy import Cost
from valign.pipeline.judges import judge_policies, judges_logged, judges_of, reasons
from valign.rewards import default_scorers, from_goal, length
from valign.rewards.base import StandardizedReward

ONE, OTHER = ({"kind": "judge", "model": f"openai:{n}@http://localhost:1/v1#parallel=2", "orders": 1} for n in ("a", "b"))
GOALS = {
    "principle": {"level": "principle", "set": "core", "scorer": ONE},
    "value": {"level": "value", "theory": "schwartz10", "target": {"benevolence": 1}, "evaluator": ONE},
    "preference": {"level": "preference", "reward": ONE},
    "instruction": {"level": "instruction", "judge": ONE},
    "composite": {"level": "composite", "standard": "raw", "parts": [
        {"goal": {"level": "preference", "reward": ONE}, "weight": 1},
        {"goal": {"level": "principle", "set": "core", "scorer": OTHER}, "weight": 1}]},
}  # fmt: skip


class Base:
    id, kind, cost = "base", "weights", Cost()

    def card(self):
        return {"id": self.id}


@pytest.mark.parametrize("level", GOALS)
def test_the_judges_of_a_goal_are_found_wherever_it_stands(level):
    """In the goal, in its utility as a reward, and in what a policy chooses by; one policy per model, however often asked."""
    goal = load_goal(GOALS[level], scorers=default_scorers())
    judges = judges_of(goal)
    assert len(judges) == (2 if level == "composite" else 1)
    chooser = best_of_n(Base(), Target(goal), BestOfNConfig(n=2))
    for holder in (from_goal(goal), StandardizedReward(from_goal(goal), 0.0, 1.0), chooser):
        assert judges_of(holder) == judges and judges_of(goal, holder) == judges
    again = load_goal(GOALS[level], scorers=default_scorers())
    assert len(judge_policies(goal, again)) == len(judges) and len(judges_of(goal, again)) == 2 * len(judges)


def test_nobody_is_asked_where_nothing_is_a_judge():
    assert judges_of(None, length(), load_goal("core", scorers=default_scorers()), Base()) == []


def test_a_judge_is_logged_for_the_time_of_a_measurement(tmp_path):
    """Its policies change and its fingerprint does not; afterwards it is as it was, also after an error."""
    goal = load_goal(GOALS["composite"], scorers=default_scorers())
    judges, print_, before = judges_of(goal), goal.fingerprint(), judge_policies(goal)
    with pytest.raises(KeyError), judges_logged((goal,), tmp_path / "judge.jsonl") as asked:
        assert [j.policy for j in judges] == asked and goal.fingerprint() == print_
        raise KeyError
    assert [j.policy for j in judges] == before and not list(tmp_path.iterdir())
    judges[0].unscored["g#0"] = "parse_failure"
    assert reasons(goal) == {"g#0": "parse_failure"} and reasons(None) == {}
