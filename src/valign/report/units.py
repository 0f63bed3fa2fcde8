"""How numbers are written for people: one rule per unit, the same in the page, the terminal and the model
card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

UNSCORED = "unscored"  # undefined is said in words; it is never 0 and never an empty cell
REFERENCE = "reference"  # what the others are compared with has no number of the comparison
REFERENCE_TEXT = "reference: others are compared with it"
MINUS = "−"
_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BYTES = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))


def number(value: float | None, unit: str = "share", *, signed: bool = False) -> str:
    """`value` in words of its unit: "0.314", "41 min", "1.24 M", "3.1 GiB"; None is "unscored".

    unit    one of evaluation's units, or "count", "p", "plain", "bare"
    signed  write a plus before positive numbers (differences)
    """
    if value is None:
        return UNSCORED
    if unit == "p" and value < 0.0005:
        return "< 0.001"  # a permutation p cannot be smaller than its number of draws allows
    text = _FORMATS.get(unit, _plain)(abs(value))
    is_zero = not any(c in "123456789" for c in text)
    sign = "" if is_zero else MINUS if value < 0 else "+" if signed else ""
    return sign + text


def tick(value: float) -> str:
    """A number on an axis, without needless zeros."""
    return (MINUS if value < 0 else "") + f"{abs(value):g}"


def interval(row: Mapping[str, Any] | None, unit: str = "share", *, signed: bool = False) -> str:
    """0.294 to 0.335, from an interval's JSON; "no interval" for None."""
    if not row:
        return "no interval"
    return f"{number(row['low'], unit, signed=signed)} to {number(row['high'], unit, signed=signed)}"


def _share(x: float) -> str:
    return f"{x:.3f}" if x == 0 or x >= 0.0005 else f"{x:.1g}"


def _plain(x: float) -> str:
    if x == 0:
        return "0"
    if x == int(x) and x < 1e5:
        return str(int(x))
    if x < 1e-3 or x >= 1e5:
        return f"{x:.2e}"
    return f"{x:.3f}" if x < 10 else f"{x:.1f}" if x < 1000 else f"{x:.0f}"


def _count(x: float) -> str:
    for size, name in _LARGE:
        if x >= size:
            return f"{x / size:.3g} {name}"
    return f"{x:.0f}" if x == int(x) else f"{x:.1f}"


def _bytes(x: float) -> str:
    for size, name in _BYTES:
        if x >= size:
            return f"{x / size:.3g} {name}" if x / size < 100 else f"{x / size:.0f} {name}"
    return f"{x:.0f} B"


def _seconds(x: float) -> str:
    if x >= 5400:
        return f"{x / 3600:.1f} h"
    if x >= 90:
        return f"{x / 60:.1f} min" if x < 600 else f"{x / 60:.0f} min"
    return f"{x:.0f} s" if x >= 10 else f"{x:.1f} s" if x >= 0.1 or x == 0 else f"{x * 1000:.1f} ms"


_FORMATS: dict[str, Callable[[float], str]] = {
    "share": _share,
    "score": _share,
    "p": lambda x: f"{x:.3f}",
    "percent": lambda x: f"{x:.1f} %",
    "nats": lambda x: f"{x:.2f} nats",
    "bits": lambda x: f"{x:.2f} bits",
    "elo": lambda x: f"{x:.0f}",
    "degrees": lambda x: f"{x:.0f}°",
    "tokens": _count,
    "count": _count,
    "seconds": _seconds,
    "bytes": _bytes,
    "plain": _plain,
    "bare": lambda x: f"{x:.2f}",  # two decimals without a unit, where the head of a column says it
}
