"""Flips of order and of standing: small cases worked out by hand, and the properties of the counts."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from valign.evaluation.metrics.flips import deciding_part, order_flips, standing_flips


def test_reversed_pairs_are_flips():
    """(3, 2, 1) becomes (3, 1, 2): the last two are reversed, the two pairs with the first are not."""
    found = order_flips([[3, 2, 1]], [[3, 1, 2]])
    assert found.flips == [(0, 1, 2)] and [turned for _, turned in found.pairs] == [False, False, True]
    found = order_flips([[1, 2]], [[2, 1]])
    assert found.flips == [(0, 1, 0)]  # the second was better


def test_even_pairs_are_counted_apart():
    found = order_flips([[1, 1], [1, 2], [1, 1]], [[1, 2], [1, 1], [2, 2]])
    assert (found.pairs, found.flips, found.newly_even, found.newly_ordered) == ([], [], 1, 1)


def test_unscored_responses_are_left_out():
    found = order_flips([[1, np.nan, 0]], [[0, 1, 1]])
    assert len(found.pairs) == 1 and found.flips == [(0, 0, 2)]


def test_against_a_second_count():
    """Reversing every utility flips every pair; a random one flips as many as a plain double loop says."""
    rng = np.random.default_rng(0)
    before = [rng.normal(size=6) for _ in range(30)]
    assert all(turned for _, turned in order_flips(before, [-b for b in before]).pairs)
    after = [rng.normal(size=6) for _ in range(30)]
    plain = sum((a[i] > a[j]) != (b[i] > b[j]) for a, b in zip(before, after) for i, j in combinations(range(6), 2))
    assert len(order_flips(before, after).flips) == plain


def test_standing():
    """From good to bad and back flips; neutral and unscored do not."""
    got = standing_flips([1, -1, 0, 1, np.nan, -2], [-1, 1, 5, 2, 1, -1])
    assert got[:4].tolist() == [1, 1, 0, 0] and np.isnan(got[4]) and got[5] == 0


def test_the_part_that_decides_moved_most_that_way():
    before, after = {"a": 1.0, "b": 0.5}, {"a": 0.8, "b": -2.0, "c": -0.1}
    assert deciding_part(before, after, -1) == "b"
    assert deciding_part(before, after, +1) == ""
    assert deciding_part({"old": 1.0}, {"new": 0.2}, -1) == "old"  # what the new goal no longer asks for
    assert deciding_part({}, {}, 1) == ""
