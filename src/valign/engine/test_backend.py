"""Training samples from a server: the same samples as one's own, weighed where laws differ, refused where they are too far
apart or too old."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from valign.engine.agreement import CAP
from valign.engine.backend import EndpointBackend, check_lag
from valign.engine.local import LocalEngine
from valign.engine.reference import Reference
from valign.engine.rollout import RolloutSampler
from valign.errors import ValignError
from valign.models.endpoint import EndpointPolicy
from valign.models.endpoint.client import Client
from valign.models.policy import Sampling

ENGINE = LocalEngine(precision="full")


def vowels(groups):
    return [np.array([sum(c in "aeiou" for c in r.text) + 0.1 * len(r.text) for r in g.responses], float) for g in groups]


def centred(rewards, _log_ratio):
    return rewards - rewards.mean()


@pytest.fixture
def rollouts(serve, prompts):
    """`rollouts(model, served)`: (a sampler that trains `model` on samples of a server of `served`, the server)."""

    def of(model, served=None, groups=None, **more):
        server = serve(served or model)
        policy = EndpointPolicy.named(server.named())
        policy.connect = lambda address: Client(address, sleep=lambda seconds: None)
        backend = EndpointBackend(policy, model.template.stop_ids)
        settings = {"reward": vowels, "advantage": centred, "sampling": Sampling(n=4, max_new_tokens=8), "batch": 3,
                    "steps": 4, "seed": 0, "backend": backend}  # fmt: skip
        return RolloutSampler(model, ENGINE, groups or prompts(8), **(settings | more)), server

    return of


def sharper(model, factor):
    """The model with logits times `factor`."""
    other = copy.deepcopy(model.model)
    with torch.no_grad():
        other.lm_head.weight.mul_(factor)
    return replace(model, model=other)


def test_a_server_of_the_same_weights_gives_on_policy_items(tiny, rollouts):
    """Ratios are 1 up to the wire's float32, the KL to the reference is 0, and the audit says so."""
    model = tiny()
    sampler, server = rollouts(model, reference=Reference(ENGINE.scorer(model)))
    step = sampler.step(0)
    assert len(step.items) == 3
    for item in step.items:
        assert all(np.abs(w - 1).max() < 1e-5 for w in item.tokens["sampler_weight"])
    assert abs(step.meters["kl"]) < 1e-12 and step.meters["sampler_kl"] < 1e-10 and step.meters["lag"] == 0
    assert step.meters["sampler_capped"] == 0 and step.meters["sampler_largest"] < 1e-5
    line = next(x for x in sampler.audit() if x.name == "sampler = trainer")
    assert line.ok and "of " in line.text and "KL(sampler‖trainer)" in line.text
    heads = {tuple(model.template.prompt_ids(g.prompt)) for g in sampler.prompts}
    assert {tuple(body["prompt"]) for _, body, _ in server.seen} <= heads, "token in, token out"


def test_other_laws_are_corrected_by_truncated_ratios(tiny, rollouts):
    """Weights are min(p_trainer / p_sampler, 2) with both laws from the models themselves; log-ratios to the reference are
    the trainer's own."""
    model = tiny()
    told = []
    sampler, _ = rollouts(
        model, sharper(model, 0.5), max_sampler_kl=9.0, reference=Reference(ENGINE.scorer(model)),
        advantage=lambda r, h: told.append(h) or r - r.mean(),
    )  # fmt: skip
    step = sampler.step(0)
    capped, total = 0, 0
    for item in step.items:
        for leaf, weight in zip(item.tree.leaves, item.tokens["sampler_weight"]):
            ids, head = item.tree.path(leaf), leaf.first
            logits = model.model(torch.as_tensor(ids.astype(np.int64))[None], use_cache=False).logits[0].detach()
            rows = [z.log_softmax(-1)[range(head - 1, len(ids) - 1), ids[head:]] for z in (logits, 0.5 * logits)]
            ratio = (rows[0] - rows[1]).exp().numpy()
            assert weight == pytest.approx(np.minimum(ratio, CAP), rel=1e-4)
            capped, total = capped + (ratio > CAP).sum(), total + len(ratio)
    assert capped > 0 and step.meters["sampler_capped"] == pytest.approx(capped / total)
    assert np.abs(np.concatenate(told)).max() < 1e-10, "the trainer is still at its reference"


def test_laws_that_are_too_far_apart_are_refused(tiny, rollouts):
    model = tiny()
    sampler, _ = rollouts(model, sharper(model, 0.5))
    line = next(x for x in sampler.audit() if x.name == "sampler = trainer")
    assert line.fatal and not line.ok and "at most 0.01 (max_sampler_kl)" in line.text
    with pytest.raises(ValignError, match="too far apart"):
        sampler.step(1)


def test_an_own_sampler_that_disagrees_is_refused_before_and_while_training(tiny, prompts):
    """The same audit for the policy's own samples: an engine whose sampler runs on other weights is found."""
    model = tiny()

    class Split(LocalEngine):
        def generate(self, model, prompts, sampling, **more):
            return super().generate(sharper(model, 0.5), prompts, sampling, **more)

    def sampler(engine, **more):
        return RolloutSampler(model, engine, prompts(8), reward=vowels, advantage=centred,
                              sampling=Sampling(n=4, max_new_tokens=8), batch=3, steps=4, seed=0, **more)  # fmt: skip

    line = sampler(Split(precision="full")).audit()[-1]
    assert line.fatal and not line.ok
    good = sampler(ENGINE, audit_every=2)
    assert good.audit()[-1].ok
    assert "sampler_kl" not in good.step(1).meters and good.step(2).meters["sampler_kl"] < 1e-12
    bad = sampler(Split(precision="full"), audit_every=2)
    bad.step(1)
    with pytest.raises(ValignError, match="step 2: sampler and trainer are too far apart"):
        bad.step(2)


def test_a_sample_without_an_answer_is_left_out_and_many_stop_the_run(tiny, rollouts, prompts):
    model = tiny()
    sampler, server = rollouts(model, groups=prompts(40), batch=30)
    server.faults.extend([(400, {}, "{}")])
    step = sampler.step(0)
    assert step.meters["unscored"] == pytest.approx(1 / 120)
    assert sum(len(i.tree.leaves) for i in step.items) == 119
    server.faults.extend([(400, {}, '{"error": {"message": "no room"}}')] * 2)
    with pytest.raises(ValignError, match="2 samples have no answer, the first: HTTP 400: no room"):
        sampler.step(1)


def test_samples_older_than_allowed_are_refused_before_anything_starts(tiny, serve):
    backend = EndpointBackend(EndpointPolicy.named(serve(tiny()).named()), ())
    check_lag(backend, steps=1, max_lag=0)
    check_lag(backend, steps=4, max_lag=3)
    with pytest.raises(ValignError, match="3 steps old") as error:
        check_lag(backend, steps=4, max_lag=2)
    assert "max_steps=3" in str(error.value) and "max_lag=3" in str(error.value)


def test_an_endpoint_samples_at_temperature_one(tiny, rollouts):
    with pytest.raises(ValignError, match="temperature"):
        rollouts(tiny(), sampling=Sampling(n=2, temperature=0.7))
