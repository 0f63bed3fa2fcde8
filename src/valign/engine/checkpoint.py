"""Checkpoints: complete or not there.

A checkpoint is written to `step-N.partial`; its manifest with a sha256 per file comes last, everything is flushed to
disk, then the folder is renamed. A folder without the suffix is complete. Tensors are safetensors, never pickle.

Sharded weights are written by all processes, each its part, into one folder that all of them see; the manifest is the
leading process's. Any number of processes, and one alone, reads either kind.
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

from valign.engine.processes import SINGLE, World
from valign.engine.shards import as_part, read_shards, write_shards
from valign.errors import ValignError

MANIFEST = "manifest.json"
REMOVED, PARTIAL = ".removed", ".partial"
STATE = "state.json"
FILES = ("weights.safetensors", "optimizer.safetensors", STATE)


@dataclass(frozen=True)
class Saved:
    """A checkpoint read back: weights and optimizer tensors by name, and the loop's state."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save(
    folder: Path, step: int, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any],
    world: World = SINGLE,
) -> Path:  # fmt: skip
    """Write `folder/step-N`; whatever happens on the way, no half checkpoint carries that name.

    All processes call it; the leading one writes, and all of them where weights are shards. Raises OSError, everywhere,
    where the disk refuses.
    """
    final = folder / f"step-{step:06d}"
    if not world.sharded:
        world.from_leader(lambda: _save_whole(final, step, weights, optimizer, state))
        return final
    partial = world.from_leader(lambda: _begin(final))
    try:
        write_shards(partial, {**{f"weights/{n}": t for n, t in weights.items()},
                               **{f"optimizer/{n}": t for n, t in optimizer.items()}})  # fmt: skip
        world.from_leader(lambda: _finish(final, step, state))
    except BaseException:
        if world.leads:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def _save_whole(
    final: Path, step: int, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    partial = _begin(final)
    try:
        for name, tensors in (("weights", weights), ("optimizer", optimizer)):
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial / f"{name}.safetensors")
        _finish(final, step, state)
    except SafetensorError as error:  # a full disk is not an OSError there
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(errno.EIO, str(error)) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _begin(final: Path) -> Path:
    """An empty folder to write into."""
    partial = final.with_name(final.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _finish(final: Path, step: int, state: Mapping[str, Any]) -> None:
    """Tensors stand in the partial folder: state and manifest follow, then it gets its name."""
    partial = final.with_name(final.name + PARTIAL)
    (partial / STATE).write_text(json.dumps(dict(state), sort_keys=True))
    digests = {p.name: _sha256(p) for p in sorted(partial.iterdir())}
    (partial / MANIFEST).write_text(json.dumps({"step": step, "sha256": digests}))
    for p in partial.iterdir():
        _flush(p)
    _flush(partial)
    aside = _aside(final)
    partial.rename(final)
    _flush(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def complete(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir() and _step(p) >= 0), key=_step)


def load(path: Path, like: Mapping[str, Tensor] | None = None) -> Saved:
    """Read a checkpoint; raises `ValignError` naming the file whose digest is wrong. `like`: see `read`."""
    check(path)
    return read(path, like)


def check(path: Path) -> None:
    """Raise `ValignError` naming what is wrong with a checkpoint's files."""
    try:
        digests = dict(json.loads((path / MANIFEST).read_text())["sha256"])
        digests[STATE]
        if not _is_sharded(path):
            digests = {name: digests[name] for name in FILES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValignError(f"checkpoint has no readable manifest: {error!r}", where=str(path)) from error
    for name, digest in digests.items():
        if not (path / name).is_file() or _sha256(path / name) != digest:
            raise ValignError("checkpoint is damaged: its sha256 does not match", where=str(path / name))


def read(path: Path, like: Mapping[str, Tensor] | None = None) -> Saved:
    """Read a checkpoint that was checked.

    like  the present weights by name: of those that are shards, and of the optimizer's state beside them, this
          process's part is read; None: everything whole
    """
    from safetensors.torch import load_file

    like = like or {}
    if _is_sharded(path):
        flat = read_shards(path, {f"{kind}/{n}": p for n, p in like.items() for kind in ("weights", "optimizer")})
        tensors = [
            {n.removeprefix(k): t for n, t in flat.items() if n.startswith(k)} for k in ("weights/", "optimizer/")
        ]
    else:
        tensors = [load_file(path / f"{n}.safetensors") for n in ("weights", "optimizer")]
        owners = {**like, **{n: like[n.rpartition("/")[0]] for n in tensors[1] if n.rpartition("/")[0] in like}}
        tensors = [{n: as_part(t, owners.get(n, t)) for n, t in part.items()} for part in tensors]
    step = _step(path.with_name(path.name.removesuffix(REMOVED)))
    return Saved(step, tensors[0], tensors[1], json.loads((path / STATE).read_text()))


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and a note for every damaged one that was passed over."""
    notes: list[str] = []
    aside = sorted(folder.glob(f"step-*{REMOVED}"))  # whole if `save` died between its two renames
    for path in reversed([*aside, *complete(folder)]):
        try:
            check(path)
            return path, notes
        except ValignError as error:
            if path not in aside:
                notes.append(f"{error}; the one before is used")
    return None, notes


def latest(folder: Path) -> tuple[Saved | None, list[str]]:
    """`newest`, read."""
    path, notes = newest(folder)
    return (read(path) if path is not None else None), notes


def prune(folder: Path, keep: int, spare: set[int]) -> None:
    """Remove all but the newest `keep` checkpoints and the steps in `spare`, and what kills left half written or half
    removed: called after a save, when nobody writes."""
    for path in complete(folder)[:-keep] if keep else []:
        if _step(path) not in spare:
            _aside(path)
    for left in (*folder.glob(f"step-*{PARTIAL}"), *folder.glob(f"step-*{REMOVED}")):
        shutil.rmtree(left, ignore_errors=True)


def _is_sharded(path: Path) -> bool:
    """Whether its tensors were written by several processes, each a part."""
    return any(path.glob("shard-*.safetensors"))


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
