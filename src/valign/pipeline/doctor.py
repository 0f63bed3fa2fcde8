"""Is this installation whole? Every check says what it found and, where needed, how to mend it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy", "scipy")
EXTRAS = {
    "profanity_check": "classifiers",
    "vaderSentiment": "classifiers",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "ray": "ray",
}
ROOM = 3_000_000_000  # bytes that a full fine-tuning of the embedded model writes


def examine() -> list[tuple[str, bool, str]]:
    """(name, ok, text) of every check. Extras that are absent are not faults."""
    return [_python(), *_libraries(), _device(), _memory(), _disk(), *_model(), _data(), _extras()]


def _python() -> tuple[str, bool, str]:
    import platform

    import valign

    return "valign", True, f"{valign.__version__} on Python {platform.python_version()}"


def _libraries() -> list[tuple[str, bool, str]]:
    out = []
    for name in LIBRARIES:
        try:
            out.append((name, True, str(getattr(importlib.import_module(name), "__version__", "installed"))))
        except ImportError as error:
            out.append((name, False, f"{error}; pip install valign"))
    return out


def _device() -> tuple[str, bool, str]:
    import torch

    from valign.models.precision import bfloat16_is_fast, pick_device

    device = pick_device("auto")
    products = "bfloat16" if bfloat16_is_fast(device.type) else "float32"
    return "device", True, f"{device}, {torch.get_num_threads()} threads, matrix products in {products}"


def _memory() -> tuple[str, bool, str]:
    import psutil

    free = psutil.virtual_memory().available
    return (
        "memory",
        free > ROOM,
        f"{free / 1e9:.1f} GB free (full fine-tuning of the embedded model takes about 6 GB)",
    )


def _disk() -> tuple[str, bool, str]:
    free = shutil.disk_usage(os.getcwd()).free
    return "disk", free > ROOM, f"{free / 1e9:.1f} GB free here"


def _model() -> list[tuple[str, bool, str]]:
    from valign.errors import ValignError
    from valign.models import embedded

    try:
        return [(f"embedded model: {name}", ok, text) for name, ok, text in embedded.verify()]
    except ValignError as error:
        return [("embedded model", False, " ".join(str(error).split()))]


def _data() -> tuple[str, bool, str]:
    from valign.data import audit_dilemmas, builtin

    lines = audit_dilemmas(builtin("dilemmas"))
    bad = [line.text for line in lines if not line.ok]
    return "built-in data", not bad, "; ".join(bad) or f"{len(builtin('dilemmas'))} dilemmas, audit passed"


def _extras() -> tuple[str, bool, str]:
    found = [name for name in EXTRAS if importlib.util.find_spec(name) is not None]
    return "extras", True, ", ".join(found) or "none installed"
