"""Distance of answer distributions: Jensen-Shannon similarity and the surveys built on it (5.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from valign.theory.divergence import jsd


def jensen_shannon_bits(p: ArrayLike, q: ArrayLike) -> float:
    """Jensen-Shannon divergence in bits: 0 equal, 1 disjoint."""
    return max(0.0, float(jsd(p, q)) / float(np.log(2)))


def similarity(p: ArrayLike, q: ArrayLike) -> float:
    """S = 1 - √JS₂ (base 2): 1 equal, 0 disjoint."""
    return 1 - float(np.sqrt(jensen_shannon_bits(p, q)))


def similarity_base_e(p: ArrayLike, q: ArrayLike) -> float:
    """1 - √JS in nats, what libraries default to: disjoint answers score .1674. For comparison only."""
    return 1 - float(np.sqrt(max(0.0, float(jsd(p, q)))))


class Similarity(NamedTuple):
    """Mean similarity to one country and the number of questions it answered."""

    similarity: float
    n: int


def country_similarity(
    questions: Sequence[tuple[ArrayLike, Mapping[str, ArrayLike]]],
) -> dict[str, Similarity]:
    """S per country from (model's distribution, {country: its distribution}); a country is averaged over its
    questions.
    """
    rows: dict[str, list[float]] = {}
    for model, countries in questions:
        for name, answers in countries.items():
            rows.setdefault(name, []).append(similarity(model, answers))
    return {name: Similarity(float(np.mean(s)), len(s)) for name, s in sorted(rows.items())}


def ordinal_alignment(model: ArrayLike, human: ArrayLike) -> float:
    """1 - WD/(N-1), WD = Σ_k |F_model(k) - F_human(k)| on options 1..N; the model's shares without refusals,
    renormalized.
    """
    m, h = np.asarray(model, float), np.asarray(human, float)
    distance = np.abs(np.cumsum(m / m.sum() - h / h.sum()))[:-1].sum()
    return float(1 - distance / (len(m) - 1))


def steerability(scores: ArrayLike) -> float:
    """Mean over questions of the best of the prompt forms; scores (questions, forms)."""
    return float(np.asarray(scores, float).max(axis=1).mean())


def consistency(overall: str, best_by_topic: Mapping[str, str]) -> float:
    """Share of topics whose best-fitting group is the overall one."""
    return float(np.mean([group == overall for group in best_by_topic.values()]))
