"""Datasets as sequences; mixtures and splits keep counts, seeds and clusters."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valign.data.dataset import Dataset, ReadReport, largest_remainder, mixture, split
from valign.data.group import Group, user
from valign.errors import DataError, ValignError


def some(n, name="g", clusters=0):
    return [
        Group(f"{name}{i}", user(f"{name} {i}"), cluster=f"{name}-c{i % clusters}" if clusters else "")
        for i in range(n)
    ]


def test_a_dataset_is_a_sequence_of_groups():
    data = replace(Dataset.of(some(5), source="here"), lines=(1, 3, 5, 7, 9))
    assert len(data) == 5 and data[1].id == "g1" and data[-1].id == "g4"
    assert [g.id for g in data] == [f"g{i}" for i in range(5)] and data[2] in data
    part = data[1:3]
    assert isinstance(part, Dataset) and part.source == "here" and part.lines == (3, 5)
    assert data.where(lambda g: g.id > "g2").lines == (7, 9)
    assert "5 groups" in data.summary() and "licence not stated" in data.summary()


def test_two_groups_of_one_id_are_refused():
    with pytest.raises(DataError, match="two groups have the id 'g0'"):
        Dataset.of([*some(1), *some(1)])


def test_content_decides_the_sha256():
    assert Dataset.of(some(3)).sha256 == Dataset.of(some(3), source="elsewhere").sha256
    assert Dataset.of(some(3)).sha256 != Dataset.of(some(4)).sha256


def test_a_split_that_is_not_there_names_those_that_are():
    data = Dataset.of([replace(g, split="train") for g in some(2)])
    assert len(data.of_split("train")) == 2
    with pytest.raises(DataError, match=r"(?s)no group is of split 'test'.*splits: train"):
        data.of_split("test")


def test_a_report_is_json():
    report = ReadReport(3, ((1, "prompt", "is missing"),), notes=("x",))
    assert report.to_json()["dropped"] == [[1, "prompt", "is missing"]]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=5).filter(lambda w: sum(w) > 0.01), st.integers(1, 500)
)
def test_shares_are_within_rounding(weights, n):
    """Each count differs from its exact share by less than one, and all sum to n."""
    counts = largest_remainder(weights, n)
    assert sum(counts) == n
    assert all(abs(k - n * w / sum(weights)) < 1 for k, w in zip(counts, weights))


def test_a_mixture_has_the_asked_shares_and_its_seed_decides():
    parts = [(some(50, "a"), 3), (some(50, "b"), 1)]
    mixed = mixture(parts, seed=1, n=40)
    assert Counter(g.id[0] for g in mixed) == {"a": 30, "b": 10}
    assert len({g.id for g in mixed}) == 40
    assert mixture(parts, seed=1, n=40).groups == mixed.groups != mixture(parts, seed=2, n=40).groups
    assert {g.id[0] for g in mixed[:8]} == {"a", "b"}  # shuffled, not one after the other
    assert len(mixture(parts, seed=0)) == 66  # 50 + 16.67: what there is without repeats


def test_a_small_part_is_gone_through_again_and_stays_one_cluster():
    mixed = mixture([(some(2, "a"), 1), (some(50, "b"), 1)], n=10)
    of_a = [g for g in mixed if g.id.startswith("a")]
    assert len(of_a) == 5 and {"a0", "a0~2", "a1", "a1~2"} < {g.id for g in of_a}
    assert {g.cluster or g.id for g in of_a} == {"a0", "a1"}


def test_one_id_in_two_parts_is_prefixed():
    mixed = mixture([(some(3), 1), (some(3), 1)], n=6)
    assert sorted(g.id for g in mixed) == ["0:g0", "0:g1", "0:g2", "1:g0", "1:g1", "1:g2"]


@pytest.mark.parametrize(
    ("parts", "n"), [([], 3), ([(some(2), -1)], 3), ([(some(2), 0)], 3), ([([], 1)], 3), ([(some(2), 1)], 0)]
)
def test_a_mixture_that_cannot_be_is_refused(parts, n):
    with pytest.raises(ValignError, match="must be"):
        mixture(parts, n=n)


def test_split_holds_out_whole_clusters():
    """No cluster stands on both sides, the share is met within one cluster, and order does not matter."""
    groups = some(100, clusters=20)
    train, dev = split(groups, share=0.25, seed=3)
    assert len(train) + len(dev) == 100 and len(dev) == 25
    assert not {g.cluster for g in train} & {g.cluster for g in dev}
    assert {g.split for g in train} == {"train"} and {g.split for g in dev} == {"dev"}
    again = split(groups[::-1], share=0.25, seed=3)[1]
    assert {g.id for g in again} == {g.id for g in dev}
    assert {g.id for g in split(groups, share=0.25, seed=4)[1]} != {g.id for g in dev}


def test_split_leaves_something_on_both_sides():
    assert [len(part) for part in split(some(2), share=0.01)] == [1, 1]
    for share in (0, 1):
        with pytest.raises(ValignError, match="share"):
            split(some(4), share=share)
    with pytest.raises(ValignError, match="two clusters"):
        split(some(4, clusters=1))
