"""Reference log-probs: computed once by the same scorer and found again by content, never a second model if avoidable."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.engine.items import Item
from valign.engine.records import RecordStore, made_by
from valign.engine.scorer import Scorer
from valign.engine.tree import Leaf, Tree
from valign.models.cache import cache_root

FILE = "references.sqlite"
FOLDER = "VALIGN_REFERENCES"  # environment variable: where the store lies, if not in the user's cache

Row = NDArray[Any]


def store_folder() -> Path:
    """Where references are kept for every run: $VALIGN_REFERENCES, else `references` in the user's cache folder."""
    own = os.environ.get(FOLDER)
    return Path(own).expanduser() if own else cache_root() / "references"


def with_references(
    items: Sequence[Item], scorer: Scorer, digest: str, folder: Path, *, budget: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Item]:  # fmt: skip
    """The items with `reference` tokens under the scorer's present weights.

    digest   names those weights
    folder   where the store lies: paths that it knows are read, others are scored and added as they come, so an
             interrupted run goes on where it was, and another method, epoch or run scores nothing again
    """
    keys = [[_key(item.tree, leaf, digest, scorer) for leaf in item.tree.leaves] for item in items]
    store = ReferenceStore(folder / FILE)
    known = store.read(k for row in keys for k in row)
    missing = [i for i, row in enumerate(keys) if any(k not in known for k in row)]
    done = len(items) - len(missing)
    for scored in scorer.batches([items[i].tree for i in missing], budget=budget):
        fresh = {k: array for i, row in scored.items() for k, array in zip(keys[missing[i]], row)}
        store.write(fresh)
        known |= fresh
        done += len(scored)
        if progress is not None:
            progress(done, len(items))
    return [item.with_tokens(reference=[known[k] for k in row]) for item, row in zip(items, keys)]


class ReferenceStore:
    """Log-probs of paths in one SQLite file: key -> array; see `RecordStore`."""

    def __init__(self, file: Path) -> None:
        self.records = RecordStore(file, "log_probs", "scored")

    def read(self, keys: Iterable[bytes]) -> dict[bytes, Row]:
        """The arrays of the keys that are known."""
        return {key: np.frombuffer(data, dtype) for key, (dtype, data) in self.records.read(keys).items()}

    def write(self, rows: Mapping[bytes, Row]) -> None:
        """Add arrays, all or none of them."""
        self.records.write({key: (a.dtype.str, a.tobytes()) for key, a in rows.items()})


def _key(tree: Tree, leaf: Leaf, digest: str, scorer: Scorer) -> bytes:
    """What the numbers of one path depend on: its ids, which of them are scored, the weights and how they multiply."""
    dtype = next(scorer.model.parameters()).dtype
    allowed = None if scorer.allowed is None else scorer.allowed.tolist()
    numbers = f"{dtype}|{scorer.autocast}|{scorer.spec.temperature}|{allowed}|{scorer.device.type}"
    h = hashlib.sha256(f"{made_by()}|{digest}|{numbers}|{leaf.first}".encode())
    h.update(tree.path(leaf).tobytes() + b"|" + np.packbits(tree.path_loss(leaf) != 0).tobytes())
    return h.digest()


class Reference:
    """Scores fresh trees under the policy as it was at step 0.

    With adapters the base weights are the reference (adapter off); with full weights a frozen copy is kept, unless
    `frozen` says that nobody will train this scorer's model: then it is the reference itself.
    """

    def __init__(self, scorer: Scorer, adapter: Any = None, *, frozen: bool = False) -> None:
        self._adapter = adapter
        self._scorer = scorer
        self.copied = 0  # bytes of a second model that had to be made
        if adapter is None and not frozen:
            still = copy.deepcopy(scorer.model).requires_grad_(False).eval()
            self.copied = sum(p.numel() * p.element_size() for p in still.parameters())
            self._scorer = Scorer(
                still, path=scorer.path, autocast=scorer.autocast, temperature=scorer.spec.temperature,
                allowed_tokens=None if scorer.allowed is None else scorer.allowed.tolist(),
            )  # fmt: skip

    def __call__(self, trees: Sequence[Tree], *, budget: int | None) -> list[list[Any]]:
        with self._off():
            return self._scorer.score(trees, budget=budget)

    @contextmanager
    def _off(self) -> Iterator[None]:
        if self._adapter is None:
            yield
            return
        with self._adapter.disable_adapter():
            yield
