"""Ranks: how far down a model's list of next tokens each token of a response stands.

Scale, soft-cap and temperature of a head keep the order of its logits, so ranks are read off the logits themselves;
only the rows that predict a scored token meet the head, in chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from valign.engine.head import CHUNK_BYTES
from valign.engine.scorer import Scorer, causal_lm, micro_batches
from valign.engine.tree import Tree

Ranks = NDArray[np.int64]


@torch.no_grad()
def token_ranks(
    scorer: Scorer, trees: Sequence[Tree], *, budget: int | None = None, progress: Callable[[int, int], None] | None = None
) -> list[list[Ranks]]:
    """1 + the number of tokens that the model finds more probable, for every token of every response.

    Equal logits share the better rank. Returns one list per tree with one (tokens,) array per response, 0 where the
    loss weight is 0. A policy with `allowed_tokens` is asked about those alone.
    """
    out: list[list[Ranks]] = [[] for _ in trees]
    done = 0
    for batch in micro_batches(trees, budget or scorer.budget, scorer.path):
        table, at = _ranks(scorer, [trees[i] for i in batch]), 0
        for i in batch:
            for leaf in trees[i].leaves:
                out[i].append(table[at, : len(trees[i].response_ids(leaf))].copy())
                at += 1
        done += len(batch)
        if progress is not None:
            progress(done, len(trees))
    return out


def _ranks(scorer: Scorer, trees: Sequence[Tree]) -> Ranks:
    """(responses, tokens) of one forward pass."""
    layout = scorer.layout(trees)
    hidden = scorer.hidden(layout)
    read, row = np.unique(layout.read, return_inverse=True)
    picked = hidden.reshape(-1, hidden.shape[-1])[torch.as_tensor(read, device=hidden.device)]
    out = np.zeros(layout.mask.shape, np.int64)
    head = causal_lm(scorer.model).get_output_embeddings()
    vocabulary = causal_lm(scorer.model).config.get_text_config().vocab_size
    chunk = scorer.spec.chunk or max(1, CHUNK_BYTES // (8 * vocabulary))
    for first in range(0, len(read), chunk):
        here = (row >= first) & (row < first + chunk)
        z = _logits(scorer, head, picked[first : first + chunk])[
            torch.as_tensor(row[here] - first, device=hidden.device)
        ]
        own = z.gather(1, torch.as_tensor(layout.target[here], device=z.device)[:, None])
        out[layout.response[here], layout.column[here]] = (z > own).sum(1).cpu().numpy() + 1
    return out


def _logits(scorer: Scorer, head: torch.nn.Module, hidden: Tensor) -> Tensor:
    with torch.autocast(hidden.device.type, dtype=scorer.autocast, enabled=scorer.autocast is not None):
        z: Tensor = head(hidden)
    if scorer.allowed is None:
        return z
    closed = torch.ones(z.shape[1], dtype=torch.bool, device=z.device)
    closed[scorer.allowed.to(z.device)] = False
    return z.masked_fill(closed, float("-inf"))
