"""Trees keep every path token for token, whatever they share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valign.engine.tree import MERGE_GAIN, Leaf, Segment, Tree, from_chat, from_paths
from valign.errors import ValignError

token = st.integers(0, 4)  # few ids: prefixes collide often
branch = st.lists(st.tuples(token, st.sampled_from([0.0, 0.5, 1.0])), max_size=9)


def segment(ids, parent, start, loss=None):
    ids = np.asarray(ids, np.int32)
    weights = np.zeros(len(ids)) if loss is None else np.asarray(loss)
    return Segment(ids, parent, "assistant", weights.astype(np.float32), start)


@pytest.mark.proof("E1")
@settings(max_examples=300, deadline=None)
@given(st.lists(token, min_size=1, max_size=12), st.lists(branch, min_size=1, max_size=6))
def test_paths_and_weights_survive_whatever_is_shared(trunk, branches):
    """T1, T2, T4: path ids and loss weights equal what was given, also for empty, equal and nested
    branches.
    """
    ids, loss = [[t for t, _ in b] for b in branches], [[w for _, w in b] for b in branches]
    tree = from_paths("g", trunk, ids, loss)
    assert [leaf.response for leaf in tree.leaves] == list(range(len(branches)))
    for leaf, b, w in zip(tree.leaves, ids, loss):
        assert tree.path(leaf).tolist() == trunk + b
        assert tree.response_ids(leaf).tolist() == b
        assert tree.response_loss(leaf).tolist() == w
        assert tree.path_loss(leaf).tolist() == [0.0] * len(trunk) + w
    for i, s in enumerate(tree.segments):
        assert s.parent < i
        assert s.start == (0 if s.parent < 0 else tree.segments[s.parent].start + len(tree.segments[s.parent].ids))
    assert tree.unshared_tokens == sum(len(trunk) + len(b) for b in ids)
    assert tree.longest == len(trunk) + max(map(len, ids))
    assert tree.mask_sum == sum(map(sum, loss))


@pytest.mark.proof("E1")
@settings(max_examples=200, deadline=None)
@given(st.lists(branch, min_size=2, max_size=6))
def test_a_trie_holds_each_prefix_once(branches):
    """T5: where siblings are merged, the number of computed tokens is the number of distinct weighted
    prefixes.
    """
    ids, loss = [[t for t, _ in b] for b in branches], [[w for _, w in b] for b in branches]
    tree = from_paths("g", [1, 2], ids, loss)
    distinct = len({tuple(b[:n]) for b in branches for n in range(1, len(b) + 1)}) + 2
    flat = 2 + sum(map(len, branches))
    assert tree.tokens == (distinct if flat - distinct >= MERGE_GAIN * flat else flat)


def test_a_small_gain_is_not_worth_a_trie():
    """Two branches of 40 that share one token stay two branches; sharing ten, they are merged."""
    a, b = list(range(40)), [0, *range(50, 89)]
    assert from_paths("g", [1], [a, b]).tokens == 81
    assert from_paths("g", [1], [a, a[:10] + b[1:]]).tokens == 81 + 9 - 10


def test_tokens_with_other_weights_are_not_shared():
    """One token that is trained in one branch and not in the other has two places."""
    tree = from_paths("g", [1], [[5, 6], [5, 6]], [[1, 1], [0, 1]])
    assert tree.tokens == 5
    assert [tree.response_loss(x).tolist() for x in tree.leaves] == [[1, 1], [0, 1]]


@pytest.mark.proof("E1")
def test_a_leaf_may_end_inside_a_segment():
    """T4: "A" and "A B" from one segment."""
    tree = Tree(
        "g",
        (segment([7, 8], -1, 0), segment([1, 2, 3], 0, 2, [1, 1, 1])),
        (Leaf(1, 1, 0, 2), Leaf(1, 3, 1, 2)),
    )
    assert [tree.path(x).tolist() for x in tree.leaves] == [[7, 8, 1], [7, 8, 1, 2, 3]]
    assert tree.mask_sum == 4


@pytest.mark.proof("E1")
def test_a_scored_token_without_predecessor_is_refused():
    """T3: the error names the group and says what to do; an empty root does not hide it."""
    with pytest.raises(ValignError, match=r"group g.*no predecessor[\s\S]*start token or mask"):
        from_paths("g", [], [[5, 6]])
    with pytest.raises(ValignError, match="no predecessor"):
        Tree("g", (segment([], -1, 0), segment([5], 0, 0, [1])), ())
    from_paths("g", [], [[5, 6]], [[0, 1]])


@pytest.mark.proof("E1")
@pytest.mark.parametrize(
    "segments",
    [
        (segment([1], 0, 0),),
        (segment([1], -1, 0), segment([2], 2, 1), segment([3], 0, 1)),
        (segment([1], -1, 1),),
        (segment([1, 2], -1, 0), segment([3], 0, 1)),
    ],
)
def test_a_tree_out_of_order_is_refused(segments):
    """T1: a parent stands first, and a segment starts where its parent ends."""
    with pytest.raises(ValueError, match="segment"):
        Tree("g", segments, ())


@pytest.mark.proof("E1")
@pytest.mark.parametrize("leaf", [Leaf(2, 1, 0, 1), Leaf(1, 4, 0, 1), Leaf(1, 1, 0, 4), Leaf(-1, 0, 0, 0)])
def test_a_leaf_outside_the_tree_is_refused(leaf):
    """T2: a leaf names a segment, at most its tokens, and a response that begins on its path."""
    with pytest.raises(ValueError, match="leaf"):
        Tree("g", (segment([1, 2], -1, 0), segment([3, 4, 5], 0, 2)), (leaf,))


def test_a_chat_is_one_path_whose_response_begins_at_its_first_trained_token():
    tree = from_chat("c", [1, 2, 3, 4, 5, 6], [0, 0, 1, 0, 1, 1])
    (leaf,) = tree.leaves
    assert tree.path(leaf).tolist() == [1, 2, 3, 4, 5, 6]
    assert tree.response_ids(leaf).tolist() == [3, 4, 5, 6]
    assert tree.response_loss(leaf).tolist() == [1, 0, 1, 1]
    assert tree.mask_sum == 3
    assert from_chat("c", [1, 2], [0, 0]).mask_sum == 0
