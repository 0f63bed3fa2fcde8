"""SFT: masked tokens weigh nothing, and how sequences are packed changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from valign.data.group import Demonstration, Group, Message, Response, user
from valign.engine.items import bind, collate
from valign.engine.layout import row_layout
from valign.engine.scorer import Scorer
from valign.engine.tree import from_paths
from valign.methods.feedback import prepare
from valign.methods.supervised.sft import SFTConfig, sft
from valign.models.tiny import float64_norms

TALK = (Message("user", "hi"), Message("assistant", "hello there"), Message("user", "and?"))


def demonstrations():
    """Several answers to one prompt, answers that share a beginning, a conversation, prompts of many lengths."""
    shown = [
        (user("Why?"), ["because", "because it is", "who knows"]),
        (user("What is the time of day, if I may ask you?"), ["noon"]),
        (TALK, ["bye", "see you"]),
    ]
    return [
        Group(
            id=f"g{i}",
            prompt=prompt,
            responses=tuple(map(Response, texts)),
            feedback=tuple(Demonstration(response=k) for k in range(len(texts))),
        )
        for i, (prompt, texts) in enumerate(shown)
    ]


def loss_and_gradient(policy, items, path, chunk=None):
    """The mean loss of one step over `items`, cut into micro-batches of `chunk` items, and its gradient."""
    model = policy.model.model
    model.requires_grad_(True)
    config = SFTConfig()
    objective = bind(sft, config, "token")
    units = sum(i.units("token") for i in items)
    total = 0
    with float64_norms(model):
        for at in range(0, len(items), chunk or len(items)):
            part = items[at : at + (chunk or len(items))]
            scores = Scorer(model, path=path)([i.tree for i in part])
            total = total + objective(collate(part, scores)).losses.sum() / units
        grads = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    model.requires_grad_(False)
    return float(total.detach()), torch.cat([g.flatten() for g in grads if g is not None])


@pytest.mark.capability("S01")
def test_masked_tokens_contribute_exactly_zero():
    """Neither value nor gradient: bitwise 0 on prompt and padding, whatever their log-probs are."""
    torch.manual_seed(0)
    policy = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    mask = (torch.rand(4, 9) < 0.5).double()
    losses = sft(policy, mask).losses
    (grad,) = torch.autograd.grad(losses.sum(), policy)
    assert (losses[mask == 0] == 0).all() and (grad[mask == 0] == 0).all()
    assert torch.equal(grad, -mask) and mask.sum() > 0


@pytest.mark.capability("S01")
def test_other_prompt_tokens_in_the_loss_would_be_seen(tiny_policy):
    """What the user said is read, not trained: the gradient at every head row but those of the answer is 0."""
    (item,) = prepare("demonstrations", demonstrations()[1:2], tiny_policy.model.template, SFTConfig()).items
    layout = row_layout([item.tree])
    leaf = item.tree.leaves[0]
    n = len(item.tree.path(leaf))
    assert sorted(layout.read.tolist()) == list(range(leaf.first - 1, n - 1)), "the stop token is a target, too"
    assert item.tree.path_loss(leaf)[: leaf.first].sum() == 0
    shifted = from_paths("wrong", item.tree.path(leaf)[: leaf.first - 1], [item.tree.path(leaf)[leaf.first - 1 :]])
    right, wrong = (loss_and_gradient(tiny_policy, [type(item)(t)], None) for t in (item.tree, shifted))
    assert abs(right[0] - wrong[0]) > 1e-3


@pytest.mark.capability("S01")
@pytest.mark.parametrize("train_on", ["last", "all"])
def test_packing_and_sharing_change_nothing(tiny_policy, train_on):
    """Trees in one row, each path in a row of its own, one sequence at a time, any micro-batch: 1e-12."""
    template = tiny_policy.model.template
    items = prepare("demonstrations", demonstrations(), template, SFTConfig(train_on=train_on)).items
    assert any(len(i.tree.leaves) > 1 for i in items)
    value, gradient = loss_and_gradient(tiny_policy, items, "row")
    alone = [type(items[0])(t) for i in items for t in (single(i.tree, leaf) for leaf in i.tree.leaves)]
    for other, path, chunk in ((items, "plain", None), (items, "row", 1), (items, "plain", 2), (alone, "plain", 1)):
        again, g = loss_and_gradient(tiny_policy, other, path, chunk)
        assert abs(again - value) < 1e-12 and float((g - gradient).abs().max()) < 1e-12
    assert float(gradient.abs().max()) > 1e-3


def single(tree, leaf):
    """The path of one leaf as a tree of its own."""
    ids, loss = tree.path(leaf).tolist(), tree.path_loss(leaf).tolist()
    return from_paths("one", ids[: leaf.first], [ids[leaf.first :]], [loss[leaf.first :]])


def test_the_loss_is_a_mean_over_tokens_of_the_step(tiny_policy):
    """-sum_t m_t log pi / sum_t m_t over all sequences: long ones weigh more, and batches are not averaged."""
    items = prepare("demonstrations", demonstrations(), tiny_policy.model.template, SFTConfig()).items
    value, _ = loss_and_gradient(tiny_policy, items, None)
    with torch.no_grad(), float64_norms(tiny_policy.model.model):
        rows = [r for row in Scorer(tiny_policy.model.model).score([i.tree for i in items]) for r in row]
    assert value == pytest.approx(-sum(r.sum() for r in rows) / sum(map(len, rows)), abs=1e-12)
    assert abs(value + np.mean([r.mean() for r in rows])) > 1e-4, "the mean of means is another number"
