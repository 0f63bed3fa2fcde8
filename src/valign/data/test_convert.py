"""Conversions keep counts, annotators, weights, and everything they do not convert."""

import math
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valign.data.convert import pairs_from_utility, pairs_to_unpaired, ranking_to_pairs, scores_to_pairs
from valign.data.group import Comparison, Critique, Group, Ranking, Response, Score, Verdict, user
from valign.errors import ValignError


def group(n, *feedback):
    return Group("g", user("q"), tuple(Response(f"r{i}") for i in range(n)), feedback)


def pairs(g):
    return [(c.chosen, c.rejected) for c in g.of(Comparison)]


def test_a_ranking_by_hand():
    ranking = Ranking(order=((2,), (0, 3), (1,)), annotator="ann", weight=0.5)
    g = ranking_to_pairs(group(4, Critique(response=0, text="hm"), ranking))
    assert pairs(g) == [(2, 0), (2, 3), (2, 1), (0, 1), (3, 1)]
    assert all(c.annotator == "ann" and c.weight == 0.5 and c.probability == 1 for c in g.of(Comparison))
    assert next(g.of(Critique)).text == "hm" and not list(g.of(Ranking))
    with_ties = ranking_to_pairs(group(4, ranking), ties="tie")
    (tie,) = [c for c in with_ties.of(Comparison) if c.tie]
    assert (tie.chosen, tie.rejected, tie.probability) == (0, 3, 0.5)


places = st.lists(st.integers(1, 3), min_size=1, max_size=4)


@pytest.mark.capability("D01")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(places, st.booleans())
def test_rankings_give_the_stated_number_of_pairs(sizes, twice):
    """k(k-1)/2 pairs less those tied; with ties kept, all of them. The order is that of the places."""
    indices = iter(range(sum(sizes)))
    order = tuple(tuple(next(indices) for _ in range(m)) for m in sizes)
    k, rankings = sum(sizes), [Ranking(order=order, annotator=a) for a in ("x", "y")[: 1 + twice]]
    tied = sum(m * (m - 1) // 2 for m in sizes)
    strict, full = (ranking_to_pairs(group(k, *rankings), ties=t) for t in ("skip", "tie"))
    assert len(pairs(strict)) == len(rankings) * (k * (k - 1) // 2 - tied)
    assert len(pairs(full)) == len(rankings) * (k * (k - 1) // 2)
    place = {i: p for p, members in enumerate(order) for i in members}
    assert all(place[a] < place[b] for a, b in pairs(strict))


@pytest.mark.capability("D01")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=6), st.integers(0, 2))
def test_scores_give_the_stated_number_of_pairs(values, gap):
    """One comparison per pair of responses, ties apart or marked; other aspects stay."""
    other = Score(response=0, value=9.0, aspect="style")
    g = group(len(values), other, *(Score(response=i, value=float(v)) for i, v in enumerate(values)))
    k = len(values)
    tied = sum(abs(a - b) <= gap for a, b in combinations(values, 2))
    strict, full = (scores_to_pairs(g, ties=t, min_gap=gap) for t in ("skip", "tie"))
    assert len(pairs(strict)) == k * (k - 1) // 2 - tied
    assert len(pairs(full)) == k * (k - 1) // 2 and sum(c.tie for c in full.of(Comparison)) == tied
    assert all(values[c.chosen] - values[c.rejected] == c.strength > gap for c in strict.of(Comparison))
    assert list(strict.of(Score)) == [other]


def test_scores_of_each_annotator_are_compared_among_themselves():
    """Two annotators with different habits do not make pairs with each other; a repeated score is
    averaged.
    """
    g = group(
        2,
        *(Score(response=i, value=v, annotator="mild") for i, v in enumerate((8.0, 9.0))),
        *(
            Score(response=i, value=v, annotator="harsh", weight=2.0)
            for i, v in ((0, 1.0), (0, 5.0), (1, 2.0))
        ),
    )
    made = list(scores_to_pairs(g).of(Comparison))
    assert [(c.chosen, c.annotator, c.weight) for c in made] == [(1, "mild", 1.0), (0, "harsh", 2.0)]


@pytest.mark.capability("D01")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.permutations(range(4)), st.sampled_from([0.2, 0.5, 0.9, 1.0])), max_size=6))
def test_pairs_become_twice_as_many_thumbs(drawn):
    """n comparisons, m of them undecided: 2(n - m) verdicts, as many up as down."""
    comparisons = [Comparison(chosen=p[0], rejected=p[1], probability=q, tie=q == 0.5) for p, q in drawn]
    made = list(pairs_to_unpaired(group(4, *comparisons)).of(Verdict))
    decided = [c for c in comparisons if not c.tie]
    assert len(made) == 2 * len(decided)
    assert sum(v.value for v in made) == 0 and {v.principle for v in made} <= {"good"}
    for c, up, down in zip(decided, made[::2], made[1::2]):
        assert (up.value, down.value) == (1, -1)
        assert {up.response, down.response} == {c.chosen, c.rejected}
        assert (up.response == c.chosen) == (c.probability > 0.5)
        assert up.weight == down.weight == pytest.approx(abs(2 * c.probability - 1))


def test_utilities_order_the_responses():
    g = pairs_from_utility(group(4, Comparison(chosen=3, rejected=0)), [0.1, math.nan, 0.9, 0.1])
    assert pairs(g) == [(2, 0), (2, 3)]
    assert [c.strength for c in g.of(Comparison)] == pytest.approx([0.8, 0.8])
    kept = pairs_from_utility(group(4), [0.1, math.nan, 0.9, 0.1], ties="tie")
    assert [c.tie for c in kept.of(Comparison)] == [False, True, False]


def test_utilities_give_soft_labels_by_bradley_terry():
    g = pairs_from_utility(group(2), [0.0, 2.0], temperature=0.5)
    (c,) = g.of(Comparison)
    assert (c.chosen, c.rejected) == (1, 0)
    assert c.probability == pytest.approx(0.9820137900379085, abs=1e-15)  # 1 / (1 + e^-4)
    (huge,) = pairs_from_utility(group(2), [0.0, 1e9], temperature=1e-9).of(Comparison)
    assert huge.probability == 1.0


def test_best_against_worst_is_one_pair():
    assert pairs(pairs_from_utility(group(4), [0.2, 0.9, 0.9, -1.0], which="best_worst")) == [(1, 3)]
    assert pairs(pairs_from_utility(group(3), [0.5, 0.5, 0.5], which="best_worst")) == []
    assert pairs(pairs_from_utility(group(3), [math.nan] * 3)) == []
    assert pairs(pairs_from_utility(group(2), [0.5, math.nan], which="best_worst", ties="tie")) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda: pairs_from_utility(group(2), [1.0]),
        lambda: pairs_from_utility(group(2), [1.0, 2.0], temperature=0.0),
        lambda: ranking_to_pairs(group(2), ties="keep"),
        lambda: scores_to_pairs(group(2), min_gap=-1.0),
    ],
)
def test_options_out_of_range_are_refused(call):
    with pytest.raises(ValignError, match="must be"):
        call()
