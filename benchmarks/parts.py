"""Where the seconds of a timed run go: torch's profile of it, added up into a few parts. The same rules for every side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PARTS = {
    "linear": "linear layers of the blocks",
    "vocabulary": "head, softmax and draws over the vocabulary, embedding",
    "attention": "attention: products and softmax",
    "elementwise": "norms, rotary positions, gates, additions",
    "copies": "copies between formats and layouts, gathers",
    "optimizer": "optimizer step and gradient norm",
    "outside": "outside of torch's operations: Python, text, waiting",
}
PRODUCTS = {"mm", "addmm", "linear", "mkldnn_linear", "matmul", "_addmm_activation"}
COPIES = {
    "copy_", "clone", "contiguous", "cat", "stack", "fill_", "zero_", "index", "index_select", "index_put_", "_index_put_impl_",
    "gather", "scatter_", "scatter_add_", "index_add_", "index_copy_", "constant_pad_nd", "repeat_interleave", "roll",
    "index_select_backward", "masked_fill_",
}  # fmt: skip


def part_of(operation: str, shapes: Sequence[Any], vocabulary: int) -> str:
    """The part that an operation of torch belongs to.

    shapes   of its inputs      vocabulary   rows of the embedding: who touches so wide a tensor, or a slice of a third of it or
             more (TRL has 32,768 columns, then the rest), works for the vocabulary. No layer is as wide, and no pass over
             16 texts as long.
    """
    name = operation.removeprefix("aten::")
    if "adam" in name or name.startswith(("_foreach", "Optimizer", "_amp_", "linalg_vector_norm")):
        return "optimizer"
    if name.startswith("embedding") or _widest(shapes) >= vocabulary // 3:
        return "vocabulary"
    if name in PRODUCTS:
        return "linear"
    if "scaled_dot_product" in name or "softmax" in name or name in ("bmm", "baddbmm"):
        return "attention"
    return "copies" if name in COPIES else "elementwise"


def _widest(shapes: Sequence[Any]) -> int:
    return max((n for shape in shapes if isinstance(shape, list | tuple) for n in shape if isinstance(n, int)), default=0)


def added_up(profile: Any, vocabulary: int) -> dict[str, float]:
    """Seconds of every part that operations took."""
    parts = dict.fromkeys(PARTS, 0.0)
    for event in profile.key_averages(group_by_input_shape=True):
        if event.key.startswith(("aten::", "mkldnn::")):
            parts[part_of(event.key, event.input_shapes or (), vocabulary)] += event.self_cpu_time_total / 1e6
    return parts


@contextmanager
def profiled(vocabulary: int, found: dict[str, float]) -> Iterator[None]:
    """Profile what runs inside; `found` then has the seconds of its parts."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        yield
    found.update(added_up(seen, vocabulary))
