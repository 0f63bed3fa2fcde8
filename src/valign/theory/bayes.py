"""Context as evidence: conditioning is a Gibbs law with β = 1, and demonstrations select a sub-population.

Concepts are rows of a table p(y|v) of shape (V, K); a belief over them is a vector (V,).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from valign.theory.laws import Array, as_array, log_or_floor, softmax
from valign.theory.target import gibbs


def conditioned(base: ArrayLike, likelihood: ArrayLike, guidance: float = 1.0) -> Array:
    """p(y|x,v) ∝ p(y|x) p(v|x,y)^γ: Gibbs with r = log p(v|x,y) and β = 1/γ; γ = 1 is Bayes' rule."""
    return gibbs(base, log_or_floor(likelihood), 1 / guidance)


def posterior(prior: ArrayLike, concepts: ArrayLike, demonstrations: ArrayLike) -> Array:
    """p(v|D) ∝ p(v) Π_d p(d|v), shape (..., V); demonstrations are outcome indices (..., n), n may be 0."""
    seen = np.asarray(demonstrations, dtype=np.int64)
    evidence = log_or_floor(concepts)[:, seen].sum(axis=-1)
    return softmax(np.moveaxis(evidence, 0, -1) + log_or_floor(prior))


def predictive(prior: ArrayLike, concepts: ArrayLike, demonstrations: ArrayLike) -> Array:
    """p(y|D) = Σ_v p(v|D) p(y|v), shape (..., K) (2111.02080)."""
    return posterior(prior, concepts, demonstrations) @ as_array(concepts)


def selection_score(concept: ArrayLike, base: ArrayLike, demonstrations: ArrayLike) -> Array:
    """Σ_d log p(d|v)/p(d), shape (...): demonstrations with the largest score evoke v (PICLe, 2405.02501)."""
    seen = np.asarray(demonstrations, dtype=np.int64)
    return as_array((log_or_floor(concept) - log_or_floor(base))[seen].sum(axis=-1))
