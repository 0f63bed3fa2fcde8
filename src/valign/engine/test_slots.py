"""Samples in slots: the same as the model's own generation, in fewer forward passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from valign.engine.attention import PROVEN
from valign.engine.generator import Generator
from valign.engine.scorer import BUDGETS, Scorer, body_of
from valign.engine.slots import SlotDecoder, common_prefix
from valign.engine.tree import from_paths
from valign.models.policy import Sampling


def make(model, rows=32, stop=()):
    return Generator(model, stop_ids=stop, decode=str, rows=rows)


def prompts_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [[1, *rng.integers(7, 103, n - 1).tolist()] for n in lengths]


@pytest.fixture
def passes(tiny):
    """(policy, list that hears the shape of every forward pass of its body)."""
    policy, seen = tiny(), []
    hook = body_of(policy.model).register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield policy, seen
    hook.remove()


@pytest.mark.proof("E16")
@pytest.mark.parametrize("family", sorted(PROVEN))
def test_every_proven_family_samples_in_slots(of_family, worst, family):
    """E15, E16 for each name on the list, float32: log-probs of unequal samples that replace each other equal
    teacher forcing within 1e-4 per token."""
    model, prompts = of_family(family), prompts_of([13, 4, 9, 13, 6])
    samples = make(model, rows=3, stop=range(2, 12))(prompts, Sampling(n=2, max_new_tokens=12))
    trees = [from_paths(str(i), p, [s.ids for s in row]) for i, (p, row) in enumerate(zip(prompts, samples))]
    assert worst(Scorer(model).score(trees), [[s.raw for s in row] for row in samples]) < 1e-4
    assert len({len(s.ids) for row in samples for s in row}) > 1


def test_a_sample_that_ends_gives_its_place_to_the_next_at_once(passes):
    """Steps are the longest chain of samples, not the sum of each batch's longest."""
    policy, seen = passes
    stop = list(range(2, 30))
    samples = make(policy.model, rows=4, stop=stop)(prompts_of([5] * 12), Sampling(n=2, max_new_tokens=40, seed=3))
    lengths = [len(s.ids) for row in samples for s in row]
    steps = sum(1 for shape in seen if shape[1] == 1)
    assert max(lengths) > 2 * np.mean(lengths), "or there is nothing to gain"
    static = sum(max(lengths[i : i + 4]) for i in range(0, len(lengths), 4))
    assert steps < 0.7 * static
    assert steps <= sum(lengths) / 4 + max(lengths)


@pytest.mark.proof("E13")
def test_a_prompt_with_more_samples_than_rows_is_computed_once(passes):
    policy, seen = passes
    prompts = prompts_of([9, 9, 5])
    make(policy.model, rows=4)([*prompts, prompts[0]], Sampling(n=6, max_new_tokens=3))
    assert sum(a * b for a, b in seen if b > 1) <= 2 * 9 + 9  # the third stands in a row of its own or beside them
    assert sum(a for a, b in seen if b > 1) == 3


@pytest.mark.proof("E13", "E16")
def test_a_common_prefix_is_computed_once(passes, worst):
    """Few-shot examples before every prompt: their tokens pass the body one time, the log-probs are the scorer's."""
    policy, seen = passes
    shots = prompts_of([50])[0]
    prompts = [[*shots, *p[1:]] for p in prompts_of([6, 9, 4], seed=1)]
    samples = make(policy.model)(prompts, Sampling(n=2, max_new_tokens=5))
    assert seen[0] == (1, 50) and seen[1][1] < 10
    trees = [from_paths(str(i), p, [s.ids for s in row]) for i, (p, row) in enumerate(zip(prompts, samples))]
    assert worst(Scorer(policy.model).score(trees), [[s.raw for s in row] for row in samples]) < 1e-10


def test_prompts_over_the_budget_are_computed_in_parts(passes, worst, monkeypatch):
    monkeypatch.setitem(BUDGETS, "cpu", 30)
    policy, seen = passes
    prompts = prompts_of([12, 11, 10, 9, 40])
    samples = make(policy.model)(prompts, Sampling(max_new_tokens=3))
    assert max(a * b for a, b in seen if a > 1) <= 30
    trees = [from_paths(str(i), p, [s.ids for s in row]) for i, (p, row) in enumerate(zip(prompts, samples))]
    assert worst(Scorer(policy.model).score(trees), [[s.raw for s in row] for row in samples]) < 1e-10


def test_slots_grow_with_the_samples_that_run(tiny):
    """Memory follows the longest sample, not `max_new_tokens`."""
    model = tiny().model
    decoder = SlotDecoder(model, 2)
    with torch.no_grad():
        decoder.admit([(1, 7, 8), (1, 9)], {})
        assert decoder.slots.columns == 64
        for _ in range(70):
            decoder.step(torch.tensor([7, 8]))
    assert decoder.slots.columns == 128 and decoder.slots.layers[0].keys.shape[2] == 128


@pytest.mark.parametrize(
    ("prompts", "n"),
    [
        ([(1, 2, 3), (1, 2, 4)], 2),
        ([(1, 2), (1, 2, 3)], 1),
        ([(1,), (1,)], 0),
        ([(1, 2)], 1),
        ([], 0),
        ([(2,), (3,)], 0),
    ],
)
def test_a_common_prefix_leaves_each_prompt_a_token(prompts, n):
    assert common_prefix(prompts) == n
