"""What many trees begin with (few-shot examples, a long system turn), computed once and looked at by all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import proxy

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

SHARED = 32  # a common prefix shorter than this is not worth a forward pass of its own


class _Layer(DynamicLayer):
    """Keys and values of the prefix, (1, heads, length, width); rows look at them and leave nothing behind."""

    keys: Any
    values: Any

    def __init__(self, prefix: Prefix) -> None:
        super().__init__()
        self.prefix: Prefix = proxy(prefix)  # a cycle would hold its keys and values until the next garbage collection

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep what the first pass computed; afterwards put it before the keys and values of every row."""
        dtype = self.prefix.dtype or key_states.dtype
        keys, values = key_states.to(dtype), value_states.to(dtype)
        if not self.prefix.length:
            self.keys, self.values, self.is_initialized = keys, values, True
            return keys, values
        n = len(keys)
        return (
            torch.cat([self.keys.expand(n, -1, -1, -1), keys], 2),
            torch.cat([self.values.expand(n, -1, -1, -1), values], 2),
        )


class Prefix(Cache):
    """A cache of one prefix.

    length   its tokens; 0 until a forward pass has filled it
    dtype    in which attention multiplies, None: that of the keys
    """

    def __init__(self, layers: int, dtype: torch.dtype | None) -> None:
        super().__init__(layers=[_Layer(self) for _ in range(layers)])
        self.length, self.dtype = 0, dtype

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before those of a row."""
        return self.length


@contextmanager
def caches_kept(model: Any) -> Iterator[None]:
    """Inside, the blocks of a model look at the cache they are given, also in training mode with activation
    checkpointing: there transformers drops caches with a log line, and a row would be computed without its prefix."""
    off = [m for m in model.modules() if m.training and getattr(m, "gradient_checkpointing", False)]
    for m in off:
        m.gradient_checkpointing = False
    try:
        yield
    finally:
        for m in off:
            m.gradient_checkpointing = True
