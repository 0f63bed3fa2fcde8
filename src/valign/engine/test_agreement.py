"""The agreement of sampler and trainer, against numbers computed by hand and from the full laws of a perturbed sampler."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from valign.engine.agreement import agreement, weights
from valign.engine.items import Item, Objective, collate
from valign.engine.local import LocalEngine
from valign.engine.objective import Terms
from valign.engine.tree import from_paths
from valign.models.policy import Sampling

ENGINE = LocalEngine(precision="full")


def test_the_figures_by_hand():
    """Ratios 1, 1.05, 1.2, 0.5: two of four leave 1 +- 10 %; k3 = ratio - 1 - log ratio."""
    ratios = np.array([1, 1.05, 1.2, 0.5])
    sampler = np.array([-1.0, -2.0, -0.5, -3.0])
    found = agreement([sampler[:3], sampler[3:]], [(sampler + np.log(ratios))[:3], (sampler + np.log(ratios))[3:]])
    assert (found.samples, found.tokens, found.outside) == (2, 4, 0.5)
    assert found.largest == pytest.approx(0.6931471805599453)
    assert found.mean == pytest.approx((0.04879016 + 0.18232156 + 0.69314718) / 4)
    assert found.kl == pytest.approx((0.00120984 + 0.01767844 + 0.19314718) / 4, abs=1e-8)


def test_equal_laws_agree_and_lengths_must():
    same = [np.array([-1.0, -2.0]), np.zeros(0)]
    found = agreement(same, same)
    assert found.mean == found.largest == found.outside == found.kl == 0 and found.tokens == 2
    assert agreement([], []).tokens == 0
    with pytest.raises(ValueError, match="numbers of tokens"):
        agreement([np.zeros(2)], [np.zeros(3)])


def test_ratios_are_capped_and_the_share_is_told():
    rows, share = weights([np.log([0.1, 0.5, 0.2])], [np.log([0.5, 0.25, 0.3])])
    assert rows[0] == pytest.approx([2.0, 0.5, 1.5]) and share == pytest.approx(1 / 3)
    assert weights([], []) == ([], 0.0)


@pytest.mark.parametrize("scale", [1.0, 0.8, 1.3])
def test_a_sampler_with_scaled_logits_is_measured(tiny, prompts, scale):
    """The sampler's logits are the trainer's times `scale`: the figures are those of numpy over the full laws of every
    position, and k3 estimates the KL that enumeration gives."""
    model = tiny("llama")
    heads = model.template.prompt_ids_many([g.prompt for g in prompts(16)])
    rows = [
        ENGINE.generate(model, [g.prompt], Sampling(n=4, max_new_tokens=12, temperature=1 / scale, seed=i))[0]
        for i, g in enumerate(prompts(16))
    ]
    trees = [from_paths(str(i), h, [s.ids for s in row]) for i, (h, row) in enumerate(zip(heads, rows))]
    scored = ENGINE.scorer(model).score(trees)
    found = agreement([s.law for row in rows for s in row], [x for row in scored for x in row])
    gaps, exact, k3 = [], [], []
    for head, row in zip(heads, rows):
        for s in row:
            path = torch.tensor([[*head, *s.ids]])
            logits = model.model(path, use_cache=False).logits[0, len(head) - 1 : -1].detach().double().numpy()
            p, q = (z - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)) - z.max(1, keepdims=True)
                    for z in (logits, scale * logits))  # fmt: skip
            d = (p - q)[np.arange(len(s.ids)), list(s.ids)]
            gaps += list(d)
            k3 += list(np.exp(d) - 1 - d)
            exact += list((np.exp(q) * (q - p)).sum(1))
    gaps = np.array(gaps)
    assert found.tokens == len(gaps) and found.samples == 64
    assert found.mean == pytest.approx(np.abs(gaps).mean(), abs=1e-9)
    assert found.largest == pytest.approx(np.abs(gaps).max(), abs=1e-9)
    assert found.outside == pytest.approx((np.abs(np.exp(gaps) - 1) > 0.1).mean(), abs=2 / len(gaps))
    assert found.kl == pytest.approx(np.mean(k3), abs=1e-9)
    error = np.std(np.array(k3) - np.array(exact)) / np.sqrt(len(gaps))
    assert abs(found.kl - np.mean(exact)) < 4 * error + 1e-12, "four standard errors: false alarm below 1e-4"
    assert (found.kl < 1e-12) == (scale == 1)


def test_weights_multiply_the_gradient_and_nothing_else(tiny, trees):
    """Any objective's gradient coefficient of a token is multiplied by its weight; losses stay as they are."""
    model = tiny("llama", fresh=True)
    items = [Item(t) for t in trees(3)]
    scores = ENGINE.scorer(model)([i.tree for i in items])
    rng = np.random.default_rng(0)
    drawn = [[rng.uniform(0, 2, len(i.tree.response_ids(leaf))) for leaf in i.tree.leaves] for i in items]
    weighted = [i.with_tokens(sampler_weight=rows) for i, rows in zip(items, drawn)]

    def square(policy, mask):
        return Terms((policy.square() * mask).sum(1), unit="response")

    objective = Objective(square, {}, "response")
    losses, grads = [], []
    for batch in (items, weighted):
        loss = objective(collate(batch, scores)).losses
        losses.append(loss)
        grads.append(torch.autograd.grad(loss.sum(), scores.log_probs, retain_graph=True)[0])
    weight = collate(weighted, scores)["sampler_weight"]
    assert torch.equal(*losses)
    assert torch.allclose(grads[1], weight * grads[0], atol=1e-12) and grads[0].abs().max() > 0
