"""Rows of tokens: who stands where, what may be seen, and which hidden state predicts which token."""

from __future__ import annotations

import numpy as np
import pytest

from valign.engine.attention import visible
from valign.engine.layout import _depth_first, plain_layout, row_layout
from valign.engine.tree import from_paths


def ancestors(parents, node):
    while node >= 0:
        yield node
        node = parents[node]


@pytest.mark.parametrize("seed", range(20))
def test_two_numbers_tell_ancestors(seed):
    """enter and exit of a depth-first walk: A is B or above B exactly when enter[A] <= enter[B] < exit[A]."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 25))
    parents = [int(rng.integers(-1, i)) if i else -1 for i in range(n)]
    enter, exit_ = _depth_first(parents)
    for b in range(n):
        above = set(ancestors(parents, b))
        assert {a for a in range(n) if enter[a] <= enter[b] < exit_[a]} == above


@pytest.mark.proof("E2")
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("seed", range(8))
def test_a_token_sees_its_own_path_and_nothing_else(branching, seed, window):
    """The mask, entry by entry: the earlier tokens of the path within the window; padding sees itself
    alone.
    """
    rng = np.random.default_rng(seed)
    tree = branching(rng, roots=1 + seed % 3)
    other = from_paths("other", [1, 2, 3], [[4], [5, 6]])
    layout = row_layout([tree, other], multiple=8)
    see = visible(layout, "cpu", window).numpy()[:, 0]
    assert see.any(-1).all(), "an empty row of a mask is NaN in some kernels"
    where = [(s, k) for s, seg in enumerate(tree.segments) for k in range(len(seg.ids))]
    for q, (s, k) in enumerate(where):
        path = [(a, j) for a in tree.chain(s) for j in range(len(tree.segments[a].ids)) if a != s or j <= k]
        allowed = {where.index(x) for x in (path if window is None else path[-window:])}
        assert set(np.flatnonzero(see[0, q])) == allowed
    for q in range(len(where), layout.ids.shape[1]):
        assert np.flatnonzero(see[0, q]).tolist() == [q]


@pytest.mark.proof("E1")
@pytest.mark.parametrize("build", [row_layout, plain_layout])
@pytest.mark.parametrize("multiple", [1, 16])
def test_each_scored_token_is_read_from_its_predecessor_on_its_path(branching, build, multiple):
    """Every scored token once per leaf (T5), from the token before it on that leaf's path, into its own
    column.
    """
    rng = np.random.default_rng(5)
    forest = [branching(rng, f"t{i}") for i in range(4)] + [from_paths("p", [1, 2], [[7], [7], [8, 9]])]
    layout = build(forest, multiple)
    leaves = [(g, t, leaf) for g, t in enumerate(forest) for leaf in t.leaves]
    assert layout.ids.shape[1] % multiple == 0
    assert layout.group.tolist() == [g for g, _, _ in leaves]
    assert len(layout.read) == sum(int((t.response_loss(leaf) != 0).sum()) for _, t, leaf in leaves)
    assert len({*zip(layout.response.tolist(), layout.column.tolist())}) == len(layout.read)
    ids, pos, real = (x.reshape(-1) for x in (layout.ids, layout.pos, layout.real))
    for read, target, response, column in zip(layout.read, layout.target, layout.response, layout.column):
        _, tree, leaf = leaves[response]
        at, path = leaf.first + column, tree.path(leaf)
        assert real[read] and (ids[read], pos[read], target) == (path[at - 1], at - 1, path[at])
    for row, (_, tree, leaf) in zip(layout.mask, leaves):
        loss = tree.response_loss(leaf)
        assert row[: len(loss)].tolist() == loss.tolist() and not row[len(loss) :].any()


def test_pad_share_counts_what_is_computed_for_nothing():
    layout = row_layout([from_paths("a", [1, 2], [[3, 4]]), from_paths("b", [1], [[2]])], 8)
    assert layout.ids.shape == (2, 8)
    assert layout.pad_share == pytest.approx(10 / 16)
