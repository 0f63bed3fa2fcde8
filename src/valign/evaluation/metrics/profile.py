"""Value profiles: what a model's responses show (5.1). How near that lies to a target is `goals.distance`.

Values lie in [-1, 1]: -1 opposed, 0 no connection, 1 important. Rows are responses, columns dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

SHOWN = 0.3  # |v| above which a response counts as touching a value


class Conditional(NamedTuple):
    """Profile over the responses that touch a value (None where none does), how many they are, and their
    share.
    """

    profile: list[float | None]
    n: list[int]
    coverage: list[float]


def conditional(values: ArrayLike) -> Conditional:
    """values (responses, K) -> per dimension the mean over responses with |v_k| > .3."""
    v = np.asarray(values, float)
    shown = np.abs(v) > SHOWN
    n = shown.sum(0)
    sums = (v * shown).sum(0)
    return Conditional(
        [float(s / k) if k else None for s, k in zip(sums, n, strict=True)], [int(k) for k in n],
        [float(k / len(v)) for k in n] if len(v) else [0.0] * v.shape[1],
    )  # fmt: skip
