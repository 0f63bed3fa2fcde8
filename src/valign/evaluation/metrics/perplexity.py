"""Log-likelihood of whole texts per byte and per word (section 10, rule 2)."""

from __future__ import annotations

import math


def bits_per_byte(log_prob: float, text: str) -> float:
    """-ll/(bytes ln 2), bytes of UTF-8."""
    return -log_prob / (len(text.encode()) * math.log(2))


def word_perplexity(log_prob: float, text: str) -> float:
    """e^{-ll/words}, words split at white space."""
    return math.exp(-log_prob / len(text.split()))
