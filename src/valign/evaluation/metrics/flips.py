"""What a changed goal turns round in outputs that stay as they are: orders of responses, and responses' own standing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
EVEN = 1e-9  # utilities this near to each other order nothing


class OrderFlip(NamedTuple):
    """Two responses to one prompt whose order is reversed: `better` was above `worse` and is now below."""

    group: int
    better: int
    worse: int


class Orders(NamedTuple):
    """flips, and for every pair that both goals order (group, reversed or not); pairs that a goal leaves even are counted."""

    flips: list[OrderFlip]
    pairs: list[tuple[int, bool]]
    newly_even: int
    newly_ordered: int


def order_flips(before: Sequence[ArrayLike], after: Sequence[ArrayLike]) -> Orders:
    """Compare the order of all pairs of responses to the same prompt under two utilities.

    before, after   (n_responses,) per prompt, NaN = unscored: a pair with one is left out
    """
    out = Orders([], [], 0, 0)
    even, ordered = 0, 0
    for g, (old, new) in enumerate(zip(before, after, strict=True)):
        a, b = np.asarray(old, dtype=np.float64), np.asarray(new, dtype=np.float64)
        for i, j in combinations(range(len(a)), 2):
            first, second = a[i] - a[j], b[i] - b[j]
            if np.isnan(first) or np.isnan(second):
                continue
            was, now = _sign(first), _sign(second)
            even += bool(was) and not now
            ordered += bool(now) and not was
            if was and now:
                out.pairs.append((g, was != now))
                if was != now:
                    out.flips.append(OrderFlip(g, *((i, j) if was > 0 else (j, i))))
    return out._replace(newly_even=even, newly_ordered=ordered)


def standing_flips(before: ArrayLike, after: ArrayLike) -> Array:
    """(n,) 1 where a response was on the good side of neutral and is now on the bad one, or the reverse; 0 where it stays
    or stands at neutral; NaN where one utility is missing. Utilities are relative to that of a neutral response.
    """
    a, b = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    turned = np.where((np.abs(a) > EVEN) & (np.abs(b) > EVEN), np.sign(a) != np.sign(b), False)
    return np.where(np.isnan(a) | np.isnan(b), np.nan, turned.astype(np.float64))


def deciding_part(before: Mapping[str, float], after: Mapping[str, float], toward: float) -> str:
    """The part whose change pushed most toward a flip: argmax of sign(toward) · (after - before), a part that one side does
    not have counting 0; "" where none pushes that way. Parts are on one scale on both sides (the caller standardizes).
    """
    pushes = {name: np.sign(toward) * (after.get(name, 0.0) - before.get(name, 0.0)) for name in (*before, *after)}
    best = max(pushes, key=lambda name: (pushes[name], name), default="")
    return best if best and pushes[best] > 0 else ""


def _sign(x: float) -> int:
    return 0 if abs(x) <= EVEN else 1 if x > 0 else -1
