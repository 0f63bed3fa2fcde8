"""Goals in words: the sentences that in-context methods put into a prompt.

Always true here: the text says what to do and what to leave, strongest first, and mentions no vector and no
theory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from valign.goals.base import Array, Style
from valign.goals.theory import Theory

# Shares of the strongest push: a goal of many weak pushes must still read as an instruction, not as a list.
FAINT = 0.25  # what is weaker than this share is not mentioned
FUNCTION_WORDS = frozenset(
    (
        "a", "an", "and", "any", "anyone", "as", "at", "be", "by", "do", "for", "from", "give", "in", "into", "is", "it", "its",
        "make", "no", "nor", "not", "of", "on", "one", "or", "other", "own", "say", "should", "somebody", "someone", "that",
        "the", "their", "them", "they", "this", "to", "what", "when", "which", "who", "with", "without", "your", "you",
    )
)  # fmt: skip
STRONG = 0.6  # from this share on a push is one of the main ones


def value_words(theory: Theory, pushes: Array, style: Style) -> str:
    """A value target as an instruction. pushes: (K,) in [-1, 1], 0 = not mentioned."""
    strongest = max(map(abs, pushes), default=0.0)
    ranked = sorted((k for k, p in enumerate(pushes) if p != 0), key=lambda k: -abs(pushes[k]))
    kept = [k for k in ranked if abs(pushes[k]) >= FAINT * strongest]
    if style == "short":
        return _short(theory, pushes, kept)
    if not kept:
        return "Answer without taking sides for or against any value."
    main = [k for k in kept if abs(pushes[k]) >= STRONG * strongest]
    rest = [k for k in kept if k not in main]
    lead = "When you answer" if not rest else "When you answer, above all"
    sentences = _sentences(theory, pushes, main, lead)
    if rest:
        sentences += _sentences(theory, pushes, rest, "To a lesser degree")
    text = " ".join(sentences)
    return f"You are an assistant whose advice follows these values. {text}" if style == "system" else text


def _sentences(theory: Theory, pushes: Array, chosen: Sequence[int], lead: str) -> list[str]:
    """What to do in one sentence, what to leave in one sentence each."""
    toward = [theory.dimensions[k].push(1) for k in chosen if pushes[k] > 0]
    away = [theory.dimensions[k].push(-1) for k in chosen if pushes[k] < 0]
    if not toward:
        return [f"{lead}, {away[0]}.", *(f"{sentence(a)}." for a in away[1:])]
    return [f"{lead}, {'; '.join(toward)}.", *(f"{sentence(a)}." for a in away)]


def _short(theory: Theory, pushes: Array, chosen: Sequence[int]) -> str:
    """For A and B, against C."""
    sides = (("for", 1), ("against", -1))
    named = [
        (word, [theory.dimensions[k].name for k in chosen if pushes[k] * sign > 0]) for word, sign in sides
    ]
    return (
        ", ".join(f"{word} {listed(names)}" for word, names in named if names)
        or "neither for nor against any value"
    )


def sentence(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def listed(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def overlap(one: str, other: str) -> float:
    """Share of words in common, in [0, 1]: |A ∩ B| / |A ∪ B| over the words that carry meaning; 0 for none."""
    a, b = _content(one), _content(other)
    return len(a & b) / len(a | b) if a | b else 0.0


@lru_cache(maxsize=4096)
def _content(text: str) -> frozenset[str]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return frozenset(w for w in words if w not in FUNCTION_WORDS)
