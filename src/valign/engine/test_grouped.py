"""Attention by grouped matrix products: the numbers and gradients of the stock attention under the same mask, and
blocks that leave out nothing a query sees and little that it does not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from valign.engine import grouped as room
from valign.engine.attention import additive, seen_by_any, visible
from valign.engine.forest import plant
from valign.engine.grouped import Block, blocks_of, grouped_attention, in_blocks, keys_met
from valign.engine.layout import row_layout
from valign.engine.scorer import Scorer
from valign.engine.tree import from_paths


def trees(n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    size = lambda low, high: int(torch.randint(low, high, (1,), generator=draw))  # noqa: E731
    ids = lambda k: torch.randint(1, 90, (k,), generator=draw).tolist()  # noqa: E731
    return [from_paths(str(i), ids(size(5, 40)), [ids(size(1, 30)) for _ in range(size(1, 4))]) for i in range(n)]


def stock(query, key, value, mask, scale):
    times = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)


@pytest.mark.proof("E2", "E3")
@pytest.mark.parametrize("shared", [1, 2, 6])
@pytest.mark.parametrize("before", [0, 7])
@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("block", [0, 3000, 10**9])
def test_values_and_gradients_are_those_of_the_stock_attention(monkeypatch, shared, before, window, block):
    """Grouped, plain and single key heads, with and without a prefix or a window, whatever the blocks: 1e-12 in
    float64."""
    monkeypatch.setattr(room, "TILE", 8)
    monkeypatch.setattr(room, "BLOCK", block)
    layout = row_layout(trees(4), 16)
    rows, length = layout.ids.shape
    see = visible(layout, "cpu", window, before)
    mask, blocks = additive(see, torch.float64), blocks_of(seen_by_any(layout, window, before), rows)
    make = lambda heads, n: torch.randn(rows, heads, n, 8, dtype=torch.float64, requires_grad=True)  # noqa: E731
    inputs = make(6, length), make(shared, before + length), make(shared, before + length)
    weight = torch.randn(rows, length, 6, 8, dtype=torch.float64)
    ours, theirs = grouped_attention(*inputs, mask, 0.3, blocks), stock(*inputs, mask, 0.3)
    assert (ours - theirs).abs().max() < 1e-12
    for a, b in zip(*(torch.autograd.grad((x * weight).sum(), inputs) for x in (ours, theirs))):
        assert (a - b).abs().max() < 1e-12


@pytest.mark.parametrize("before", [0, 40])
def test_blocks_cover_what_is_seen(before):
    """Every query once, every key that it sees, on random trees, also joined ones, with and without a prefix."""
    rows = trees(40, seed=3)
    for layout in (row_layout(rows, 16), row_layout(rows, 16, rows=plant(rows, 0.0))):
        see = seen_by_any(layout, None, before)
        assert (see == visible(layout, "cpu", None, before)[:, 0].any(0).numpy()).all()
        own = see[:, before:]
        assert not np.triu(own, 1).any() and own.diagonal().all(), "no later column, and each query itself"
        for count in (1, 40):
            blocks, covered = blocks_of(see, count), np.zeros_like(see)
            for block, following in zip(blocks, [*blocks[1:], None]):
                assert block.stop == (following.start if following else len(see))
                assert all(a < b <= c for (a, b), (c, _) in zip(block.keys, [*block.keys[1:], (see.shape[1], 0)]))
                for a, b in block.keys:
                    covered[block.start : block.stop, a:b] = True
            assert blocks[0].start == 0 and not (see & ~covered).any()
            assert covered.sum() == sum(b.pairs for b in blocks)


def test_blocks_are_those_that_cost_least(monkeypatch):
    """Against every way to cut eight tiles, with the cost counted from what the blocks multiply."""
    monkeypatch.setattr(room, "TILE", 2)
    draw = np.random.default_rng(5)
    for _ in range(20):
        see = np.tril(draw.random((16, 16)) < 0.3) | np.eye(16, dtype=bool)
        every = [(0, *(2 * i for i in inner), 16) for n in range(8) for inner in itertools.combinations(range(1, 8), n)]
        found = (0, *(b.stop for b in blocks_of(see, 500)))
        assert cost(see, found) == pytest.approx(min(cost(see, cuts) for cuts in every))


def cost(see, cuts):
    return sum((b - a) * see[a:b].any(0).sum() + room.BLOCK / 500 for a, b in itertools.pairwise(cuts))


def test_siblings_are_not_multiplied_with_each_other():
    """Sixteen branches of 64 under 256 tokens: a query meets little more than what it sees, 304 of 1280 keys."""
    layout = row_layout([from_paths("g", [1] * 256, [[2 + i] * 64 for i in range(16)])], 16)
    mask, see = additive(visible(layout, "cpu"), torch.float32), seen_by_any(layout)
    assert keys_met(in_blocks(mask.clone(), see, most=200)) == 1280, "too many keys: no blocks"
    assert keys_met(in_blocks(mask, see)) < 1.2 * (256 + 64)


def test_a_model_attends_so_where_rows_are_short(tiny, monkeypatch):
    model = tiny("llama", fresh=True).model
    calls = []
    real = room.grouped_attention
    monkeypatch.setattr(room, "grouped_attention", lambda *a: calls.append(1) or real(*a))
    scorer = Scorer(model)
    before = scorer.score(trees(3))
    assert calls
    calls.clear()
    scorer.grouped = 1
    after = scorer.score(trees(3))
    assert not calls
    worst = max(float(abs(a - b).max()) for x, y in zip(before, after) for a, b in zip(x, y))
    assert worst < 1e-12
    ids = torch.arange(1, 9)[None]
    assert torch.equal(model(ids).logits, tiny("llama", fresh=True).model(ids).logits) and not calls


def test_what_it_does_not_know_is_left_to_the_stock_attention(tiny, monkeypatch):
    """Soft-caps and biases of other families, masks without the promise: never ignored."""
    module = tiny("llama").model.model.layers[0].self_attn
    q, k = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 3, 8)
    mask = in_blocks(torch.zeros(1, 1, 3, 3), np.ones((3, 3), bool))
    assert mask.valign_blocks == (Block(0, 3, ((0, 3),)),)
    monkeypatch.setattr(room, "grouped_attention", lambda *a: pytest.fail("computed without it"))
    with pytest.raises(ValueError, match="softcap"):
        room._forward(module, q, k, k, mask, softcap=3.0)
    room._forward(module, q, k, k, mask, position_bias=torch.zeros(1, 4, 3, 3))
    room._forward(module, q, k, k, None)
    room._forward(module, q, k, k, torch.zeros(1, 1, 3, 3))
