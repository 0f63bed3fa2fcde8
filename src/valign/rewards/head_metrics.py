"""How good a three-class head is: F1, error, and their intervals by resampling situations. Pure functions.

Formulas: evaluation notes 5.8. Labels and predictions are -1, 0, 1, shape (rows,) or (rows, outputs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from valign.goals.base import Array

CLASSES = (-1.0, 0.0, 1.0)


def class_f1(gold: Array, predicted: Array) -> dict[float, float]:
    """F1 = 2 tp / (2 tp + fp + fn) of every class that occurs in gold or prediction."""
    out = {}
    for c in CLASSES:
        hit = float(np.sum((gold == c) & (predicted == c)))
        either = float(np.sum(gold == c) + np.sum(predicted == c))
        if either:
            out[c] = 2 * hit / either
    return out


def macro_f1(gold: Array, predicted: Array) -> float:
    """Mean F1 over the classes present in gold or prediction; NaN for no rows."""
    return float(np.mean(list(class_f1(gold, predicted).values()))) if len(gold) else float("nan")


def nonzero_f1(gold: Array, predicted: Array) -> float:
    """Mean F1 over -1 and 1 alone, those present."""
    found = [f for c, f in class_f1(gold, predicted).items() if c != 0]
    return float(np.mean(found)) if found else float("nan")


def sign_accuracy(gold: Array, values: Array) -> float:
    """Share of non-zero labels whose sign the value has; NaN without any."""
    at = gold != 0
    return float(np.mean(np.sign(values[at]) == gold[at])) if at.any() else float("nan")


def auc(positive: Array, negative: Array) -> float:
    """P(a positive scores higher than a negative), ties half; NaN when one side is empty."""
    if not len(positive) or not len(negative):
        return float("nan")
    gap = positive[:, None] - negative[None, :]
    return float(np.mean((gap > 0) + 0.5 * (gap == 0)))


def majority(gold: Array) -> Array:
    """(outputs,) the most frequent class of each output (column): what a blind guesser would always say."""
    counts = np.stack([(gold == c).sum(0) for c in CLASSES])
    return np.asarray(np.array(CLASSES)[counts.argmax(0)])


def mean_over(metric: Callable[[Array, Array], float], gold: Array, predicted: Array) -> float:
    """The metric of each output (column), averaged; outputs where it is undefined are left out."""
    each = [metric(gold[:, k], predicted[:, k]) for k in range(gold.shape[1])]
    return float(np.nanmean(each))


def bootstrap(
    statistic: Callable[[Any], float], clusters: Sequence[str], *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of row indices, whole clusters resampled with replacement."""
    rows = {c: np.flatnonzero(np.array(clusters) == c) for c in dict.fromkeys(clusters)}
    names = list(rows)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        picked = rng.integers(len(names), size=len(names))
        values.append(statistic(np.concatenate([rows[names[i]] for i in picked])))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
