"""Exact sums over a step: means of everything an objective measured, however it was cut into micro-batches and dealt to
processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from valign.engine.objective import Terms


class Meters:
    """Sums and counts of named metrics; tensors stay on the device until `read`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float | Tensor] = {}

    def add(self, terms: Terms, mask: Tensor) -> None:
        """Add one micro-batch. A metric shaped like the mask is averaged over scored tokens, any other over its entries."""
        for name, value in terms.metrics.items():
            value = value.detach().double()
            tokens = value.shape == mask.shape
            self._sums[name] = self._sums.get(name, torch.zeros((), dtype=torch.float64, device=value.device)) + (
                (value * mask).sum() if tokens else value.sum()
            )
            self._counts[name] = self._counts.get(name, 0.0) + (mask.sum() if tokens else float(value.numel()))

    def sums(self) -> dict[str, tuple[float, float]]:
        """(sum, count) of every metric: numbers that can be added up over processes."""
        return {n: (float(s), float(self._counts[n])) for n, s in self._sums.items()}

    def read(self) -> Mapping[str, float]:
        """The means; a metric that was never counted is left out."""
        return means([self.sums()])


def means(parts: Iterable[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """The means over the `Meters.sums` of several processes."""
    total: dict[str, tuple[float, float]] = {}
    for part in parts:
        for name, (value, count) in part.items():
            had, counted = total.get(name, (0.0, 0.0))
            total[name] = had + value, counted + count
    return {name: value / count for name, (value, count) in total.items() if count > 0}
