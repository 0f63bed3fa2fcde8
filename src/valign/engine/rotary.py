"""Rotary factors that depend on how long a text is (long-rope), chosen for each row by its own length.

transformers takes them from the longest position of a batch: beside a long row, a short one would get the factors of a
long one. A sample that grows past the switch would need other keys than those in its cache: the generator refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor


def lengthwise(model: Any, switch: int | None) -> list[Any]:
    """The modules of a model that switch factors. switch: see `Attention.switch`."""
    return [m for m in model.modules() if getattr(m, "rope_type", None) == "longrope"] if switch else []


@contextmanager
def rows_apart(modules: Sequence[Any], switch: int | None) -> Iterator[None]:
    """Inside, each row of a pass gets the factors that it would get alone. modules: those of `lengthwise`."""
    if not switch:
        yield
        return
    for m in modules:
        m.forward = partial(_by_row, m.forward, switch)
    try:
        yield
    finally:
        for m in modules:
            del m.forward  # the class's own shows again


def _by_row(forward: Callable[..., Any], switch: int, x: Tensor, position_ids: Tensor) -> tuple[Tensor, ...]:
    """Cosines and sines, (rows, length, width): both kinds are made, and nothing is asked of a device."""
    short = forward(x, position_ids.clamp(max=switch - 1))
    beyond = position_ids.new_full((1, position_ids.shape[1]), switch)  # one more row, which makes the batch a long one
    long = forward(x, torch.cat([position_ids, beyond]))
    is_long = (position_ids.amax(1) >= switch)[:, None, None]
    return tuple(torch.where(is_long, a[:-1], b) for a, b in zip(long, short))
