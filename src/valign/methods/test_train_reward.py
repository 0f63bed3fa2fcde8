"""`train_reward`: a reward model end to end on a tiny model: moved, resumed, measured, saved, used."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from valign.data.group import Comparison, Group, Response, user
from valign.engine.local import LocalEngine
from valign.engine.run import RunFolder
from valign.errors import DataError, ModelError, ValignError
from valign.methods.decoding.best_of_n import BestOfNConfig, best_of_n
from valign.methods.table import METHODS
from valign.methods.target import Target
from valign.methods.train import train_policy
from valign.methods.train_reward import scale_of, train_reward
from valign.models.loaded import memory_digest
from valign.models.policy import LocalPolicy, Sampling
from valign.models.scalar_head import first_head
from valign.models.tiny import tiny_model
from valign.rewards.base import FunctionReward
from valign.rewards.registry import make
from valign.rewards.reward_model import LazyReward, load_reward

MAKING = [n for n, m in METHODS.items() if m.makes_reward]


def pairs(n=6, strength=None):
    return [
        Group(id=f"g{i}", prompt=user(f"Why {i}?"), responses=(Response(f"yes {i}"), Response("no")),
              feedback=(Comparison(chosen=0, rejected=1, strength=strength),))
        for i in range(n)
    ]  # fmt: skip


def trained(policy, folder, name="reward_model", listen=None, groups=None, dev=(), **settings):
    method = METHODS[name]
    told = {k: settings.pop(k) for k in ("head",) if k in settings}
    config = method.configure({"learning_rate": 1e-2, "batch_size": 3, "max_steps": 2, **settings})
    with RunFolder(folder) as run:
        return train_reward(method, policy, config, run, groups=pairs() if groups is None else groups, dev=dev,
                            on_event=listen, **told)  # fmt: skip


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("name", MAKING)
def test_the_reward_moves_and_the_policy_it_came_from_stays(tiny_policy, tmp_path, name, adapter):
    before, told = memory_digest(tiny_policy.model.model), []
    found = trained(tiny_policy, tmp_path / "run", name, lambda e, f: told.append((e, f)), adapter=adapter)
    reward = found.reward
    assert memory_digest(tiny_policy.model.model) == before
    assert reward.id == f"{name}({tiny_policy.id})" and reward.card()["kind"] == "reward"
    assert reward.card()["method"] == name and reward.card()["base"] == tiny_policy.id and reward.model.adapter is None
    assert found.outcome.steps == 2 and found.outcome.tokens_trained > 0
    assert not any(p.requires_grad for p in reward.model.model.parameters())
    names = [n for n, _ in reward.model.model.named_parameters()]
    assert "score.weight" in names and not any("lora" in n or "lm_head" in n for n in names)
    head = reward.model.model.score.weight.detach().numpy()[0]
    assert 0 < np.abs(head - first_head(32, 0)).max() < 0.1, "from the documented head, by two steps"
    assert {f["name"] for e, f in told if e == "audit"} >= {"groups", "cut", "stop token"}
    assert {"loss", "correct", "margin", "chosen", "rejected"} <= set(found.outcome.meters)


def test_the_first_head_can_be_another(tiny_policy, tmp_path):
    """The benchmark begins both sides with one head; with rate 0 it stays."""
    wave = lambda width, seed: 0.02 * np.sin(1.0 + np.arange(width))  # noqa: E731
    reward = trained(tiny_policy, tmp_path / "run", head=wave, learning_rate=1e-300).reward
    assert np.allclose(reward.model.model.score.weight.numpy()[0], wave(32, 0), atol=1e-12)


@pytest.mark.parametrize("name", MAKING)
def test_a_run_that_was_cut_short_ends_where_a_whole_one_does(tiny_policy, tmp_path, name):
    """The same weights bit for bit, head included: two steps of four, then the rest in the same folder."""
    settings = {"epochs": 2, "max_steps": 4, "schedule": "constant", "warmup": 0, "checkpoint_every": 1}
    whole = trained(tiny_policy, tmp_path / "whole", name, **settings).reward
    stop = 0

    def interrupt(event, fields):
        nonlocal stop
        if event == "checkpoint" and fields["step"] == 2 and not stop:
            stop = 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tiny_policy, tmp_path / "cut", name, interrupt, **settings)
    rest = trained(tiny_policy, tmp_path / "cut", name, **settings).reward
    assert stop and rest.mean == whole.mean and rest.fingerprint() == whole.fingerprint()
    both = zip(whole.model.model.parameters(), rest.model.model.parameters())
    assert all(torch.equal(a, b) for a, b in both)


def test_the_mean_of_training_responses_is_the_zero(tiny_policy, tmp_path):
    """Scores of the training data have mean 0; the scale, nats of log-odds, stays: gaps are those of the raw scores."""
    reward = trained(tiny_policy, tmp_path / "run").reward
    scores = np.concatenate(reward.score(pairs()))
    assert abs(scores.mean()) < 1e-9 and scores.std() == pytest.approx(reward.sd, abs=1e-9) and reward.sd > 0
    counted = []

    def many(groups):
        counted.extend(g.id for g in groups)
        return [np.array([1.0, 3.0]) for _ in groups]

    assert scale_of(FunctionReward("many", many), pairs(1000)) == (2.0, 1.0)
    assert 200 <= len(counted) <= 256 and "g0" in counted and int(counted[-1][1:]) > 990, "spread over all"
    assert scale_of(FunctionReward("none", lambda g: [np.full(2, np.nan) for _ in g]), pairs(2)) == (0.0, 0.0)


def test_a_score_depends_on_nothing_beside_it(tiny_policy, tmp_path):
    """Alone, in a batch, padded, in float32: 1e-5; the end of the response counts, and a cut prompt is not refused."""
    base = LocalPolicy(tiny_model("llama"), LocalEngine(precision="full"))
    reward = trained(base, tmp_path / "run").reward
    groups = [Group(id=f"x{i}", prompt=user("a" * (1 + 7 * i)), responses=(Response("b" * (1 + i)), Response("no")))
              for i in range(5)]  # fmt: skip
    together = np.concatenate(reward.score(groups))
    alone = np.concatenate([reward.score([g])[0] for g in groups])
    turned = np.concatenate(reward.score(groups[::-1])[::-1])
    assert np.abs(together - alone).max() < 1e-5 and np.abs(together - turned).max() < 1e-5
    assert reward.score([Group("none", user("a"))])[0].shape == (0,) and reward.cost.calls > 0
    long = Group("long", user("a" * 600), (Response("b"), Response("c")))
    endless = Group("endless", user("a"), (Response("b" * 600), Response("c")))
    found = reward.score([long, endless])
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


def test_a_folder_is_the_reward_wherever_one_is_taken(tiny_policy, tmp_path):
    """Saved, loaded, loaded when first used, by its name: equal scores and fingerprint; best of n chooses by it."""
    base = LocalPolicy(tiny_model("llama"), LocalEngine(precision="full"))
    reward = trained(base, tmp_path / "run").reward
    kept = reward.save(tmp_path / "rm")
    lazy = make(str(tmp_path / "rm"))
    assert isinstance(lazy, LazyReward) and "loaded" not in vars(lazy)
    again = load_reward(tmp_path / "rm", dtype="float32")
    assert kept.fingerprint() == again.fingerprint() == lazy.fingerprint() and again.mean == reward.mean
    expected = np.concatenate(reward.score(pairs()))
    assert np.abs(np.concatenate(again.score(pairs())) - expected).max() < 1e-5
    policy = best_of_n(base, Target(reward=again), BestOfNConfig(n=4))
    prompts, sampling = [user("Why?"), user("Who?")], Sampling(max_new_tokens=6, seed=3)
    drawn = base.generate(prompts, Sampling(n=4, max_new_tokens=6, seed=3))
    for prompt, row, (best,) in zip(prompts, drawn, policy.generate(prompts, sampling)):
        candidates = tuple(Response(s.text, ids=s.ids, finish=s.finish) for s in row)
        scores = again.score([Group("c", prompt, candidates)])[0]
        assert best.ids == row[int(np.argmax(scores))].ids and np.ptp(scores) > 0


def test_what_would_have_no_effect_is_refused(tiny_policy, tmp_path):
    with pytest.raises(DataError, match="margin has no effect"):
        trained(tiny_policy, tmp_path / "a", margin=0.5)
    graded = trained(tiny_policy, tmp_path / "b", margin=0.5, groups=pairs(strength=2.0)).outcome
    plain = trained(tiny_policy, tmp_path / "c", groups=pairs(strength=2.0)).outcome
    assert graded.meters["loss"] != plain.meters["loss"]
    with pytest.raises(DataError, match="learns from pairs"):
        trained(tiny_policy, tmp_path / "d", groups=[Group("g", user("Why?"), (Response("a"),))])
    with pytest.raises(AssertionError, match="train_reward"):
        train_policy(METHODS["reward_model"], tiny_policy, Target(), None, None, groups=[])
    with pytest.raises(ModelError, match="not a policy folder"):
        LazyReward(tmp_path / "a")
    with pytest.raises(ValignError, match="the folder of a reward model"):
        make(str(tmp_path / "nowhere"))
