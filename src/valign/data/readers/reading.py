"""read: a file, a folder saved by `datasets` or a hub id, of any known format, as a `Dataset`.

Always true here: the format is recognized by content; ambiguity is an error and not a guess; every row of the
source is accounted for in the report; the network is used for "hub:" names only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from valign.data.dataset import Dataset, content_sha256
from valign.data.group import Group
from valign.data.readers.containers import rows_of, sha256_of
from valign.data.readers.reader import Fields, Log, Reader, Row
from valign.data.readers.table import READERS
from valign.errors import DataError, require, unknown

LOOK = 20  # first rows by which a format is recognized
HUB = "hub:"
YAML = (".yaml", ".yml")  # a collection of tasks; no data set comes in this container
_NAMES = re.compile(r"\w+")


def read(
    path: str | Path, *, format: str | None = None, split: str | None = None, limit: int | None = None
) -> Dataset:
    """Read groups from a file, a folder written by `datasets.save_to_disk`, or
    "hub:owner/name[/config][:split]". A YAML file is a collection of tasks, and gives what its mixture deals.

    format  name in READERS; None: recognized by content (Dataset.format says which it took)
    split   keep the groups of this split; where the source names no splits, all groups are given this one.
            For the
            hub it is the split to load (default "train")
    limit   stop after this many groups
    Rows that cannot be read are left out and listed in `Dataset.report.dropped` with line, field and reason.
    Raises `DataError` for a file that is missing, empty, not UTF-8, a Git LFS pointer, of no known or of
    several
    possible formats, or without one readable row; `UsageError` for an unknown format name.
    """
    require(limit is None or limit >= 1, "limit", limit, "at least 1, or None for all")
    if format is None and Path(path).suffix in YAML and Path(path).expanduser().is_file():
        return _of_tasks(Path(path).expanduser(), split, limit)
    if format is not None and format not in READERS:
        raise unknown("format", format, READERS)
    log = Log()
    if str(path).startswith(HUB):
        rows, licence, split = _hub(str(path), split, log)
    else:
        path = Path(path).expanduser()
        rows, licence = rows_of(path, log), ""
    first = list(islice(rows, LOOK))
    if not first:
        raise _nothing(path, log)
    reader = READERS[format] if format else recognize([r.fields for r in first], where=str(path))
    read_all = reader.read_rows(chain(first, rows), log)
    found = list(islice(_of_split(read_all, split), limit))
    if limit is not None and len(found) == limit:
        log.notes.append(f"stopped after {limit} groups, as asked")
    if not found:
        raise _nothing(path, log)
    groups = _unique([g for _, g in found], log)
    if split and not any(g.split for g in groups):
        groups = [replace(g, split=split) for g in groups]
    return Dataset(
        groups=tuple(groups),
        format=reader.name,
        source=str(path),
        sha256=(sha256_of(path) if isinstance(path, Path) else "") or content_sha256(groups),
        licence=licence or reader.licence,
        report=log.report(),
        lines=tuple(line for line, _ in found),
    )


def _of_tasks(path: Path, split: str | None, limit: int | None) -> Dataset:
    from valign.data.tasks import as_dataset, read_mixture

    data = as_dataset(read_mixture(path), str(path))
    return (data.map(lambda g: replace(g, split=split)) if split else data)[:limit]



def recognize(rows: list[Fields], where: str = "") -> Reader:
    """The one reader whose format these first rows have. Raises `DataError` for none or several."""
    candidates = [r for r in READERS.values() if r.matches(rows)]
    if len(candidates) == 1:
        return candidates[0]
    fields = ", ".join(rows[0])[:300]
    if candidates:
        names = ", ".join(c.name for c in candidates)
        how = [f"format={c.name!r}: {c.title} (fields: {c.fields})" for c in candidates]
        raise DataError(f"the fields {fields} fit several formats: {names}; say which", where=where, how=how)
    near = sorted(READERS.values(), key=lambda r: -len(set(rows[0]) & set(_NAMES.findall(r.fields))))[:6]
    how = [f"{r.name}: {r.fields}" for r in near]
    how.append(f"rename the columns to one of these, or give format=...; known: {', '.join(READERS)}")
    raise DataError(f"the fields {fields} fit no known format", where=where, how=how)


def _of_split(found: Iterable[tuple[int, Group]], split: str | None) -> Iterator[tuple[int, Group]]:
    return ((line, g) for line, g in found if not split or g.split in ("", split))


def _unique(groups: list[Group], log: Log) -> list[Group]:
    """The groups with unique ids: a repeated one gets "#2", "#3", ... (its cluster stays the first one's)."""
    seen: dict[str, int] = {}
    out, taken = [], {g.id for g in groups}
    for g in groups:
        seen[g.id] = turn = seen.get(g.id, 0) + 1
        name = g.id
        while turn > 1 and name in taken:
            name, turn = f"{g.id}#{turn}", turn + 1
        if name != g.id:
            taken.add(name)
            log.counts["repeated ids"] += 1
            g = replace(g, id=name, cluster=g.cluster or g.id)
        out.append(g)
    if log.counts["repeated ids"]:
        log.notes.append(f"{log.counts['repeated ids']} repeated ids were numbered")
    return out


def _nothing(path: str | Path, log: Log) -> DataError:
    """The error for a source without one readable row, with the first reasons."""
    how = [f"line {line}{', field ' + field if field else ''}: {why}" for line, field, why in log.dropped[:5]]
    return DataError(f"none of {log.rows} rows could be read", where=str(path), how=how)


def _hub(name: str, split: str | None, log: Log) -> tuple[Iterator[Row], str, str]:
    """(rows, licence, split) of a data set on the hub, through `datasets`."""
    where, _, named = name.removeprefix(HUB).partition(":")
    parts = where.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise DataError(
            "not a hub id", where=name, how="hub:owner/name, hub:owner/name:split, hub:owner/name/config"
        )
    split = split or named or "train"
    data = _load("/".join(parts[:2]), parts[2] if len(parts) == 3 else None, split, name)
    licence = str(getattr(getattr(data, "info", None), "license", "") or "")

    def rows() -> Iterator[Row]:
        for i, row in enumerate(data, 1):
            log.rows += 1
            log.fields = log.fields or tuple(row)
            yield Row(i, dict(row))

    return rows(), licence, split


def _load(repository: str, config: str | None, split: str, where: str) -> Any:
    import datasets

    load: Callable[..., Any] = datasets.load_dataset
    try:
        return load(repository, config, split=split)
    except (ConnectionError, TimeoutError, OSError, RuntimeError) as error:
        how = [
            "check the name and the connection; what was loaded before is found offline in the hub's cache"
        ]
        raise DataError(f"cannot be loaded from the hub: {error}", where=where, how=how) from error
    except ValueError as error:  # an unknown split or configuration
        raise DataError(f"cannot be loaded from the hub: {error}", where=where) from error
