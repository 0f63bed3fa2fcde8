"""On the embedded model: what each method promises moves the promised way. Cut here, in full length in `make real`.

The cut runs keep to a few steps and the shortest texts, so they take less than a minute each on two cores; figures
are printed (pytest -s).
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from valign.data import builtin
from valign.data.convert import pairs_from_utility
from valign.data.group import Comparison, Group
from valign.engine.run import RunFolder
from valign.evaluation import statistics
from valign.methods.decoding.best_of_n import BestOfNConfig, best_of_n
from valign.methods.table import METHODS
from valign.methods.target import Target
from valign.methods.train import train_policy
from valign.methods.train_reward import train_reward
from valign.models.policy import Sampling
from valign.pipeline.goals import make_goal
from valign.rewards.base import length

pytestmark = pytest.mark.real
WHOLE = os.environ.get("VALIGN_REAL") == "whole"


def shortest(groups, n):
    """The n groups with the fewest characters; all of them in full length."""
    if WHOLE:
        return list(groups)
    return sorted(groups, key=lambda g: len(g.prompt_text) + sum(len(r.text) for r in g.responses))[:n]


def trained(policy, folder, name, groups, target=None, **settings):
    method = METHODS[name]
    config = method.configure({"schedule": "constant", "warmup": 0, **settings})
    with RunFolder(folder / "run") as run:
        return train_policy(method, policy, target or Target(), config, run, groups=groups)


def interval(gains):
    """Mean with its 95 % t interval."""
    e = statistics.t_cluster(np.asarray(gains, float))
    return e.value, e.low, e.high


def test_sft_lowers_the_loss_of_held_out_demonstrations(smollm2, tmp_path):
    train, dev = (shortest(builtin("demonstrations", split), n) for split, n in (("train", 6), ("dev", 5)))
    settings = {"batch_size": 8, "epochs": 2} if WHOLE else {"batch_size": 2}
    found = trained(smollm2, tmp_path, "sft", train, learning_rate=2e-5, **settings)
    before, after = ([row[0].mean for row in p.score(dev)] for p in (smollm2, found.policy))
    gain, low, high = interval(np.subtract(after, before))
    print(
        f"\nNLL per token {-np.mean(before):.3f} -> {-np.mean(after):.3f}, gain {gain:.3f} [{low:.3f}, {high:.3f}], n={len(dev)}"
    )
    assert low > 0 and found.outcome.steps >= 3


def preferences(split, n, goal):
    """Best against worst response by the goal's labels."""
    groups = list(builtin("dilemmas", split))
    rows = [pairs_from_utility(g, u.tolist(), which="best_worst") for g, u in zip(groups, goal.labels(groups))]
    kept = []
    for g in rows:
        for c in g.of(Comparison):
            two = (g.responses[c.chosen], g.responses[c.rejected])
            kept.append(Group(id=g.id, prompt=g.prompt, responses=two, feedback=(Comparison(chosen=0, rejected=1),)))
    return shortest(kept, n)


def test_dpo_orders_held_out_pairs(smollm2, tmp_path):
    """Implicit-reward margin of pairs of other situations: 0 at start, above 0 after."""
    goal = make_goal("hhh_like")
    train, dev = preferences("train", 6, goal), preferences("dev", 5, goal)
    settings = {"batch_size": 16, "epochs": 2} if WHOLE else {"batch_size": 2}
    found = trained(smollm2, tmp_path, "dpo", train, Target(goal), learning_rate=2e-5, beta=0.1, **settings)
    before, after = (np.array([[s.log_prob for s in row] for row in p.score(dev)]) for p in (smollm2, found.policy))
    margin = 0.1 * (after - before) @ [1, -1]
    mean, low, high = interval(margin)
    accuracy = float(np.mean(margin > 0))
    print(f"\nheld-out margin {mean:.4f} [{low:.4f}, {high:.4f}], pair accuracy {accuracy:.2f}, n={len(dev)}")
    assert mean > 0 and accuracy > 0.5
    assert not WHOLE or low > 0


def test_a_reward_model_orders_held_out_pairs(smollm2, tmp_path):
    """Accuracy on pairs of other situations, with interval: above one half in full length, finite and moved when cut."""
    goal = make_goal("hhh_like")
    train, dev = preferences("train", 6, goal), preferences("dev", 5, goal)
    settings = {"batch_size": 8} if WHOLE else {"batch_size": 2}
    method = METHODS["reward_model"]
    config = method.configure({"learning_rate": 2e-5, "schedule": "constant", "warmup": 0, **settings})
    with RunFolder(tmp_path / "run") as run:
        found = train_reward(method, smollm2, config, run, groups=train)
    scores = found.reward.score(dev)
    accuracy, low, high = interval([float(r[0] > r[1]) for r in scores])
    learned = float(np.mean([r[0] - r[1] for r in found.reward.score(train)]))
    print(f"\nheld-out pair accuracy {accuracy:.3f} [{low:.3f}, {high:.3f}], n={len(dev)}; training gap {learned:.3f} nats")
    assert found.outcome.steps >= 3 and learned > 0 and np.isfinite(np.concatenate(scores)).all()
    assert not WHOLE or low > 0.5


def test_grpo_takes_a_step_from_prompt_to_weights(smollm2, tmp_path):
    """Rollouts of the real generator, a rule as reward, one update: the policy has moved, the original has not."""
    groups = shortest(builtin("instructions", "train"), 2)[: 32 if WHOLE else 2]
    digest = smollm2.model.digest
    settings = {"group_size": 8, "max_new_tokens": 48} if WHOLE else {"group_size": 3, "max_new_tokens": 12}
    found = trained(
        smollm2,
        tmp_path,
        "grpo",
        groups,
        Target(reward=length(6)),
        learning_rate=1e-5,
        max_steps=1,
        batch_size=8,
        **settings,
    )
    meters = found.outcome.meters
    print(f"\n{ {k: round(v, 4) for k, v in meters.items()} }")
    assert found.outcome.steps == 1 and meters["reward_sd"] > 0 and abs(meters["kl"]) < 1e-2
    assert found.policy.model.digest != digest == smollm2.model.digest
    assert found.policy.card()["method"] == "grpo" and np.isfinite(meters["loss"])


def test_best_of_n_has_more_reward_than_its_base(smollm2):
    """The base's sample is among the candidates, so no prompt can lose."""
    groups = shortest(builtin("instructions", "dev"), 4)[: 24 if WHOLE else 4]
    prompts, reward = [g.prompt for g in groups], length()
    sampling = Sampling(max_new_tokens=48 if WHOLE else 10, seed=1)
    policy = best_of_n(smollm2, Target(reward=reward), BestOfNConfig(n=4))

    def rewards(p):
        return np.array([len(row[0].text.split()) for row in p.generate(prompts, sampling)], float)

    base, best = rewards(smollm2), rewards(policy)
    print(f"\nwords {base.mean():.2f} -> {best.mean():.2f}, n={len(groups)}")
    assert (best >= base).all() and best.sum() > base.sum()
