"""Which texts repeat: equal after normalization, or nearly equal by the words they share.

Near duplicates share a large part of their word 5-grams (Jaccard index). An inverted index finds the
candidates, so the work grows with the number of shared 5-grams, not with the square of the number of texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

WORDS = 5  # words per shingle: long enough that two texts rarely share one by chance
NEAR = 0.5  # Jaccard index of near duplicates: about one changed word in twenty
COMMON = 50  # a shingle in more texts than this is boilerplate: it links each text only with its next ones
_WORD = re.compile(r"\w+")


def normalized(text: str) -> str:
    """Lower case, words only, single blanks: what two equal texts have in common."""
    return " ".join(_WORD.findall(text.lower()))


def shingles(text: str) -> frozenset[int]:
    """The word 5-grams of a text, hashed; a shorter text is one shingle; no words, no shingle."""
    words = _WORD.findall(text.lower())
    if len(words) < WORDS:
        return frozenset([hash(tuple(words))]) if words else frozenset()
    return frozenset(hash(tuple(words[i : i + WORDS])) for i in range(len(words) - WORDS + 1))


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """|a and b| / |a or b|, 0 where both are empty."""
    both = len(a & b)
    return both / (len(a) + len(b) - both) if both else 0.0


def exact_duplicates(texts: Sequence[str]) -> list[tuple[int, int]]:
    """(first, later) positions of texts that are equal after normalization; texts without words are left
    out.
    """
    first: dict[str, int] = {}
    pairs = []
    for i, text in enumerate(texts):
        key = normalized(text)
        if key and first.setdefault(key, i) != i:
            pairs.append((first[key], i))
    return pairs


def near_duplicates(texts: Sequence[str], threshold: float = NEAR) -> list[tuple[int, int, float]]:
    """(i, j, Jaccard index) with i < j and index >= threshold, exact repeats included, most alike first.

    Every pair is found that shares one shingle which stands in at most 50 texts. Of texts that share only
    commoner
    shingles, each is compared with the next few: some pair of such a family is found, though not every pair.
    """
    sets = [shingles(t) for t in texts]
    places: dict[int, list[int]] = {}
    for i, s in enumerate(sets):
        for shingle in s:
            places.setdefault(shingle, []).append(i)
    candidates: set[tuple[int, int]] = set()
    for where in places.values():
        reach = len(where) if len(where) <= COMMON else 3
        for k, i in enumerate(where):
            candidates.update((i, j) for j in where[k + 1 : k + 1 + reach])
    found = [(i, j, jaccard(sets[i], sets[j])) for i, j in candidates]
    return sorted((p for p in found if p[2] >= threshold), key=lambda p: (-p[2], p[0], p[1]))
