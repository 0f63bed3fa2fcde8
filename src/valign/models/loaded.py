"""LoadedModel: a causal language model in memory, with all that is needed to encode for it and to name it.

Always true here: `model` is the causal LM of transformers itself (adapters are injected into its layers, so
a forward pass through it runs through them), `digest` names the weights as they were when the object was
made. After training in place, `digest` is old until the model is saved or `weights_digest` is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from valign.data.group import user
from valign.models import tokens

if TYPE_CHECKING:
    import torch

    from valign.models.chat import ChatTemplate


@dataclass(eq=False)
class LoadedModel:
    """A model with its tokenizer, template and identity.

    id              what it is called in results: the name it was loaded by
    digest          sha256 over config, weights and adapter
    allowed_tokens  ids a generator may produce; None = every id of the vocabulary
    source          the folder or file it came from; None when it was made in memory
    base            name of the model it stands on (adapters, trained policies); None for a model of its own
    base_digest     digest of that model, for adapters
    adapter         the `peft.PeftModel` around `model` when an adapter is attached
    manifest        its policy.json, if it came from a policy folder
    notes           remarks for the card: what was repaired or assumed at load
    quantization    how the numbers were stored that are computed with in `dtype` ("Q4_1"); None where they are as stored
    """

    id: str
    model: Any
    tokenizer: Any
    template: ChatTemplate
    digest: str
    dtype: torch.dtype
    device: torch.device
    allowed_tokens: tuple[int, ...] | None = None
    source: Path | None = None
    base: str | None = None
    base_digest: str | None = None
    adapter: Any = None
    manifest: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)
    quantization: str | None = None

    @property
    def kind(self) -> Literal["weights", "adapter"]:
        return "weights" if self.adapter is None else "adapter"

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, the length of a row of logits (the tokenizer may know fewer)."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def max_positions(self) -> int | None:
        """The longest path in tokens that the model was made for; None when its config does not say."""
        value = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(value) if value else None

    @property
    def n_parameters(self) -> int:
        """Numbers in the model, the adapter's included; tied ones once."""
        return sum(p.numel() for p in self.model.parameters())

    def card(self) -> dict[str, Any]:
        """JSON: see `Policy.card`."""
        manifest = self.manifest or {}
        return {
            "id": self.id,
            "kind": self.kind,
            "base": self.base,
            "method": manifest.get("method"),
            "config": dict(manifest.get("config") or {}),
            "sha256": self.digest,
            "parameters": self.n_parameters,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "template_sha256": self.template.sha256,
            "notes": list(self.notes),
        }

    def runtime(self) -> dict[str, Any]:
        """JSON for provenance: sha256 of the tokenizer's state, the start token that opens a chat (whoever writes it) and plain
        text, and how the weights were stored; "none" where there is none."""
        return {**self._encoding, "quantization": self.quantization or "none"}

    @cached_property
    def _encoding(self) -> dict[str, Any]:
        chat, bos = self.template.prompt_ids(user("a"))[:1], self.tokenizer.bos_token_id
        start = {"chat": chat if chat == [bos] else [], "text": list(self.template.text_start)}
        names = {k: "".join(map(str, self.tokenizer.convert_ids_to_tokens(ids))) or "none" for k, ids in start.items()}
        return {"tokenizer_sha256": hashlib.sha256(tokens.state(self.tokenizer).encode()).hexdigest(), "start": names}


UNSTABLE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype")  # in a config, not of the model


def config_text(config: Mapping[str, Any]) -> str:
    """A model's config as one line, without what does not change what it computes."""
    return json.dumps({k: v for k, v in config.items() if k not in UNSTABLE}, sort_keys=True, default=str)


def memory_digest(model: Any) -> str:
    """sha256 over config and weights of a module that lies in memory (`folder_digest` names one on disk)."""
    parts = f"{config_text(model.config.to_dict())}\n{weights_digest(model.state_dict())}"
    return hashlib.sha256(parts.encode()).hexdigest()


def weights_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over name, dtype, shape and bytes of tensors (a state dict): names weights in memory."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
