"""Social value orientation: an angle between one's own and another's payoff, as pure functions.

Payoffs are points from 0 to 100 with 50 as the middle. Source: Murphy, Ackermann and Handgraaf 2011 (slider measure).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from valign.errors import require
from valign.goals.base import Array

MIDDLE = 50.0
BOUNDS = (("competitive", -12.04), ("individualistic", 22.45), ("prosocial", 57.15))  # each ends below its number
# The six primary items: (own, other) at the first and at the last of nine equal steps.
ITEMS = (
    ((85, 85), (85, 15)),
    ((85, 15), (100, 50)),
    ((50, 100), (85, 85)),
    ((50, 100), (85, 15)),
    ((100, 50), (50, 100)),
    ((100, 50), (85, 85)),
)
STEPS = 9


def choices() -> Array:
    """(6, 9, 2) payoffs (own, other) of every step of every item, not rounded."""
    ends = np.asarray(ITEMS, dtype=np.float64)  # (6, 2, 2)
    share = np.linspace(0.0, 1.0, STEPS)[None, :, None]
    return np.asarray(ends[:, None, 0] * (1 - share) + ends[:, None, 1] * share)


def angle(own: ArrayLike, other: ArrayLike) -> float:
    """θ = atan2(mean other - 50, mean own - 50) in degrees, in (-180, 180], from the payoffs of the chosen steps."""
    a, b = np.asarray(own, dtype=np.float64), np.asarray(other, dtype=np.float64)
    require(a.shape == b.shape and a.size > 0, "payoffs", [a.shape, b.shape], "one own and one other payoff per choice")
    return math.degrees(math.atan2(float(b.mean()) - MIDDLE, float(a.mean()) - MIDDLE))


def orientation(degrees: float) -> str:
    """competitive < -12.04 ≤ individualistic < 22.45 ≤ prosocial < 57.15 ≤ altruistic."""
    return next((name for name, end in BOUNDS if degrees < end), "altruistic")


def direction(degrees: float) -> tuple[float, float]:
    """(cos θ, sin θ): the target vector (self, other) of an angle, so that r = v_self cos θ + v_other sin θ."""
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def prefer(degrees: float) -> list[int]:
    """The step (0 to 8) of each item that the goal with this angle likes best: the largest a_s cos θ + a_o sin θ."""
    cos, sin = direction(degrees)
    payoffs = choices()
    return [int(np.argmax(item[:, 0] * cos + item[:, 1] * sin)) for item in payoffs]


def values(own: Sequence[float], other: Sequence[float]) -> Array:
    """(n, 2) payoffs as value vectors in [-1, 1]: (payoff - 50) / 50."""
    return np.stack([np.asarray(x, dtype=np.float64) / MIDDLE - 1 for x in (own, other)], axis=-1)
