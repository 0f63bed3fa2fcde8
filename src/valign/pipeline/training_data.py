"""Where the training data of an aligned policy came from: remembered by its run, read again when somebody asks.

DIR/run/data.json holds the names of the sources as the user wrote them (no path of this machine) and the sha256 of their
files, not their content; DIR/run/request.json the digest that tells whether what is read now is what was trained on. A path
is read from the working directory, as when the run began.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from valign.data.group import Group
from valign.data.readers.containers import sha256_of
from valign.errors import ValignError
from valign.pipeline import request as asked
from valign.pipeline.data import read_sources
from valign.pipeline.recipe import Source

FILE = "data.json"
SHA256 = "sha256"
THERE = ("go to the folder from which it was trained: the data are named as they were then",)
HOW = "name the data themselves: --training FILE"


def origin(
    sources: Sequence[Source], seed: int, dev: float = 0.0, tasks: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """What a run remembers of its sources: their names, and the sha256 of each that is a file (else None).

    dev     share that was held out, by `seed`
    tasks   groups of each task that a mixture gave; none for other data
    """
    files = [Path(s.path).expanduser() for s in sources]
    rows = [{**s.model_dump(), SHA256: sha256_of(f) if f.is_file() else None} for s, f in zip(sources, files, strict=True)]
    return {"sources": rows, "seed": seed, "dev": dev, **({"tasks": dict(tasks)} if tasks else {})}


def knows_its_data(folder: Path) -> bool:
    """Whether the run in a policy's folder remembers its sources."""
    return (folder / "run" / FILE).is_file()


def training_groups(folder: Path, tell: Callable[[str, Mapping[str, Any]], None] | None = None) -> list[Group]:
    """The groups that the policy in `folder` was trained on.

    Raises `ValignError` where the run remembers none, where a source is gone, and where it holds something else by now.
    """
    from valign.data import split

    if not knows_its_data(folder):
        raise ValignError("its training data are not known", where=str(folder), how=HOW)
    try:
        kept = json.loads((folder / "run" / FILE).read_text(encoding="utf-8"))
        wanted = json.loads((folder / "run" / asked.FILE).read_text(encoding="utf-8"))["data"]
        named = [{k: v for k, v in row.items() if k != SHA256} for row in kept["sources"]]
        sources, seed, dev = [Source(**row) for row in named], kept["seed"], kept["dev"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValignError(f"cannot be read: {error}", where=str(folder / "run" / FILE), how=HOW) from error
    try:
        groups, _ = read_sources(sources, seed, tell)
    except ValignError as error:
        raise ValignError(f"its training data are not found: {error.what}", where=error.where or str(folder),
                          how=(*THERE, HOW)) from error  # fmt: skip
    if dev:
        groups = list(split(groups, dev, seed)[0])
    if asked.digest(groups) != wanted:
        names = ", ".join(s.path for s in sources)
        raise ValignError("holds other data than the policy was trained on", where=names, how=(*THERE, HOW))
    return groups
