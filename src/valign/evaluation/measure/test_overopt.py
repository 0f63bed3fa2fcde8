"""What a pushed proxy does to gold, where some responses have no score: nothing leaves the set without its reason."""

from __future__ import annotations

import numpy as np
import pytest

from valign.data.group import Group, Response, user
from valign.errors import DataError
from valign.evaluation.measure.overopt import overopt_section
from valign.rewards.base import FunctionReward


def sampled(prompts: int = 6, each: int = 4) -> list[Group]:
    return [Group(f"p{i}", user(f"{i}?"), tuple(Response(f"{i} {k}") for k in range(each))) for i in range(prompts)]


def judge(name: str, sign: float, gaps=()):
    """Scores that rise with the response's number (or fall), and none at the places in `gaps`."""

    def score(groups):
        rows = [np.array([sign * k + int(g.id[1:]) / 10 for k in range(len(g.responses))], float) for g in groups]
        for i, k in gaps:
            rows[i][k] = np.nan
        return rows

    return FunctionReward(name, score)


def test_what_a_judge_does_not_score_is_counted_by_reason():
    """One response the model did not give, one that the proxy and two that gold did not score; a prompt loses three of four."""
    proxy, gold = judge("loud", 1.0, [(1, 0), (2, 0)]), judge("kind", -1.0, [(1, 0), (3, 0), (3, 1), (3, 2)])
    why = {"loud": {"p1#0": "parse_failure"}, "kind": {"p3#0": "refusal", "p3#1": "refusal"}}
    section = overopt_section(sampled(), proxy, gold, subject="m", missing={"p0#3"}, why=lambda asked: why[asked.id])
    data = section.figure("overopt")
    assert data["unscored"] == {
        "model": {"no_answer": 1}, "proxy": {"parse_failure": 1, "judge_error": 1}, "gold": {"refusal": 2, "judge_error": 1}
    }  # fmt: skip
    assert (data["responses"], data["prompts"], data["samples"]) == (24, 5, 3)
    assert section.notes[-2:] == [
        "6 of 24 responses are unscored and left out (model m: no answer 1; proxy loud: judge error 1, parse failure 1; "
        "gold kind: judge error 1, refusal 2)",
        "1 prompts have fewer than two responses that both judges score",
    ]
    assert {r.metric for r in section.results} == {f"overopt.{k}" for k in ("proxy", "gold", "gold_change", "covariance")}
    for r in section.results:
        assert (r.n, dict(r.n_unscored)) == (5, {"refusal": 1}), r.metric


def test_where_all_are_scored_nothing_is_said():
    section = overopt_section(sampled(), judge("loud", 1.0), judge("kind", -1.0), subject="m")
    assert section.figure("overopt")["unscored"] == {} and not any("unscored" in n for n in section.notes)
    assert all(r.n == 6 and not r.unscored for r in section.results)


def test_too_few_prompts_say_what_was_lost():
    gaps = [(i, k) for i in range(1, 6) for k in range(3)]
    with pytest.raises(DataError, match="fewer than two prompts") as error:
        overopt_section(sampled(), judge("loud", 1.0, gaps), judge("kind", -1.0), subject="m")
    assert "15 of 24 responses are unscored" in str(error.value)
