"""Classifiers of values and norms: F1 per label, macro-F1, accuracy, and the majority baseline (5.8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Classified(NamedTuple):
    """f1 per label (None: neither gold nor predicted); nonzero_f1: mean over labels other than 0."""

    f1: list[float | None]
    macro_f1: float | None
    accuracy: float
    majority_accuracy: float
    majority_macro_f1: float | None
    nonzero_f1: float | None


def classify(gold: Sequence[Any], predicted: Sequence[Any], labels: Sequence[Any]) -> Classified:
    """Scores of predictions; the majority label is the most frequent one in gold (the first in `labels` order
    if tied).
    """
    index = {label: k for k, label in enumerate(labels)}
    g, p = (np.array([index[x] for x in side], int) for side in (gold, predicted))
    f1, baseline = f1_by_label(g, p, len(labels)), np.bincount(g, minlength=len(labels)).argmax()
    majority = f1_by_label(g, np.full_like(g, baseline), len(labels))
    return Classified(
        f1, mean_present(f1), float((g == p).mean()), float((g == baseline).mean()), mean_present(majority),
        mean_present([x for x, label in zip(f1, labels, strict=True) if label != 0]),
    )  # fmt: skip


def f1_by_label(gold: NDArray[np.int_], predicted: NDArray[np.int_], k: int) -> list[float | None]:
    """2 TP/(2 TP + FP + FN) per label number; None for a label that neither side uses, 0 for one only
    predicted.
    """
    both = np.bincount(gold[gold == predicted], minlength=k)
    total = np.bincount(gold, minlength=k) + np.bincount(predicted, minlength=k)
    return [float(2 * b / t) if t else None for b, t in zip(both, total, strict=True)]


def mean_present(values: Sequence[float | None]) -> float | None:
    """Mean of the values that exist."""
    there = [v for v in values if v is not None]
    return float(np.mean(there)) if there else None
