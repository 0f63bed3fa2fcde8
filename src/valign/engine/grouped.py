"""Attention as plain matrix products, query heads that share keys side by side: for short rows on a processor.

Fused kernels save the memory of the scores; for rows of some hundred tokens there is little to save, and processors
multiply large matrices several times faster than those kernels run. A query sees no later column, so a block of
queries meets only the keys up to its end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAME = "valign_grouped"
LONGEST = 640  # tokens of a row; beyond, the scores of a layer take more memory than they save time
BLOCKS = 2  # of queries: a quarter of the square is left out; with more, smaller products cost what they save
_MARK = "valign_hides_later_columns"
_KNOWN = {"dropout", "sliding_window", "position_ids", "is_causal", "use_cache", "cache_position"}


def grouped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """softmax(scale · Q Kᵀ + mask) V.

    query  (rows, heads, queries, width)     key, value  (rows, key heads, keys, width), keys >= queries: those of a
           prefix come first                 mask  (rows, 1, queries, keys), additive, hiding every later column
    Returns (rows, queries, heads, width).
    """
    rows, heads, queries, width = query.shape
    shared, keys = key.shape[1], key.shape[2]
    group, before, step = heads // shared, keys - queries, -(-queries // BLOCKS)
    wide = torch.promote_types(query.dtype, torch.float32)  # scores rounded to bfloat16 would add to the error (E11)
    query, key, mask = (query * scale).to(wide), key.to(wide), mask.to(wide)
    blocks = []
    for start in range(0, queries, step):
        stop = min(start + step, queries)
        n, seen = stop - start, before + stop
        asked = query[:, :, start:stop].reshape(rows, shared, group * n, width)
        with torch.autocast(query.device.type, enabled=False):
            scores = torch.matmul(asked, key[:, :, :seen].transpose(2, 3)).view(rows, shared, group, n, seen)
        weights = torch.softmax(scores + mask[:, :, None, start:stop, :seen], -1).view(rows, shared, group * n, seen)
        blocks.append(torch.matmul(weights.to(value.dtype), value[:, :, :seen]).view(rows, heads, n, width))
    return torch.cat(blocks, 2).transpose(1, 2).contiguous()


def _forward(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
             scaling: float | None = None, **more: Any) -> tuple[Tensor, None]:  # fmt: skip
    """What transformers calls. Masks that are not marked, and anything that this attention does not know, are left to
    the stock one."""
    known = not any(v is not None for k, v in more.items() if k not in _KNOWN) and not more.get("dropout")
    if known and attention_mask is not None and getattr(attention_mask, _MARK, False):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return grouped_attention(query, key, value, attention_mask, scale), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)  # type: ignore[no-any-return]


def marked(mask: Tensor) -> Tensor:
    """The mask, with the promise that no query sees a later column. The mark stays with it when a layer is computed
    again (activation checkpointing), which no switch around the forward pass would."""
    setattr(mask, _MARK, True)
    return mask


def attend_grouped(model: Any) -> bool:
    """Let a model attend with `grouped_attention` where its mask is `marked`, on a processor; True if it now does."""
    config = model.config
    if config._attn_implementation == "sdpa" and model.device.type == "cpu":
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask

        AttentionInterface.register(NAME, _forward)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        config._attn_implementation = NAME
    return bool(config._attn_implementation == NAME)
