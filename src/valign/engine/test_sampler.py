"""Which groups meet in a step follows from (seed, epoch) alone."""

from __future__ import annotations

import pytest

from valign.engine.sampler import DataSampler, address


def ids(sampler):
    return [[i.tree.id for i in sampler.step(s).items] for s in range(sampler.steps)]


def test_each_epoch_is_a_permutation(pairs):
    sampler = DataSampler(pairs(10), batch=4, epochs=3, seed=1)
    steps = ids(sampler)
    assert [len(s) for s in steps] == [4, 4, 2] * 3
    epochs = [[i for s in steps[3 * e : 3 * e + 3] for i in s] for e in range(3)]
    assert all(sorted(e) == sorted(f"g{i}" for i in range(10)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3
    assert ids(DataSampler(pairs(10), batch=4, epochs=3, seed=1)) == steps
    assert ids(DataSampler(pairs(10), batch=4, epochs=3, seed=2)) != steps


@pytest.mark.parametrize(("epochs", "most", "steps"), [(1, 0, 3), (0.5, 0, 2), (0.01, 0, 1), (2, 4, 4), (1, 9, 3)])
def test_how_many_steps(pairs, epochs, most, steps):
    assert DataSampler(pairs(10), batch=4, epochs=epochs, max_steps=most).steps == steps


def test_no_items_no_steps():
    assert DataSampler([], batch=4).steps == 0


def test_a_step_is_a_function_of_its_index(pairs):
    """Any step, in any order, as often as asked: what resume relies on."""
    sampler = DataSampler(pairs(7), batch=2, epochs=2)
    assert [i.tree.id for i in sampler.step(5).items] == [i.tree.id for i in sampler.step(5).items] == ids(sampler)[5]


def test_addresses_differ_by_purpose():
    assert len({address(0, "order", 1), address(0, "order", 11), address(0, "step", 1), address(1, "order", 1)}) == 4
    assert 0 <= address("x") < 2**63
