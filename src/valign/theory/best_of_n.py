"""Best-of-n: the law of the best of n reference samples, its KL,
and unbiased estimates from N >= n scored samples.

Ties share probability in proportion to the reference. Laws act on the last axis; prompts may come before it.
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import ArrayLike

from valign.theory.divergence import kl
from valign.theory.laws import Array, as_array, expectation

TIE = 1e-10  # rewards closer than this tie: a sum of a few terms rounds differently in different orders


def best_of_n_law(reference: ArrayLike, reward: ArrayLike, n: int) -> Array:
    """q_n: the level set of r(y) gets F^n - (F^-)^n, shared in proportion to π_ref (2401.01879),
    shape (..., N).
    """
    _require_n(n)
    p, r = np.broadcast_arrays(as_array(reference), as_array(reward))
    size = p.shape[-1]
    rows = [_row_law(a, b, n) for a, b in zip(p.reshape(-1, size), r.reshape(-1, size), strict=True)]
    return as_array(rows).reshape(p.shape)


def _row_law(p: Array, r: Array, n: int) -> Array:
    order = np.argsort(r, kind="stable")
    rises = np.diff(r[order], prepend=r[order[0]]) > TIE
    level = np.empty(r.size, dtype=np.int64)
    level[order] = np.cumsum(rises)
    mass = np.bincount(level, weights=p)
    upper = np.minimum(np.cumsum(mass) / mass.sum(), 1.0)
    lower = np.concatenate([[0.0], upper[:-1]])
    share = upper**n - lower**n
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(mass[level] > 0, p * share[level] / mass[level], 0.0)


def best_of_n_kl(reference: ArrayLike, reward: ArrayLike, n: int) -> Array:
    """KL(q_n‖π_ref) in nats, shape (...); at most `best_of_n_kl_bound(n)`, less where rewards tie."""
    return kl(best_of_n_law(reference, reward, n), reference)


def best_of_n_kl_bound(n: ArrayLike) -> Array:
    """log n - (n-1)/n nats, reached by continuous rewards (2009.01325; proof 2401.01879)."""
    count = as_array(n)
    return np.log(count) - (count - 1) / count


def best_of_n_value(reference: ArrayLike, reward: ArrayLike, n: int, gold: ArrayLike | None = None) -> Array:
    """E_{q_n}[gold], gold = reward by default; selection is always by `reward`. Shape (...)."""
    return expectation(best_of_n_law(reference, reward, n), reward if gold is None else gold)


def expected_uniform_maximum(n: ArrayLike) -> Array:
    """n/(n+1): expected maximum of n uniforms on [0, 1]."""
    count = as_array(n)
    return count / (count + 1)


def estimate_best_of_n(scores: ArrayLike, n: int) -> float:
    """Unbiased E[max of n] from N >= n scored samples: Σ_i C(i-1,n-1)/C(N,n) r_(i), r sorted upward."""
    ranked = np.sort(as_array(scores).ravel())
    if not 1 <= n <= ranked.size:
        raise ValueError(f"estimate_best_of_n: n = {n} needs between 1 and {ranked.size} samples")
    total = comb(ranked.size, n)
    # exact integers first: the binomials overflow float64 long before their ratio does
    return float(sum(comb(i, n - 1) / total * r for i, r in enumerate(ranked)))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """1 - C(N-c,k)/C(N,k): chance that k of N samples, c of them correct, hold a correct one (2107.03374)."""
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass_at_k: need 0 <= c = {correct} <= N = {samples} and 1 <= k = {k} <= N")
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def _require_n(n: int) -> None:
    if n < 1:
        raise ValueError(f"best of n: n = {n} must be at least 1")
