"""What a folder was asked for. Equal requests continue each other; another one is refused with what changed.

A request is a flat mapping of JSON values; one of them may be a mapping of settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from valign.data.group import Group
from valign.errors import ValignError
from valign.models.credentials import hidden

FILE = "request.json"
HOW = ("choose another --out", "or start again with --force")


def digest(groups: Sequence[Group]) -> str:
    """16 hex digits that name the content of groups, in their order."""
    return hashlib.sha256("".join(g.fingerprint() for g in groups).encode()).hexdigest()[:16]


def plain(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request as it is stored: JSON values without credentials."""
    out: dict[str, Any] = hidden(json.loads(json.dumps(request)))
    return out


def text(request: Mapping[str, Any]) -> str:
    """The content of the file."""
    return json.dumps(plain(request), indent=1, ensure_ascii=False, sort_keys=True)


def is_repeated(out: Path, file: Path, request: Mapping[str, Any], *, force: bool, lost: bool) -> bool:
    """Whether `file` in `out` holds this very request. False where there is none, and where `force` starts
    again.

    lost  whether starting again would lose work: without that another request is no reason to refuse
    Raises `ValignError` listing what changed when it holds another one.
    """
    try:
        before = dict(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, TypeError) as error:
        if force or not lost:
            return False
        raise ValignError(f"cannot be read: {error}", where=str(file), how=HOW) from error
    changed = changes(before, plain(request))
    if changed and lost and not force:
        raise ValignError(f"the folder holds a run with other settings: {', '.join(changed)}", where=str(out), how=HOW)
    return not changed and not force


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One text per changed value; short values with what they were and are."""
    out = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            out += changes(old, new)
        else:
            out.append(f"{key} ({_short(old)} -> {_short(new)})")
    return out


def _short(value: Any) -> str:
    shown = "none" if value is None else str(value)
    return shown if len(shown) <= 40 else f"{shown[:16]}..."
