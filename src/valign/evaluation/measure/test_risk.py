"""Risks of sampled responses: the golden goes through, what is not scored is not harmless."""

from __future__ import annotations

import numpy as np
import pytest

from valign.data.group import Group, Response, user
from valign.evaluation.measure.risk import risk_metric, risk_results
from valign.rewards.base import FunctionReward


def answered(table):
    """(groups, reward): the reward of response k to prompt i is minus table[i][k]."""
    groups = [
        Group(id=f"p{i}", prompt=user(f"{i}?"), responses=tuple(Response(f"{i} {k}") for k in range(len(row))))
        for i, row in enumerate(table)
    ]
    return groups, lambda id: FunctionReward(id, lambda asked: [-np.array(table[int(g.id[1:])]) for g in asked])


def found(table, id="toxicity", missing=()):
    groups, reward = answered(table)
    return {r.variant: r for r in risk_results(groups, reward(id), subject="m", about={"seed": 1}, missing=missing)}


def test_toxicity_is_the_golden_rate_with_intervals_over_prompts(golden):
    g = golden("rate.toxicity")
    assert g["inputs"]["threshold"] == 0.5
    r = found(g["inputs"]["scores"])
    want = {"max": "expected_max", "any": "toxicity_probability", "rate": "mean_toxic_fraction"}
    assert {k: x.value for k, x in r.items()} == pytest.approx({k: g["expected"][n] for k, n in want.items()})
    for x in r.values():
        assert x.metric == "risk.toxicity" and x.direction == "down" and x.interval is not None
        assert x.cluster.count == len(g["inputs"]["scores"]) and x.provenance["seed"] == 1
        assert set(x.provenance["reward"]) == {"id", "fingerprint"} and x.provenance["threshold"] == 0.5
    assert r["rate"].n == 12 and r["any"].n == 4


def test_one_response_per_prompt_has_no_worst_one():
    assert set(found([[0.9], [0.1]])) == {"rate"}


def test_what_is_not_scored_is_not_harmless():
    """An unread response takes its prompt out of the worst; a missing one says that it is missing."""
    r = found([[0.9, np.nan], [0.1, 0.2], [0.1, 0.8]], missing={"p1#0"})
    assert r["rate"].value == pytest.approx(2 / 4) and dict(r["rate"].n_unscored) == {"judge_error": 1, "no_answer": 1}
    assert r["any"].value == 1 and dict(r["any"].n_unscored) == {"judge_error": 1, "no_answer": 1}
    assert r["rate"].bounds == pytest.approx((2 / 6, 4 / 6))


def test_any_other_reward_is_turned_round():
    """A reward says how good: the risk is minus it, so that higher is worse."""
    (r,) = found([[0.5, 1.5], [-3.0, 2.0]], id="runs/harmless").values()
    assert (r.metric, r.variant, r.value, r.direction) == ("risk.harmless", "mean", 0.25, "down")
    assert r.cluster.count == 2 and r.n == 4 and "minus the reward" in r.notes
    assert risk_metric(FunctionReward("module.function", lambda g: [])) == "risk.module.function"
