"""Conditions and exceptions: which parts of a goal are active for a prompt.

A condition is a text. Where a reader is passed in (a judge, a classifier) it decides whether the text holds for a prompt.
Without one, two forms are decided here: "mentions: WORD, PHRASE" (one of them stands in the prompt, whole and whatever its
case), and a text that the group's own data list in `meta["context"]`. Any other text without a reader is an error: a
condition that nobody checks must not pass in silence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Group
from valign.errors import UsageError

Flags = NDArray[np.bool_]
MENTIONS = "mentions:"
LISTED = "context"  # the key of a group's meta data that lists the conditions that hold for it


@runtime_checkable
class ContextReader(Protocol):
    """Says which conditions hold for prompts."""

    @property
    def id(self) -> str: ...

    def holds(self, groups: Sequence[Group], conditions: Sequence[str]) -> list[Flags]:
        """(n_conditions,) bool per group."""
        ...


def conditions_hold(groups: Sequence[Group], conditions: Sequence[str], reader: ContextReader | None = None) -> list[Flags]:
    """(n_conditions,) bool per group. Raises `UsageError` for a text that nothing here can decide."""
    own = [c for c in conditions if not c.startswith(MENTIONS)]
    if own and reader is not None:
        asked = dict(zip(own, np.array([*reader.holds(groups, own)]).reshape(len(groups), len(own)).T, strict=True))
    elif own:
        lists = [found for g in groups if isinstance(found := g.meta.get(LISTED), list | tuple)]
        if len(lists) < len(groups):
            raise UsageError(
                f"nothing here can tell when {own[0]!r} holds", where="conditions",
                how=["write it as a rule: mentions: WORD, WORD", "list what holds in meta.context of each group",
                     "or pass a reader: goal.with_reader(...)"],
            )  # fmt: skip
        asked = {c: np.array([c in found for found in lists], dtype=bool) for c in own}
    else:
        asked = {}
    columns = [asked[c] if c in asked else np.array([_mentions(c, g) for g in groups], dtype=bool) for c in conditions]
    return [np.array([bool(column[i]) for column in columns], dtype=bool) for i in range(len(groups))]


def active(
    groups: Sequence[Group], conditions: Sequence[str], exceptions: Sequence[str], reader: ContextReader | None = None
) -> Flags:
    """(n_groups,) bool: every condition holds and no exception does."""
    rows = conditions_hold(groups, [*conditions, *exceptions], reader)
    n = len(conditions)
    return np.array([bool(row[:n].all() and not row[n:].any()) for row in rows], dtype=bool)


def _mentions(condition: str, group: Group) -> bool:
    phrases = [p.strip() for p in condition.removeprefix(MENTIONS).split(",") if p.strip()]
    text = group.prompt_text.lower()
    return any(re.search(rf"(?<!\w){re.escape(p.lower())}(?!\w)", text) for p in phrases)
