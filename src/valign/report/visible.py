"""Text of models and users made safe to show: nothing in it is markup, and nothing in it can hide.

Characters that reorder or hide other text (bidirectional controls, zero-width characters, tag characters,
terminal escapes) are shown by their code point. Joiners that real scripts and emoji need (U+200C, U+200D) are
left alone.
"""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup, escape

_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # terminal and other controls; tab and newline stay
    "\u00ad\u061c\u180e\u200b\u200e\u200f"  # soft hyphen, marks, zero-width space
    "\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # separators, embeddings, overrides, isolates
    "\U000e0000-\U000e007f"  # tags: invisible ASCII
    "\ud800-\udfff"  # lone surrogates cannot be written as UTF-8
    "]"
)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+!|~&])")


def plain(text: Any) -> str:
    """`text` with every hidden character written as ⟨U+202E⟩."""
    return _HIDDEN.sub(_name, str(text).replace("\r\n", "\n"))


def html(text: Any) -> Markup:
    """`text` escaped for HTML, text and attribute values alike; hidden characters become marked spans."""
    out, last, raw = Markup(""), 0, str(text).replace("\r\n", "\n")
    for found in _HIDDEN.finditer(raw):
        out += escape(raw[last : found.start()])
        out += Markup('<span class="ctl">{}</span>').format(_name(found))
        last = found.end()
    return out + escape(raw[last:])


def attribute(text: Any) -> Markup:
    """`text` for an attribute value: escaped, hidden characters named, no markup."""
    return escape(plain(text))


def markdown(text: Any) -> str:
    """`text` on one line with Markdown's and HTML's special characters escaped, as a table cell needs it."""
    return _MARKDOWN.sub(r"\\\1", " ".join(plain(text).split()))


def _name(found: re.Match[str]) -> str:
    return f"⟨U+{ord(found.group()):04X}⟩"
