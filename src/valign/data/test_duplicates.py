"""Repeats are found, and only repeats."""

import random

from valign.data.duplicates import exact_duplicates, jaccard, near_duplicates, normalized, shingles

WORDS = [a + b for a in "bdfgklmnprst" for b in ("a", "en", "ik", "ot", "um", "ess")]


def sentence(rng, n=40):
    return [rng.choice(WORDS) for _ in range(n)]


def test_case_blanks_and_punctuation_do_not_count():
    assert normalized("  Hello,\tWORLD! ") == "hello world"
    assert exact_duplicates(["Hello, world", "bye", "hello  WORLD!", "...", "?"]) == [(0, 2)]


def test_shingles_by_hand():
    assert shingles("One two three!") == shingles("one two three") and len(shingles("one two three")) == 1
    assert len(shingles("a b c d e f")) == 2 and shingles("?!") == frozenset()
    a, b = shingles("a b c d e f"), shingles("a b c d e g")
    assert jaccard(a, b) == 1 / 3 and jaccard(frozenset(), frozenset()) == 0


def test_planted_near_repeats_are_all_found_among_many():
    """Of 400 texts 20 are copies with one word of 40 changed; exactly these pairs are reported."""
    rng = random.Random(0)
    texts = [sentence(rng) for _ in range(400)]
    for k in range(20):
        copy = list(texts[k])
        copy[rng.randrange(40)] = "changed"
        texts[399 - k] = copy
    found = near_duplicates([" ".join(t) for t in texts])
    assert sorted((i, j) for i, j, _ in found) == [(k, 399 - k) for k in range(20)]
    assert all(31 / 41 <= s < 1 for *_, s in found)  # one word changes at most 5 of 36 shingles


def test_equals_the_comparison_of_all_pairs():
    rng = random.Random(1)
    texts = [" ".join(rng.choice("ab") for _ in range(12)) for _ in range(40)]
    sets = [shingles(t) for t in texts]
    naive = {(i, j) for i in range(40) for j in range(i + 1, 40) if jaccard(sets[i], sets[j]) >= 0.3}
    assert {(i, j) for i, j, _ in near_duplicates(texts, 0.3)} == naive


def test_a_text_that_stands_very_often_is_still_found():
    texts = ["the very same five words"] * 200
    found = near_duplicates(texts)
    assert len({j for _, j, _ in found}) == 199 and len(found) < 200 * 4
