"""Models in one GGUF file: weights are dequantized, the tokenizer is rebuilt and mended.

Always true here: the numbers are those that the file's quantization stands for, in float32 (they are products of a
half-precision scale and a small integer, which bfloat16 would round once more). Reading needs the packages
transformers and gguf.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from valign.errors import ModelError

# Splits of text before merging ("tokenizer.ggml.pre") that transformers' own reader makes right, or that are GPT-2's
PLAIN_SPLITS = ("default", "gpt-2", "gpt2")
DIGIT_SPLITS = ("smollm", "starcoder", "codeshell", "refact", "command-r")  # each digit alone, then GPT-2's rule


def read_gguf(path: Path) -> tuple[Any, Any, tuple[str, ...]]:
    """(causal LM in float32, tokenizer, notes) of a GGUF file. Raises `ModelError` when it cannot be read."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_gguf(path)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
            model = AutoModelForCausalLM.from_pretrained(
                str(path.parent), gguf_file=path.name, dtype=torch.float32
            )
    except Exception as error:  # the reader raises many kinds for a damaged or unknown file
        raise ModelError(
            f"cannot be read as a causal language model: {_first_line(error)}",
            where=str(path),
            how="copy or download it again; if it is whole, use the model's safetensors folder",
        ) from error
    for name in ("quantization_config", "_name_or_path"):  # they describe the file, not the model in memory
        if hasattr(model.config, name):
            delattr(model.config, name)
    return model.eval(), tokenizer, mend_tokenizer(tokenizer, pre_tokenizer_name(path))


def check_gguf(path: Path) -> None:
    """Raise `ModelError` unless the file is a GGUF whose tensors lie inside it, and the reader is installed."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ModelError(
            "reading GGUF files needs the package gguf", where=str(path), how="pip install gguf"
        ) from error
    try:
        tensors = GGUFReader(str(path)).tensors
        end = max((int(t.data_offset) + int(t.n_bytes) for t in tensors), default=0)
        if end > path.stat().st_size:
            raise ValueError(f"it has {path.stat().st_size:,} bytes and its tensors end at {end:,}")
    except Exception as error:  # the reader raises ValueError, IndexError, OverflowError ... for damaged files
        raise ModelError(
            f"cut off or damaged: {_first_line(error)}", where=str(path), how="copy or download it again"
        ) from error


def pre_tokenizer_name(path: Path) -> str:
    """What the file says about splitting text before merges; "" when it says nothing."""
    from gguf import GGUFReader

    field = GGUFReader(str(path)).fields.get("tokenizer.ggml.pre")
    return str(field.contents()) if field is not None else ""


def mend_tokenizer(tokenizer: Any, pre: str) -> tuple[str, ...]:
    """Give a tokenizer that was rebuilt from a GGUF file the split of text that the file asks for, in place.

    pre   the file's "tokenizer.ggml.pre". transformers rebuilds some kinds and takes GPT-2's rule for the others, so
          that "a  3" would keep a space with the digit and give ids the model never saw in training.
    Returns notes for the model's card.
    """
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if pre in DIGIT_SPLITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        return (f"tokenizer: digits split one by one, as its kind {pre!r} asks",)
    if not pre or pre in PLAIN_SPLITS or pre in GGUF_PRE_TOKENIZER_SPLITS:
        return ()
    return (f"tokenizer: kind {pre!r} is rebuilt with GPT-2's rule; ids of some texts may differ",)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars while transformers loads: a library does not print."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
