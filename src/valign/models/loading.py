"""load_model: a model by its name, checked before it is used.

A name is the embedded default, a folder (of transformers, of peft, of valign), a GGUF file or a hub id.
Always true here: weights come from safetensors or GGUF unless pickles are allowed by name; no code of a
model's author runs unless asked for; the network is touched for hub ids only; whatever is missing, damaged
or unfit is one `ModelError` that says what, where and what to do.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valign.errors import ModelError, nearest
from valign.models import embedded
from valign.models.cache import sha256_file
from valign.models.chat import ChatTemplate
from valign.models.credentials import hide
from valign.models.embedded import EMBEDDED
from valign.models.endpoint.address import is_endpoint
from valign.models.loaded import LoadedModel, memory_digest
from valign.models.scalar_head import SCORE, attach_head
from valign.models.weights import (
    ADAPTER_CONFIG,
    check_finite,
    folder_digest,
    read_config,
    read_json,
    stored_tensor,
    weight_files,
)

if TYPE_CHECKING:
    import torch

__all__ = ["LoadedModel", "load_model", "load_scalar_model"]
log = logging.getLogger(__name__)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # owner/name, as the hub allows them
HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
HUB_PICKLES = ("*.bin",)
HUB_CODE = ("*.py",)


@dataclass(frozen=True)
class Options:
    """How to load, as the user asked for it. See `load_model`."""

    device: str | torch.device = "auto"
    dtype: str | torch.dtype = "auto"
    allow_pickle: bool = False
    trust_remote_code: bool = False


def load_model(
    name: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """The model of that name, in evaluation mode.

    name      "smollm2-135m-instruct" (the embedded default); a folder with a config.json, an
              adapter_config.json (its base is loaded by this function too) or a policy.json; a .gguf file;
              a hub id OWNER/NAME
    device    "auto" (the GPU if there is one), or a device of torch
    dtype     "auto" (bfloat16 where it is fast, but float32 for a policy that valign trained), "float32",
              "bfloat16", "float16", "float64"
    Raises `ModelError` for everything that is wrong with the model, `UsageError` for an unknown dtype.
    """
    return _load(str(name), Options(device, dtype, allow_pickle, trust_remote_code), seen=())


def load_scalar_model(
    folder: str | Path, *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
) -> LoadedModel:
    """The model with a scalar head that a folder of kind "reward" holds, in evaluation mode, its digest verified.

    device, dtype  as for `load_model`
    Raises `ModelError` for everything that is wrong with the folder, other kinds included.
    """
    from valign.models.policy_folder import check_digest

    folder = Path(folder).expanduser()
    manifest = reward_manifest(folder)
    loaded = _load_weights(str(folder), folder, Options(device, dtype), trained=True, scalar=True)
    check_digest(folder, manifest, loaded.digest)
    return replace(loaded, base=manifest.get("base"), manifest=manifest)


def reward_manifest(folder: Path) -> dict[str, Any]:
    """The policy.json of a folder of kind "reward". Raises `ModelError` for any other folder."""
    from valign.models.policy_folder import read_manifest

    manifest = read_manifest(folder)
    if manifest["kind"] != "reward":
        raise ModelError(f"the folder holds a policy ({manifest['kind']}), not a reward model", where=str(folder),
                         how="train one: valign align MODEL --method reward_model --data FILE --out DIR")  # fmt: skip
    return manifest


def _load(name: str, options: Options, seen: tuple[str, ...]) -> LoadedModel:
    if name in seen:
        raise ModelError(f"base models refer to each other: {' -> '.join((*seen, name))}", where=name)
    if is_endpoint(name):
        raise _no_weights(name)
    seen = (*seen, name)
    path = Path(name).expanduser()
    if name == EMBEDDED:
        return _load_embedded(options)
    if path.is_dir():
        return _load_folder(name, path, options, seen)
    if path.is_file():
        return _load_file(name, path, options)
    if HUB_ID.fullmatch(name):
        return _load_folder(name, _from_hub(name, options), options, seen)
    raise ModelError(f"there is no model {name!r}", where="model", how=_hints(name))


def _no_weights(where: str) -> ModelError:
    return ModelError("an endpoint's weights are not here", where=hide(where),
                      how="this needs a local model: a folder, a .gguf file, or a hub id")  # fmt: skip


def _hints(name: str) -> list[str]:
    how = [f"did you mean {EMBEDDED}?"] if nearest(name, [EMBEDDED]) else []
    return [*how, f"known: {EMBEDDED}, a folder, a .gguf file, or a hub id OWNER/NAME"]


def _load_embedded(options: Options) -> LoadedModel:
    try:
        folder = embedded.folder()
    except OSError as error:
        log.warning("the cache cannot be written (%s); %s is converted in memory", error, EMBEDDED)
        model, tokenizer, notes = embedded.in_memory()
        loaded = _placed(EMBEDDED, model, tokenizer, embedded.SHA256, options)
        return replace(loaded, notes=notes, quantization=embedded.QUANTIZATION)
    loaded = _load_weights(EMBEDDED, folder, options, trained=False)
    return replace(loaded, notes=embedded.notes(folder), quantization=embedded.QUANTIZATION)


def _load_file(name: str, path: Path, options: Options) -> LoadedModel:
    from valign.models.gguf import quantization, read_gguf

    if path.suffix.lower() != ".gguf":
        raise ModelError(
            "a single file must be a .gguf", where=str(path), how="name the folder that holds its config.json"
        )
    model, tokenizer, notes = read_gguf(path)
    loaded = _placed(name, model, tokenizer, sha256_file(path), options)
    return replace(loaded, source=path, notes=notes, quantization=quantization(path))


def _load_folder(name: str, folder: Path, options: Options, seen: tuple[str, ...]) -> LoadedModel:
    from valign.models.policy_folder import is_policy_folder

    if is_policy_folder(folder):
        return _load_policy(name, folder, options, seen)
    if (folder / "config.json").exists():
        return _load_weights(name, folder, options, trained=False)
    if (folder / ADAPTER_CONFIG).exists():
        config = read_json(folder / ADAPTER_CONFIG, missing="")
        return _load_adapter(name, folder, config.get("base_model_name_or_path"), options, seen)
    if len(packed := sorted(folder.glob("*.gguf"))) == 1:
        return _load_file(name, packed[0], options)
    if packed:
        raise ModelError(f"{len(packed)} .gguf files: name one of them", where=str(folder))
    raise ModelError("no config.json: this is not a model folder", where=str(folder))


def _load_policy(name: str, folder: Path, options: Options, seen: tuple[str, ...]) -> LoadedModel:
    from valign.models.policy_folder import check_digest, files_digest, read_manifest

    manifest = read_manifest(folder)
    kind = manifest["kind"]
    if kind == "endpoint":
        raise _no_weights(str(folder))
    if kind in ("context", "decoding"):
        raise ModelError(
            f"this policy wraps {manifest.get('base')} by the method {manifest.get('method')}: no weights",
            where=str(folder),
            how="load it as a policy: valign.load(folder)",
        )
    if kind == "reward":
        raise ModelError(
            "this folder holds a reward model: it scores responses and generates none",
            where=str(folder),
            how=[f"use it as a reward: --reward {folder}, or reward_model: {folder} in a preference goal",
                 f"the model that it was trained from: {manifest.get('base')}"],
        )  # fmt: skip
    if kind == "weights":
        loaded = _load_weights(name, folder, options, trained=True)
        check_digest(folder, manifest, loaded.digest)
        return replace(loaded, base=manifest.get("base"), manifest=manifest)
    loaded = _load_adapter(name, folder, manifest.get("base"), options, seen)
    check_digest(folder, manifest, files_digest(folder, "adapter") or "")
    expected = manifest.get("base_digest")
    if expected and expected != loaded.base_digest:
        raise ModelError(
            f"the adapter was trained on another {loaded.base}: sha256 {str(expected)[:16]}..., "
            f"found {str(loaded.base_digest)[:16]}...",
            where=str(folder),
            how="bring back the base model it was trained on",
        )
    return replace(loaded, manifest=manifest)


def _load_adapter(
    name: str, folder: Path, base: str | None, options: Options, seen: tuple[str, ...]
) -> LoadedModel:
    from valign.models.adapters import check_adapter_files, load_adapter
    from valign.models.policy_folder import files_digest, identity

    check_adapter_files(folder, allow_pickle=options.allow_pickle)
    if not base:
        raise ModelError("the adapter does not name its base model", where=str(folder / ADAPTER_CONFIG))
    beside = folder / base
    base_name = str(beside) if not Path(base).exists() and beside.is_dir() else base
    loaded = load_adapter(_load(base_name, options, seen), folder, allow_pickle=options.allow_pickle)
    digest = identity(loaded, files_digest(folder, "adapter") or loaded.digest)
    return replace(loaded, id=name, source=folder, digest=digest)


def _load_weights(
    name: str, folder: Path, options: Options, *, trained: bool, scalar: bool = False
) -> LoadedModel:
    """A folder of transformers: checked, loaded, placed. scalar: with a scalar head in place of the vocabulary's."""
    from valign.models.gguf import quiet

    read_config(folder, trust_remote_code=options.trust_remote_code, generates=not scalar)
    files = weight_files(folder, allow_pickle=options.allow_pickle)
    tokenizer = _load_tokenizer(folder, options)
    with quiet(), _without_report() if scalar else nullcontext():
        model = _load_network(folder, options, trained=trained, headless=scalar)
    if scalar:
        weights = stored_tensor(files, f"{SCORE}.weight")
        if weights is None:
            raise ModelError(f"there is no tensor {SCORE}.weight", where=str(folder), how="copy the folder again")
        attach_head(model, weights.double().numpy().reshape(-1))
    loaded = _placed(name, model, tokenizer, folder_digest(folder, files), options, trained=trained)
    return replace(loaded, source=folder)


def _load_network(folder: Path, options: Options, *, trained: bool, headless: bool = False) -> Any:
    """The causal LM of a folder, which must hold all its tensors; headless: all but the vocabulary head's."""
    from transformers import AutoModelForCausalLM

    from valign.models.precision import pick_device, pick_dtype

    dtype = pick_dtype(options.dtype, pick_device(options.device), trained=trained)
    loader: Any = AutoModelForCausalLM
    try:
        model, report = loader.from_pretrained(
            str(folder),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=options.trust_remote_code,
            use_safetensors=None if options.allow_pickle else True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises many kinds for folders that do not fit
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"cannot be loaded: {reason}", where=str(folder)) from error
    spare = _head_names(model) if headless else set()
    for what in ("missing_keys", "mismatched_keys"):
        if names := sorted({str(k) for k in report[what]} - spare):
            fault = what.removesuffix("_keys")
            raise ModelError(
                f"{len(names)} tensor(s) of the model are {fault}: {', '.join(names[:3])}",
                where=str(folder),
                how="config.json and the weights do not belong together, or a file is missing",
            )
    return model


def _head_names(model: Any) -> set[str]:
    """The parameters of the vocabulary head."""
    head = model.get_output_embeddings()
    return {f"{n}.{k}" for n, m in model.named_modules() if m is head for k, _ in m.named_parameters()}


@contextmanager
def _without_report() -> Iterator[None]:
    """No list of tensors that a model without its head lacks: it lacks them on purpose."""
    from transformers.utils import logging as their_logging

    before = their_logging.get_verbosity()  # type: ignore[no-untyped-call]
    their_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        their_logging.set_verbosity(before)  # type: ignore[no-untyped-call]


def _load_tokenizer(folder: Path, options: Options) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=options.trust_remote_code
        )
    except Exception as error:  # likewise many kinds
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"no tokenizer that can be loaded: {reason}",
            where=str(folder),
            how="copy tokenizer.json and tokenizer_config.json of the model into the folder",
        ) from error


def _placed(
    name: str, model: Any, tokenizer: Any, digest: str, options: Options, *, trained: bool = False
) -> LoadedModel:
    """Check what was loaded, put it on its device in its format, read its template."""
    from valign.models.precision import pick_device, pick_dtype

    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device, trained=trained)
    check_finite(model, name)
    model = model.to(device=device, dtype=dtype).eval()
    return assemble(name, model, tokenizer, digest=digest)


def assemble(name: str, model: Any, tokenizer: Any, *, digest: str | None = None) -> LoadedModel:
    """A `LoadedModel` from a causal LM and its tokenizer in memory.

    Raises `ModelError` when the tokenizer knows ids that the model has no row for.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])
    top = max(tokenizer.get_vocab().values(), default=-1)
    if top >= rows:
        raise ModelError(
            f"the tokenizer has ids up to {top:,}, the model's vocabulary has {rows:,} rows",
            where=name,
            how="they do not belong together: use the tokenizer the model was trained with",
        )
    ends = getattr(model.generation_config, "eos_token_id", None)
    end_ids = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    parameter = next(model.parameters())
    return LoadedModel(
        id=name,
        model=model.eval(),
        tokenizer=tokenizer,
        template=ChatTemplate.from_tokenizer(tokenizer, end_ids=end_ids),
        digest=digest or memory_digest(model),
        dtype=parameter.dtype,
        device=parameter.device,
    )


def _from_hub(name: str, options: Options) -> Path:
    """The local snapshot of a hub repository, downloaded if the network may be used."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    from valign.models.gguf import quiet

    patterns = [*HUB_FILES, *(HUB_PICKLES if options.allow_pickle else ())]
    patterns += HUB_CODE if options.trust_remote_code else ()
    offline = is_offline_mode()
    try:
        with quiet():
            return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=offline))
    except GatedRepoError as error:
        raise ModelError("this model asks for an agreement first", where=name, how="hf auth login") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            "neither a folder here nor a repository on the hub (or it is private)",
            where=name,
            how=_hints(name),
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        raise ModelError(
            f"not a folder here, not in the local hub cache, and {why}",
            where=name,
            how=[f"without network: {EMBEDDED}, or the path of a copied folder"],
        ) from error
