"""Attention as plain matrix products, query heads that share keys side by side: for short rows on a processor.

Fused kernels save the memory of the scores; where a query meets some hundred keys there is little to save, and
processors multiply large matrices several times faster than those kernels run. A mask is read once per micro-batch and
cut into blocks of queries, each with the keys that one of them sees: much of a row's later half, and of the branches of
a tree beside each other, is then never multiplied with what is hidden from it. Blocks are those of all rows of a
micro-batch together, and only as small as pays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NAME = "valign_grouped"
KEYS = 600  # a query meets on average; beyond, the scores of a layer take more memory than they save time
TILE = 32  # queries that are never cut apart
BLOCK = 12000  # query-key pairs whose products take as long as starting those of one more block
_MARK = "valign_blocks"
_KNOWN = {"dropout", "sliding_window", "position_ids", "is_causal", "use_cache", "cache_position"}


class Block(NamedTuple):
    """Queries start .. stop - 1, and the keys that one of them sees, as ranges (from, to) in order."""

    start: int
    stop: int
    keys: tuple[tuple[int, int], ...]

    @property
    def pairs(self) -> int:
        """Query-key pairs that are multiplied."""
        return (self.stop - self.start) * sum(b - a for a, b in self.keys)


def blocks_of(see: NDArray[np.bool_], rows: int = 1) -> tuple[Block, ...]:
    """The queries of (queries, keys) cut into blocks so that pairs and starts together cost least.

    see   True where the query of at least one row sees the key; `rows` of them are multiplied at once
    """
    queries = len(see)
    edges = np.minimum(np.arange(0, queries + TILE, TILE), queries)
    tiles = np.logical_or.reduceat(see, edges[:-1], axis=0)
    bits = np.packbits(tiles, axis=1)
    cost, cut = np.full(len(edges), np.inf), np.zeros(len(edges), np.int64)
    cost[0] = 0
    for i in range(len(tiles)):  # cost[i] is final: every block ends after it begins
        keys = np.bitwise_count(np.bitwise_or.accumulate(bits[i:], axis=0)).sum(1, dtype=np.int64)
        through = cost[i] + (edges[i + 1 :] - edges[i]) * keys + BLOCK / rows
        better = np.flatnonzero(through < cost[i + 1 :]) + i + 1
        cost[better], cut[better] = through[better - i - 1], i
    out, end = [], len(tiles)
    while end:
        start = int(cut[end])
        seen = np.flatnonzero(np.diff(tiles[start:end].any(0), prepend=False, append=False))
        ranges = tuple((int(a), int(b)) for a, b in seen.reshape(-1, 2))
        out.append(Block(int(edges[start]), int(edges[end]), ranges))
        end = start
    return tuple(reversed(out))


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, blocks: tuple[Block, ...]
) -> Tensor:
    """softmax(scale · Q Kᵀ + mask) V.

    query  (rows, heads, queries, width)     key, value  (rows, key heads, keys, width), those of a prefix first
    mask   (rows, 1, queries, keys), additive        blocks  of `mask`
    Returns (rows, queries, heads, width).
    """
    rows, heads, _, width = query.shape
    shared = key.shape[1]
    group = heads // shared
    wide = torch.promote_types(query.dtype, torch.float32)  # scores rounded to bfloat16 would add to the error (E11)
    query, mask = query.to(wide) * scale, mask.to(wide)
    keys, values = _Pieces(key.to(wide), blocks), _Pieces(value, blocks)
    out = []
    for block, asked in zip(blocks, query.split([b.stop - b.start for b in blocks], 2), strict=True):
        n = block.stop - block.start
        asked = asked.reshape(rows, shared, group * n, width)
        with torch.autocast(query.device.type, enabled=False):
            scores = torch.matmul(asked, keys.of(block).transpose(2, 3)).view(rows, shared, group, n, -1)
        hidden = [mask[:, :, None, block.start : block.stop, a:b] for a, b in block.keys]
        weights = torch.softmax(scores + torch.cat(hidden, -1), -1).view(rows, shared, group * n, -1)
        out.append(torch.matmul(weights.to(value.dtype), values.of(block)).view(rows, heads, n, width))
    return torch.cat(out, 2).transpose(1, 2).contiguous()


class _Pieces:
    """Keys or values cut once wherever a block begins or ends to see: the gradient of a slice for each block would be
    as large as all keys, that of a split is what the blocks used."""

    def __init__(self, x: Tensor, blocks: tuple[Block, ...]) -> None:
        self.edges = sorted({0, x.shape[2], *(e for b in blocks for r in b.keys for e in r)})
        self.pieces = x.split([b - a for a, b in zip(self.edges, self.edges[1:])], 2)

    def of(self, block: Block) -> Tensor:
        """What the block sees, side by side."""
        inside = [i for a, b in block.keys for i in range(self.edges.index(a), self.edges.index(b))]
        return torch.cat([self.pieces[i] for i in inside], 2)


@torch.compiler.disable  # blocks differ from one micro-batch to the next: each would be compiled anew
def _forward(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
             scaling: float | None = None, **more: Any) -> tuple[Tensor, None]:  # fmt: skip
    """What transformers calls. Masks without blocks, and anything that this attention does not know, are left to the
    stock one."""
    known = not any(v is not None for k, v in more.items() if k not in _KNOWN) and not more.get("dropout")
    blocks = getattr(attention_mask, _MARK, None)
    if known and attention_mask is not None and blocks:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return grouped_attention(query, key, value, attention_mask, scale, blocks), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)  # type: ignore[no-any-return]


def in_blocks(mask: Tensor, see: NDArray[np.bool_], most: float = KEYS) -> Tensor:
    """The mask (rows, 1, queries, keys), with its blocks where a query then meets at most `most` keys on average. They
    stay with it when a layer is computed again (activation checkpointing), which no switch around the forward pass
    would.

    see   (queries, keys) where a row sees the key: what `mask` says, on the host
    """
    if np.count_nonzero(see) <= most * len(see):  # blocks cover at least that
        blocks = blocks_of(see, len(mask))
        if sum(b.pairs for b in blocks) <= most * len(see):
            setattr(mask, _MARK, blocks)
    return mask


def keys_met(mask: Tensor) -> float:
    """Keys that a query is multiplied with, on average."""
    blocks: tuple[Block, ...] = getattr(mask, _MARK, ())
    return sum(b.pairs for b in blocks) / mask.shape[2] if blocks else float(mask.shape[3])


def attend_grouped(model: Any) -> bool:
    """Let a model attend with `grouped_attention` where its mask has blocks, on a processor; True if it now does."""
    config = model.config
    if model.device.type != "cpu":  # it may have been moved there since
        return False
    if config._attn_implementation == "sdpa":
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask

        AttentionInterface.register(NAME, _forward)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        config._attn_implementation = NAME
    return bool(config._attn_implementation == NAME)
