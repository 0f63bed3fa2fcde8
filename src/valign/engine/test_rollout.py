"""Rollouts: samples, rewards and advantages of a step, a function of (seed, step, weights) alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from valign.data.group import Group
from valign.engine.items import Objective, collate
from valign.engine.local import LocalEngine
from valign.engine.objective import Terms
from valign.engine.reference import Reference
from valign.engine.rollout import RolloutSampler
from valign.errors import ValignError
from valign.models.policy import Sampling

ENGINE = LocalEngine(precision="full")


def vowels(groups):
    """A reward that any text has."""
    return [
        np.array([sum(c in "aeiou" for c in r.text) - 0.1 * len(r.ids) for r in g.responses], float) for g in groups
    ]


def centred(rewards, _log_ratio):
    return rewards - rewards.mean()


def rollouts(policy, prompts, **more):
    settings = {
        "reward": vowels,
        "advantage": centred,
        "sampling": Sampling(n=4, max_new_tokens=8),
        "batch": 3,
        "steps": 4,
        "seed": 0,
    } | more
    return RolloutSampler(policy, ENGINE, prompts, **settings)


def test_items_hold_what_was_sampled(tiny, prompts):
    """Token in, token out: the sampler's ids, stop token included only where it was drawn; advantages of
    the rewards.
    """
    policy = tiny()
    seen: list[Group] = []

    def reward(groups):
        seen.extend(groups)
        return vowels(groups)

    step = rollouts(policy, prompts(5), reward=reward).step(0)
    assert len(step.items) == 3
    for item, group, r in zip(step.items, seen, vowels(seen)):
        head = policy.template.prompt_ids(group.prompt)
        for leaf, response in zip(item.tree.leaves, group.responses):
            assert item.tree.path(leaf).tolist() == [*head, *response.ids]
            assert (item.tree.response_loss(leaf) == 1).all()
            assert (response.ids[-1] == 2) == (response.finish == "stop")
        assert item.values["advantage"] == pytest.approx(r - r.mean())
    flat = np.concatenate(vowels(seen))
    assert step.meters["reward"] == pytest.approx(flat.mean())
    assert step.meters["length"] == pytest.approx(np.mean([len(r.ids) for g in seen for r in g.responses]))
    assert step.cost.tokens_generated == sum(len(r.ids) for g in seen for r in g.responses)


@pytest.mark.proof("E20")
def test_a_step_is_a_function_of_its_index(tiny, prompts):
    """E20: any step again gives the same items; other steps and seeds give others; each epoch meets
    every prompt once.
    """
    policy, groups = tiny(), prompts(6)

    def ids(sampler, index):
        return [[i.tree.response_ids(leaf).tolist() for leaf in i.tree.leaves] for i in sampler.step(index).items]

    first = rollouts(policy, groups)
    assert ids(first, 1) == ids(rollouts(policy, groups), 1) != ids(first, 0)
    assert ids(rollouts(policy, groups, seed=1), 1) != ids(first, 1)
    names = [i.tree.id.split("@")[0] for s in (0, 1) for i in first.step(s).items]
    assert sorted(names) == sorted(g.id for g in groups)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_ratios_are_those_of_the_law_that_sampled(tiny, prompts, temperature):
    """At step 0 policy = reference: KL is 0 to rounding at any temperature, and the sampler agrees with
    the trainer.
    """
    policy = tiny()
    reference = Reference(ENGINE.scorer(policy, temperature))
    told = []
    sampler = rollouts(
        policy,
        prompts(3),
        sampling=Sampling(n=3, max_new_tokens=8, temperature=temperature),
        reference=reference,
        advantage=lambda r, h: told.append(h) or r - r.mean(),
    )
    assert abs(sampler.step(0).meters["kl"]) < 1e-12
    assert np.abs(np.concatenate(told)).max() < 1e-10
    gap = next(x for x in sampler.audit() if x.name == "sampler = trainer")
    assert gap.ok and float(gap.text.split()[3]) < 1e-10


@pytest.mark.proof("E19")
def test_a_fresh_rollout_gives_the_reinforce_gradient(tiny, prompts, gradients, worst):
    """E19: the ratio is exactly 1, and the gradient of the clipped surrogate is that of A log pi: exact."""
    policy = tiny(fresh=True)
    items = rollouts(policy, prompts(3)).step(0).items
    scores = ENGINE.scorer(policy)([i.tree for i in items])
    seen = {}

    def surrogate(policy, old, mask, advantage):
        seen["ratio"] = ratio = (policy - old).exp()
        gain = advantage[:, None]
        return Terms((-(gain * ratio).minimum(gain * ratio.clamp(0.8, 1.2)) * mask).sum(1), unit="response")

    def reinforce(policy, mask, advantage):
        return Terms(-advantage * (policy * mask).sum(1), unit="response")

    tensors = collate(items, scores)
    losses = [Objective(f, {}, "response")(tensors).losses.sum() for f in (surrogate, reinforce)]
    grads = [torch.autograd.grad(x, scores.log_probs, retain_graph=True)[0] for x in losses]
    assert (seen["ratio"] == 1).all() and torch.equal(*grads)
    assert torch.equal(grads[1], -tensors["advantage"][:, None] * scores.mask)


def test_a_sample_without_a_reward_is_left_out_and_counted(tiny, prompts):
    """NaN: it is in no sum of the step, neither the normalizer nor the KL, and weighs nothing on the others."""

    def partly(groups):
        out = vowels(groups)
        out[0][1] = np.nan
        return out

    sampler = rollouts(tiny(), prompts(40), reward=partly, batch=30)
    step = sampler.step(0)
    a = step.items[0].values["advantage"]
    assert len(a) == 3 and a.sum() == pytest.approx(0) and np.isfinite(a).all()
    assert sum(len(i.tree.leaves) for i in step.items) == sum(i.units("response") for i in step.items) == 119
    assert step.meters["unscored"] == pytest.approx(1 / 120)
    assert np.isfinite(step.meters["reward"])


def test_a_reward_that_is_mostly_missing_stops_the_run(tiny, prompts):
    sampler = rollouts(tiny(), prompts(3), reward=lambda groups: [np.full(4, np.inf) for _ in groups])
    with pytest.raises(ValignError, match=r"not finite on 100.0%"):
        sampler.step(0)


def test_a_reward_of_the_wrong_shape_names_the_group(tiny, prompts):
    sampler = rollouts(tiny(), prompts(3), reward=lambda groups: [np.zeros(3) for _ in groups])
    with pytest.raises(ValignError, match=r"group p\d: the reward gave \(3,\) numbers for 4"):
        sampler.step(0)


def test_a_constant_reward_is_refused_by_the_audit(tiny, prompts):
    """It teaches nothing; rewards that differ pass."""
    constant = rollouts(tiny(), prompts(3), reward=lambda groups: [np.ones(4) for _ in groups]).audit()
    found = next(x for x in constant if x.name == "reward varies")
    assert not found.ok and found.fatal
    assert next(x for x in rollouts(tiny(), prompts(3)).audit() if x.name == "reward varies").ok


@pytest.mark.parametrize("more", [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"temperature": 0}])
def test_a_truncated_law_is_not_trained_on(tiny, prompts, more):
    with pytest.raises(ValignError, match="whole law"):
        rollouts(tiny(), prompts(3), sampling=Sampling(n=2, **more))
