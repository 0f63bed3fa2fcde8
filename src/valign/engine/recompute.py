"""Activation checkpointing: a block keeps its input alone, and computes the rest again in the backward pass.

The model's own switch is used, and only inside the pass that needs it: transformers reads it in training mode, in which
bodies also drop activations and caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from valign.errors import ValignError

_DROPOUTS = ("dropout", "activation_dropout", "attention_dropout", "hidden_dropout", "resid_dropout", "residual_dropout")


def can_recompute(model: Any) -> bool:
    """Whether the blocks of a transformers model have the switch."""
    return bool(getattr(model, "supports_gradient_checkpointing", False))


@contextmanager
def blocks_recomputed(model: Any) -> Iterator[None]:
    """Inside, a forward pass of `model` (a transformers causal LM) keeps the inputs of its blocks and nothing within.

    Blocks alone are in training mode; dropout that a block applies itself is off, as everywhere in valign.
    Raises `ValignError` for a model whose blocks cannot.
    """
    if not can_recompute(model):
        raise ValignError(
            f"{type(model).__name__} cannot compute its blocks again",
            where="activation_checkpointing",
            how="leave it off, and lower token_budget or train an adapter (adapter=lora)",
        )
    was_on = bool(model.is_gradient_checkpointing)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    blocks = [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]
    before = [m.training for m in blocks]
    drops = [(m, name, getattr(m, name)) for m in blocks for name in _DROPOUTS if isinstance(getattr(m, name, None), float)]
    try:
        for m in blocks:
            m.training = True
        for m, name, _ in drops:
            setattr(m, name, 0.0)
        yield
    finally:
        _restore(blocks, before, drops)
        if not was_on:  # a caller may have switched it on
            model.gradient_checkpointing_disable()


def _restore(blocks: list[nn.Module], before: list[bool], drops: list[tuple[Any, str, float]]) -> None:
    for m, was in zip(blocks, before, strict=True):
        m.training = was
    for m, name, value in drops:
        setattr(m, name, value)
