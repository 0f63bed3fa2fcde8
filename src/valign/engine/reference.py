"""Reference log-probs: computed once by the same scorer, kept in the run's folder, never a second model if avoidable."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from valign.engine.items import Item
from valign.engine.scorer import Scorer
from valign.engine.tree import Tree

log = logging.getLogger(__name__)


def stored_references(
    items: Sequence[Item], scorer: Scorer, digest: str, folder: Path, *, budget: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Item]:  # fmt: skip
    """The items with `reference` tokens under the scorer's present weights.

    digest  names those weights; with every path it makes the key of `folder/reference-KEY.safetensors`, so a run that
            is resumed reads the log-probs of the policy at step 0 back instead of scoring the changed policy
    """
    file = folder / f"reference-{_key(items, digest, scorer)}.safetensors"
    flat = _read(file, items)
    if flat is not None:
        return [_attach(item, tokens) for item, tokens in zip(items, _cut(items, flat))]
    scored = scorer.score([i.tree for i in items], budget=budget, progress=progress)
    flat = np.concatenate([a for group in scored for a in group]) if items else np.zeros(0, np.float32)
    _write(file, flat)
    return [_attach(item, group) for item, group in zip(items, scored)]


def _read(file: Path, items: Sequence[Item]) -> Any:
    """The stored log-probs, or None where there are none that can be used: they are then computed again."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        flat = load_file(file)["log_probs"]
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError) as error:
        log.warning("%s cannot be read (%s): the reference is scored again", file, error)
        return None
    return flat if len(flat) == sum(len(r) for i in items for r in map(i.tree.response_ids, i.tree.leaves)) else None


def _write(file: Path, flat: Any) -> None:
    """Keep them for a resumed run. A folder that refuses costs that run time, not this one its result."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    partial = file.with_name(file.name + ".partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"log_probs": flat}, partial)
        partial.rename(file)
    except (OSError, SafetensorError) as error:
        log.warning("the reference log-probs are not kept: %s", error)


def _attach(item: Item, tokens: Sequence[Any]) -> Item:
    return item.with_tokens(reference=tokens)


def _cut(items: Sequence[Item], flat: Any) -> Iterator[list[Any]]:
    at = 0
    for item in items:
        lengths = [len(item.tree.response_ids(leaf)) for leaf in item.tree.leaves]
        yield np.split(flat[at : at + sum(lengths)], np.cumsum(lengths)[:-1])[: len(lengths)]
        at += sum(lengths)


def _key(items: Sequence[Item], digest: str, scorer: Scorer) -> str:
    dtype = next(scorer.model.parameters()).dtype
    allowed = None if scorer.allowed is None else scorer.allowed.tolist()
    h = hashlib.sha256(f"{digest}|{dtype}|{scorer.autocast}|{scorer.spec.temperature}|{allowed}".encode())
    for item in items:
        for leaf in item.tree.leaves:
            h.update(item.tree.path(leaf).tobytes() + b"|")
            h.update(item.tree.response_loss(leaf).tobytes() + b"|")
    return h.hexdigest()[:16]


class Reference:
    """Scores fresh trees under the policy as it was at step 0.

    With adapters the base weights are the reference (adapter off); with full weights a frozen copy is kept.
    """

    def __init__(self, scorer: Scorer, adapter: Any = None) -> None:
        import copy

        self._adapter = adapter
        self._scorer = scorer
        if adapter is None:
            frozen = copy.deepcopy(scorer.model).requires_grad_(False).eval()
            self._scorer = Scorer(
                frozen, path=scorer.path, autocast=scorer.autocast, temperature=scorer.spec.temperature,
                allowed_tokens=None if scorer.allowed is None else scorer.allowed.tolist(),
            )  # fmt: skip

    def __call__(self, trees: Sequence[Tree], *, budget: int) -> list[list[Any]]:
        with self._off():
            return self._scorer.score(trees, budget=budget)

    @contextmanager
    def _off(self) -> Iterator[None]:
        if self._adapter is None:
            yield
            return
        with self._adapter.disable_adapter():
            yield
