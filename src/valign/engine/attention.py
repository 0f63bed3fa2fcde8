"""Attention masks from the three integers of a layout, and what each architecture needs.

One rule gives every mask: a query sees a key when the key's segment is its own or an ancestor's and the key stands not
later, `enter[k] <= enter[q] < exit[k] and pos[k] <= pos[q]`, within the window where a layer has one. A mask that the
caller supplies *replaces* a model's sliding window silently, so windows are put into the mask here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from valign.engine.layout import Layout

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Path = Literal["row", "plain"]

# model types whose shared trunk gives the numbers of each path alone: every name is a test (test_attention.py).
# Anything else takes the plain path: a family may hide a window, a state or a second mask that no config shows
PROVEN = frozenset(
    (
        *("apertus", "arcee", "biogpt", "bitnet", "codegen", "cohere", "cohere2", "diffllama", "ernie4_5"),
        *("exaone4", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neox"),
        *("gpt_oss", "gptj", "granite", "helium", "hunyuan_v1_dense", "llama", "ministral", "mistral"),
        *("mixtral", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "opt", "persimmon", "phi", "phi3"),
        *("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2", "xglm"),
    )
)
NO_TREE = {
    "bloom": "position bias (ALiBi) is tied to columns, not to positions",
    "mpt": "position bias (ALiBi) is tied to columns, not to positions",
    "falcon": "position bias may be tied to columns, not to positions",
    "mamba": "a state-space layer reads tokens in order",
    "mamba2": "a state-space layer reads tokens in order",
    "jamba": "hybrid state-space layers read tokens in order",
    "qwen3_next": "hybrid linear attention reads tokens in order",
}


@dataclass(frozen=True)
class Attention:
    """How a model's layers look back.

    path     the engine's path for it        reason   why it is not `row` (empty if it is)
    window   tokens a layer sees where `kinds` has sliding layers, None without
    kinds    mask names the model expects as a dict ("full_attention", "sliding_attention"), empty: one mask for all
    switch   tokens of a path beyond which long-rope takes other rotary factors, None: factors know no length
    """

    path: Path
    reason: str = ""
    window: int | None = None
    kinds: tuple[str, ...] = ()
    switch: int | None = None


def attention_of(config: Any) -> Attention:
    """The rule for a transformers config. Windows that no test has proven are refused the `row` path."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    kind = str(getattr(text, "model_type", ""))
    if kind in NO_TREE:
        return Attention("plain", NO_TREE[kind])
    for scaling in _scalings(text):
        if (rope := scaling.get("rope_type")) in ("dynamic", "longrope"):
            switch = scaling.get("original_max_position_embeddings") if rope == "longrope" else None
            return Attention("plain", f"rotary scaling {rope!r} depends on the longest position of a batch", switch=switch)
    window = getattr(text, "sliding_window", None)
    kinds = tuple(dict.fromkeys(getattr(text, "layer_types", None) or ()))
    if set(kinds) - {"full_attention", "sliding_attention"}:
        return Attention("plain", f"layers of kind {', '.join(sorted(set(kinds)))} are not proven for shared trunks")
    if kind not in PROVEN:
        return Attention("plain", f"models of kind {kind!r} are not proven for shared trunks")
    if not window or kinds == ("full_attention",):
        return Attention("row")
    if not kinds:  # one window for all layers (Mistral)
        return Attention("row", window=int(window))
    if kinds == ("sliding_attention",):
        return Attention("row", window=int(window))
    return Attention("row", window=int(window), kinds=kinds)


def _scalings(text: Any) -> list[dict[str, Any]]:
    """The rotary settings of a text config: one for all layers, or one for each kind of layer."""
    found = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None)
    return [x for x in (found, *found.values()) if isinstance(x, dict)] if isinstance(found, dict) else []


def visible(layout: Layout, device: torch.device | str, window: int | None = None, before: int = 0) -> Tensor:
    """(rows, 1, length, before + length) bool: may the query (second to last axis) see the key (last axis)?

    before   keys of a prefix of all rows, at positions 0 .. before - 1
    """
    import torch

    enter, exit_, pos = (torch.as_tensor(x, device=device) for x in (layout.enter, layout.exit, layout.pos))
    see = _sees(enter, exit_, pos, window)
    if before:
        see = torch.cat([_sees_prefix(pos, torch.arange(before, device=device), window), see], 2)
    return see[:, None]


def seen_by_any(layout: Layout, window: int | None = None, before: int = 0) -> NDArray[np.bool_]:
    """(length, before + length): does the query of at least one row see the key? Nothing is asked of a device."""
    see = _sees(layout.enter, layout.exit, layout.pos, window).any(0)
    prefix = _sees_prefix(layout.pos, np.arange(before), window).any(0)
    return np.concatenate([prefix, see], 1)


def _sees(enter: Any, exit_: Any, pos: Any, window: int | None) -> Any:
    """The rule, of tensors or arrays."""
    q, k = enter[:, :, None], enter[:, None, :]
    see = (k <= q) & (q < exit_[:, None, :]) & (pos[:, None, :] <= pos[:, :, None])
    return see if window is None else see & (pos[:, :, None] - pos[:, None, :] < window)


def _sees_prefix(pos: Any, keys: Any, window: int | None) -> Any:
    behind = pos[:, :, None] - keys
    return behind == behind if window is None else behind < window


def additive(see: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where visible, the dtype's minimum elsewhere (not -inf: a padded row would be NaN in some kernels)."""
    import torch

    return torch.zeros(see.shape, dtype=dtype, device=see.device).masked_fill_(~see, torch.finfo(dtype).min)


def masks(
    layout: Layout, attention: Attention, dtype: torch.dtype, device: torch.device | str, before: int = 0
) -> Any:
    """What goes into `attention_mask`: one tensor, or a dict of them where the model alternates kinds of layers."""
    import torch

    if layout.plain:
        return torch.as_tensor(layout.real, device=device).long()
    if not attention.kinds:
        return additive(visible(layout, device, attention.window, before), dtype)
    return {
        "full_attention": additive(visible(layout, device, None, before), dtype),
        "sliding_attention": additive(visible(layout, device, attention.window, before), dtype),
    }
