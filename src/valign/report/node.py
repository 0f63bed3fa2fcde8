"""A JSON value that knows where it stands, so that every number on the page can be traced to its place in the
JSON.

Templates and figures see the report through `Node`; a number is written by `num` alone, which prints
<data value="full precision" data-at="/headline/0/value">0.344</data>. A test reads both and compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from valign.report import visible
from valign.report.units import number


class Node:
    """`node.key`, `node["key"]`, `node[0]`, iteration over a list; a missing key is a Node of None.

    Written into a page it is its text, escaped and with hidden characters shown.
    """

    __slots__ = ("_at", "_value")

    def __init__(self, value: Any, at: str = "") -> None:
        self._value, self._at = value, at

    def __getitem__(self, key: str | int) -> Node:
        step = str(key).replace("~", "~0").replace("/", "~1")
        inside = self._value
        if isinstance(inside, dict):
            return Node(inside.get(str(key)), f"{self._at}/{step}")
        if isinstance(inside, list) and isinstance(key, int):
            return Node(inside[key], f"{self._at}/{step}")
        return Node(None, f"{self._at}/{step}")

    def __getattr__(self, name: str) -> Node:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Iterator[Node]:
        keys = range(len(self._value)) if isinstance(self._value, list) else list(self._value or ())
        return (self[k] for k in keys)

    def __len__(self) -> int:
        return len(self._value) if isinstance(self._value, (list, dict, str)) else 0

    def __bool__(self) -> bool:
        return bool(self._value)

    def __html__(self) -> Markup:
        return visible.html("" if self._value is None else self._value)

    def __str__(self) -> str:
        return visible.plain("" if self._value is None else self._value)


def value(node: Any) -> Any:
    """The JSON value itself."""
    return node._value if isinstance(node, Node) else node


def place(node: Node) -> str:
    """The JSON pointer of a node."""
    return node._at


def resolve(node: Node, pointer: str) -> Node:
    """The node at a JSON pointer below `node`."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        node = node[int(key) if isinstance(value(node), list) else key]
    return node


def num(node: Node, unit: Any = "share", *, signed: bool = False) -> Markup:
    """The number at `node`, for people and for machines; None is "unscored"."""
    raw = value(node)
    text = number(raw, str(value(unit) or "plain"), signed=signed)
    kind = "num" if raw is not None else "num none"
    return Markup('<data class="{}" value="{}" data-at="{}">{}</data>').format(
        kind, "" if raw is None else repr(raw), place(node), text
    )


def span(interval: Node, unit: Any = "share", *, signed: bool = False) -> Markup:
    """ "low to high" of an interval's node, or a word that there is none."""
    if not interval:
        return Markup('<span class="none">no interval</span>')
    return Markup('<span class="ci">{} to {}</span>').format(
        num(interval.low, unit, signed=signed), num(interval.high, unit, signed=signed)
    )
