"""Misalignment on groups: does the model order responses as the human does (evaluation notes 3.1).

A group is a pair of arrays: human utility u and model utility a of the responses to one prompt. Responses
without a human utility (nan) leave the group; a group in which all remaining u are equal has no order and
scores nan. M1, M2, A and τ_b are `theory.misalignment`'s; what is added here are stakes, pooling, and groups
of different size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from valign.theory import misalignment as theory
from valign.theory.laws import Array

Groups = Sequence[tuple[ArrayLike, ArrayLike]]


def scored_part(human: ArrayLike, agent: ArrayLike) -> tuple[Array, Array]:
    """(u, a) of the responses that both sides score, float64."""
    u, a = np.asarray(human, float), np.asarray(agent, float)
    keep = ~(np.isnan(u) | np.isnan(a))
    return u[keep], a[keep]


def has_order(human: ArrayLike, agent: ArrayLike) -> bool:
    """Whether at least one pair of responses has different human utilities."""
    u, _ = scored_part(human, agent)
    return len(u) > 1 and float(np.ptp(u)) > 0


def agreement(human: ArrayLike, agent: ArrayLike) -> float:
    """A of one group: share of pairs ordered alike, model ties one half; nan without order."""
    if not has_order(human, agent):
        return float("nan")
    u, a = scored_part(human, agent)
    return float(theory.order_agreement(u, a))


def pair_credits(human: ArrayLike, agent: ArrayLike) -> tuple[Array, Array]:
    """(credit, stake |Δu|) of every pair i < j with Δu ≠ 0: 1 if ordered alike, 1/2 if Δa = 0, else 0."""
    u, a = scored_part(human, agent)
    i, j = np.triu_indices(len(u), 1)
    du, da = u[i] - u[j], a[i] - a[j]
    use = du != 0
    return (0.5 + 0.5 * np.sign(du) * np.sign(da))[use], np.abs(du)[use]


def stake_agreement(human: ArrayLike, agent: ArrayLike) -> float:
    """A_stake of one group: pairs weigh |Δu|; nan without order."""
    credit, stake = pair_credits(human, agent)
    return float(credit @ stake / stake.sum()) if len(stake) else float("nan")


def pooled_agreement(groups: Groups) -> float:
    """A over all pairs of all groups, every pair alike; nan without any."""
    credit = np.concatenate([pair_credits(u, a)[0] for u, a in groups] or [np.zeros(0)])
    return float(credit.mean()) if len(credit) else float("nan")


def tau_b(human: ArrayLike, agent: ArrayLike) -> float:
    """Kendall's τ_b of one group; nan when either side is constant."""
    u, a = scored_part(human, agent)
    return float(theory.kendall_tau(u, a)) if len(u) > 1 else float("nan")


def m1(human: ArrayLike, agent: ArrayLike) -> float:
    """M1 = Σ_{i≠j} |δ_i - δ_j| / (n(n-1)) with δ = u - a of one group; nan for fewer than two responses."""
    u, a = scored_part(human, agent)
    return float(theory.m1(u, a, same=False)) if len(u) > 1 else float("nan")


def m2(human: ArrayLike, agent: ArrayLike) -> float:
    """M2 = mean |u - a| of one group."""
    u, a = scored_part(human, agent)
    return float(theory.m2(u, a)) if len(u) else float("nan")


def best_scale(groups: Groups) -> float:
    """The s >= 0 that minimizes the mean over groups of M1(u, s·a): one scale for the whole data set.

    Groups of different size become rows of one table; the places that a group does not fill carry no
    probability.
    """
    parts = [scored_part(u, a) for u, a in groups]
    parts = [(u, a) for u, a in parts if len(u) > 1]
    if not parts:
        return float("nan")
    width = max(len(u) for u, _ in parts)
    human, agent, law = (np.zeros((len(parts), width)) for _ in range(3))
    for row, (u, a) in enumerate(parts):
        human[row, : len(u)], agent[row, : len(a)], law[row, : len(u)] = u, a, 1 / len(u)
    return theory.m1_scaled(human, agent, law, same=False)[1]
