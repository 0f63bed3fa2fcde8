"""ValueEvaluator: which values a response acts on, read from a frozen model's own hidden states (G08).

Always true here: one batched forward per call gives all dimensions; a head reads only the model that it was
trained for, named by digest; a single response can be scored (nothing is compared within its group). The
shipped head belongs to the embedded default model; `fit` makes one for any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from valign.data.group import Group, VectorScore
from valign.errors import DataError, ModelError
from valign.goals.base import Array, sha256
from valign.goals.theory import load_theory
from valign.rewards import linear_head
from valign.rewards.hidden_states import Floats, layers_of, mean_states
from valign.rewards.linear_head import LinearHead

if TYPE_CHECKING:
    from valign.models.loaded import LoadedModel

WEIGHTS = Path(__file__).parent / "weights"
VALUES_FILE, VERDICTS_FILE = "values.safetensors", "verdicts.safetensors"
THEORY = "schwartz10"
DEFAULT_MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True, eq=False)
class ValueEvaluator:
    """A model with a head on its hidden states. Implements `goals.base.ValueScorer`.

    head   what was fitted; its `names` are the theory's dimension ids in vector order
    """

    model: LoadedModel
    head: LinearHead
    theory: str = THEORY

    def __post_init__(self) -> None:
        check_model(self.model, self.head)

    @property
    def id(self) -> str:
        return f"values {self.model.id} {self.head.fingerprint()[:8]}"

    @property
    def card(self) -> Mapping[str, Any]:
        """How the head was made and how good it is: macro-F1 with interval, baselines, known limits."""
        return self.head.card

    def values(self, groups: Sequence[Group]) -> list[Array]:
        """(n_responses, K) expected labels in [-1, 1]; NaN rows for responses without a token."""
        return [self.head(states) for states in mean_states(self.model, groups, self.head.layers)]

    def classes(self, groups: Sequence[Group]) -> list[Array]:
        """(n_responses, K) labels -1, 0, 1 by the head's thresholds."""
        return [self.head.classes(v) for v in self.values(groups)]

    def fingerprint(self) -> str:
        """sha256 over the head and the model's identity."""
        return sha256([self.head.fingerprint(), self.theory])

    def save(self, folder: Path) -> None:
        """Write the head and its card to a folder; the model is not written."""
        linear_head.save(self.head, Path(folder) / VALUES_FILE)

    @classmethod
    def load(cls, model: LoadedModel | None = None, folder: Path | None = None) -> ValueEvaluator:
        """The evaluator of a folder written by `save`; without one, the shipped head of the embedded model.

        Raises `ModelError` when the head was trained for another model.
        """
        path = (Path(folder) if folder else WEIGHTS) / VALUES_FILE
        return cls(model or default_model(), linear_head.load(path))

    @classmethod
    def fit(cls, model: LoadedModel, groups: Sequence[Group], *, layers: Sequence[int] | None = None) -> ValueEvaluator:
        """A head for any model from groups with value labels; minutes on a CPU for some hundred responses.

        layers   hidden states to read; default every second one of the middle (`middle_layers`)
        Raises `DataError` without labels of the theory or with fewer than five situations.
        """
        chosen = tuple(layers) if layers is not None else middle_layers(model)
        states, labels, clusters = labelled_states(model, groups, chosen)
        names = load_theory(THEORY).ids
        fitted = linear_head.fit(states, labels, clusters, names, model=model.digest, layers=chosen)
        return cls(model, fitted.head)


@dataclass(eq=False)
class LazyEvaluator:
    """The shipped `ValueEvaluator`, loaded at its first use: naming a goal must not cost a model."""

    model: LoadedModel | None = None
    theory: str = THEORY
    _made: ValueEvaluator | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        return f"values {shipped(VALUES_FILE).fingerprint()[:8]}"

    def values(self, groups: Sequence[Group]) -> list[Array]:
        """See `ValueEvaluator.values`."""
        self._made = self._made or ValueEvaluator.load(self.model)
        return self._made.values(groups)

    def fingerprint(self) -> str:
        """See `ValueEvaluator.fingerprint`."""
        return sha256([shipped(VALUES_FILE).fingerprint(), self.theory])


def check_model(model: LoadedModel, head: LinearHead) -> None:
    """Raise `ModelError` unless the head was trained on this model's states."""
    if model.digest != head.model:
        raise ModelError(
            f"this head reads model {head.model[:12]}, not {model.id} ({model.digest[:12]})",
            where="value evaluator",
            how=[
                "ValueEvaluator.fit(model, groups) makes a head for this model",
                f"or read with {DEFAULT_MODEL}",
            ],
        )


def middle_layers(model: LoadedModel) -> tuple[int, ...]:
    """Every second hidden state from an eighth of the depth to just below the top: what held best for the
    default.
    """
    n = layers_of(model)
    return tuple(range(max(1, n // 8), max(2, n - 1), 2))


def labelled_states(
    model: LoadedModel, groups: Sequence[Group], layers: Sequence[int]
) -> tuple[Floats, Array, list[str]]:
    """(rows, layers, width), (rows, K) labels and (rows,) situations of every response with value labels."""
    labels = label_rows(groups)
    states = mean_states(model, groups, layers)
    clusters = [g.cluster or g.id for g in groups for _ in g.responses]
    if not clusters:
        raise DataError("there is no response", where="training groups")
    y, x = np.concatenate(labels), np.concatenate(states)
    known = np.isfinite(np.concatenate([y, x.reshape(len(x), -1)], axis=1)).all(1)
    if not known.any():
        raise DataError(f"no response has value labels of {THEORY}", where="training groups")
    return x[known], y[known], [c for c, k in zip(clusters, known, strict=True) if k]


def label_rows(groups: Sequence[Group]) -> list[Array]:
    """(n_responses, K) per group: the mean value label; NaN rows without one."""
    theory = load_theory(THEORY)
    out = []
    for group in groups:
        rows = np.full((len(group.responses), len(theory.ids)), np.nan)
        scores = [f for f in group.of(VectorScore) if f.theory == THEORY]
        for r in {f.response for f in scores}:
            rows[r] = np.mean([theory.vector(f.values) for f in scores if f.response == r], axis=0)
        out.append(rows)
    return out


@cache
def shipped(file: str) -> LinearHead:
    """A head of the package."""
    return linear_head.load(WEIGHTS / file)


def default_model() -> LoadedModel:
    """The embedded model, loaded once per process for all evaluators."""
    return _default_model()


@cache
def _default_model() -> LoadedModel:
    from valign.models.loading import load_model

    return load_model(DEFAULT_MODEL, dtype="float32")  # a head must not depend on which format is fast here
