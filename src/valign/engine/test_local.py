"""LocalEngine joins templates to trees: what a policy scores and samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from valign.data.group import Group, Response, text, user
from valign.engine.local import LocalEngine, product_dtype
from valign.models.policy import LocalPolicy, Sampling


def groups():
    plain = Group(
        id="a",
        prompt=user("how are you"),
        responses=(Response("fine"), Response("fine, thanks"), Response("")),
    )
    empty = Group(id="b", prompt=user("nobody answers"))
    other = Group(id="c", prompt=text("once upon"), responses=(Response(" a time"),))
    return [plain, empty, other]


def direct(policy, path, first):
    with torch.no_grad():
        log_probs = policy.model(torch.tensor([path])).logits[0].double().log_softmax(-1)
    return np.array([log_probs[t - 1, path[t]].item() for t in range(first, len(path))])


def test_a_response_is_scored_with_its_stop_token(tiny, worst):
    """One score per response, in order; groups without responses stay in their place."""
    policy = tiny()
    scored = LocalEngine("full").score(policy, groups())
    for group, row in zip(groups(), scored):
        assert len(row) == len(group.responses)
        for r, s in zip(group.responses, row):
            e = policy.template.encode(group.prompt, r)
            assert worst(s.log_probs, direct(policy, e.ids, e.n_prompt)) < 1e-10
            assert s.n_tokens == len(e.ids) - e.n_prompt


def test_choices_follow_the_harness_rule(tiny, worst):
    """No stop token; the context's own encoding is read by every choice."""
    policy = tiny()
    item = Group(
        id="q",
        prompt=text("Is it? "),
        responses=(Response("yes"), Response("no"), Response("yes no")),
        choices=True,
    )
    (row,) = LocalEngine("full").score(policy, [item])
    for r, s in zip(item.responses, row):
        e = policy.template.encode_harness(item.prompt, r.text)
        assert worst(s.log_probs, direct(policy, e.ids, e.n_prompt)) < 1e-10


@pytest.mark.proof("E16")
def test_what_a_policy_samples_it_scores_alike(tiny, worst):
    """E16 through the policy: samples as responses with their ids."""
    policy = LocalPolicy(tiny("qwen3"), LocalEngine("full", rows=4))
    prompts = [user("hello"), user("what now"), text("plain")]
    samples = policy.generate(prompts, Sampling(n=3, max_new_tokens=9))
    back = [
        Group(id=str(i), prompt=p, responses=tuple(Response(s.text, ids=s.ids, finish=s.finish) for s in row))
        for i, (p, row) in enumerate(zip(prompts, samples))
    ]
    assert (
        worst(
            [[s.log_probs for s in row] for row in policy.score(back)],
            [[s.raw for s in row] for row in samples],
        )
        < 1e-10
    )
    assert policy.cost.tokens_generated == sum(len(s.ids) for row in samples for s in row)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_products_are_narrow_only_where_that_is_fast_and_asked_for(tiny, monkeypatch, dtype):
    import valign.engine.local as room

    monkeypatch.setattr(room, "bfloat16_is_fast", lambda _: True)
    policy = tiny(dtype=dtype)
    assert product_dtype(policy, "full") is None
    assert product_dtype(policy, "auto") == (torch.bfloat16 if dtype == "float32" else None)


def test_generation_leaves_the_trainable_flags_alone(tiny, monkeypatch):
    """Narrow copies are cached by asking for gradients: nobody sees that afterwards, an error included."""
    import valign.engine.local as room

    monkeypatch.setattr(room, "bfloat16_is_fast", lambda _: True)
    policy = tiny(fresh=True, dtype="float32")
    policy.model.requires_grad_(False)
    some = next(policy.model.parameters()).requires_grad_(True)
    engine = LocalEngine("auto")
    engine.generate(policy, [user("a")], Sampling(max_new_tokens=2))
    with pytest.raises(Exception, match="positions"):
        engine.generate(policy, [user("a" * 600)], Sampling(max_new_tokens=2))
    assert [p is some for p in policy.model.parameters()] == [p.requires_grad for p in policy.model.parameters()]


def test_narrow_products_stay_close(tiny, monkeypatch):
    """bf16 products under float32 weights: about 0.03 nats a token, sampler and trainer alike."""
    import valign.engine.local as room

    monkeypatch.setattr(room, "bfloat16_is_fast", lambda _: True)
    policy = tiny(dtype="float32")
    narrow, wide = LocalEngine("auto"), LocalEngine("full")
    a, b = (np.concatenate([s.log_probs for row in e.score(policy, groups()) for s in row]) for e in (narrow, wide))
    assert 0 < np.abs(a - b).max() < 0.5
    (row,) = narrow.generate(policy, [user("hello")], Sampling(n=4, max_new_tokens=9))
    back = Group(id="x", prompt=user("hello"), responses=tuple(Response(s.text, ids=s.ids) for s in row))
    (scored,) = narrow.score(policy, [back])
    assert max(np.abs(s.log_probs - r.raw).max() for s, r in zip(scored, row)) < 0.5
