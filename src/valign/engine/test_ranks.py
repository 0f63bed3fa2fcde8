"""Ranks of tokens: those of the naive oracle, whatever is shared, chunked or closed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from valign.engine.ranks import token_ranks
from valign.engine.scorer import Scorer


def naive(model, tree, allowed=None):
    """One path at a time, from the model's own logits."""
    out = []
    for leaf in tree.leaves:
        ids = torch.as_tensor(tree.path(leaf).astype(np.int64))
        logits = model(ids[None], use_cache=False).logits[0]
        if allowed is not None:
            closed = [i for i in range(logits.shape[1]) if i not in allowed]
            logits[:, closed] = -torch.inf
        ranks = [1 + int((logits[t - 1] > logits[t - 1, ids[t]]).sum()) for t in range(leaf.first, len(ids))]
        out.append(np.array(ranks, np.int64) * (tree.response_loss(leaf) != 0))
    return out


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mamba"])
def test_ranks_are_those_of_each_path_alone(tiny, trees, family):
    """Exact, on shared trunks and plain paths; soft-capped and tied heads too."""
    model, forest = tiny(family).model, trees(8, seed=3)
    with torch.no_grad():
        expected = [naive(model, t) for t in forest]
    found = token_ranks(Scorer(model), forest, budget=200)
    assert all(np.array_equal(a, b) for x, y in zip(found, expected) for a, b in zip(x, y))
    every = np.concatenate([r for row in found for r in row])
    assert every.max() > 50 and every[every > 0].min() >= 1


def test_chunks_and_temperature_change_no_rank(tiny, trees):
    model, forest = tiny().model, trees(5, seed=4)
    expected = token_ranks(Scorer(model), forest)
    for settings in ({"head_chunk": 3}, {"temperature": 0.3}):
        found = token_ranks(Scorer(model, **settings), forest)
        assert all(np.array_equal(a, b) for x, y in zip(found, expected) for a, b in zip(x, y))


def test_closed_tokens_are_not_counted(tiny, trees):
    model, forest = tiny().model, trees(5, seed=5)
    allowed = sorted({int(i) for t in forest for s in t.segments for i in s.ids})[::-1]
    with torch.no_grad():
        expected = [naive(model, t, allowed) for t in forest]
    found = token_ranks(Scorer(model, allowed_tokens=allowed), forest)
    assert all(np.array_equal(a, b) for x, y in zip(found, expected) for a, b in zip(x, y))


def test_the_most_probable_token_has_rank_one_and_progress_is_told(tiny, trees):
    model, forest, told = tiny().model, trees(6, seed=6), []
    with torch.no_grad():
        tree = forest[0]
        leaf = tree.leaves[0]
        head = torch.as_tensor(tree.path(leaf)[: leaf.first].astype(np.int64))
        best = int(model(head[None]).logits[0, -1].argmax())
    from valign.engine.tree import from_paths

    forest[0] = from_paths("greedy", head.tolist(), [[best]])
    found = token_ranks(Scorer(model), forest, budget=1, progress=lambda done, total: told.append((done, total)))
    assert found[0][0].tolist() == [1]
    assert told == [(i + 1, 6) for i in range(6)]
    assert all(not p.requires_grad or p.grad is None for p in model.parameters())
