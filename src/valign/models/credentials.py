"""Credentials stay out of everything that is printed, logged or stored.

Endpoints are named by URLs that may carry a password, and errors quote what they were given; whatever leaves
the process goes through here first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_IN_URL = re.compile(
    r"(?<=://)[^/\s'\"@]+(?:@[^/\s'\"@]+)*@"
)  # the user:password@ of a URL; a password may hold an @
_WORD = r"(?:api[_-]?key|access[_-]?token|auth[_-]?token|password|passwd|secret)"
# a bare "token:" is a word of this trade ("stop token: trained in ..."), "token=" is not
_NAMED = re.compile(rf"(?i)(?<![\w-])({_WORD}\s*[=:]\s*|token=)[^\s&'\",;}}]+")
_BEARER = re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]+")
_KEY = re.compile(r"\b(?:hf_|sk-|ghp_)[A-Za-z0-9_-]{12,}")
_KEY_NAME = re.compile(rf"(?i)^(?:\w*[_-])?{_WORD}$|^(?:hub[_-]|hf[_-]|api[_-])?token$")


def hide(text: str) -> str:
    """`text` with user and password of URLs, values of `token=` and the like, and well-known keys as ***."""
    text = _IN_URL.sub(f"{HIDDEN}@", text)
    text = _NAMED.sub(rf"\g<1>{HIDDEN}", text)
    text = _BEARER.sub(rf"\g<1>{HIDDEN}", text)
    return _KEY.sub(HIDDEN, text)


def hidden(content: Any) -> Any:
    """JSON values with every text hidden as `hide` does, and whole values whose key names a secret."""
    if isinstance(content, str):
        return hide(content)
    if isinstance(content, Mapping):
        return {
            k: HIDDEN if v and isinstance(v, str) and _KEY_NAME.match(str(k)) else hidden(v)
            for k, v in content.items()
        }
    return [hidden(v) for v in content] if isinstance(content, (list, tuple)) else content
