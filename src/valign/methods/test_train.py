"""`train_policy`: every training method end to end on a tiny model, with full weights and with an adapter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from valign.data.group import Comparison, Demonstration, Group, Response, user
from valign.engine.run import RunFolder
from valign.errors import DataError, ValignError
from valign.methods.table import METHODS
from valign.methods.target import Target
from valign.methods.train import train_policy
from valign.models.loaded import memory_digest
from valign.models.policy import LocalPolicy

TRAINING = [n for n, m in METHODS.items() if m.trains and not m.makes_reward]  # those: test_train_reward.py


def vowels(groups):
    return [np.array([sum(c in "aeiou" for c in r.text) + 0.1 * len(r.text) for r in g.responses]) for g in groups]


def groups_for(feedback, n=6):
    """Groups with the feedback that a method learns from; only prompts for those that sample."""
    out = []
    for i in range(n):
        mark = {"demonstrations": Demonstration(response=0), "pairs": Comparison(chosen=0, rejected=1)}.get(feedback)
        responses = () if mark is None else (Response(f"yes {i}"), Response("no"))
        out.append(
            Group(id=f"g{i}", prompt=user(f"Why {i}?"), responses=responses, feedback=() if mark is None else (mark,))
        )
    return out


def trained(policy, folder, name, listen=None, dev=(), groups=None, **settings):
    method = METHODS[name]
    small = {"group_size": 3, "max_new_tokens": 5} if method.samples else {}
    config = method.configure({"learning_rate": 1e-2, "batch_size": 3, "max_steps": 2, **small, **settings})
    target = Target(reward=vowels) if method.samples else Target()
    given = groups_for(method.feedback) if groups is None else groups
    with RunFolder(folder) as run:
        return train_policy(method, policy, target, config, run, groups=given, dev=dev, on_event=listen)


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("name", TRAINING)
def test_the_policy_moves_and_the_one_it_came_from_stays(tiny_policy, tmp_path, name, adapter):
    before = memory_digest(tiny_policy.model.model)
    told = []
    found = trained(tiny_policy, tmp_path / "run", name, lambda event, f: told.append((event, f)), adapter=adapter)
    policy = found.policy
    assert memory_digest(tiny_policy.model.model) == before
    assert policy.id == f"{name}({tiny_policy.id})" and policy.kind == ("weights" if adapter == "none" else "adapter")
    assert policy.card()["method"] == name and policy.card()["base"] == tiny_policy.id
    assert found.outcome.steps == 2 and found.outcome.tokens_trained > 0
    assert not any(p.requires_grad for p in policy.model.model.parameters())
    probe = [Group(id="p", prompt=user("Why?"), responses=(Response("because"),))]
    a, b = (p.score(probe)[0][0].log_prob for p in (tiny_policy, policy))
    assert abs(a - b) > 1e-4
    audit = {f["name"]: f for event, f in told if event == "audit"}
    bad = [name for name, f in audit.items() if not f["ok"]]
    assert audit and bad in ([], ["responses end by themselves"]), "a random model may never stop"
    if METHODS[name].at_start is not None:
        assert audit["loss at start"]["text"] == "0.6931, known value 0.6931"


@pytest.mark.parametrize("name", TRAINING)
def test_a_run_that_was_cut_short_ends_where_a_whole_one_does(tiny_policy, tmp_path, name):
    """The same weights bit for bit: two steps of four, then the rest in the same folder."""
    settings = {"epochs": 2, "max_steps": 4, "schedule": "constant", "warmup": 0, "checkpoint_every": 1}
    whole = trained(tiny_policy, tmp_path / "whole", name, **settings).policy
    stop = 0

    def interrupt(event, fields):
        nonlocal stop
        if event == "checkpoint" and fields["step"] == 2 and not stop:
            stop = 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tiny_policy, tmp_path / "cut", name, interrupt, **settings)
    rest = trained(tiny_policy, tmp_path / "cut", name, **settings).policy
    pairs = zip(whole.model.model.parameters(), rest.model.model.parameters())
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_a_dev_split_is_evaluated(tiny_policy, tmp_path, name):
    told = []
    dev = groups_for(METHODS[name].feedback, 2)
    found = trained(tiny_policy, tmp_path / "run", name, lambda e, f: told.append((e, f)), dev=dev, eval_every=1)
    losses = [f["loss"] for event, f in told if event == "eval"]
    assert len(losses) == 2 and losses[1] < losses[0] and found.outcome.best == (2, pytest.approx(losses[1]))


def test_without_a_kl_term_no_reference_is_kept(tiny_policy, tmp_path):
    with_kl = trained(tiny_policy, tmp_path / "a", "rloo")
    without = trained(tiny_policy, tmp_path / "b", "rloo", beta=0)
    assert "kl" in with_kl.outcome.meters and "kl" not in without.outcome.meters


def test_what_cannot_be_trained_says_why(tiny_policy, tmp_path, scripted):
    with pytest.raises(ValignError, match="only a local model"):
        trained(LocalPolicy(tiny_policy.model, scripted()), tmp_path / "a", "sft")
    with pytest.raises(ValignError, match="no prompts"):
        trained(tiny_policy, tmp_path / "b", "grpo", groups=[])
    with pytest.raises(DataError, match="learns from pairs"):
        trained(tiny_policy, tmp_path / "c", "dpo", groups=groups_for("demonstrations"))
    adapted = trained(tiny_policy, tmp_path / "d", "sft", adapter="lora").policy
    with pytest.raises(ValignError, match="on top of an adapter"):
        trained(adapted, tmp_path / "e", "sft")


def test_rewards_that_never_differ_are_refused_before_step_0(tiny_policy, tmp_path):
    method = METHODS["grpo"]
    config = method.configure({"group_size": 3, "max_new_tokens": 4, "max_steps": 1})
    target = Target(reward=lambda groups: [np.zeros(len(g.responses)) for g in groups])
    with RunFolder(tmp_path / "run") as run, pytest.raises(ValignError, match="reward varies"):
        train_policy(method, tiny_policy, target, config, run, groups=groups_for("reward"))
