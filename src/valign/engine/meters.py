"""Exact sums over a step: its loss and means of everything an objective measured, however it was cut into micro-batches
and dealt to processes. What a process adds up stays on its device and is read from there once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from valign.engine.objective import Terms

Sums = Mapping[str, tuple[float, float]]  # name -> (sum, count)


@dataclass(frozen=True)
class Part:
    """What one process computed of a step or of an evaluation: numbers that are added up over processes."""

    loss: float
    tokens: int
    computed: int  # positions that passed the model, padding included; `real` without it
    real: int
    sums: Sums


class Meters:
    """The loss, and sums and counts of named metrics; tensors stay on the device until `read`."""

    def __init__(self) -> None:
        self._loss: Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float | Tensor] = {}

    def add(self, loss: Tensor, terms: Terms, mask: Tensor) -> None:
        """Add one micro-batch: its share of the loss, and its metrics. A metric shaped like the mask is averaged over
        scored tokens, any other over its entries."""
        loss = loss.detach().double()
        self._loss = loss if self._loss is None else self._loss + loss
        for name, value in terms.metrics.items():
            value = value.detach().double()
            tokens = value.shape == mask.shape
            self._sums[name] = self._sums.get(name, torch.zeros((), dtype=torch.float64, device=value.device)) + (
                (value * mask).sum() if tokens else value.sum()
            )
            self._counts[name] = self._counts.get(name, 0.0) + (mask.sum() if tokens else float(value.numel()))

    def read(self) -> tuple[float, dict[str, tuple[float, float]]]:
        """(loss, sum and count of every metric): numbers that can be added up over processes; one transfer for all."""
        if self._loss is None:
            return 0.0, {}
        counted = {n: c for n, c in self._counts.items() if isinstance(c, Tensor)}
        scalars = [self._loss, *self._sums.values(), *(c.detach().double() for c in counted.values())]
        loss, *numbers = torch.stack(scalars).tolist()
        sums, counts = numbers[: len(self._sums)], dict(zip(counted, numbers[len(self._sums) :]))
        return loss, {n: (s, float(counts.get(n, self._counts[n]))) for n, s in zip(self._sums, sums)}


def total(parts: Sequence[Part]) -> tuple[float, Mapping[str, float], int, float]:
    """(loss, means of the metrics, tokens, share of padding) over all processes, added in the order of their ranks."""
    computed, real = sum(p.computed for p in parts), sum(p.real for p in parts)
    pad = 1 - real / max(1, computed)
    return sum(p.loss for p in parts), means(p.sums for p in parts), sum(p.tokens for p in parts), pad


def means(parts: Iterable[Sums]) -> dict[str, float]:
    """The means over the sums of several processes; a metric that was never counted is left out."""
    whole: dict[str, tuple[float, float]] = {}
    for part in parts:
        for name, (value, count) in part.items():
            had, counted = whole.get(name, (0.0, 0.0))
            whole[name] = had + value, counted + count
    return {name: value / count for name, (value, count) in whole.items() if count > 0}
