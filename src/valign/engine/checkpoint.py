"""Checkpoints: complete or not there.

A checkpoint is written to `step-N.partial`; its manifest with a sha256 per file comes last, everything is flushed to
disk, then the folder is renamed. A folder without the suffix is complete. Tensors are safetensors, never pickle.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from valign.errors import ValignError

MANIFEST = "manifest.json"
REMOVED = ".removed"
FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")


@dataclass(frozen=True)
class Saved:
    """A checkpoint read back: weights and optimizer tensors by name, and the loop's state."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save(
    folder: Path, step: int, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Path:
    """Write `folder/step-N`; whatever happens on the way, no half checkpoint carries that name."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    final = folder / f"step-{step:06d}"
    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name, tensors in (("weights", weights), ("optimizer", optimizer)):
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial / f"{name}.safetensors")
        (partial / "state.json").write_text(json.dumps(dict(state), sort_keys=True))
        digests = {p.name: _sha256(p) for p in sorted(partial.iterdir())}
        (partial / MANIFEST).write_text(json.dumps({"step": step, "sha256": digests}))
        for p in partial.iterdir():
            _flush(p)
        _flush(partial)
        aside = _aside(final)
        partial.rename(final)
        _flush(folder)
        shutil.rmtree(aside, ignore_errors=True)
    except SafetensorError as error:  # a full disk is not an OSError there
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(errno.EIO, str(error)) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def complete(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir() and _step(p) >= 0), key=_step)


def load(path: Path) -> Saved:
    """Read a checkpoint; raises `ValignError` naming the file whose digest is wrong."""
    from safetensors.torch import load_file

    try:
        manifest = json.loads((path / MANIFEST).read_text())
        digests = {name: manifest["sha256"][name] for name in FILES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValignError(f"checkpoint has no readable manifest: {error!r}", where=str(path)) from error
    for name, digest in digests.items():
        if not (path / name).is_file() or _sha256(path / name) != digest:
            raise ValignError("checkpoint is damaged: its sha256 does not match", where=str(path / name))
    tensors = [load_file(path / f"{n}.safetensors") for n in ("weights", "optimizer")]
    step = _step(path.with_name(path.name.removesuffix(REMOVED)))
    return Saved(step, tensors[0], tensors[1], json.loads((path / "state.json").read_text()))


def latest(folder: Path) -> tuple[Saved | None, list[str]]:
    """The newest checkpoint that verifies, and a note for every damaged one that was passed over."""
    notes: list[str] = []
    aside = sorted(folder.glob(f"step-*{REMOVED}"))  # whole if `save` died between its two renames
    for path in reversed([*aside, *complete(folder)]):
        try:
            return load(path), notes
        except ValignError as error:
            if path not in aside:
                notes.append(f"{error}; the one before is used")
    return None, notes


def prune(folder: Path, keep: int, spare: set[int]) -> None:
    """Remove all but the newest `keep` checkpoints and the steps in `spare`."""
    for path in complete(folder)[:-keep] if keep else []:
        if _step(path) not in spare:
            shutil.rmtree(_aside(path), ignore_errors=True)


def _aside(path: Path) -> Path:
    """Take the name away before anything is deleted: a kill must not leave half a checkpoint under it."""
    aside = path.with_name(path.name + REMOVED)
    shutil.rmtree(aside, ignore_errors=True)
    if path.exists():
        path.rename(aside)
    return aside


def _step(path: Path) -> int:
    """The step in a checkpoint's name; -1 for any other name, that of an unfinished one too."""
    number = path.name.removeprefix("step-")
    return int(number) if number.isdecimal() else -1


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
