"""Several people's goals as one: the rules of social choice, as functions of utilities.

Always true here: utilities are (n_people, n_responses) on a common scale (standardized), and what comes back is one
row of parts per person, (n_people, n_responses), that sums to the social utility of each response. `mean`, `maxmin`,
`nash` and `approval` score a response by itself; `borda` and `condorcet` by its rank among the responses to the same
prompt, so their numbers compare responses of one prompt only: a response without another beside it is unscored, and
policies are compared by ranks among the answers of a reference (`pipeline.ranked`).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from valign.errors import unknown
from valign.goals.base import Array

Welfare = Literal["mean", "maxmin", "nash", "approval", "borda", "condorcet"]
WELFARES: tuple[str, ...] = get_args(Welfare)
RANKING: tuple[str, ...] = ("borda", "condorcet")  # their numbers are ranks among the responses to one prompt
DISAGREEMENT = -3.0  # sd below the mean of the reference: what a person has without an agreement, for `nash`
FLOOR = 1e-6  # least gain that enters the logarithm: below it a response is as bad as it can be


def welfare_parts(utilities: Array, weights: Array, rule: str) -> Array:
    """(n_people, n_responses) parts of the social utility; NaN columns where a person's utility is unknown.

    mean       Σ w u / Σ w                              maxmin  the least u; the part of the person who has it
    nash       Σ w log(u - d) / Σ w, d the disagreement point
    approval   weighted share of people with u >= 0, at least the mean of the reference
    borda      weighted mean of the share of other responses that a person puts below it (ties one half)
    condorcet  as borda, and a response that beats every other by weighted majority gets 1 more (Black's rule)
    """
    if rule not in WELFARES:
        raise unknown("social rule", rule, WELFARES, where="social")
    u = np.asarray(utilities, np.float64)
    w = (np.asarray(weights, np.float64) / np.sum(weights))[:, None]
    known = ~np.isnan(u).any(0)
    out = np.full(u.shape, np.nan)
    if known.any():
        out[:, known] = _RULES[rule](u[:, known], w)
    return out


def _mean(u: Array, w: Array) -> Array:
    return np.asarray(w * u)


def _maxmin(u: Array, w: Array) -> Array:
    worst = u == u.min(0)
    return np.asarray(np.where(worst, u / worst.sum(0), 0.0))


def _nash(u: Array, w: Array) -> Array:
    return np.asarray(w * np.log(np.maximum(u - DISAGREEMENT, FLOOR)))


def _approval(u: Array, w: Array) -> Array:
    return np.asarray(w * (u >= 0))


def _borda(u: Array, w: Array) -> Array:
    n = u.shape[1]
    return np.asarray(w * (_beats(u).sum(2) / (n - 1) if n > 1 else np.full_like(u, np.nan)))


def _condorcet(u: Array, w: Array) -> Array:
    parts = _borda(u, w)
    majority = (w[:, :, None] * _beats(u)).sum(0)  # (n, n) weighted share that puts the row above the column
    n = u.shape[1]
    wins = ((majority > 0.5 + 1e-12) | np.eye(n, dtype=bool)).all(1) & (n > 1)
    return np.asarray(parts + w * wins)


def _beats(u: Array) -> Array:
    """(people, n, n): 1 where a person puts the row above the column, one half for a tie, 0 on the diagonal."""
    gap = u[:, :, None] - u[:, None, :]
    return np.asarray(np.where(np.eye(u.shape[1], dtype=bool), 0.0, (np.sign(gap) + 1) / 2))


_RULES = {"mean": _mean, "maxmin": _maxmin, "nash": _nash, "approval": _approval, "borda": _borda, "condorcet": _condorcet}
