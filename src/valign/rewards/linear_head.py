"""Linear heads on frozen features: ridge regression to labels in {-1, 0, 1}, with thresholds and their files.

Always true here: outputs are calibrated expectations, clipped to [-1, 1]; thresholds come from predictions
for held-out clusters, never from the rows a head was fitted on; a head names the model and the features it
belongs to, and is stored as safetensors beside a JSON card, without pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.data.frozen import frozen
from valign.errors import DataError, ModelError
from valign.goals.base import Array, sha256
from valign.rewards.head_metrics import macro_f1

Floats = NDArray[np.float32]
FOLDS = 5
ALPHAS = (0.3, 1.0, 3.0, 10.0)  # ridge strength in units of the mean squared length of a row


@dataclass(frozen=True)
class LinearHead:
    """v = clip(((x - mean) / sd) · weight + bias, -1, 1), one column per name.

    weight       (features, outputs); bias, low, high (outputs,): v ≤ low is read as -1, v ≥ high as 1
    mean, sd     (features,) of the training rows
    model        digest of the model whose states it reads; layers: which of them, in order
    card         how it was made and how good it is
    """

    names: tuple[str, ...]
    weight: Floats
    bias: Floats
    mean: Floats
    sd: Floats
    low: Floats
    high: Floats
    model: str
    layers: tuple[int, ...]
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "card", frozen(dict(self.card)))

    def __call__(self, features: Floats) -> Array:
        """(rows, outputs) float64 in [-1, 1] for features (rows, ...); NaN rows stay NaN."""
        flat = features.reshape(len(features), -1).astype(np.float64)
        if flat.shape[1] != len(self.mean):
            raise ModelError(f"the head reads {len(self.mean)} features, not {flat.shape[1]}", where="head")
        return np.asarray(np.clip((flat - self.mean) / self.sd @ self.weight + self.bias, -1.0, 1.0))

    def classes(self, values: Array) -> Array:
        """-1, 0 or 1 per value by the thresholds; NaN stays NaN."""
        return called(values, self.low, self.high)

    def fingerprint(self) -> str:
        """sha256 over everything that decides an output."""
        arrays = [getattr(self, name) for name in ARRAYS]
        return sha256([self.model, self.layers, self.names, [a.tobytes().hex() for a in arrays]])


ARRAYS = ("weight", "bias", "mean", "sd", "low", "high")


# ---------------------------------------------------------------------------------------------------- fitting


@dataclass(frozen=True)
class Fit:
    """A fitted head with the predictions for held-out clusters that chose it: (rows, outputs)."""

    head: LinearHead
    held_out: Array
    alpha: float


def fit(
    features: Floats,
    labels: Array,
    clusters: Sequence[str],
    names: Sequence[str],
    *,
    model: str,
    layers: Sequence[int],
    alphas: Sequence[float] = ALPHAS,
) -> Fit:
    """A head from labelled rows; strength and thresholds by cross-validation over clusters.

    features (rows, ...), labels (rows, outputs) in [-1, 1]. Raises `DataError` for fewer clusters than folds.
    """
    flat = features.reshape(len(features), -1).astype(np.float64)
    if len(set(clusters)) < FOLDS:
        raise DataError(f"{len(set(clusters))} situations are too few: at least {FOLDS}", where="training rows")
    if not np.isfinite(flat).all() or not np.isfinite(labels).all():
        raise DataError("features and labels must be finite", where="training rows")
    mean, sd = flat.mean(0), flat.std(0) + 1e-6
    rows = (flat - mean) / sd
    kernel = rows @ rows.T / rows.shape[1]
    held_out = cross_predict(kernel, labels, clusters, alphas)
    alpha = min(alphas, key=lambda a: float(((held_out[a] - labels) ** 2).mean()))
    center = labels.mean(0)
    dual = np.linalg.solve(kernel + alpha * np.eye(len(kernel)), labels - center)
    weight = rows.T @ dual / rows.shape[1]
    pairs = [thresholds(y, v) for y, v in zip(labels.T, held_out[alpha].T, strict=True)]
    low, high = np.array(pairs).T
    w, b, m, s, lo, hi = (x.astype(np.float32) for x in (weight, center, mean, sd, low, high))
    head = LinearHead(tuple(names), w, b, m, s, lo, hi, model=model, layers=tuple(layers))
    return Fit(head, np.clip(held_out[alpha], -1, 1), alpha)


def folds(clusters: Sequence[str], n: int = FOLDS) -> Array:
    """(rows,) fold of each row: clusters in order of a hash of their name, dealt out in turn."""
    names = sorted(set(clusters), key=lambda c: sha256(c))
    fold = {name: i % n for i, name in enumerate(names)}
    return np.array([fold[c] for c in clusters], dtype=np.float64)


def cross_predict(kernel: Array, labels: Array, clusters: Sequence[str], alphas: Sequence[float]) -> dict[float, Array]:
    """Ridge predictions (rows, outputs) for every row by a fit without its fold, per strength."""
    fold = folds(clusters)
    out = {alpha: np.zeros_like(labels) for alpha in alphas}
    for k in range(FOLDS):
        test, train = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        center = labels[train].mean(0)
        spectrum, basis = np.linalg.eigh(kernel[np.ix_(train, train)])
        target, probe = basis.T @ (labels[train] - center), kernel[np.ix_(test, train)] @ basis
        for alpha in alphas:
            out[alpha][test] = probe @ (target / (spectrum + alpha)[:, None]) + center
    return out


def called(values: Array, low: Array | Floats | float, high: Array | Floats | float) -> Array:
    """-1, 0 or 1 per value: at most low, between, at least high; NaN stays NaN."""
    out = np.where(values >= high, 1.0, np.where(values <= low, -1.0, 0.0))
    return np.where(np.isnan(values), np.nan, out)


def thresholds(labels: Array, predictions: Array, steps: int = 40) -> tuple[float, float]:
    """(low, high) that give the best macro-F1 of the three classes; the midmost of equally good ones.

    -2 or 2, which no value reaches, where calling nobody -1 or 1 is best.
    """
    grid = np.unique(np.quantile(predictions, np.linspace(0.005, 0.995, steps)))
    scored = [
        (macro_f1(labels, called(predictions, low, high)), low, high)
        for low, high in combinations([-2.0, *grid, 2.0], 2)
    ]
    best = max(score for score, _, _ in scored)
    ties = [(low, high) for score, low, high in scored if score > best - 1e-12]
    return ties[len(ties) // 2]


# ------------------------------------------------------------------------------------------------------ files


def save(head: LinearHead, path: Path) -> None:
    """Write PATH (safetensors, the weight in half precision) and its card, PATH with .json."""
    from safetensors.numpy import save_file

    arrays = {n: getattr(head, n) for n in ARRAYS}
    stored = {n: a.astype(np.float16) if n == "weight" else a for n, a in arrays.items()}
    about = {"names": list(head.names), "model": head.model, "layers": list(head.layers)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file({n: np.ascontiguousarray(a) for n, a in stored.items()}, partial, {"head": json.dumps(about)})
    partial.chmod(0o644)  # safetensors writes for the owner alone, but these files are installed for all
    partial.replace(path)
    text = json.dumps(dict(head.card), indent=1, ensure_ascii=False, allow_nan=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def load(path: Path) -> LinearHead:
    """The inverse of `save`. Raises `ModelError` when the file is missing or not a head."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["head"])
            arrays = {n: file.get_tensor(n).astype(np.float32) for n in ARRAYS}
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError("there is no such head", where=str(path)) from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"is not a head of valign: {error}", where=str(path)) from error
    names = tuple(about["names"])
    return LinearHead(names, model=about["model"], layers=tuple(about["layers"]), card=card, **arrays)
