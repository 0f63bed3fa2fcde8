"""From trees to rows of tokens: which token stands where, what it may see, and which positions are scored.

`row`: one row per tree, all branches beside each other, three integers per token (enter, exit, pos) that are the whole
attention mask. `plain`: one row per leaf, the way any model can run it. Both give the same scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from valign.engine.forest import Planted, plant
from valign.engine.tree import Tree

Int = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Rows of tokens, padded to one length.

    ids, pos       (rows, length) token ids and positions; padding has id 0, pos 0
    enter, exit    (rows, length) depth-first numbers of each token's segment; padding has its own, so it sees itself
    real           (rows, length) True where a token is, False where padding is
    read           (m,) flat index into rows x length of the token whose hidden state predicts a target
    target         (m,) the predicted token id
    response, column   (m,) where the log-prob goes in the (responses, tokens) result
    last           (responses,) flat index of the last token of each response's path; -1 for a path without tokens
    mask           (responses, tokens) loss weights
    group          (responses,) which tree a response belongs to
    plain          True if each row is one path (a 2-D mask suffices)
    """

    ids: Int
    pos: Int
    enter: Int
    exit: Int
    real: NDArray[np.bool_]
    read: Int
    target: Int
    response: Int
    column: Int
    last: Int
    mask: NDArray[np.float32]
    group: Int
    plain: bool

    @property
    def pad_share(self) -> float:
        """Share of the computed positions that are padding."""
        return 1.0 - float(self.real.mean()) if self.real.size else 0.0


@dataclass(frozen=True)
class _Row:
    ids: Int
    pos: Int
    enter: Int
    exit: Int
    reads: list[tuple[Int, Int, int, Int]]  # (row-local read, target, response, column)
    lasts: list[tuple[int, int]]  # (row-local place of a path's last token, response)


def row_layout(
    trees: Sequence[Tree], multiple: int = 1, *, rows: Sequence[Planted] | None = None, skip: int = 0
) -> Layout:
    """One row per tree.

    multiple   lengths are rounded up to it (few distinct shapes on CPU)
    rows       how the trees are joined in rows; None: each in its own
    skip       tokens at the beginning of every row that are left out: a cache holds them
    """
    masks = [tree.response_loss(leaf) for tree in trees for leaf in tree.leaves]
    groups = [g for g, tree in enumerate(trees) for _ in tree.leaves]
    made = [_tree_row(p.tree, p.responses, skip) for p in (plant(trees, row=0) if rows is None else rows)]
    return _stack(made, masks, groups, multiple, plain=False)


def plain_layout(trees: Sequence[Tree], multiple: int = 1) -> Layout:
    """One row per leaf: the oracle's shape, for models that cannot share a trunk."""
    rows, masks, groups, seen = [], [], [], 0
    for g, tree in enumerate(trees):
        for leaf in tree.leaves:
            ids, loss = tree.path(leaf).astype(np.int64), tree.path_loss(leaf)
            scored = np.flatnonzero(loss[leaf.first :]) + leaf.first
            one = np.zeros(len(ids), np.int64)
            reads = [(scored - 1, ids[scored], seen, scored - leaf.first)]
            rows.append(_Row(ids, np.arange(len(ids)), one, one + 1, reads, [(len(ids) - 1, seen)] if len(ids) else []))
            masks.append(loss[leaf.first :])
            groups.append(g)
            seen += 1
    return _stack(rows, masks, groups, multiple, plain=True)


def _tree_row(tree: Tree, responses: Sequence[int], skip: int = 0) -> _Row:
    lengths = [len(s.ids) for s in tree.segments]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    enter, exit_ = _depth_first([s.parent for s in tree.segments])
    ids = np.concatenate([s.ids for s in tree.segments]).astype(np.int64)
    pos = np.concatenate([s.start + np.arange(n) for s, n in zip(tree.segments, lengths)]).astype(np.int64)
    reads, lasts = [], []
    for i, leaf in enumerate(tree.leaves):
        where = np.concatenate([offsets[s] + np.arange(lengths[s]) for s in tree.chain(leaf.segment)])
        where = where[: tree.segments[leaf.segment].start + leaf.end].astype(np.int64)
        scored = np.flatnonzero(tree.response_loss(leaf)) + leaf.first
        reads.append((where[scored - 1] - skip, ids[where[scored]], responses[i], scored - leaf.first))
        if len(where):
            lasts.append((int(where[-1]) - skip, responses[i]))
    enters, exits = np.repeat(enter, lengths), np.repeat(exit_, lengths)
    return _Row(ids[skip:], pos[skip:], enters[skip:], exits[skip:], reads, lasts)


def _depth_first(parents: list[int]) -> tuple[Int, Int]:
    """Numbers such that A is B or an ancestor of B exactly when enter[A] <= enter[B] < exit[A]."""
    children: list[list[int]] = [[] for _ in parents]
    roots: list[int] = []
    for i, p in enumerate(parents):
        (roots if p < 0 else children[p]).append(i)
    enter, exit_ = np.zeros(len(parents), np.int64), np.zeros(len(parents), np.int64)
    clock, stack = 0, [(r, False) for r in reversed(roots)]
    while stack:
        node, done = stack.pop()
        if done:
            exit_[node] = clock
            continue
        enter[node] = clock
        clock += 1
        stack.append((node, True))
        stack += [(c, False) for c in reversed(children[node])]
    return enter, exit_


def _stack(rows: list[_Row], masks: list[NDArray[np.float32]], groups: list[int], multiple: int, plain: bool) -> Layout:
    length = max((len(r.ids) for r in rows), default=0)
    length = -(-length // multiple) * multiple
    shape = (len(rows), length)
    ids, pos = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    # padding gets numbers above every real one, each its own, so that it sees itself and nothing else
    enter = np.tile(np.arange(length, dtype=np.int64) + 1_000_000, (len(rows), 1))
    exit_, real = enter + 1, np.zeros(shape, bool)
    reads: list[list[Int]] = [[], [], [], []]
    last = np.full(len(masks), -1, np.int64)
    for i, r in enumerate(rows):
        n = len(r.ids)
        ids[i, :n], pos[i, :n], enter[i, :n], exit_[i, :n], real[i, :n] = r.ids, r.pos, r.enter, r.exit, True
        for at, token, owner, place in r.reads:
            parts = (at + i * length, token, np.full(len(at), owner), place)
            for out, part in zip(reads, parts):
                out.append(part.astype(np.int64))
        for at_last, response_ in r.lasts:
            last[response_] = at_last + i * length
    read, target, response, column = (np.concatenate(x) if x else np.zeros(0, np.int64) for x in reads)
    mask = np.zeros((len(masks), max((len(m) for m in masks), default=0)), np.float32)
    for i, m in enumerate(masks):
        mask[i, : len(m)] = m
    return Layout(
        ids, pos, enter, exit_, real, read, target, response, column, last, mask, np.asarray(groups, np.int64), plain
    )
