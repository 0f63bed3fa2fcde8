"""ValueGoal: level 4, a target vector in the space of a value theory.

Always true here: v(x, y) comes from a value evaluator that is passed in, or from the value labels in the data
(`VectorScore` of the same theory; a dimension that a label leaves out is 0). What reads values out of a text
lives in `rewards/value_evaluator.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from valign.data.frozen import frozen
from valign.data.group import Group, VectorScore
from valign.errors import DataError, UsageError, ValignError, unknown
from valign.goals import distance as d
from valign.goals.base import (
    Array,
    Level,
    Style,
    ValueScorer,
    check_style,
    missing_scorer,
    per_response,
    scorer_identity,
    sha256,
    weighted_mean,
    without_scoring,
)
from valign.goals.ranking import kendall_parts
from valign.goals.targets import named_targets, weight_vector
from valign.goals.theory import Theory, theories
from valign.goals.words import value_words

log = logging.getLogger(__name__)
Distance = Literal["profile", "basealign", "direction", "cosine", "circle_cosine", "kendall"]
DISTANCES: tuple[str, ...] = get_args(Distance)
DEFAULT_DISTANCE: dict[str, Distance] = {"vector": "profile", "ranking": "kendall", "angle": "direction"}
SILENT_SHARE = 0.5  # above this share of texts without any value, BaseAlign rewards little but silence


@dataclass(frozen=True)
class ValueGoal:
    """r(x, y) = -D(v(x, y), t), or a push along t.

    target     numbers in [-1, 1] by dimension (id or name); what is not written is no target
    weights    "named" (1 where the target is written), "ones", "abs_target", one number per dimension, or a
               mapping
    distance   profile, basealign, kendall: r = -D; direction, cosine, circle_cosine: r itself, 0 for a text
               without values. Under kendall only the order of the target's numbers counts
    evaluator  reads v(x, y); None leaves `labels` only
    target_id  the name of a built-in target, "" for one's own
    scoring    how the goal's file describes the evaluator, None where it does not
    """

    theory: Theory
    target: Mapping[str, float]
    weights: str | Sequence[float] | Mapping[str, float] = "named"
    distance: Distance = "profile"
    evaluator: ValueScorer | None = None
    id: str = ""
    target_id: str = ""
    version: int = 1
    notes: str = ""
    scoring: Mapping[str, Any] | None = None
    level: Level = field(default="value", init=False)

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise unknown("distance", self.distance, DISTANCES, where="distance")
        if not self.target:
            raise UsageError(
                "a value goal needs a target",
                where=f"theory {self.theory.id}",
                how=[
                    f"name dimensions, each in [-1, 1]: {self.theory.dimensions[0].name}=1",
                    "or a built-in target: uk",
                ],
            )
        self.theory.vector(self.target)  # checked under the names the user wrote
        object.__setattr__(
            self, "target", frozen({self.theory.ids[self.theory.index(k)]: v for k, v in self.target.items()})
        )
        weights = frozen(self.weights) if isinstance(self.weights, Mapping | str) else tuple(self.weights)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "id", self.id or self.target_id or self.theory.id)
        if not (self.t * self.w).any() and self.distance != "profile":
            raise UsageError(
                f"a target of zeros gives no {self.distance}", where="target", how="use distance profile"
            )
        if self.distance == "kendall" and len(set(self.t[self.w > 0])) < 2:
            raise UsageError("a ranking needs at least two dimensions, in an order", where="target")
        if self.distance == "circle_cosine" and self.theory.structure != "circle":
            raise UsageError(
                f"theory {self.theory.id} is no circle", where="distance", how="use distance cosine"
            )
        if self.evaluator is not None and self.evaluator.theory != self.theory.id:
            raise UsageError(
                f"the evaluator reads theory {self.evaluator.theory}, the goal needs {self.theory.id}",
                where=f"evaluator {self.evaluator.id}",
            )

    @cached_property
    def t(self) -> Array:
        """(K,) target vector, in the theory's order; 0 where nothing is written."""
        return self.theory.vector(self.target)

    @cached_property
    def w(self) -> Array:
        """(K,) weights."""
        return weight_vector(self.theory, self.target, self.weights)

    # ------------------------------------------------------------------------------------------------ numbers

    def values(self, groups: Sequence[Group]) -> list[Array]:
        """(n_responses, K) per group in [-1, 1], by the evaluator. Raises `ValignError` without one."""
        if self.evaluator is None:
            raise missing_scorer(self.id, "value", "evaluator", "a ValueScorer, such as ValueEvaluator")
        name = self.evaluator.id
        rows = per_response(self.evaluator.values(groups), groups, name, width=len(self.t))
        for row, group in zip(rows, groups, strict=True):
            if (np.abs(row) > 1 + 1e-6).any():  # NaN passes: it stays unscored
                raise DataError("gave a value outside [-1, 1]", where=f"scorer {name}, group {group.id}")
        return rows

    def label_values(self, groups: Sequence[Group]) -> list[Array]:
        """(n_responses, K) from this theory's `VectorScore`s, averaged by weight; NaN rows without one."""
        return [self._labelled(group) for group in groups]

    def utility_of(self, values: Array) -> Array:
        """The utility of value vectors (..., K)."""
        return np.asarray(self.parts_of(values).sum(-1))

    def parts_of(self, values: Array) -> Array:
        """Each dimension's part of the utility, (..., K); they sum to it."""
        if self.distance == "profile":
            return d.profile_parts(values, self.t, self.w)
        if self.distance == "basealign":
            return d.basealign_parts(values, self.t)
        if self.distance == "direction":
            return d.direction_parts(values, self.t, self.w)
        if self.distance == "kendall":
            return kendall_parts(values, self.t, self.w)
        similarity = self.theory.similarity() if self.distance == "circle_cosine" else np.eye(len(self.t))
        pull = similarity @ self.t
        total = d.circle_cosine(values, self.t, similarity)
        product = values * pull
        norm = product.sum(-1)
        # A text without values has no direction: neither with the target nor against it.
        scale = np.divide(total, norm, out=np.where(np.isnan(norm), np.nan, 0.0), where=np.abs(norm) > 1e-12)
        return np.asarray(product * np.where(np.isnan(total) & ~np.isnan(norm), 0.0, scale)[..., None])

    def utility(self, groups: Sequence[Group]) -> list[Array]:
        """See `Goal.utility`: profile in [-1, 0], best 0."""
        values = self.values(groups)
        if self.distance == "basealign":
            _warn_silent(values)
        return [self.utility_of(v) for v in values]

    def labels(self, groups: Sequence[Group]) -> list[Array]:
        """See `Goal.labels`: the same distance on the value labels in the data."""
        return [self.utility_of(v) for v in self.label_values(groups)]

    def explain(self, groups: Sequence[Group]) -> list[dict[str, Array]]:
        """See `Goal.explain`: one part per dimension id."""
        return [dict(zip(self.theory.ids, self.parts_of(v).T, strict=True)) for v in self.values(groups)]

    def _labelled(self, group: Group) -> Array:
        """(n_responses, K) of one group."""
        out = np.full((len(group.responses), len(self.t)), np.nan)
        scores = [f for f in group.of(VectorScore) if f.theory == self.theory.id]
        for r in {f.response for f in scores}:
            own = [f for f in scores if f.response == r]
            try:
                vectors = np.array([self.theory.vector(f.values) for f in own])
            except ValignError as error:
                raise DataError(error.what, where=f"group {group.id}, value labels", how=error.how) from error
            weights = [f.weight for f in own]
            out[r] = [weighted_mean(column, weights) for column in vectors.T.tolist()]
        return out

    # -------------------------------------------------------------------------------------------------- words

    def describe(self, style: Style = "instruction") -> str:
        """See `Goal.describe`: what to care for and what to leave, strongest first."""
        check_style(style)
        # a low rank is no wish against a dimension
        pushes = ((self.t + 1) / 2 if self.distance == "kendall" else self.t) * (self.w > 0)
        return value_words(self.theory, pushes, style)

    def fingerprint(self) -> str:
        """See `Goal.fingerprint`."""
        content = self.to_json() | {"theory": self.theory.fingerprint(), "w": self.w.tolist()}
        content = without_scoring(content, "evaluator", self.evaluator)
        return sha256([content, scorer_identity(self.evaluator)])

    def to_json(self) -> dict[str, Any]:
        """See `Goal.to_json`."""
        builtin = self.theory.id in theories()
        out: dict[str, Any] = {"id": self.id, "version": self.version, "level": "value"}
        out |= {"theory": self.theory.id if builtin else self.theory.to_json()}
        named = self.target_id in named_targets()  # a file of answers can change or go: its numbers are kept
        out |= {"target": self.target_id if named else dict(self.target), "distance": self.distance}
        weights = self.weights
        out["weights"] = weights if isinstance(weights, str) else _plain(weights)
        out |= {"evaluator": dict(self.scoring)} if self.scoring else {}
        return out | ({"notes": self.notes} if self.notes else {})


def _plain(weights: Sequence[float] | Mapping[str, float]) -> list[float] | dict[str, float]:
    return dict(weights) if isinstance(weights, Mapping) else [float(w) for w in weights]


def _warn_silent(values: Sequence[Array]) -> None:
    """Say when most texts show no value at all: the published distance gives them the best reward."""
    flags = np.concatenate([d.silent(v) for v in values]) if values else np.array([])
    flags = flags[~np.isnan(flags)]
    if flags.size and flags.mean() > SILENT_SHARE:
        log.warning(
            "basealign: %.0f %% of %d texts show no value (|v| <= %.1f) and get the best reward; use profile",
            100 * flags.mean(),
            flags.size,
            d.MASK,
        )
