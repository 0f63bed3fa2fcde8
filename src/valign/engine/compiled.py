"""Blocks as torch.compile makes them: element-wise steps between the matrix products become one pass.

A block is compiled once for rows of any shape, when it first runs: minutes on a CPU, which long runs alone earn back.
Only passes of the scorer that asks run compiled; the model itself stays as it is, for samples and for saving.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from valign.errors import ValignError


def blocks_of(body: Any) -> list[nn.Module]:
    """The blocks of a transformers body: its longest list of modules."""
    lists = [list(m) for m in body.modules() if isinstance(m, nn.ModuleList)]
    return max(lists, key=len, default=[])


def compiled_blocks(body: Any) -> dict[nn.Module, Callable[..., Any]]:
    """block -> its compiled call. Raises `ValignError` where nothing can be compiled."""
    on_cpu = next(body.parameters()).device.type == "cpu"
    if on_cpu and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        raise ValignError(
            "there is no C++ compiler on this machine", where="compile", how="install one (g++), or leave compile off"
        )
    from torch._inductor import config as inductor  # a heavy import, for those who compile

    # in this process: the compiler's own pool of processes waits for ever when one of them dies
    inductor.compile_threads = 1
    return {b: torch.compile(b._call_impl, dynamic=True) for b in blocks_of(body)}


@contextmanager
def run_compiled(blocks: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Inside, calling a block calls what was compiled for it."""
    for block, call in blocks.items():
        block._compiled_call_impl = call  # type: ignore[assignment]  # where nn.Module.compile keeps it
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None
