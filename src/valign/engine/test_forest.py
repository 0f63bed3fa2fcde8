"""Trees that begin alike: joined or behind a cached prefix, their numbers are those of each path alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from valign.engine.forest import common_root, join, plant
from valign.engine.scorer import Scorer, body_of
from valign.engine.tree import from_chat, from_paths


def items(n, shared, seed=0, longest=9):
    """Trees with a prompt of `shared` common tokens and some of their own, and two to four branches."""
    rng = np.random.default_rng(seed)
    draw = lambda k: rng.integers(7, 103, k).tolist()  # noqa: E731
    before = [1, *draw(shared - 1)]
    return [
        from_paths(
            f"t{i}",
            [*before, *draw(rng.integers(1, longest))],
            [draw(rng.integers(0, 6)) for _ in range(rng.integers(2, 5))],
        )
        for i in range(n)
    ]


@pytest.fixture
def computed():
    """Counts the tokens that pass the body of a model."""

    def count(model):
        seen = []
        body_of(model).register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        return seen

    return count


def test_a_joined_tree_has_the_paths_of_its_parts():
    parts = items(5, 12)
    whole = join(parts)
    assert common_root(parts) == 12 and whole.tokens == sum(t.tokens for t in parts) - 4 * 12
    leaves = [(t, x) for t in parts for x in t.leaves]
    assert len(whole.leaves) == len(leaves)
    for mine, (tree, leaf) in zip(whole.leaves, leaves):
        assert (whole.path(mine) == tree.path(leaf)).all() and mine.first == leaf.first
        assert (whole.path_loss(mine) == tree.path_loss(leaf)).all()


def test_one_prompt_that_begins_another_keeps_a_token_of_its_own():
    """Its last token predicts the first token of its branches."""
    short, long = from_paths("a", [1, 8, 9], [[7]]), from_paths("b", [1, 8, 9, 10], [[11], []])
    assert common_root([short, long]) == 2
    whole = join([short, long])
    assert [whole.path(x).tolist() for x in whole.leaves] == [[1, 8, 9, 7], [1, 8, 9, 10, 11], [1, 8, 9, 10]]


@pytest.mark.parametrize(
    "other",
    [from_chat("c", [1, 8, 9, 10], [0, 1, 1, 1]), from_paths("p", [2, 8], [[7]])],
    ids=["scored root", "other beginning"],
)
def test_what_cannot_be_joined_stays_alone(other):
    tree = from_paths("a", [1, 8, 9, 10, 11, 12], [[7], [8]])
    assert [p.members for p in plant([tree, other, tree])] in ([(0, 2), (1,)],)


def test_a_row_is_joined_only_where_that_saves():
    """Attention between trees that do not see each other has a price; a row has a longest length."""
    parts = items(6, 12)
    assert len(plant(parts)) == 1
    assert len(plant(parts, pair_cost=1.0)) == 6
    tokens = [p.tree.tokens for p in plant(parts, row=45)]
    assert max(tokens) <= 45 and len(tokens) > 1
    assert len(plant(parts, skip=12)) == 6, "what a cache holds saves nothing twice"


@pytest.mark.proof("E2", "E3")
def test_joined_rows_score_as_each_path_alone(tiny, kind, oracle, worst, gradients):
    """E2, E3 with everything joined that begins alike: 1e-10, gradients of a mean over tokens 1e-12."""
    model = tiny(kind).model
    forest = [*items(3, 6, seed=1), *items(3, 9, seed=2), from_chat("c", [1, 8, 9], [0, 1, 1])]
    order = [0, 3, 6, 1, 4, 2, 5]
    trees = [forest[i] for i in order]
    scorer = Scorer(model)
    scorer.pair_cost = 0.0
    assert len(plant(trees)) == 3
    scores = scorer(trees)
    expected = [x for t in trees for x in oracle(model, t)]
    rows = [scores.log_probs[i, : len(x)] for i, x in enumerate(expected)]
    assert worst([rows], [expected]) < 1e-10
    weight = torch.arange(1.0, 1 + len(rows), dtype=torch.float64) / sum(k * len(x) for k, x in enumerate(rows, 1))
    mine = gradients(model, (scores.log_probs.sum(1) * weight).sum())
    theirs = gradients(model, sum(w * x.sum() for w, x in zip(weight, expected)))
    close = 1e-7 if kind == "mixtral" else 1e-12  # its router is float32 in any dtype
    assert worst(mine, theirs) < close
    assert max(float(g.abs().max()) for g in theirs.values()) > 1e-3


@pytest.mark.proof("E2", "E13")
def test_a_long_common_prefix_is_computed_once(tiny, kind, oracle, worst, computed):
    """E13 and E2: few-shot examples before every item pass the body one time; windows look into them rightly."""
    model = tiny(kind, fresh=True).model
    forest = items(7, 50)
    expected = [oracle(model, t) for t in forest]
    seen = computed(model)
    scorer = Scorer(model)
    scorer.pair_cost = 1.0  # nothing is joined
    assert worst(scorer.score(forest, budget=200), expected) < 1e-10
    own = sum(t.tokens - 50 for t in forest)
    assert sum(seen) - 50 < own + 7 * 16 + 200, "own tokens and padding"
    assert seen[0] == 50


def test_a_short_or_rare_prefix_is_not_worth_a_pass(tiny, computed):
    model = tiny(fresh=True).model
    seen = computed(model)
    Scorer(model).score(items(3, 20))
    Scorer(model).score(items(1, 50))
    assert len(seen) == 2


def test_joining_never_computes_more(tiny):
    """One joined row would pad six others to its length: all stay apart; padding is counted on what is computed."""
    scorer = Scorer(tiny().model)
    scorer.pair_cost = 0.0
    shared = [1, *range(10, 50)]
    two = [from_paths("a", shared, [[7] * 5, [6]]), from_paths("b", [*shared[:-1], 60], [[8] * 5, [5]])]
    others = [from_paths(f"c{i}", [2 + i, *range(50, 90)], [[9] * 5]) for i in range(6)]
    assert len(plant(two)) == 1 and len(scorer.layout(two).ids) == 1
    assert len(plant([*two, *others])) == 7, "joined where only the two are asked"
    apart = scorer.layout([*two, *others])
    assert len(apart.ids) == 8 and apart.ids.size == 8 * 48 < 7 * 64
    for trees, real in ((two, join(two).tokens), ([*two, *others], sum(t.tokens for t in (*two, *others)))):
        scores = scorer(trees)
        assert scores.real == real <= scores.tokens
