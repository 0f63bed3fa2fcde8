"""Policy folders: what valign saves and loads. `policy.json` says what lies beside it.

    policy.json {"schema": 1, "kind": "weights" | "adapter" | "context" | "decoding" | "endpoint" | "reward",
                 "base": name or null, "method": name, "config": {...}, "goal": {...} or null, "valign": version,
                 "created": iso time, "digest": sha256, ...}
    weights     config.json, tokenizer files, model.safetensors (float32 stays float32)
    adapter     adapter_config.json, adapter_model.safetensors; the weights stay with `base`
    context, decoding   nothing more: the method's config wraps `base`
    endpoint            nothing more: `base` is its written form, without its key
    reward              no policy but a reward model: as weights, the vocabulary head replaced by a head of one number

Always true here: a folder is written whole or not at all, an existing one is never overwritten unless asked
for, and the digest in the manifest is that of the files beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from valign import __version__
from valign.errors import ModelError
from valign.models.cache import whole_folder
from valign.models.loaded import LoadedModel
from valign.models.weights import ADAPTER_CONFIG, folder_digest, read_json, weight_files

MANIFEST = "policy.json"
SCHEMA = 1
KINDS = ("weights", "adapter", "context", "decoding", "endpoint", "reward")
ADAPTER_FILE = "adapter_model.safetensors"


def is_policy_folder(folder: Path) -> bool:
    """Whether a folder holds a policy.json."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The policy.json of a folder. Raises `ModelError`: none, not JSON, newer schema, unknown kind."""
    path = folder / MANIFEST
    manifest = read_json(path, missing="no policy.json: this is not a policy folder")
    if manifest.get("schema") != SCHEMA:
        raise ModelError(
            f"schema {manifest.get('schema')!r} is not known to valign {__version__} (it reads {SCHEMA})",
            where=str(path),
            how="update valign",
        )
    if manifest.get("kind") not in KINDS:
        raise ModelError(
            f"unknown kind {manifest.get('kind')!r}", where=str(path), how=f"one of {', '.join(KINDS)}"
        )
    return manifest


def write_policy_folder(
    folder: Path,
    *,
    kind: str,
    base: str | None = None,
    method: str | None = None,
    config: Mapping[str, Any] | None = None,
    goal: Mapping[str, Any] | None = None,
    write_files: Callable[[Path], None] | None = None,
    extra: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a policy folder, atomically, and return its manifest.

    write_files   puts the weights or the adapter into the (partial) folder it is given; None for kinds
                  without files
    extra         more entries of the manifest (JSON values)
    overwrite     take the place of an existing folder. Without it a folder that is not empty is a
                  `ModelError`
    """
    if kind not in KINDS:
        raise ModelError(f"unknown kind {kind!r}", where=str(folder), how=f"one of {', '.join(KINDS)}")
    with whole_folder(folder, replace=overwrite) as partial:
        if write_files is not None:
            write_files(partial)
        manifest = {
            "schema": SCHEMA,
            "kind": kind,
            "base": base,
            "method": method,
            "config": dict(config or {}),
            "goal": dict(goal) if goal is not None else None,
            "valign": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "digest": files_digest(partial, kind),
            **(extra or {}),
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
    return manifest


def save_model(
    model: LoadedModel,
    folder: Path,
    *,
    method: str | None = None,
    config: Mapping[str, Any] | None = None,
    goal: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> LoadedModel:
    """Write a model (its adapter alone, if it has one) as a policy folder; return it under its new identity.

    What is not given is taken over from the folder it was loaded from. Numbers keep their format: float32
    stays float32.
    """
    old = model.manifest or {}
    if model.adapter is not None and model.base is None:
        raise ModelError("the adapter's base model has no name to load it by", where=model.id)
    manifest = write_policy_folder(
        folder,
        kind=model.kind,
        base=model.base or old.get("base"),
        method=method or old.get("method"),
        config=config if config is not None else old.get("config"),
        goal=goal if goal is not None else old.get("goal"),
        write_files=lambda partial: _write_model(model, partial),
        extra={"base_digest": old.get("base_digest") or model.base_digest}
        if model.adapter is not None
        else None,
        overwrite=overwrite,
    )
    return replace(
        model, id=str(folder), source=folder, manifest=manifest, digest=identity(model, manifest["digest"])
    )


def save_reward(
    model: LoadedModel,
    folder: Path,
    *,
    method: str | None,
    config: Mapping[str, Any] | None,
    goal: Mapping[str, Any] | None,
    extra: Mapping[str, Any],
    overwrite: bool = False,
) -> LoadedModel:
    """Write a model with a scalar head as a folder of kind "reward"; return it under its new identity.

    extra  more entries of the manifest, such as the mean that is subtracted from its scores
    """
    manifest = write_policy_folder(
        folder,
        kind="reward",
        base=model.base,
        method=method,
        config=config,
        goal=goal,
        write_files=lambda partial: _write_scalar(model, partial),
        extra=extra,
        overwrite=overwrite,
    )
    return replace(model, id=str(folder), source=folder, manifest=manifest, digest=manifest["digest"])


def identity(model: LoadedModel, files: str) -> str:
    """The digest of a model from that of its files: an adapter's includes the base it stands on."""
    import hashlib

    if model.adapter is None:
        return files
    return hashlib.sha256(f"{model.base_digest}\n{files}".encode()).hexdigest()


def files_digest(folder: Path, kind: str) -> str | None:
    """sha256 over config and weights of a folder; None for kinds without files."""
    if kind in ("weights", "reward"):
        return folder_digest(folder, weight_files(folder))
    if kind == "adapter":
        return folder_digest(folder, [folder / ADAPTER_FILE], ADAPTER_CONFIG)
    return None


def check_digest(folder: Path, manifest: Mapping[str, Any], found: str) -> None:
    """Raise `ModelError` naming both digests when the files are not those of the manifest."""
    expected = manifest.get("digest")
    if expected and expected != found:
        raise ModelError(
            f"the files are not those that policy.json was written for: sha256 {found[:16]}..., "
            f"expected {str(expected)[:16]}...",
            where=str(folder),
            how="copy the folder again; nothing was changed",
        )


def _write_model(model: LoadedModel, partial: Path) -> None:
    if model.adapter is not None:
        from valign.models.adapters import write_adapter

        write_adapter(model, partial)
        return
    model.model.save_pretrained(str(partial))
    model.tokenizer.save_pretrained(str(partial))


def _write_scalar(model: LoadedModel, partial: Path) -> None:
    """As transformers writes a sequence classifier of one label, so that other tools load it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    _write_model(model, partial)
    file = partial / "config.json"
    config = read_json(file, missing="")
    pad = model.tokenizer.pad_token_id
    config |= {
        "architectures": [KNOWN.get(config["model_type"], "ScalarHead")],
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
        # such a classifier reads the last token that is not padding: where a response may end with the padding token it
        # would read the one before, so it gets none, and refuses batches instead
        "pad_token_id": None if pad in model.template.stop_ids else pad,
    }
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
