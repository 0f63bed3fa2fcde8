"""Feedback finds its place in a batch, and metrics are exact however a step is cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from valign.engine.items import Item, Objective, bind, collate
from valign.engine.meters import Meters, means
from valign.engine.objective import Terms, count_units
from valign.engine.scorer import Scorer, micro_batches
from valign.engine.tree import from_paths


def item(i, responses, **more):
    rng = np.random.default_rng(i)
    branches = [rng.integers(7, 103, 1 + (i + k) % 5).tolist() for k in range(responses)]
    return Item(from_paths(f"g{i}", [7, 8, 9], branches), **more)


def test_rows_values_and_tokens_find_their_place(tiny):
    """Rows move by the item's place in the batch, values follow each other, tokens are padded."""
    items = [
        item(
            i,
            n,
            rows={"pairs": np.array([[0, n - 1]])},
            values={"label": np.array([0.1 * i])},
            tokens={"reference": [np.full(1 + (i + k) % 5, 10.0 * i + k) for k in range(n)]},
        )
        for i, n in ((1, 2), (2, 4), (3, 3))
    ]
    out = collate(items, Scorer(tiny().model)([i.tree for i in items]))
    assert out["pairs"].tolist() == [[0, 1], [2, 5], [6, 8]]
    assert out["label"].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert out["group"].tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert out["reference"].shape == out["policy"].shape == out["mask"].shape
    for row, (i, k) in enumerate([(1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3), (3, 0), (3, 1), (3, 2)]):
        n = 1 + (i + k) % 5
        assert out["reference"][row, :n].tolist() == [10.0 * i + k] * n and not out["reference"][row, n:].any()
        assert out["mask"][row].sum() == n


def test_items_with_other_inputs_are_refused(tiny):
    """An input that only some items have would be dropped in silence."""
    items = [item(1, 2), item(2, 2, values={"label": np.array([1.0])})]
    with pytest.raises(ValueError, match="label"):
        collate(items, Scorer(tiny().model)([i.tree for i in items]))


def test_units_are_counted_from_masks_and_shapes():
    """N is known before any forward pass."""
    one = item(1, 3, rows={"pairs": np.array([[0, 1], [0, 2]])})
    tokens = sum(len(one.tree.response_ids(leaf)) for leaf in one.tree.leaves)
    assert [one.units(u) for u in ("token", "response", "pair", "group")] == [tokens, 3, 2, 1]
    weighted = item(1, 3, rows=one.rows, values={"pair_weight": np.array([0.5, 2.0])})
    assert weighted.units("pair") == 2.5 and weighted.units("response") == 3
    assert count_units("token", 2.5, 1, 0, 1) == 2.5


@dataclass(frozen=True)
class Config:
    beta: float = 0.5
    other: int = 3


def test_an_objective_takes_its_settings_by_name():
    def loss(policy, mask, *, beta, extra):
        return Terms((policy * beta + extra).sum(1), unit="response")

    bound = bind(loss, Config(), "response", extra=1.0)
    assert bound.wants == ("policy", "mask") and dict(bound.settings) == {"beta": 0.5, "extra": 1.0}
    out = bound({"policy": torch.ones(2, 3), "mask": torch.ones(2, 3), "unused": torch.ones(1)})
    assert out.losses.tolist() == [4.5, 4.5]
    with pytest.raises(ValueError, match="declared pair"):
        Objective(loss, {"beta": 1, "extra": 0}, "pair")({"policy": torch.ones(2, 3), "mask": torch.ones(2, 3)})


def test_weights_of_units_multiply_losses():
    objective = Objective(lambda policy: Terms(policy.sum(1), unit="response"), {}, "response")
    tensors = {"policy": torch.ones(2, 3), "response_weight": torch.tensor([2.0, 0.5])}
    assert objective(tensors).losses.tolist() == [6.0, 1.5]


@pytest.mark.proof("E19")
def test_the_first_pass_over_a_rollout_has_ratio_one():
    """E19: `old` is the policy itself, detached, unless it is given."""
    seen = {}

    def loss(policy, old):
        seen["old"] = old
        return Terms((policy - old).exp().sum(1), unit="response")

    policy = torch.randn(2, 3, requires_grad=True)
    out = Objective(loss, {}, "response")({"policy": policy})
    assert torch.equal(out.losses, torch.full((2,), 3.0)) and not seen["old"].requires_grad
    given = torch.zeros(2, 3)
    Objective(loss, {}, "response")({"policy": policy, "old": given})
    assert seen["old"] is given


@pytest.mark.proof("E7")
@pytest.mark.parametrize("unit", ["token", "response", "pair"])
def test_meters_equal_an_offline_computation(tiny, objectives, pairs, unit):
    """E7: sums over any micro-batches give the mean over the whole step, recomputed in numpy: 1e-6."""
    model, objective = tiny().model, objectives[unit]
    items = pairs(9, model=tiny("llama_tied").model)
    read = []
    for budget in (1, 60, 10**6):
        meters = Meters()
        for batch in micro_batches([i.tree for i in items], budget):
            picked = [items[i] for i in batch]
            scores = Scorer(model)([i.tree for i in picked])
            terms = objective(collate(picked, scores))
            meters.add(terms.losses.sum(), terms, scores.mask)
        loss, sums = meters.read()
        read.append({"loss": loss, **means([sums])})
    scored = Scorer(model).score([i.tree for i in items])
    flat = [row for group in scored for row in group]
    if unit == "token":
        expected = {"nll": -np.concatenate(flat).mean()}
    elif unit == "response":
        expected = {"length": np.mean([len(r) for r in flat])}
    else:
        h = [[float((p - q).sum()) for p, q in zip(g, i.tokens["reference"])] for g, i in zip(scored, items)]
        expected = {"margin": np.mean([0.3 * (chosen - rejected) for chosen, rejected in h])}
    with torch.no_grad():
        whole = objective(collate(items, Scorer(model)([i.tree for i in items]))).losses.sum()
    for one in read:
        assert one.pop("loss") == pytest.approx(float(whole), abs=1e-6)
        assert one == pytest.approx(expected, abs=1e-6)


def test_a_metric_that_nobody_counted_is_left_out():
    meters = Meters()
    assert meters.read() == (0.0, {})
    meters.add(torch.tensor(2.0), Terms(torch.zeros(1), unit="pair", empty=torch.zeros(0)), torch.zeros(1, 2))
    loss, sums = meters.read()
    assert loss == 2.0 and means([sums]) == {}
