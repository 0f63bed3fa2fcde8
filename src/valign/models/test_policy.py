"""Policies: numbers add up, the protocol is met, and a local policy counts what it spends."""

from __future__ import annotations

import json

import numpy as np
import pytest

from valign.data.group import Group, Response, user
from valign.errors import ValignError
from valign.models.loading import load_model
from valign.models.policy import Cost, LocalPolicy, Policy, Sample, Sampling, Scored
from valign.models.tiny import tiny_model

ONE = np.zeros(1, dtype=np.float32)


class Scripted:
    """An engine that answers "ok" to everything and remembers its keys."""

    def generate(self, model, prompts, sampling, *, keys, progress):
        self.keys = keys
        sample = Sample("ok", (7, 2), np.zeros(2, np.float32), np.zeros(2, np.float32), "stop")
        return [[sample] * sampling.n for _ in prompts]

    def score(self, model, groups, *, progress):
        return [[Scored(np.full(3, -1, np.float32)) for _ in g.responses] for g in groups]


def policy() -> LocalPolicy:
    return LocalPolicy(tiny_model("llama"), Scripted())


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 0},
        {"max_new_tokens": 0},
        {"temperature": -1},
        {"temperature": float("inf")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 2},
        {"stop": "x"},
        {"stop": ("",)},
    ],
)
def test_sampling_is_checked(wrong):
    with pytest.raises(ValignError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_log_probs_are_added_in_float64():
    """10 000 times -0.1 in float32 is -1000.0001...: a float32 sum drifts by far more."""
    scored = Scored(np.full(10_000, -0.1, dtype=np.float32))
    assert scored.log_prob == pytest.approx(10_000 * float(np.float32(-0.1)), abs=1e-9)
    assert scored.mean == pytest.approx(float(np.float32(-0.1)), abs=1e-12) and scored.n_tokens == 10_000
    empty = Scored(np.zeros(0, np.float32))
    assert empty.log_prob == 0 and np.isnan(empty.mean)


def test_costs_add_and_subtract():
    a, b = Cost(1, 2, 3, 4, 0.5), Cost(10, 20, 30, 40, 1.5)
    assert a + b == Cost(11, 22, 33, 44, 2.0)
    assert a + b - a == b
    assert sum([a, b], Cost()) == a + b


def test_a_local_policy_is_a_policy_and_counts():
    p = policy()
    assert isinstance(p, Policy) and p.kind == "weights" and p.id == "tiny-llama-0"
    prompts = [user("Hi"), user("Hello")]
    read = sum(len(p.model.template.prompt_ids(x)) for x in prompts)
    p.generate(prompts, Sampling(n=3))
    assert p.engine.keys == ["0", "1"]
    assert (p.cost.calls, p.cost.tokens_read, p.cost.tokens_generated) == (6, read, 12)
    before = p.cost
    p.score([Group("g", prompts[0], (Response("a"), Response("b")))])
    spent = p.cost - before
    assert (spent.calls, spent.tokens_generated) == (2, 0) and before.calls == 6
    assert spent.tokens_read == len(p.model.template.prompt_ids(prompts[0])) + 6
    p.generate(prompts, Sampling(), keys=["x", "y"])
    assert p.engine.keys == ["x", "y"]
    with pytest.raises(ValignError, match="keys"):
        p.generate(prompts, Sampling(), keys=["x"])


def test_a_saved_policy_loads(tmp_path):
    p = policy()
    p.save(tmp_path / "saved")
    assert load_model(tmp_path / "saved").n_parameters == p.model.n_parameters
    json.dumps(p.card())
