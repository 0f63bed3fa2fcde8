"""What must not matter to a score: the order of groups, responses and segments, padding and its side, the budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import valign.engine.scorer as scorer_room
from valign.engine.scorer import Scorer
from valign.engine.tree import Tree, from_paths

PATHS = ("row", "plain")


def scored(scorer, trees):
    """The log-probs of one forward pass, cut to their responses."""
    lengths = [len(t.response_ids(leaf)) for t in trees for leaf in t.leaves]
    return [row[:n] for row, n in zip(scorer(trees).log_probs, lengths)]


@pytest.mark.proof("E5")
def test_order_and_budget_change_nothing(tiny, worst, trees):
    """E5: order of the groups, and token budgets from one tree to all of them: 1e-12."""
    model, forest = tiny("gemma3").model, trees(10)
    scorer = Scorer(model)
    whole = scorer.score(forest, budget=10**9)
    for budget in (1, 64, 200, 1000):
        assert worst(scorer.score(forest, budget=budget), whole) < 1e-12
    order = np.random.default_rng(0).permutation(len(forest))
    again = scorer.score([forest[i] for i in order])
    assert worst([again[list(order).index(i)] for i in range(len(forest))], whole) < 1e-12


@pytest.mark.proof("E5")
def test_order_of_responses_changes_nothing(tiny, worst):
    """E5: leaves come back where they were given."""
    rng = np.random.default_rng(3)
    trunk, branches = (
        rng.integers(7, 103, 9).tolist(),
        [rng.integers(7, 103, n).tolist() for n in (3, 9, 1, 5)],
    )
    scorer = Scorer(tiny().model)
    (given,) = scorer.score([from_paths("a", trunk, branches)])
    (turned,) = scorer.score([from_paths("a", trunk, branches[::-1])])
    assert worst(turned[::-1], given) < 1e-12


@pytest.mark.proof("E5")
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_order_of_segments_changes_nothing(tiny, worst, branching, family):
    """E5: the same tree with its segments in another order, parents still before children."""
    rng = np.random.default_rng(8)
    forest = [branching(rng, f"t{i}", roots=2) for i in range(4)]
    turned = [shuffled(t, rng) for t in forest]
    assert [[s.ids.tolist() for s in t.segments] for t in forest] != [[s.ids.tolist() for s in t.segments] for t in turned]
    scorer = Scorer(tiny(family).model)
    assert worst(scorer.score(turned), scorer.score(forest)) < 1e-12


def shuffled(tree, rng):
    """Segments in a random order in which parents stand before their children."""
    order, waiting = [], list(range(len(tree.segments)))
    while waiting:
        ready = [i for i in waiting if tree.segments[i].parent < 0 or tree.segments[i].parent in order]
        order.append(ready[rng.integers(len(ready))])
        waiting.remove(order[-1])
    place = {old: new for new, old in enumerate(order)} | {-1: -1}
    segments = tuple(replace(tree.segments[i], parent=place[tree.segments[i].parent]) for i in order)
    return Tree(tree.id, segments, tuple(replace(x, segment=place[x.segment]) for x in tree.leaves))


@pytest.mark.proof("E5")
@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral", "gpt2"])
@pytest.mark.parametrize("path", PATHS)
def test_padding_on_the_left_changes_nothing(tiny, worst, monkeypatch, trees, family, path):
    """E5: the same rows with their padding before the tokens instead of after them."""
    forest, scorer = trees(5), Scorer(tiny(family).model, path=path)
    with torch.no_grad():
        right = scored(scorer, forest)
        mirrored = left_padded(scorer.layout(forest))
        assert not mirrored.real[:, 0].all() and mirrored.real[:, -1].all()
        monkeypatch.setattr(scorer, "layout", lambda *_: mirrored)
        assert worst(scored(scorer, forest), right) < 1e-12


def left_padded(layout):
    """Every row moved to the right end."""
    length = layout.ids.shape[1]
    shift = (length - layout.real.sum(1)).astype(np.int64)
    moved = {f: np.stack([np.roll(row, k) for row, k in zip(getattr(layout, f), shift)])
             for f in ("ids", "pos", "enter", "exit", "real")}  # fmt: skip
    return replace(layout, **moved, read=layout.read + shift[layout.read // length])


@pytest.mark.proof("E5")
@pytest.mark.parametrize("path", PATHS)
def test_padding_changes_nothing(tiny, worst, monkeypatch, trees, path):
    """E5: rows rounded up to 1, 16 or 64 positions."""
    model, forest, seen = tiny("mistral").model, trees(4), []
    for multiple in (1, 16, 64):
        monkeypatch.setattr(scorer_room, "_ROUND", multiple)
        seen.append(Scorer(model, path=path).score(forest))
    assert worst(seen[0], seen[1]) < 1e-12 and worst(seen[0], seen[2]) < 1e-12
