"""How good a set of principles is: comprehensiveness, precision, compatibility (goals notes 2.2, G04).

Arrays: applies (judges, situations, principles) in [0, 1], whether a principle has a bearing on a situation; verdicts, the
same shape in [-1, 1], whether it speaks for (1) or against (-1) the act in question; NaN = unscored. Always true here: an
unscored judgement enters no mean, and what no judgement supports is None, never 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from valign.evaluation.metrics.agreement import krippendorff

Array = NDArray[np.float64]
APPLIES = 0.5  # from this applicability on a principle concerns a situation
SURE = 1 / 3  # a verdict below this size is taken as none


@dataclass(frozen=True)
class Clash:
    """Two principles that both concern situations and there demand opposite things, with nothing to decide between them.

    share      of the situations that both concern; n of them; examples: their places, clearest first
    """

    one: int
    other: int
    share: float
    n: int
    examples: tuple[int, ...]


def mean_over_judges(judgements: Array) -> Array:
    """(situations, principles): the mean of the judges that gave one; NaN where none did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is NaN, as it should be
        return np.asarray(np.nanmean(judgements, axis=0))


def covered(applies: Array) -> Array:
    """(situations,) 1 where some principle applies (max_k a_k >= ½), 0 where none does, NaN where nobody knows."""
    a = mean_over_judges(applies)
    some = np.where(np.isnan(a), -np.inf, a).max(1) >= APPLIES
    return np.where(np.isnan(a).all(1), np.nan, some.astype(np.float64))


def comprehensiveness(applies: Array, groups: Sequence[str] | None = None) -> dict[str, float | None]:
    """Share of situations that some principle covers: "all", and for each group (theme, context) by its name."""
    hit = covered(applies)
    parts: dict[str, NDArray[np.bool_]] = {"all": np.ones(len(hit), bool)}
    names = np.array(groups if groups is not None else [])
    parts |= {str(g): names == g for g in dict.fromkeys(names.tolist())}
    return {name: _mean(hit[where]) for name, where in parts.items()}


def verdict_classes(applies: Array, verdicts: Array) -> Array:
    """-1, 0, 1 per judge, situation and principle: 0 where the judge finds that it does not apply; NaN = unscored."""
    sign = np.where(np.abs(verdicts) >= SURE, np.sign(verdicts), 0.0)
    out = np.where(applies >= APPLIES, sign, 0.0)
    return np.where(np.isnan(applies) | ((applies >= APPLIES) & np.isnan(verdicts)), np.nan, out)


def precision(applies: Array, verdicts: Array) -> list[float | None]:
    """(principles,) Krippendorff's α (interval) of the judges' verdict classes over situations.

    None for a principle on which nothing varies: it never applied, or all said the same everywhere.
    """
    classes = verdict_classes(applies, verdicts)
    return [krippendorff(classes[:, :, k].T, "interval") for k in range(classes.shape[2])]


def compatibility(
    applies: Array, verdicts: Array, decided: NDArray[np.bool_], examples: int = 3
) -> tuple[float, int, list[Clash]]:
    """(1 - share of clashes, number of (situation, pair) that both concern, clashes by pair, most frequent first).

    decided   (principles, principles) True where a priority decides between two, or (situations, principles, principles)
              where an exception does so in some situations only
    Where no two principles ever meet nothing clashes: (1, 0, []).
    """
    a, v = mean_over_judges(applies), mean_over_judges(verdicts)
    on = (a >= APPLIES) & (np.abs(v) >= SURE)
    settled = np.broadcast_to(decided, (len(a), a.shape[1], a.shape[1]))
    total = clashed = 0
    found = []
    for j in range(a.shape[1]):
        for k in range(j + 1, a.shape[1]):
            both = (a[:, j] >= APPLIES) & (a[:, k] >= APPLIES)
            against = both & on[:, j] & on[:, k] & (np.sign(v[:, j]) != np.sign(v[:, k])) & ~settled[:, j, k]
            total, clashed = total + int(both.sum()), clashed + int(against.sum())
            if against.any():
                clear = np.where(against, np.minimum(np.abs(v[:, j]), np.abs(v[:, k])), -1.0)
                order = np.argsort(-clear, kind="stable")[: min(examples, int(against.sum()))]
                found.append(Clash(j, k, float(against.sum() / both.sum()), int(both.sum()), tuple(map(int, order))))
    found.sort(key=lambda c: -c.share * c.n)
    return (1 - clashed / total if total else 1.0), total, found


def by_priority(
    priorities: Sequence[int], exceptions: Mapping[int, NDArray[np.bool_]] | None = None, n: int = 1
) -> NDArray[np.bool_]:
    """(situations, K, K) True where two principles' priorities differ, or where one of them is excepted.

    exceptions   principle -> (situations,) True where an exception of it holds: the other then decides
    """
    p = np.asarray(priorities)
    out = np.broadcast_to(p[:, None] != p[None, :], (n, len(p), len(p))).copy()
    for k, holds in (exceptions or {}).items():
        out[holds, k, :] = True
        out[holds, :, k] = True
    return out


def _mean(values: Array) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
