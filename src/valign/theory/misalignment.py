"""How far one utility is from another: M1, M2, their scaled form, order agreement,
and the bounds between them.

Utilities are arrays (..., N): responses on the last axis, prompts before it; every measure is per prompt,
shape (...), and `measure` averages and resamples prompts. A law μ over responses says from where pairs come
and is part of the result's name. What counts as U_A of a model (its reward score, β log π/π_ref, ...) is
stated by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import kendalltau

from valign.theory.laws import Array, Ints, as_array, expectation

TIE = 1e-9  # utilities closer than this are equal: β log π/π_ref carries rounding of about 1e-15


def m1(human: ArrayLike, agent: ArrayLike, law: ArrayLike | None = None, same: bool = True) -> Array:
    """M1 = E_{y1,y2~μ} |[U_H(y1)-U_H(y2)] - [U_A(y1)-U_A(y2)]|, shape (...).

    human, agent (..., N); law (..., N) or None for uniform. same=True draws y1, y2 independently (exact
    expectation over a listed set); same=False leaves i = j out, which is the unbiased estimator
    Σ_{i≠j}|δ_i-δ_j| / (n(n-1)) when the N responses are samples, and E[. | y1 ≠ y2] otherwise. Unchanged by
    U_A + c(x). O(N log N) by sorting.
    """
    gap, weight = _gap_and_law(human, agent, law)
    order = np.argsort(gap, axis=-1, kind="stable")
    ranked, mass = np.take_along_axis(gap, order, -1), np.take_along_axis(weight, order, -1)
    ranked = ranked - ranked[..., :1]  # a large common offset must not cost digits
    below, moment = np.cumsum(mass, -1) - mass, np.cumsum(mass * ranked, -1) - mass * ranked
    total = 2 * np.sum(mass * (ranked * below - moment), -1)
    return as_array(np.maximum(total, 0.0) / (1.0 if same else 1.0 - np.sum(weight**2, -1)))


def m2(human: ArrayLike, agent: ArrayLike, law: ArrayLike | None = None) -> Array:
    """M2 = E_{y~μ} |U_H(y) - U_A(y)|, shape (...)."""
    gap, weight = _gap_and_law(human, agent, law)
    return expectation(weight, np.abs(gap))


def m2_shifted(human: ArrayLike, agent: ArrayLike, law: ArrayLike | None = None) -> Array:
    """min_c M2(U_A + c), reached at the weighted median of U_H - U_A; shape (...)."""
    gap, weight = _gap_and_law(human, agent, law)
    return expectation(weight, np.abs(gap - weighted_median(gap, weight)[..., None]))


def weighted_median(values: ArrayLike, weights: ArrayLike) -> Array:
    """The smallest v whose cumulative weight reaches half of the total; last axis."""
    v, w = as_array(values), as_array(weights)
    order = np.argsort(v, axis=-1, kind="stable")
    ranked, mass = np.take_along_axis(v, order, -1), np.take_along_axis(w, order, -1)
    reached = np.cumsum(mass, -1) >= 0.5 * mass.sum(-1, keepdims=True)
    return np.take_along_axis(ranked, np.argmax(reached, -1)[..., None], -1)[..., 0]


def m1_scaled(
    human: ArrayLike, agent: ArrayLike, law: ArrayLike | None = None, same: bool = True
) -> tuple[float, float]:
    """(min_{a>=0} mean over prompts of M1(U_H, a U_A), the minimizing a); one a for all prompts.

    A weighted median of the ratios ΔU_H/ΔU_A with weights |ΔU_A|, found by bisection on the slope, which
    costs O(N log N) per step where the median itself would need all N² pairs.
    """
    u, v = np.atleast_2d(as_array(human)), np.atleast_2d(as_array(agent))
    weight = np.broadcast_to(_law(u, law), u.shape)
    pairs = np.ones(len(u)) if same else 1.0 - np.sum(weight**2, -1)

    def slope(scale: float) -> float:
        gap = u - scale * v
        order = np.argsort(gap, axis=-1, kind="stable")
        ranked, moved, mass = (np.take_along_axis(t, order, -1) for t in (gap, v, weight))
        # ties in the gap contribute nothing: rank differences are taken between distinct values only
        below, above = _mass_beside(ranked, mass)
        return float(np.mean(-2 * np.sum(mass * moved * (below - above), -1) / pairs))

    low, high = 0.0, 1.0
    while slope(high) < 0 and high < 1e12:
        low, high = high, 2 * high
    if slope(0.0) >= 0:
        low = high = 0.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    values = {a: float(np.mean(m1(u, a * v, weight, same))) for a in (low, high)}
    best = min(values, key=lambda a: values[a])
    return values[best], best


def order_agreement(human: ArrayLike, agent: ArrayLike, law: ArrayLike | None = None) -> Array:
    """P(sign ΔU_A = sign ΔU_H | ΔU_H ≠ 0) for pairs from μ; ΔU_A = 0 counts 1/2. Shape (...).

    Differences below 1e-9 are ties; nan where U_H is constant.

    The headline misalignment is 1 minus this number; aligned means it is 1.
    """
    u, v = as_array(human), as_array(agent)
    weight = np.broadcast_to(_law(u, law), u.shape)
    shape, n = u.shape[:-1], u.shape[-1]
    rows = [
        _row_agreement(a, b, w)
        for a, b, w in zip(u.reshape(-1, n), v.reshape(-1, n), weight.reshape(-1, n), strict=True)
    ]
    return as_array(rows).reshape(shape)


def kendall_tau(human: ArrayLike, agent: ArrayLike) -> Array:
    """Kendall's τ_b per prompt, shape (...); nan when either side is constant."""
    u, v = as_array(human), as_array(agent)
    n = u.shape[-1]
    rows = [
        float(kendalltau(a, b).statistic) for a, b in zip(u.reshape(-1, n), v.reshape(-1, n), strict=True)
    ]
    return as_array(rows).reshape(u.shape[:-1])


def oscillation(values: ArrayLike) -> Array:
    """osc f = max f - min f over the last axis."""
    v = as_array(values)
    return as_array(v.max(-1) - v.min(-1))


def m1_bound(human: ArrayLike, agent: ArrayLike, law: ArrayLike | None = None) -> Array:
    """2 min_c M2(U_A + c) >= M1, shape (...)."""
    return 2 * m2_shifted(human, agent, law)


def kl_bound(human: ArrayLike, agent: ArrayLike, beta: float) -> Array:
    """osc(U_H - U_A)/β >= KL(p_H‖p_A) for p ∝ e^{U/β}, shape (...)."""
    return oscillation(as_array(human) - as_array(agent)) / beta


def regret(human: ArrayLike, agent: ArrayLike) -> Array:
    """max U_H - U_H(argmax U_A), shape (...)."""
    u = as_array(human)
    chosen = np.argmax(as_array(agent), -1)[..., None]
    return as_array(u.max(-1) - np.take_along_axis(u, chosen, -1)[..., 0])


def regret_bound(human: ArrayLike, agent: ArrayLike) -> Array:
    """sup |ΔU_H - ΔU_A| = osc(U_H - U_A) >= regret, shape (...)."""
    return oscillation(as_array(human) - as_array(agent))


@dataclass(frozen=True)
class Misalignment:
    """One measure with its law, number of prompts and 95 % interval from resampling prompts."""

    name: str
    value: float
    low: float
    high: float
    prompts: int


def measure(
    human: ArrayLike,
    agent: ArrayLike,
    law: ArrayLike | None = None,
    law_name: str = "uniform",
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Misalignment]:
    """M1, m1_scaled (one a for all prompts), M2, 1 - order agreement and τ_b,
    each averaged over prompts with an interval.

    human, agent (prompts, N); keys m1, m1_scaled, m2, misalignment, kendall_tau; names carry μ, e.g.
    "m1[reference]".
    """
    u, v = np.atleast_2d(as_array(human)), np.atleast_2d(as_array(agent))
    _, scale = m1_scaled(u, v, law)
    rows = {
        "m1": m1(u, v, law),
        "m1_scaled": m1(u, scale * v, law),
        "m2": m2(u, v, law),
        "misalignment": 1 - order_agreement(u, v, law),
        "kendall_tau": kendall_tau(u, v),
    }
    picks = np.random.default_rng(seed).integers(0, len(u), size=(draws, len(u)))
    out = {}
    for name, row in rows.items():
        known = row[~np.isnan(row)]
        means = np.array([np.nan])
        if known.size:
            means = known[picks[:, : known.size] % known.size].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        value = float(known.mean()) if known.size else float("nan")
        out[name] = Misalignment(f"{name}[{law_name}]", value, float(low), float(high), int(known.size))
    return out


def _law(values: Array, law: ArrayLike | None) -> Array:
    return as_array(np.full(values.shape[-1], 1 / values.shape[-1]) if law is None else law)


def _gap_and_law(human: ArrayLike, agent: ArrayLike, law: ArrayLike | None) -> tuple[Array, Array]:
    gap = as_array(human) - as_array(agent)
    return gap, np.broadcast_to(_law(gap, law), gap.shape)


def _mass_beside(ranked: Array, mass: Array) -> tuple[Array, Array]:
    """Mass strictly below and strictly above each entry of sorted rows,
    tied entries excluded on both sides.
    """
    below, above = np.empty_like(ranked), np.empty_like(ranked)
    for i, (values, weights) in enumerate(zip(ranked, mass, strict=True)):
        total = np.concatenate([[0.0], np.cumsum(weights)])
        below[i] = total[np.searchsorted(values, values, "left")]
        above[i] = total[-1] - total[np.searchsorted(values, values, "right")]
    return below, above


def _levels(values: Array) -> Ints:
    """Dense ranks of one row; neighbours closer than TIE share a rank."""
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.cumsum(np.diff(values[order], prepend=values[order[0]]) > TIE)
    return ranks


def _row_agreement(u: Array, v: Array, weight: Array) -> float:
    # responses equal on both sides become one, so that full agreement is exactly 1 and not 1 up to rounding
    agents = _levels(v)
    stride = int(agents.max()) + 1
    cells, place = np.unique(_levels(u) * stride + agents, return_inverse=True)
    human, agent = np.divmod(cells, stride)
    mass = as_array(np.bincount(place, weight))
    share = np.bincount(human, mass)
    counted = float((share.sum() ** 2 - np.sum(share**2)) / 2)
    return 1 - _disordered_mass(agent, mass) / counted if len(share) > 1 and counted > 0 else float("nan")


def _disordered_mass(rank: Ints, mass: Array) -> float:
    """Σ_{j<i} w_j w_i (1[rank_j > rank_i] + ½ 1[=]) for cells sorted by U_H, then by U_A.

    Blocks are halved and left halves meet right halves: O(N log² N). Cells tied in U_H stand in rising rank,
    so they add nothing.
    """
    place, width, total = np.arange(len(rank)), 1, 0.0
    stride = int(rank.max()) + 1
    while width < len(rank):
        key = (place // (2 * width)) * stride + rank
        right = (place // width) % 2 == 1
        ordered = np.argsort(key[~right], kind="stable")
        left_key = key[~right][ordered]
        sums = np.concatenate([[0.0], np.cumsum(mass[~right][ordered])])
        end = sums[np.searchsorted(left_key, (key[right] // stride + 1) * stride)]
        above = end - sums[np.searchsorted(left_key, key[right], "right")]
        not_below = end - sums[np.searchsorted(left_key, key[right], "left")]
        total += float(mass[right] @ (above + not_below)) / 2
        width *= 2
    return total
