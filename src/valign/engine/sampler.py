"""Where the items of a step come from, when they come from data.

The optimizer step is the unit of meaning: which groups meet in it follows from (seed, epoch) alone, never from the
token budget or the number of processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from valign.engine.items import Item
from valign.models.policy import Cost


@dataclass(frozen=True)
class Step:
    """The items of one optimizer step, what the sampler measured on the way, and what that cost."""

    items: Sequence[Item]
    meters: Mapping[str, float] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)


class Sampler(Protocol):
    """Gives the items of each optimizer step. Must be a function of the step, the seed and the current weights."""

    steps: int

    def step(self, index: int) -> Step: ...


def address(*parts: object) -> int:
    """A 63-bit seed from names and numbers: randomness is addressed by (seed, purpose, index)."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:8], "little") >> 1


class DataSampler:
    """Steps of `batch` items drawn by a seeded permutation for each epoch; the last step of an epoch may be smaller."""

    def __init__(
        self, items: Sequence[Item], *, batch: int, epochs: float = 1, max_steps: int = 0, seed: int = 0
    ) -> None:
        self.items, self.batch, self.seed = list(items), batch, seed
        self.per_epoch = -(-len(self.items) // batch)
        whole = max(1, round(self.per_epoch * epochs)) if self.items else 0
        self.steps = min(whole, max_steps) if max_steps else whole

    def step(self, index: int) -> Step:
        epoch, at = divmod(index, self.per_epoch)
        order = np.random.default_rng(address(self.seed, "order", epoch)).permutation(len(self.items))
        chosen = order[at * self.batch : (at + 1) * self.batch]
        return Step([self.items[i] for i in chosen], {"epoch": index / self.per_epoch})
