"""The files of a model folder: which of them hold weights, whether they are all there, and what they hash to.

Always true here: a folder is judged before anything of it is loaded, and every refusal names the file or
tensor and the way out. Loading itself is `loading`'s subject.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valign.errors import ModelError
from valign.models.cache import sha256_files
from valign.models.loaded import config_text

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
NOT_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "optimizer.bin", "scheduler.bin")
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")  # ends of names of models that generate


def read_config(folder: Path, *, trust_remote_code: bool = False, generates: bool = True) -> dict[str, Any]:
    """The folder's config.json, of an architecture that valign can run.

    generates  whether it must be one that generates text; a reward model's need not

    Raises `ModelError`: no config, not JSON, an encoder, an encoder-decoder, unknown to transformers.
    """
    path = folder / "config.json"
    config = read_json(path, missing="no config.json: this is not a model folder")
    kind = config.get("model_type")
    if not kind:
        raise ModelError("config.json does not say model_type", where=str(path))
    if config.get("is_encoder_decoder"):
        raise ModelError(
            f"{kind} is an encoder-decoder; valign needs a causal language model", where=str(path)
        )
    made_for = config.get("architectures") or []
    if generates and made_for and not any(name.endswith(CAUSAL) for name in made_for):
        raise ModelError(
            f"{', '.join(made_for)} does not generate text; valign needs a causal language model",
            where=str(path),
        )
    if not (trust_remote_code and config.get("auto_map")):
        _check_known(kind, config, path)
    return config


def _check_known(kind: str, config: dict[str, Any], path: Path) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    if kind in KNOWN:
        return
    from importlib.metadata import version

    how = [f"transformers {version('transformers')} is installed; a newer one may know it"]
    if config.get("auto_map"):
        how = ["the folder brings its own code; to run it: trust_remote_code=True (--trust-remote-code)"]
    raise ModelError(f"architecture {kind!r} is not a known causal language model", where=str(path), how=how)


def weight_files(folder: Path, *, allow_pickle: bool = False) -> list[Path]:
    """The files with the model's weights, each of them whole.

    Raises `ModelError`: no weights, a missing shard, a truncated or unreadable file, pickled weights without
    `allow_pickle`.
    """
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX, missing="")
        files = [folder / name for name in sorted(set(index.get("weight_map", {}).values()))]
        if missing := [f.name for f in files if not f.exists()]:
            raise ModelError(
                f"{len(missing)} of {len(files)} weight files are missing: {', '.join(missing[:4])}",
                where=str(folder),
                how="copy or download the folder again",
            )
    else:
        named = folder / "model.safetensors"
        found = [named] if named.exists() else sorted(folder.glob("*.safetensors"))
        files = [f for f in found if not f.name.startswith("adapter_")]
    for file in files:
        check_safetensors(file)
    return files or _pickled(folder, allow_pickle)


def _pickled(folder: Path, allow_pickle: bool) -> list[Path]:
    pickles = sorted(f for pattern in PICKLES for f in folder.glob(pattern) if f.name not in NOT_WEIGHTS)
    if not pickles:
        raise ModelError("no weights: no *.safetensors and no *.gguf here", where=str(folder))
    if not allow_pickle:
        raise ModelError(
            f"the weights are pickled ({pickles[0].name}): opening them can run any program",
            where=str(folder),
            how=[
                "convert them to safetensors",
                "or, if you trust their author: allow_pickle=True (--allow-pickle)",
            ],
        )
    return pickles


def check_safetensors(path: Path) -> None:
    """Raise `ModelError` unless the header can be read and the file is as long as the header says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"cut off or damaged ({error})",
            where=str(path),
            how=f"it has {path.stat().st_size:,} bytes; copy or download it again",
        ) from error


def folder_digest(folder: Path, files: Iterable[Path], config_name: str = "config.json") -> str:
    """sha256 over the config (without what does not change the model) and the weight files, by name."""
    config = json.loads((folder / config_name).read_text(encoding="utf-8"))
    parts = [config_text(config), *(f"{n} {h}" for n, h in sorted(sha256_files(files).items()))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_json(path: Path, *, missing: str) -> dict[str, Any]:
    """A JSON object from a file; `ModelError` with `missing` when there is none, and when it is not JSON."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(missing, where=str(path.parent)) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"not JSON: {error}", where=str(path)) from error
    if not isinstance(content, dict):
        raise ModelError("not a JSON object", where=str(path))
    return content


def check_finite(model: Any, where: str) -> None:
    """Raise `ModelError` naming the first tensor of a module that holds NaN or infinity."""
    import torch

    for name, tensor in model.named_parameters():
        if tensor.numel() == 0:
            continue
        low, high = torch.aminmax(
            tensor.detach()
        )  # one pass without a mask; NaN goes through, infinity shows
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ModelError(
                f"tensor {name} holds {bad:,} numbers of {tensor.numel():,} that are NaN or infinite",
                where=where,
                how="the file is damaged or its training diverged; use an earlier checkpoint",
            )


def stored_tensor(files: Iterable[Path], name: str) -> torch.Tensor | None:
    """One tensor out of safetensors files, None where they do not hold it."""
    from safetensors import safe_open

    for file in files:
        with safe_open(str(file), framework="pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118 - not a mapping
                found: torch.Tensor = tensors.get_tensor(name)
                return found
    return None
