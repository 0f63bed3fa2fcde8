"""Several goals as one: standardization, weights, priorities, conflicts, and who decided."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valign.data.group import Group, Response, user
from valign.errors import DataError, UsageError, ValignError
from valign.goals import CompositeGoal, Part, PreferenceGoal, conflicts, load_goal
from valign.goals.joining import lexicographic


class Fixed:
    """A reward that reads its number from the response's text: "a b" -> number `column`."""

    def __init__(self, column: int) -> None:
        self.column, self.id = column, f"fixed {column}"

    def score(self, groups):
        return [np.array([float(r.text.split()[self.column]) for r in g.responses]) for g in groups]

    def fingerprint(self) -> str:
        return self.id


def part(name: str, column: int, **rest) -> Part:
    return Part(PreferenceGoal(Fixed(column), id=name), **rest)


def group(*rows: tuple[float, ...], id: str = "g") -> Group:
    return Group(id, user(f"prompt {id}"), tuple(Response(" ".join(map(str, row))) for row in rows))


def two(
    conflict: str = "weighted", first: float = 1, second: float = 1, swap: bool = False, **rest
) -> CompositeGoal:
    a, b = (2, 1) if swap else (1, 2)
    parts = (part("a", 0, weight=first, priority=a), part("b", 1, weight=second, priority=b))
    return CompositeGoal(parts, conflict=conflict, standard="raw", **rest)


CONFLICT = group((1.0, -1.0), (-1.0, 1.0))  # good for a and bad for b, and the other way round


def test_parts_are_standardized_on_the_reference():
    """Mean 0 and sd 1 on the reference samples; the numbers are stored, and the file brings them back."""
    goal = CompositeGoal((part("a", 0), part("b", 1)))
    reference = [group((0, 100), (2, 300)), group((4, 200), (6, 400))]
    with pytest.raises(UsageError, match="standardized"):
        goal.utility(reference)
    done = goal.standardized(reference)
    z = done.standard_scores(reference)
    for name in ("a", "b"):
        flat = np.concatenate([row[name] for row in z])
        assert flat.mean() == pytest.approx(0) and flat.std() == pytest.approx(1)
    assert done.standard["a"] == (3.0, pytest.approx(np.sqrt(5)))
    assert done.fingerprint() != goal.fingerprint()
    assert load_goal(done.to_json()).standard == done.standard


def test_a_constant_part_keeps_its_scale_and_is_named(caplog):
    goal = CompositeGoal((part("a", 0), part("b", 1))).standardized([group((1, 5), (2, 5))])
    assert goal.standard["b"] == (5.0, 1.0) and "'b' is constant" in caplog.text


def test_a_part_that_scores_nothing_cannot_be_standardized():
    with pytest.raises(DataError, match="part 'a' scores 0"):
        CompositeGoal((part("a", 0), part("b", 1))).standardized([])


@pytest.mark.capability("G10")
def test_reversed_weights_reverse_the_choice():
    for first, second, best in ((2, 1, 0), (1, 2, 1)):
        assert np.argmax(two(first=first, second=second).utility([CONFLICT])[0]) == best


@pytest.mark.capability("G10")
def test_reversed_priorities_reverse_the_choice():
    assert np.argmax(two("lexicographic").utility([CONFLICT])[0]) == 0
    assert np.argmax(two("lexicographic", swap=True).utility([CONFLICT])[0]) == 1


def test_a_lower_class_decides_only_what_the_higher_leaves_even():
    """No advantage in b, however large, buys a loss of ε or more in a; within ε b decides."""
    goal = two("lexicographic", epsilon=0.1)
    (u,) = goal.utility([group((0.5, -50.0), (0.39, 50.0))])
    assert u[0] > u[1] and goal.decided_by(group((0.5, -50.0), (0.39, 50.0)), 0, 1) == "1: a"
    even = group((0.52, -1.0), (0.55, -2.0))
    (u,) = goal.utility([even])
    assert u[0] > u[1] and goal.decided_by(even, 0, 1) == "2: b"
    assert goal.decided_by(group((0.5, 1.0), (0.5, 1.0)), 0, 1) == ""


@given(st.lists(st.tuples(*[st.floats(-8, 8)] * 3), min_size=2, max_size=8))
def test_lexicographic_never_trades_a_class_away(rows):
    """For any three classes and two responses: a lead of ε in the first class is a lead in the utility."""
    scores = np.array(rows)
    parts = lexicographic({k: scores[:, i] for i, k in enumerate("abc")}, 0.1)
    u = sum(parts.values())
    for i in range(len(rows)):
        for j in range(len(rows)):
            if scores[i, 0] >= scores[j, 0] + 0.1 + 1e-9:
                assert u[i] > u[j]
    assert len(parts) == 3 and list(parts) == ["a", "b", "c"]


def test_parts_sum_to_the_utility():
    groups = [group((1.0, 2.0), (3.0, -4.0), (0.0, 0.0))]
    for goal in (two(first=2), two("lexicographic")):
        assert np.allclose(sum(goal.explain(groups)[0].values()), goal.utility(groups)[0])


def test_what_one_part_leaves_unscored_is_unscored():
    for goal in (two(), two("lexicographic")):
        (u,), (parts,) = (
            goal.utility([group((1.0, "nan"), (1.0, 1.0))]),
            goal.explain([group((1.0, "nan"), (1.0, 1.0))]),
        )
        assert np.isnan(u).tolist() == [True, False]
        assert all(np.isnan(x).tolist() == [True, False] for x in parts.values())


def test_weighted_decision_is_named():
    assert two(first=3).decided_by(CONFLICT, 0, 1) == "a"
    assert two(first=3).decided_by(group((1.0, 1.0), (1.0, 1.0)), 0, 1) == ""


def test_words_join_the_parts_in_their_order():
    words = CompositeGoal((Part(load_goal("uk")), Part(load_goal("hhh"), weight=2))).describe()
    assert words.index("principles") < words.index("welfare") and "Weigh these" in words
    assert (
        "goes first"
        in CompositeGoal((Part(load_goal("uk")), Part(load_goal("hhh"))), conflict="lexicographic").describe()
    )


def test_level_is_the_highest_of_the_parts():
    assert CompositeGoal((Part(load_goal("hhh")), Part(load_goal("preference")))).level == "principle"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CompositeGoal((part("a", 0),)), "at least two"),
        (lambda: CompositeGoal((part("a", 0), part("a", 1))), "two parts have the id"),
        (lambda: two("lexical"), "lexicographic"),
        (lambda: two(first=0), "above 0"),
        (lambda: two(epsilon=0), "epsilon"),
        (lambda: CompositeGoal((part("a", 0), part("b", 1)), standard={"a": (0, 1)}), "standard"),
        (
            lambda: CompositeGoal((part("a", 0), part("b", 1)), standard={"a": (0, 1), "b": (0, 0)}),
            "sd above 0",
        ),
    ],
)
def test_bad_composites(make, words):
    with pytest.raises(ValignError, match=words):
        make()


def test_conflicts_are_found_with_examples():
    """Planted opposition is found and shown with the prompt where it is strongest; agreeing parts are not
    listed.
    """
    rng = np.random.default_rng(0)
    groups = []
    for i in range(20):
        x = rng.normal(size=3)
        groups.append(group(*zip(x, -x + 0.1 * rng.normal(size=3), x), id=str(i)))
    goal = CompositeGoal((part("a", 0), part("b", 1), part("c", 2)), standard="raw")
    found = conflicts(goal, groups)
    assert {(c.one, c.other) for c in found} == {("a", "b"), ("b", "c")}
    assert found[0].correlation < -0.9 and found[0].n == 60 and len(found[0].examples) == 5
    assert conflicts(goal, groups, threshold=-1.0) == []
