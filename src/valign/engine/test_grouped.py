"""Attention by grouped matrix products: the numbers and gradients of the stock attention under the same mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from valign.engine import grouped as room
from valign.engine.attention import additive, visible
from valign.engine.forest import plant
from valign.engine.grouped import grouped_attention
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
@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_values_and_gradients_are_those_of_the_stock_attention(monkeypatch, shared, before, blocks):
    """Grouped, plain and single key heads, with and without a prefix, whatever the blocks: 1e-12 in float64."""
    monkeypatch.setattr(room, "BLOCKS", blocks)
    layout = row_layout(trees(4), 16)
    rows, length = layout.ids.shape
    mask = additive(visible(layout, "cpu", None, before), torch.float64)
    make = lambda heads, n: torch.randn(rows, heads, n, 8, dtype=torch.float64, requires_grad=True)  # noqa: E731
    inputs = make(6, length), make(shared, before + length), make(shared, before + length)
    weight = torch.randn(rows, length, 6, 8, dtype=torch.float64)
    ours, theirs = (f(*inputs, mask, 0.3) for f in (grouped_attention, stock))
    assert (ours - theirs).abs().max() < 1e-12
    for a, b in zip(*(torch.autograd.grad((x * weight).sum(), inputs) for x in (ours, theirs))):
        assert (a - b).abs().max() < 1e-12


def test_no_query_of_a_row_sees_a_later_column():
    """What the blocks rely on, on random trees, also joined ones."""
    rows = trees(40, seed=3)
    for layout in (row_layout(rows, 16), row_layout(rows, 16, rows=plant(rows, 0.0))):
        see = visible(layout, "cpu")[:, 0]
        assert not see.triu(1).any() and see.diagonal(dim1=1, dim2=2).all()


def test_a_model_attends_so_where_rows_are_short(tiny, monkeypatch):
    model = tiny("llama", fresh=True).model
    calls = []
    real = room.grouped_attention
    monkeypatch.setattr(room, "grouped_attention", lambda *a: calls.append(1) or real(*a))
    scorer = Scorer(model)
    before = scorer.score(trees(3))
    assert calls
    calls.clear()
    scorer.grouped = 10
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
    mask = room.marked(torch.zeros(1, 1, 3, 3))
    monkeypatch.setattr(room, "grouped_attention", lambda *a: pytest.fail("computed without it"))
    with pytest.raises(ValueError, match="softcap"):
        room._forward(module, q, k, k, mask, softcap=3.0)
    room._forward(module, q, k, k, mask, position_bias=torch.zeros(1, 4, 3, 3))
    room._forward(module, q, k, k, None)
    room._forward(module, q, k, k, torch.zeros(1, 1, 3, 3))
