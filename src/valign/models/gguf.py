"""Models in one GGUF file: weights are dequantized, the tokenizer is rebuilt and mended.

Always true here: the numbers are those that the file's quantization stands for, in float32 (they are
products of a half-precision scale and a small integer, which bfloat16 would round once more). Reading needs
the packages transformers and gguf.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from valign.errors import ModelError

PLAIN = ("F32", "F16", "BF16", "F64")  # formats that stand for no other numbers
# Rules for splitting text before merges ("tokenizer.ggml.pre"): GPT-2's own, which transformers falls back to
PLAIN_SPLITS = ("default", "gpt-2", "gpt2")
DIGIT_SPLITS = (
    "smollm",
    "starcoder",
    "codeshell",
    "refact",
    "command-r",
)  # each digit alone, then GPT-2's rule


def read_gguf(path: Path) -> tuple[Any, Any, tuple[str, ...]]:
    """(causal LM in float32, tokenizer, notes) of a GGUF file. Raises `ModelError` when it cannot be read."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loader: Any = AutoModelForCausalLM
    rule = split_rule(path)
    try:
        with quiet(), redirect_stderr(StringIO()):  # the reader's own progress bar knows no switch
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
            model = loader.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
    except Exception as error:  # the reader raises many kinds for a damaged or unknown file
        raise ModelError(
            f"cannot be read as a causal language model: {_first_line(error)}",
            where=str(path),
            how="copy or download it again; if it is whole, use the model's safetensors folder",
        ) from error
    if (
        getattr(model, "hf_quantizer", None) is not None
    ):  # the numbers are plain now; saving would refuse the mark
        model.hf_quantizer.remove_quantization_config(model)
    return model.eval(), tokenizer, mend_tokenizer(tokenizer, rule)


def split_rule(path: Path) -> str:
    """The file's rule for splitting text before merges ("tokenizer.ggml.pre"), "" when it names none.

    Raises `ModelError` unless the file is a GGUF whose tensors lie inside it, and the reader is installed.
    """
    return _header(path, _stamp(path))[0]


def quantization(path: Path) -> str | None:
    """How most of the file's numbers are stored ("Q4_1"); None where that is a plain format. Raises as `split_rule`."""
    return _header(path, _stamp(path))[1]


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


@cache  # reading takes seconds
def _header(path: Path, stamp: int) -> tuple[str, str | None]:
    """(split rule, quantization) of a file as it was written at `stamp`."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ModelError(
            "reading GGUF files needs the package gguf", where=str(path), how="pip install gguf"
        ) from error
    try:
        reader = GGUFReader(str(path))
        end = max((int(t.data_offset) + int(t.n_bytes) for t in reader.tensors), default=0)
        if end > path.stat().st_size:
            raise ValueError(f"it has {path.stat().st_size:,} bytes and its tensors end at {end:,}")
    except (
        Exception
    ) as error:  # the reader raises ValueError, IndexError, OverflowError ... for damaged files
        raise ModelError(
            f"cut off or damaged: {_first_line(error)}", where=str(path), how="copy or download it again"
        ) from error
    field = reader.fields.get("tokenizer.ggml.pre")
    numbers = Counter[str]()
    for t in reader.tensors:
        numbers[t.tensor_type.name] += int(t.n_elements)
    stored = numbers.most_common(1)[0][0] if numbers else PLAIN[0]
    return str(field.contents()) if field is not None else "", None if stored in PLAIN else stored


def mend_tokenizer(tokenizer: Any, rule: str) -> tuple[str, ...]:
    """Give a tokenizer that was rebuilt from a GGUF file the split of text that the file asks for, in place.

    rule   see `split_rule`. transformers rebuilds some rules and takes GPT-2's for the others, so that text
           with numbers would get ids that the model never saw in training.
    Returns notes for the model's card.
    """
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if rule in DIGIT_SPLITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        return (f"tokenizer: digits split one by one, as its kind {rule!r} asks",)
    if not rule or rule in PLAIN_SPLITS or rule in GGUF_PRE_TOKENIZER_SPLITS:
        return ()
    return (f"tokenizer: kind {rule!r} is rebuilt with GPT-2's rule; ids of some texts may differ",)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars while transformers loads: a library does not print."""
    from transformers.utils import logging as their_logging

    logging: Any = their_logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
