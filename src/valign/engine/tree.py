"""Token trees: the unit of computation.

A tree holds segments of token ids (the prompt as trunk, responses as branches) and leaves that say where each response
ends. What always holds: parents stand before their children (T1), the path of a leaf is exactly what the plain path
would feed the model (T2), every scored token has a predecessor (T3). Text is not known here: ids come from
`models.chat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from valign.errors import ValignError

Ids = NDArray[np.int32]
Weights = NDArray[np.float32]
MERGE_GAIN = 0.05  # siblings with a common prefix become a trie when that saves this share of the tokens


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A run of tokens.

    ids     (n,) token ids            parent  index of the parent segment, -1 for a root
    loss    (n,) weight of each token in the objective, 0 for prompt tokens
    start   position of the first token on its path
    """

    ids: Ids
    parent: int
    role: str
    loss: Weights
    start: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """Where a response ends: `end` tokens of `segment` belong to it. `first` is the position of its first token."""

    segment: int
    end: int
    response: int
    first: int


@dataclass(frozen=True)
class Tree:
    """Segments in topological order and one leaf per response. `id` names the group it came from."""

    id: str
    segments: tuple[Segment, ...]
    leaves: tuple[Leaf, ...]

    def __post_init__(self) -> None:
        for i, s in enumerate(self.segments):
            if s.parent >= i:
                raise ValueError(f"segment {i} stands before its parent {s.parent}")
            at = 0 if s.parent < 0 else self.segments[s.parent].start + len(self.segments[s.parent].ids)
            if s.start != at:
                raise ValueError(f"segment {i} starts at {s.start}, its parent ends at {at}")
            if s.start == 0 and len(s.loss) and s.loss[0] != 0:
                raise ValignError(
                    "a scored token stands at position 0 and has no predecessor",
                    where=f"group {self.id}",
                    how="add a start token or mask the first token",
                )
        for leaf in self.leaves:
            if not 0 <= leaf.segment < len(self.segments):
                raise ValueError(f"leaf of response {leaf.response} names segment {leaf.segment}")
            s = self.segments[leaf.segment]
            if not (0 <= leaf.end <= len(s.ids) and 0 <= leaf.first <= s.start + leaf.end):
                raise ValueError(f"leaf of response {leaf.response} ends or begins outside its path")

    def chain(self, segment: int) -> list[int]:
        """Segment indices from the root down to `segment`."""
        out: list[int] = []
        while segment >= 0:
            out.append(segment)
            segment = self.segments[segment].parent
        return out[::-1]

    def _cut(self, leaf: Leaf, field: str) -> NDArray[np.generic]:
        parts = [getattr(self.segments[i], field) for i in self.chain(leaf.segment)]
        parts[-1] = parts[-1][: leaf.end]
        return np.concatenate(parts)

    def path(self, leaf: Leaf) -> Ids:
        """All ids from the root to the leaf."""
        return self._cut(leaf, "ids").astype(np.int32)

    def path_loss(self, leaf: Leaf) -> Weights:
        """The loss weight of every token of `path`."""
        return self._cut(leaf, "loss").astype(np.float32)

    def response_ids(self, leaf: Leaf) -> Ids:
        """The ids of the response alone."""
        return self.path(leaf)[leaf.first :]

    def response_loss(self, leaf: Leaf) -> Weights:
        """The loss weights of the response alone: one row of the scorer's mask."""
        return self.path_loss(leaf)[leaf.first :]

    @cached_property
    def tokens(self) -> int:
        """Tokens that are computed."""
        return sum(len(s.ids) for s in self.segments)

    @cached_property
    def unshared_tokens(self) -> int:
        """Tokens that the plain path would compute; `unshared_tokens / tokens` is the sharing factor."""
        return sum(len(self.path(leaf)) for leaf in self.leaves)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest path."""
        return max((self.segments[x.segment].start + x.end for x in self.leaves), default=0)

    @cached_property
    def mask_sum(self) -> float:
        """Sum of the loss weights over all responses."""
        return float(sum(self.response_loss(leaf).sum() for leaf in self.leaves))


def from_paths(
    id: str, trunk: Sequence[int], branches: Sequence[Sequence[int]], loss: Sequence[Sequence[float]] | None = None
) -> Tree:
    """A prompt and its responses: from_pair, from_ranking and from_group are all this.

    trunk     ids that all paths share (may be empty only if no branch scores its first token)
    branches  ids of each response, stop token included
    loss      weight of every branch token, 1 by default
    Branches that share a prefix are merged into a trie where that saves 5 % of the tokens.
    """
    weights = [
        np.ones(len(b), np.float32) if loss is None else np.asarray(loss[i], np.float32) for i, b in enumerate(branches)
    ]
    ids = [np.asarray(b, np.int32) for b in branches]
    root = Segment(np.asarray(trunk, np.int32), -1, "prompt", np.zeros(len(trunk), np.float32), 0)
    merged = _trie(id, root, ids, weights)
    flat = len(trunk) + sum(len(b) for b in ids)
    if merged is not None and flat - merged.tokens >= MERGE_GAIN * flat:
        return merged
    segments = [root, *(Segment(b, 0, "assistant", w, len(trunk)) for b, w in zip(ids, weights))]
    return Tree(id, tuple(segments), tuple(Leaf(i + 1, len(b), i, len(trunk)) for i, b in enumerate(ids)))


def from_chat(id: str, ids: Sequence[int], loss: Sequence[float]) -> Tree:
    """A conversation with any number of trained turns as one path; the response begins at its first scored token."""
    weight = np.asarray(loss, np.float32)
    scored = np.flatnonzero(weight)
    first = int(scored[0]) if len(scored) else len(weight)
    segment = Segment(np.asarray(ids, np.int32), -1, "chat", weight, 0)
    return Tree(id, (segment,), (Leaf(0, len(weight), 0, first),))


def _trie(id: str, root: Segment, ids: list[Ids], weights: list[Weights]) -> Tree | None:
    """The compressed prefix tree of the branches, or None if no two branches share a first token.

    Tokens are shared only where their loss weights agree too: a segment has one weight per token.
    """
    if len({(int(b[0]), float(w[0])) for b, w in zip(ids, weights) if len(b)}) == sum(1 for b in ids if len(b)):
        return None
    segments, leaves = [root], [Leaf(0, len(root.ids), i, len(root.ids)) for i in range(len(ids))]
    order = sorted(range(len(ids)), key=lambda i: tuple(ids[i].tolist()))
    stack: list[tuple[list[int], int, int]] = [(order, 0, 0)]  # (branches, depth, parent segment)
    while stack:
        rows, depth, parent = stack.pop()
        for key, members in _split(rows, depth, ids, weights).items():
            if key is None:
                for i in members:
                    leaves[i] = Leaf(parent, len(segments[parent].ids), i, len(root.ids))
                continue
            end = _common(members, depth, ids, weights)
            first = members[0]
            segments.append(
                Segment(ids[first][depth:end], parent, "assistant", weights[first][depth:end], len(root.ids) + depth)
            )
            stack.append((members, end, len(segments) - 1))
    return Tree(id, tuple(segments), tuple(leaves))


def _split(
    rows: list[int], depth: int, ids: list[Ids], weights: list[Weights]
) -> dict[tuple[int, float] | None, list[int]]:
    out: dict[tuple[int, float] | None, list[int]] = {}
    for i in rows:
        key = (int(ids[i][depth]), float(weights[i][depth])) if depth < len(ids[i]) else None
        out.setdefault(key, []).append(i)
    return out


def _common(rows: list[int], depth: int, ids: list[Ids], weights: list[Weights]) -> int:
    """Length of the prefix that all `rows` share, beyond `depth`."""
    end = min(len(ids[i]) for i in rows)
    first = rows[0]
    for i in rows[1:]:
        same = (ids[i][depth:end] == ids[first][depth:end]) & (weights[i][depth:end] == weights[first][depth:end])
        differs = np.flatnonzero(~same)
        if len(differs):
            end = depth + int(differs[0])
    return end
