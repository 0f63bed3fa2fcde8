"""builtin: the data sets that come with valign, written for it, so that everything runs without a
download.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import resources

from valign.data.dataset import Dataset
from valign.data.readers import read
from valign.errors import DataError, unknown

LICENCE = "Apache-2.0 (written for valign)"
BUILTIN = {
    "dilemmas": "everyday situations with answers labelled by ten basic values and twelve principles",
    "instructions": "short instructions whose answers a program can check",
    "demonstrations": "prompts with an answer to learn from",
}


def builtin(name: str, split: str | None = None) -> Dataset:
    """A data set of the package.

    name   "dilemmas": VectorScore(theory="schwartz10") and Verdicts per response, cluster = situation
           "instructions": no responses; meta holds kind, checks and reference
           "demonstrations": one response and its Demonstration
    split  "train", "dev" or "test"; None for all
    Raises `UsageError` for another name, `DataError` for a split that the set does not have.
    """
    if name not in BUILTIN:
        raise unknown("built-in data set", name, BUILTIN)
    data = _load(name)
    return data.of_split(split) if split else data


@cache
def _load(name: str) -> Dataset:
    file = resources.files("valign.data") / "builtin" / f"{name}.jsonl"
    if not file.is_file():
        raise DataError(
            f"the package does not hold {name}.jsonl", where=f"builtin:{name}", how="install valign again"
        )
    with resources.as_file(file) as path:
        data = read(path, format=name)
    for (
        line,
        field,
        reason,
    ) in data.report.dropped:  # our own file: a row that cannot be read is a fault of ours
        raise DataError(reason, where=f"builtin:{name}, line {line}, field {field}")
    if again := data.report.counts.get("repeated ids"):
        raise DataError(f"{again} ids stand twice", where=f"builtin:{name}")
    return replace(data, source=f"builtin:{name}", licence=LICENCE)
