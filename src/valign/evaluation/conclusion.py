"""What may be said of a difference, and what could have been found: the words that stand beside every comparison.

Always true here: only a paired interval decides; "no difference" needs a margin that was fixed before, with the whole
interval inside; an interval that covers 0 without that says "not told apart", and how small a change it could have shown.
"""

from __future__ import annotations

from typing import Literal, Protocol

from valign.errors import require
from valign.evaluation.statistics import detectable

Conclusion = Literal["better", "worse", "differs", "no difference", "not told apart", "unknown"]


class Ends(Protocol):
    """An interval."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def conclude(interval: Ends | None, direction: str, margin: float | None = None) -> Conclusion:
    """The conclusion on a difference a - b from its interval.

    direction  "up" or "down": what is better of the metric; "target:<number>" has no better side, so it only differs
    margin     > 0 in the metric's unit: differences below it do not matter. An interval inside ±margin is "no difference"
               also where it leaves 0: that the two differ by less than matters is then shown
    """
    require(margin is None or margin > 0, "margin", margin, "positive: the largest difference that does not matter")
    if interval is None:
        return "unknown"
    if margin is not None and -margin < interval.low and interval.high < margin:
        return "no difference"
    if interval.low <= 0 <= interval.high:
        return "not told apart"
    if direction.startswith("target:"):
        return "differs"
    return "better" if (interval.low > 0) == (direction == "up") else "worse"


def smallest_detectable(se: float | None, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """Minimum detectable effect of a comparison with this standard error; None without one, and for 0: where nothing was
    seen to vary, what could have been found is not known.
    """
    return None if not se else detectable(1, se * se, alpha=alpha, power=power)


def in_words(conclusion: Conclusion, margin: float | None = None, mde: float | None = None) -> str:
    """One clause for a reader."""
    match conclusion:
        case "no difference":
            return f"no difference: less than {margin:g} either way" if margin is not None else "no difference"
        case "not told apart":
            found = f"; a difference of {mde:.3g} would be found in 4 of 5 such comparisons" if mde else ""
            return f"not told apart{found}"
        case "unknown":
            return "no interval, so nothing is said"
    return str(conclusion)
