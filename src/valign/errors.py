"""The one exception a user meets, and the helpers that raise it.

A `ValignError` says what is wrong, where (file, line, field) and how to mend it. Everything that a user can mend is
raised as one of these; any other exception that reaches the command line is a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ValignError(Exception):
    """Something the user can mend.

    what    one sentence: what is wrong
    where   the place: a file with its line and field, an option, a model id (may be empty)
    how     what to do next: one line per choice (may be empty)
    """

    exit_code = 1
    silent = False  # another process has said it

    def __init__(self, what: str, *, where: str = "", how: str | Iterable[str] = ()) -> None:
        self.what = what
        self.where = where
        self.how: tuple[str, ...] = (how,) if isinstance(how, str) and how else tuple(how)
        super().__init__(self.render())

    def render(self) -> str:
        """The message as it is printed: place and cause on the first line, then one indented line per remedy."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        return "\n".join([head, *(f"  {line}" for line in self.how)])


class UsageError(ValignError):
    """A command or option that does not exist, or that does not belong to what was asked for."""

    exit_code = 2


class DataError(ValignError):
    """A file, line or field that cannot be read as what it should be."""


class TooLong(ValignError):
    """A path has more tokens than the model has positions."""


class ModelError(ValignError):
    """A missing, partial, corrupt or unsupported model."""


def require(condition: bool, field: str, value: object, expected: str) -> None:
    """Raise a `ValignError` naming `field` unless `condition` holds. `expected` completes the words "must be"."""
    if not condition:
        raise ValignError(f"{field} = {value!r} is not valid: it must be {expected}", where=field)


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """The known names most similar to `name`, best first."""
    return difflib.get_close_matches(name, list(known), n=n, cutoff=0.5)


def unknown(kind: str, name: str, known: Iterable[str], *, where: str = "") -> UsageError:
    """The error for a name that is not known, with the nearest known ones."""
    names = sorted(set(known))
    near = nearest(name, names)
    how = [f"did you mean: {', '.join(near)}?"] if near else []
    return UsageError(f"unknown {kind} {name!r}", where=where, how=[*how, f"known: {', '.join(names)}"])
