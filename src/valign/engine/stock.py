"""The decoder of every other architecture: the model's own growing cache, prompts padded on the left.

For models whose attention is tied to columns (ALiBi), that keep a state beside or instead of keys, or that nobody has
proven to run with given positions and masks. Rows join only when none is running: a cache that grows has one length for
all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from valign.engine.attention import attention_of
from valign.engine.rotary import lengthwise, rows_apart
from valign.engine.scorer import causal_lm
from valign.errors import ValignError

_COMPACT = 0.75  # rows leave the cache once fewer than this share is still running


class StockDecoder:
    """Running samples of one model. Rows are 0 .. n-1; they join when none is running, and leave by `select`."""

    refills = False

    def __init__(self, model: Any) -> None:
        self.model = causal_lm(model)
        self.switch = attention_of(self.model.config).switch
        self.rotary = lengthwise(self.model, self.switch)
        self.device = next(model.parameters()).device
        self.cache: Any = None
        self.mask: Tensor = torch.zeros(0)
        self.line: list[int] = []  # where each row stands in the cache

    @property
    def n(self) -> int:
        """Rows that are running."""
        return len(self.line)

    def share(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Nothing is shared between prompts here."""

    def admit(self, prompts: Sequence[tuple[int, ...]], waiting: Mapping[tuple[int, ...], int]) -> Tensor:
        """Start a row for each of `prompts`; equal ones are computed once and repeated."""
        distinct = list(dict.fromkeys(prompts))
        which = [distinct.index(p) for p in prompts]
        longest = max(map(len, distinct))
        ids = torch.zeros(len(distinct), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, p in enumerate(distinct):  # left padding: window arithmetic counts columns, not positions
            ids[i, longest - len(p) :], mask[i, longest - len(p) :] = torch.tensor(p), 1
        mask = mask.to(self.device)
        out = self._forward(
            input_ids=ids.to(self.device),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=1,
        )
        if type(getattr(out, "past_key_values", None)) is not DynamicCache:  # others keep states that nothing repeats
            raise ValignError(
                f"models of kind {self.model.config.get_text_config().model_type!r} have no key-value cache to sample from",
                where="generator",
                how="they can be scored; sample from an attention model",
            )
        logits, self.cache = out.logits[:, -1], out.past_key_values
        index = torch.tensor(which, device=self.device)
        if which != list(range(len(distinct))):
            self.cache.reorder_cache(index)
        self.mask, self.line = mask[index], list(range(len(prompts)))
        return logits[index]  # type: ignore[no-any-return]

    def step(self, tokens: Tensor) -> Tensor:
        """One more token for every row, (n,); returns the logits after it, (n, V)."""
        rows = torch.tensor(self.line, device=self.device)
        feed = torch.zeros(len(self.mask), dtype=torch.long, device=self.device)
        feed[rows] = tokens
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        out = self._forward(
            input_ids=feed[:, None],
            attention_mask=self.mask,
            position_ids=(self.mask.sum(1) - 1)[:, None],
            past_key_values=self.cache,
        )
        self.cache = out.past_key_values
        return out.logits[rows, -1]  # type: ignore[no-any-return]

    def select(self, order: Sequence[int]) -> None:
        """Rows become those of `order`. The cache shrinks when enough have left."""
        self.line = [self.line[i] for i in order]
        if self.line and len(self.line) < _COMPACT * len(self.mask):
            rows = torch.tensor(self.line, device=self.device)
            self.cache.reorder_cache(rows)  # unlike `batch_select_indices` it knows the states of hybrid layers
            self.mask, self.line = self.mask[rows], list(range(len(rows)))

    def _forward(self, **given: Any) -> Any:
        with rows_apart(self.rotary, self.switch):
            return self.model(use_cache=True, **given)
