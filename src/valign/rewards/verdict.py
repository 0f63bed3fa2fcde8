"""Verdicts that a judged text cannot forge: each carries a word that only the judge's prompt knows.

Always true here: the word is decided by (seed, item, order) and never stands in a judged text; the same request has the
same word, so answers can be cached; a reply without a whole line of marker, word and an offered verdict is no verdict.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

DIGITS = 8  # hex digits of the word


def nonce(seed: int, item: str, order: str, data: Sequence[str]) -> tuple[str, int]:
    """(word, counter): the first digits of sha256("valign-judge|seed|item|order|counter"); the counter grows while the
    word occurs in any judged text.
    """
    counter = 0
    while True:
        text = f"valign-judge|{seed}|{item}|{order}|{counter}"
        word = hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
        if not any(word in d for d in data):
            return word, counter
        counter += 1


def fenced(word: str, name: str, text: str) -> str:
    """A judged text between marks that it cannot imitate."""
    return f'<data {word} name="{name}">\n{text}\n</data {word}>'


def read_verdict(text: str, word: str, offered: Sequence[str], marker: str = "verdict") -> str | None:
    """The verdict on the last line that holds marker, word and an offered verdict and nothing else; None without one.

    Case and blanks around the line do not count; the verdict comes back as it was offered.
    """
    names = {o.lower(): o for o in offered}
    line = re.compile(rf"\s*{re.escape(marker)}\s+{re.escape(word)}\s*:\s*(\S+)\s*", re.IGNORECASE)
    found = None
    for row in text.splitlines():
        match = line.fullmatch(row)
        if match and match[1].lower() in names:
            found = names[match[1].lower()]
    return found
