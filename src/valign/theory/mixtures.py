"""Mixing policies: geometric mixtures, weight soups, and the Gibbs law each of them equals.

Sequence forms are exact (theory notes, section 12); token forms renormalize at each step and are
approximations, whose size `token_form_gap` reports.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from valign.theory.decoding import PrefixTree, token_geometric_law
from valign.theory.divergence import kl
from valign.theory.laws import Array, as_array, log_or_floor, softmax


def geometric(laws: ArrayLike, weights: ArrayLike) -> Array:
    """Π_i π_i^{w_i} / Z over the last axis; laws (M, ..., N), weights (M,), any sign.

    With Σw = 1 and π_i optimal for r_i at the same β and reference it is Gibbs(Σ w_i r_i) (MOD, 2406.18853).
    """
    return softmax(np.tensordot(as_array(weights), log_or_floor(laws), axes=1))


def dera(reference: ArrayLike, aligned: ArrayLike, dial: float) -> Array:
    """π_ref^{1-λ} π_β^{λ} / Z = Gibbs at β/λ (2402.02992); λ = `dial` may exceed 1."""
    return geometric(np.stack([as_array(reference), as_array(aligned)]), [1 - dial, dial])


def proxy_tuned(base: ArrayLike, tuned: ArrayLike, untuned: ArrayLike, alpha: float = 1.0) -> Array:
    """π (π_a/π_b)^α / Z: Gibbs on π with r/β = α log(π_a/π_b) (2401.08565, 2310.12962, 2105.03023)."""
    return geometric(np.stack([as_array(base), as_array(tuned), as_array(untuned)]), [1.0, alpha, -alpha])


def logit_soup(logits: ArrayLike, weights: ArrayLike) -> Array:
    """softmax(Σ w_i z_i): the law of averaged parameters when parameters are logits; (M, ..., N) and (M,)."""
    return softmax(np.tensordot(as_array(weights), as_array(logits), axes=1))


def token_form_gap(tree: PrefixTree, laws: ArrayLike, weights: ArrayLike) -> Array:
    """KL(token form ‖ sequence form) of one geometric mixture in nats, (...)."""
    return kl(token_geometric_law(tree, laws, weights), geometric(laws, weights))
