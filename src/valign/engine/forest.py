"""Trees that begin alike share what they have in common: joined under one root, or behind one cached prefix.

Joining is worth it when the tokens that are saved cost more than the attention between trees that now share a row and
do not see each other; both are counted in tokens. Prompts of one benchmark, of one template's system turn, or of one
situation asked twice begin alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from valign.engine.tree import Leaf, Segment, Tree

ROW = 768  # tokens up to which trees are joined in one row


@dataclass(frozen=True)
class Planted:
    """One row to compute: a tree, which of the given trees it joins, and which response of theirs each leaf is."""

    tree: Tree
    members: tuple[int, ...]
    responses: tuple[int, ...]


def plant(trees: Sequence[Tree], pair_cost: float = 0.0, row: int = ROW, *, skip: int = 0) -> list[Planted]:
    """One row per tree, or fewer: neighbours in the order of their prompts are joined where that saves.

    pair_cost   what one query-key pair costs, in tokens        row   the longest joined row, in tokens
    skip        tokens that all trees begin with and that are computed elsewhere
    """
    ends = np.cumsum([0, *(len(t.leaves) for t in trees)])
    single = [Planted(t, (i,), tuple(range(a, b))) for i, (t, a, b) in enumerate(zip(trees, ends, ends[1:]))]
    order = sorted(range(len(trees)), key=lambda i: trees[i].segments[0].ids.tobytes() if trees[i].segments else b"")
    out: list[list[int]] = []
    for i in order:
        if out and _saves([trees[k] for k in out[-1]], trees[i], pair_cost, row, skip):
            out[-1].append(i)
        else:
            out.append([i])
    return [
        single[one[0]] if len(one) == 1 else Planted(join([trees[i] for i in one]), tuple(one), _owners(single, one))
        for one in sorted(out, key=min)
    ]


def common_root(trees: Sequence[Tree]) -> int:
    """Tokens that all trees begin with, of which none is scored; every root keeps at least one of its own."""
    if not all(_joins(t) for t in trees) or not trees:
        return 0
    roots = [t.segments[0].ids for t in trees]
    n = min(len(r) for r in roots) - 1
    for r in roots[1:]:
        n = _alike(roots[0], r, n)
    return max(0, n)


def join(trees: Sequence[Tree]) -> Tree:
    """One tree whose leaves are those of `trees`, in order; what all roots begin with stands there once.

    Raises nothing: trees that share nothing get an empty common segment.
    """
    n = common_root(trees)
    first = trees[0].segments[0]
    segments = [replace(first, ids=first.ids[:n], loss=first.loss[:n])]
    leaves: list[Leaf] = []
    for tree in trees:
        base = len(segments)
        root = tree.segments[0]
        segments.append(Segment(root.ids[n:], 0, root.role, root.loss[n:], n))
        segments += [replace(s, parent=s.parent + base) for s in tree.segments[1:]]
        leaves += [
            replace(x, segment=x.segment + base, end=x.end - n if x.segment == 0 else x.end, response=len(leaves) + k)
            for k, x in enumerate(tree.leaves)
        ]
    return Tree("+".join(t.id for t in trees), tuple(segments), tuple(leaves))


def _saves(row: Sequence[Tree], tree: Tree, pair_cost: float, longest: int, skip: int) -> bool:
    """Whether one more tree in a row costs less than a row of its own."""
    if not all(_joins(t) for t in (*row, tree)):
        return False
    tokens = _tokens(row, common_root(row), skip)
    alone = _tokens([tree], 0, skip)
    shared = common_root([*row, tree])
    joined = _tokens([*row, tree], shared, skip)
    pairs = joined**2 - tokens**2 - alone**2
    return shared > skip and joined <= longest and tokens + alone - joined > pair_cost * pairs


def _tokens(trees: Sequence[Tree], shared: int, skip: int) -> int:
    """Positions of a row that joins the trees, without what is computed elsewhere."""
    return sum(t.tokens for t in trees) - shared * (len(trees) - 1) - skip


def _joins(tree: Tree) -> bool:
    """Whether the tree has one root, whose tokens are not scored and which no response ends inside: a prompt."""
    if not tree.segments or tree.segments[0].loss.any() or any(s.parent < 0 for s in tree.segments[1:]):
        return False
    return all(x.segment > 0 or x.end == len(tree.segments[0].ids) for x in tree.leaves)


def _alike(a: np.ndarray[tuple[int], np.dtype[np.int32]], b: np.ndarray[tuple[int], np.dtype[np.int32]], n: int) -> int:
    n = min(n, len(a), len(b) - 1)
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


def _owners(single: Sequence[Planted], chosen: Sequence[int]) -> tuple[int, ...]:
    return tuple(r for i in chosen for r in single[i].responses)
