"""Low-rank adapters: attach, load, save, switch off, merge. The mathematics is peft's.

Always true here: an adapter is injected into the layers of `LoadedModel.model`, whose other parameters are
frozen; switching it off gives the base model's numbers exactly; an adapter is loaded from safetensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from valign.errors import ModelError, require
from valign.models.loaded import LoadedModel, memory_digest, weights_digest
from valign.models.weights import ADAPTER_CONFIG, check_finite, check_safetensors, read_json

ADAPTER_FILE = "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"


def attach_lora(
    model: LoadedModel,
    r: int = 16,
    alpha: float = 32,
    dropout: float = 0.0,
    targets: str | Sequence[str] = "all-linear",
    *,
    seed: int = 0,
) -> LoadedModel:
    """The same model with a fresh low-rank adapter (2106.09685): W x + alpha/r · B A x, B = 0 at first.

    The layers of `model.model` are changed in place, so `model` runs through the adapter as well.
    r         rank of each update
    alpha     its scale is alpha / r
    dropout   share of A's inputs set to 0 in training, in [0, 1)
    targets   "all-linear" (every linear layer but the output head), or names of modules
    seed      decides A
    Raises `ModelError` when there is an adapter already or a target does not exist.
    """
    import torch
    from peft import LoraConfig, TaskType, get_peft_model

    require(r >= 1, "r", r, "a rank of at least 1")
    require(alpha > 0, "alpha", alpha, "a positive number")
    require(0 <= dropout < 1, "dropout", dropout, "a share below 1")
    if model.adapter is not None:
        raise ModelError(
            "the model has an adapter already", where=model.id, how="merge it first: merge(model)"
        )
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft divides it; a float works
        lora_dropout=dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type=TaskType.CAUSAL_LM,
        fan_in_fan_out=any(
            type(m).__name__ == "Conv1D" for m in model.model.modules()
        ),  # GPT-2 keeps W transposed
    )
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            adapter = get_peft_model(model.model, config)
    except ValueError as error:
        raise ModelError(f"the adapter does not fit: {error}", where=model.id) from error
    return _adapted(model, adapter.eval())


def load_adapter(base: LoadedModel, folder: Path, *, allow_pickle: bool = False) -> LoadedModel:
    """`base` with the adapter of a folder (in place, as `attach_lora`). Trainable: call `unfreeze_adapter`.

    Raises `ModelError`: missing, pickled, damaged, not finite, made for another base.
    """
    from peft import PeftModel

    check_adapter_files(folder, allow_pickle=allow_pickle)
    try:
        adapter: Any = PeftModel.from_pretrained(base.model, str(folder), is_trainable=False)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the adapter does not fit the base model {base.id}: {reason}",
            where=str(folder),
            how="load it on the base it was trained on (base_model_name_or_path in adapter_config.json)",
        ) from error
    check_finite(adapter, str(folder))
    return _adapted(base, adapter.eval())


def check_adapter_files(folder: Path, *, allow_pickle: bool = False) -> dict[str, Any]:
    """The adapter's config, after its files were found whole. Raises `ModelError`."""
    config = read_json(
        folder / ADAPTER_CONFIG, missing="no adapter_config.json: this is not an adapter folder"
    )
    if (folder / ADAPTER_FILE).exists():
        check_safetensors(folder / ADAPTER_FILE)
    elif not (folder / PICKLED_FILE).exists():
        raise ModelError(f"no {ADAPTER_FILE}", where=str(folder), how="copy or download the folder again")
    elif not allow_pickle:
        raise ModelError(
            f"the adapter is pickled ({PICKLED_FILE}): opening it can run any program",
            where=str(folder),
            how="if you trust its author: allow_pickle=True (--allow-pickle)",
        )
    return config


def write_adapter(model: LoadedModel, folder: Path) -> None:
    """adapter_config.json, naming the base as `load_model` finds it, and adapter_model.safetensors."""
    adapter = _adapter_of(model)
    for config in adapter.peft_config.values():
        config.base_model_name_or_path = model.base
    # "auto" would look the base up on the hub to see whether its embeddings were resized
    adapter.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card


@contextmanager
def adapter_off(model: LoadedModel) -> Iterator[None]:
    """Inside, `model.model` computes what the base computes: the reference policy without a second model."""
    adapter = _adapter_of(model)
    trainable = {n: p.requires_grad for n, p in adapter.named_parameters()}
    try:
        with adapter.disable_adapter():
            yield
    finally:
        for name, parameter in adapter.named_parameters():  # peft switches gradients on with the adapter
            parameter.requires_grad_(trainable[name])


def merge(model: LoadedModel) -> LoadedModel:
    """The adapter's update added into the weights: W + alpha/r · B A, computed and kept in at least float32.

    In place: `model` has no adapter of its own afterwards. Raises `ModelError` without an adapter, and when a
    merged weight is not finite.
    """
    import torch

    adapter = _adapter_of(model)
    dtype = torch.promote_types(model.dtype, torch.float32)
    adapter.to(dtype)
    try:
        merged = adapter.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(f"the adapter cannot be merged: {error}", where=model.id) from error
    model.adapter = None
    merged.requires_grad_(True)
    return replace(
        model, model=merged.eval(), dtype=dtype, digest=memory_digest(merged), manifest=None, source=None
    )


def merge_to_folder(model: LoadedModel, folder: Path, *, overwrite: bool = False) -> LoadedModel:
    """Merge and write a policy folder of kind "weights" (`valign models merge`)."""
    from valign.models.policy_folder import save_model

    old = model.manifest or {}
    merged = merge(model)
    return save_model(
        merged,
        folder,
        method=old.get("method"),
        config=old.get("config"),
        goal=old.get("goal"),
        overwrite=overwrite,
    )


def adapter_parameters(model: LoadedModel) -> dict[str, Any]:
    """Name -> parameter of everything the adapter brought, in the names of `model.model`."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    _adapter_of(model)
    own: dict[str, Any] = {}
    for prefix, module in model.model.named_modules():
        names = (
            module.adapter_layer_names
            if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))
            else ()
        )
        for name, parameter in module.named_parameters():
            if any(name == n or name.startswith(n + ".") for n in names):
                own[f"{prefix}.{name}"] = parameter
    return own


def unfreeze_adapter(model: LoadedModel) -> None:
    """Let gradients reach the adapter and nothing else."""
    own = {id(p) for p in adapter_parameters(model).values()}
    for parameter in model.model.parameters():
        parameter.requires_grad_(id(parameter) in own)


def check_frozen(model: LoadedModel) -> int:
    """The number of trainable numbers. Raises `ModelError` naming one that is not the adapter's."""
    own = {id(p) for p in adapter_parameters(model).values()}
    for name, parameter in model.model.named_parameters():
        if parameter.requires_grad and id(parameter) not in own:
            raise ModelError(f"{name} is trainable, but only the adapter should be", where=model.id)
    return sum(p.numel() for p in adapter_parameters(model).values() if p.requires_grad)


def _adapted(base: LoadedModel, adapter: Any) -> LoadedModel:
    digest = adapter_digest(base, adapter)
    return replace(base, adapter=adapter, base=base.id, base_digest=base.digest, digest=digest, manifest=None)


def adapter_digest(base: LoadedModel, adapter: Any) -> str:
    """sha256 over the base's digest and the adapter's settings and tensors."""
    import hashlib

    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(adapter, save_embedding_layers=False)
    settings = {k: (c.r, c.lora_alpha) for k, c in adapter.peft_config.items() if hasattr(c, "lora_alpha")}
    return hashlib.sha256(f"{base.digest}\n{settings}\n{weights_digest(tensors)}".encode()).hexdigest()


def _adapter_of(model: LoadedModel) -> Any:
    if model.adapter is None:
        raise ModelError("the model has no adapter", where=model.id, how="attach one: attach_lora(model)")
    return model.adapter
