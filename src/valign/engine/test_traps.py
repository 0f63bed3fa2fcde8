"""What transformers does quietly and a fast path could fall into: each wrong way is shown to be wrong, and not taken."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from valign.engine.generator import Generator
from valign.engine.scorer import Scorer, body_of
from valign.engine.tree import from_paths
from valign.errors import ValignError
from valign.models.policy import Sampling


def shots(n, shared=40, seed=0):
    """Trees with a long common beginning."""
    rng = np.random.default_rng(seed)
    before = [1, *rng.integers(7, 103, shared - 1).tolist()]
    return [
        from_paths(f"t{i}", [*before, *rng.integers(7, 103, 2 + i).tolist()], [[20, 30 + i], [40]]) for i in range(n)
    ]


@pytest.mark.proof("E26")
@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral"])
def test_a_missing_mask_is_wrong_and_never_happens(tiny, oracle, worst, family):
    """Without a mask positions that begin again are read as packed documents; every pass of ours has its mask: rows,
    joined rows, rows behind a prefix, one row per response, prefill and decoding."""
    model, trees = tiny(family).model, shots(6)
    seen = []
    hook = body_of(model).register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs.get("attention_mask")), with_kwargs=True
    )
    try:
        for path in ("row", "plain"):
            scorer = Scorer(model, path=path)
            for pair_cost in (0.0, 1.0):
                scorer.pair_cost = pair_cost
                scorer.score(trees)
                scorer.score(trees[:1])
        Generator(model, stop_ids=[], decode=str)([t.segments[0].ids.tolist() for t in trees], Sampling(max_new_tokens=3))
    finally:
        hook.remove()
    assert len(seen) > 12 and all(mask is not None for mask in seen)

    tree = from_paths("one", [1, 50, 60, 70], [[20, 30, 40], [25, 35]])
    layout = Scorer(model).layout([tree])
    ids, pos = (torch.as_tensor(x[:, : tree.tokens]) for x in (layout.ids, layout.pos))
    with torch.no_grad():
        hidden = body_of(model)(input_ids=ids, position_ids=pos, use_cache=False).last_hidden_state
        logits = model.get_output_embeddings()(hidden)[0].log_softmax(-1)
        found = logits[torch.as_tensor(layout.read), torch.as_tensor(layout.target)]
        true = torch.cat(oracle(model, tree))
    order = np.lexsort((layout.column, layout.response))
    assert (found[torch.as_tensor(order)] - true).abs().max() > 1e-2


@pytest.mark.proof("E26")
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_checkpointed_blocks_drop_a_cache_and_ours_do_not(tiny, oracle, worst, caplog, family):
    """Activation checkpointing in training mode: the model alone scores a continuation without what stands before it;
    rows behind a prefix and samples in slots are what they are without checkpointing, which is on again afterwards."""
    model, trees = tiny(family, fresh=True).model, shots(7)
    expected = [oracle(model, t) for t in trees]
    ask = Sampling(n=2, max_new_tokens=6)
    prompts = [t.segments[0].ids.tolist() for t in trees]
    alone = Generator(model, stop_ids=[], decode=str)(prompts, ask)
    with torch.no_grad():
        ids = torch.tensor([prompts[0]])
        whole = model(ids, use_cache=False).logits[0, -1]
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        with caplog.at_level(logging.ERROR):
            first = model(ids[:, :-1], use_cache=True).past_key_values
            cut = model(ids[:, -1:], past_key_values=first, position_ids=torch.tensor([[ids.shape[1] - 1]])).logits[0, -1]
    assert (cut - whole).abs().max() > 1e-2, "the trap"
    scorer = Scorer(model)
    scorer.pair_cost = 1.0
    assert scorer.prefix_of(trees).length >= 40
    assert worst(scorer.score(trees), expected) < 1e-10
    sampled = Generator(model, stop_ids=[], decode=str)(prompts, ask)
    assert [[s.ids for s in row] for row in sampled] == [[s.ids for s in row] for row in alone]
    assert worst([[s.raw for s in row] for row in sampled], [[s.raw for s in row] for row in alone]) < 1e-10
    on = [m.gradient_checkpointing for m in model.modules() if hasattr(m, "gradient_checkpointing")]
    assert any(on) and model.is_gradient_checkpointing


@pytest.mark.proof("E26")
@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_a_window_over_a_right_padded_cache_is_wrong_and_slots_are_right(tiny, family):
    """The model's own cache counts a window in columns, so padding behind a prompt hides tokens from what follows; in a
    slot a column is a position."""
    model = tiny(family).model
    rng = np.random.default_rng(0)
    prompts = [[1, *rng.integers(7, 103, n).tolist()] for n in (30, 18)]
    short, follow = prompts[1], [20, 30, 40]
    with torch.no_grad():
        truth = model(torch.tensor([[*short, *follow]]), use_cache=False).logits[0, -1]
        gap = {side: (continued(model, prompts, follow, side) - truth).abs().max() for side in ("left", "right")}
    assert gap["right"] > 1e-2 and gap["left"] < 1e-10
    samples = Generator(model, stop_ids=[], decode=str)(prompts, Sampling(n=2, max_new_tokens=5))
    for prompt, row in zip(prompts, samples):
        for s in row:
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *s.ids]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
            assert np.abs(logits.log_softmax(-1)[range(5), list(s.ids)].numpy() - s.raw).max() < 1e-10


def continued(model, prompts, follow, side):
    """Logits after `follow` behind the shorter prompt, prefilled beside the longer one with the model's own cache."""
    longest, short = max(map(len, prompts)), prompts[1]
    ids, mask = (torch.zeros(2, longest, dtype=torch.long) for _ in range(2))
    for i, p in enumerate(prompts):
        where = slice(longest - len(p), None) if side == "left" else slice(0, len(p))
        ids[i, where], mask[i, where] = torch.tensor(p), 1
    pos = (mask.cumsum(1) - 1).clamp(min=0)
    cache = model(ids, attention_mask=mask, position_ids=pos, use_cache=True).past_key_values
    for k, token in enumerate(follow):
        mask = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], 1)
        pos = torch.tensor([[longest + k], [len(short) + k]])
        out = model(torch.tensor([[token], [token]]), attention_mask=mask, position_ids=pos, past_key_values=cache)
        cache = out.past_key_values
    return out.logits[1, -1]


@pytest.mark.proof("E26")
def test_positions_tied_to_columns_take_the_plain_path(of_family, oracle, worst, trees):
    """ALiBi: `row` is refused with the reason, the plain path is right, and samples are the model's own."""
    model, forest = of_family("bloom"), trees(4)
    with pytest.raises(ValignError, match="ALiBi"):
        Scorer(model, path="row")
    scorer = Scorer(model)
    with torch.no_grad():
        assert scorer.path == "plain" and worst(scorer.score(forest), [oracle(model, t) for t in forest]) < 1e-4
    prompts = [t.segments[0].ids.tolist() for t in forest]
    samples = Generator(model, stop_ids=[], decode=str)(prompts, Sampling(max_new_tokens=6, temperature=0))
    for prompt, (sample,) in zip(prompts, samples):
        theirs = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert list(sample.ids) == theirs[0, len(prompt) :].tolist()
