"""Reward models: losses are their formulas and goldens, lists are one tree, simulated labels are learned to their noise."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from scipy.special import expit

from valign.data.group import Comparison, Group, Ranking, Response, user
from valign.engine.items import bind, collate
from valign.engine.run import RunFolder
from valign.engine.scorer import Scorer
from valign.errors import ValignError
from valign.methods.feedback import prepare
from valign.methods.table import METHODS
from valign.methods.train_reward import train_reward
from valign.models.scalar_head import attach_head, first_head
from valign.models.tiny import float64_norms, tiny_model
from valign.theory.coefficients import COEFFICIENTS
from valign.theory.likelihoods import plackett_luce, reward_bt_gradient, reward_bt_loss


def loss_of(name, given, dtype=torch.float64, **settings):
    """Losses of a method and their gradient in the rewards."""
    method = METHODS[name]
    tensors = {
        k: torch.as_tensor(v, dtype=torch.long if k in ("pairs", "ranked", "group") else dtype) for k, v in given.items()
    }
    reward = tensors["reward"].requires_grad_()
    terms = bind(method.objective, method.config(**settings), method.unit)(tensors)
    (grad,) = torch.autograd.grad(terms.losses.sum(), reward)
    return terms, terms.losses.detach().numpy(), grad.numpy()


def pairs_given(chosen, rejected, label=1.0, strength=0.0):
    n = len(chosen)
    full = lambda x: np.broadcast_to(np.asarray(x, float), n).copy()  # noqa: E731
    return {
        "reward": np.concatenate([chosen, rejected]),
        "pairs": np.stack([np.arange(n), np.arange(n) + n], 1),
        "label": full(label),
        "strength": full(strength),
    }


# -------------------------------------------------------------------------------------------------------- formulas


@pytest.mark.proof("E28")
@pytest.mark.parametrize("dtype, slack", [(torch.float64, 1e-9), (torch.float32, 2e-5)], ids=["float64", "float32"])
def test_goldens(golden, dtype, slack):
    """E28: pairs with margins, far tails and the centring term, by value and gradient; one list, and its pairs."""
    close = lambda x: pytest.approx(x, rel=slack, abs=slack)  # noqa: E731
    case = golden("reward_bt")
    r, expected = case["inputs"], case["expected"]
    given = pairs_given(r["r_chosen"], r["r_rejected"], strength=r["margin"])
    _, losses, grad = loss_of("reward_model", given, dtype, margin=1.0)
    assert losses == close(expected["loss"])
    assert grad == close([*expected["grad_chosen"], *(-x for x in expected["grad_chosen"])])
    _, centred, _ = loss_of("reward_model", given, dtype, margin=1.0, center=case["params"]["center"])
    assert centred.mean() == close(expected["total"]) and (centred - losses).mean() == close(expected["center"])
    case = golden("plackett_luce")
    one = {"reward": case["inputs"]["scores"], "ranked": [0, 1, 2], "left": [3, 2, 1]}
    assert loss_of("reward_plackett_luce", one, dtype)[1] == close([case["expected"]["loss"]])
    case = golden("reward_ranked_pairs")
    given = {"reward": case["inputs"]["rewards"], "pairs": list(combinations(range(3), 2)), "label": [1.0] * 3,
             "pair_weight": [1.0] * 3, "group": [0, 0, 0]}  # fmt: skip
    assert loss_of("reward_ranked_pairs", given, dtype)[1] == close([case["expected"]["loss"]])


def test_pairs_equal_the_theory(golden):
    """Value and gradient, with margins, far tails and the centring term."""
    r, center = golden("reward_bt")["inputs"], 0.01
    given = pairs_given(r["r_chosen"], r["r_rejected"], strength=r["margin"])
    _, losses, grad = loss_of("reward_model", given, margin=1.0)
    slope = reward_bt_gradient(r["r_chosen"], r["r_rejected"], r["margin"])
    assert np.abs(losses - reward_bt_loss(r["r_chosen"], r["r_rejected"], r["margin"])).max() < 1e-12
    assert np.abs(grad - np.concatenate([slope, -slope])).max() < 1e-12
    _, _, grad = loss_of("reward_model", given, margin=1.0, center=center)
    total = np.add(r["r_chosen"], r["r_rejected"])
    assert np.abs(grad - np.concatenate([slope, -slope]) - 2 * center * np.tile(total, 2)).max() < 1e-9


def test_labels_are_mixtures_and_noise_smooths_them():
    """p L(pair) + (1 - p) L(turned); smoothed by e, the best gap of a sure pair is log((1-e)/e)."""
    chosen, rejected = np.array([0.3, -1.0, 2.0]), np.array([0.0, 0.5, 2.5])
    for m in (0.0, 0.7):
        sure, turned, soft = (
            loss_of("reward_model", pairs_given(a, b, p, strength=1.0), margin=m)[1]
            for a, b, p in ((chosen, rejected, 1.0), (rejected, chosen, 1.0), (chosen, rejected, 0.8))
        )
        assert np.abs(soft - 0.8 * sure - 0.2 * turned).max() < 1e-12
    best = math.log(0.9 / 0.1)
    _, _, grad = loss_of("reward_model", pairs_given([best], [0.0]), label_noise=0.1)
    assert np.abs(grad).max() < 1e-12
    assert np.abs(loss_of("reward_model", pairs_given([best], [0.0]))[2]).max() > 0.05
    terms, *_ = loss_of("reward_model", pairs_given([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]))
    assert terms.metrics["correct"].tolist() == [1.0, 0.0, 0.5]


@pytest.mark.capability("R02")
def test_lists_equal_the_plackett_luce_likelihood():
    """On lists of 2 to 6, several in one batch: value by the theory's formula, gradient by finite differences of it;
    probabilities of all orders sum to 1."""
    one = {"reward": [2.0, 1.0, 0.0], "ranked": [0, 1, 2], "left": [3, 2, 1]}
    rng = np.random.default_rng(0)
    sizes = [2, 5, 3, 6]
    reward = rng.normal(0, 2, 8)
    lists = [rng.permutation(8)[:k] for k in sizes]
    given = {"reward": reward, "ranked": np.concatenate(lists), "left": [k - i for k in sizes for i in range(k)]}
    terms, losses, grad = loss_of("reward_plackett_luce", given)
    assert np.abs(losses + [plackett_luce(reward[x]) for x in lists]).max() < 1e-12

    def whole(r):
        return -sum(plackett_luce(r[x]) for x in lists)

    slopes = [(whole(reward + 1e-6 * e) - whole(reward - 1e-6 * e)) / 2e-6 for e in np.eye(8)]
    assert np.abs(grad - slopes).max() < 1e-8
    assert len(terms.metrics["margin"]) == sum(sizes) - len(sizes), "neighbours of each list, never across lists"
    orders = [loss_of("reward_plackett_luce", {**one, "ranked": list(p)})[1][0] for p in permutations(range(3))]
    assert np.exp(-np.array(orders)).sum() == pytest.approx(1, abs=1e-12)
    far = {"reward": [-1e4, 0.0, 1e4], "ranked": [0, 1, 2], "left": [3, 2, 1]}
    assert np.isfinite(loss_of("reward_plackett_luce", far)[2]).all()


@pytest.mark.capability("R02")
def test_two_responses_are_bradley_terry_for_every_method():
    """K = 2: the three losses and their gradients are one."""
    reward = np.array([0.7, -0.4])
    found = [
        loss_of("reward_model", pairs_given(reward[:1], reward[1:])),
        loss_of("reward_plackett_luce", {"reward": reward, "ranked": [0, 1], "left": [2, 1]}),
        loss_of("reward_ranked_pairs", {**pairs_given(reward[:1], reward[1:]), "pair_weight": [1.0], "group": [0, 0]}),
    ]
    for _, losses, grad in found:
        assert losses == pytest.approx(reward_bt_loss(0.7, -0.4), abs=1e-12)
        slope = float(reward_bt_gradient(0.7, -0.4))
        assert grad == pytest.approx([slope, -slope], abs=1e-12)


def test_ranked_pairs_are_averaged_within_each_prompt():
    """Two prompts, of three pairs and of one, count alike; weights count within a prompt."""
    both = {"reward": [2.0, 1.0, 0.0, 1.0, 1.5], "pairs": [(0, 1), (0, 2), (1, 2), (3, 4)], "label": [1.0] * 4,
            "pair_weight": [1.0, 1.0, 2.0, 5.0], "group": [0, 0, 0, 4, 4]}  # fmt: skip
    each = reward_bt_loss([2.0, 2.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.5])
    expected = [np.dot(each[:3], [1, 1, 2]) / 4, each[3]]
    assert loss_of("reward_ranked_pairs", both)[1] == pytest.approx(expected, abs=1e-12)


def test_settings_out_of_range_are_refused():
    for wrong in ({"label_noise": 0.5}, {"center": -1}, {"margin": -0.1}):
        with pytest.raises(ValignError, match=next(iter(wrong))):
            METHODS["reward_model"].configure(wrong)


# ----------------------------------------------------------------------------------------------- lists in one tree

RANKED = Group("r", user("Which?"), tuple(map(Response, ("best", "good", "poor", "bad"))),
               (Ranking(order=((0,), (1,), (2,), (3,))),))  # fmt: skip


@pytest.fixture(scope="module")
def scalar_model():
    """A tiny model with a scalar head, float64."""
    model = tiny_model("llama", dtype="float64")
    attach_head(model.model, 10 * first_head(32, 0))
    with float64_norms(model):
        yield model


def theory_coefficients(name, rewards, order):
    """What each reward of one ranked list weighs in the loss, by the theory."""
    ranked, out = rewards[order], np.zeros(len(order))
    if name == "reward_plackett_luce":
        out[order] = COEFFICIENTS["plackett_luce"](ranked, np.ones(len(order)))
        return out
    pairs = list(combinations(range(len(order)), 2))
    for i, j in pairs:
        slope = reward_bt_gradient(ranked[i], ranked[j])
        out[order[i]] -= slope
        out[order[j]] += slope
    return out / (len(pairs) if name == "reward_ranked_pairs" else 1)


@pytest.mark.proof("E27")
@pytest.mark.parametrize("path", ["plain", "row"])
@pytest.mark.parametrize("name", ["reward_model", "reward_ranked_pairs", "reward_plackett_luce"])
def test_coefficients_are_those_of_the_theory(scalar_model, name, path):
    """E27: -d(loss)/d(reward) of every response, by autograd on padded and on shared rows, equals the theory: 1e-10."""
    method, orders = METHODS[name], [[0, 1, 2, 3], [2, 0, 1]]
    other = Group("o", user("And this one, which is longer?"), tuple(map(Response, ("a", "some words", "b c"))),
                  (Ranking(order=((2,), (0,), (1,))),))  # fmt: skip
    items = prepare(method.feedback, [RANKED, other], scalar_model.template, method.config()).items
    scores = Scorer(scalar_model.model, readout="scalar_last", path=path)([i.tree for i in items])
    losses = bind(method.objective, method.config(), method.unit)(collate(items, scores)).losses
    (grad,) = torch.autograd.grad(losses.sum(), scores.scalars)
    rewards = scores.scalars.detach().numpy()
    parts = (rewards[:4], rewards[4:])
    expected = np.concatenate([theory_coefficients(name, r, np.array(o)) for r, o in zip(parts, orders)])
    assert np.abs(-grad.numpy() - expected).max() < 1e-10 and np.abs(expected).min() > 1e-3
    assert scores.tokens > scores.real, "some rows are padded"


def step(model, items, name):
    """Loss and gradient of one step over items."""
    method = METHODS[name]
    scores = Scorer(model.model, readout="scalar_last")([i.tree for i in items])
    losses = bind(method.objective, method.config(), method.unit)(collate(items, scores)).losses
    loss = losses.sum() / sum(i.units(method.unit) for i in items)
    grads = torch.autograd.grad(loss, list(model.model.parameters()), allow_unused=True)
    return float(loss.detach()), torch.cat([g.flatten() for g in grads if g is not None]), scores


@pytest.mark.capability("R02")
@pytest.mark.parametrize("name", ["reward_model", "reward_ranked_pairs"])
def test_pairs_of_a_prompt_share_one_batch_element(scalar_model, name):
    """Four ranked responses are one tree whose responses are computed once; loss and gradient are those of the six pairs
    each computed alone."""
    (item,) = prepare("pairs", [RANKED], scalar_model.template, METHODS[name].config()).items
    assert len(item.rows["pairs"]) == 6 and len(item.tree.leaves) == 4
    loss, gradient, scores = step(scalar_model, [item], name)
    assert scores.scored == 4
    apart = [
        Group(f"p{i}{j}", RANKED.prompt, (RANKED.responses[i], RANKED.responses[j]), (Comparison(chosen=0, rejected=1),))
        for i, j in combinations(range(4), 2)
    ]
    items = prepare("pairs", apart, scalar_model.template, METHODS[name].config()).items
    other, expected, many = step(scalar_model, items, name)
    assert many.scored == 12 and item.tree.tokens < sum(i.tree.tokens for i in items) / 3
    assert abs(loss - other) < 1e-12 and float((gradient - expected).abs().max()) < 1e-12 < float(expected.abs().max())


@pytest.mark.capability("R02")
def test_rankings_become_lists_of_one_tree(scalar_model):
    """Several annotators' lists stand on one tree and count by their weights; pairs are lists of two, soft ones both ways."""
    config, template = METHODS["reward_plackett_luce"].config(), scalar_model.template
    two = Group("t", RANKED.prompt, RANKED.responses,
                (Ranking(order=((0,), (1,), (2,))), Ranking(order=((3,), (0,)), weight=2.0)))  # fmt: skip
    pairs = Group("p", RANKED.prompt, RANKED.responses[:2], (Comparison(chosen=1, rejected=0, probability=0.75),))
    items = prepare("rankings", [two, pairs], template, config).items
    assert [i.units("group") for i in items] == [3.0, 1.0] and [len(i.tree.leaves) for i in items] == [4, 2]
    loss, _, scores = step(scalar_model, items, "reward_plackett_luce")
    a, b, c, d, e, f = scores.scalars.detach().numpy()
    logs = [plackett_luce([a, b, c]), 2 * plackett_luce([d, a]), 0.75 * plackett_luce([f, e]), 0.25 * plackett_luce([e, f])]
    assert loss == pytest.approx(-sum(map(float, logs)) / 4, abs=1e-10)


def test_what_no_list_can_use_is_counted(scalar_model):
    tied = Group("tied", RANKED.prompt, RANKED.responses, (Ranking(order=((0, 1), (2,))),))
    equal = Group("equal", RANKED.prompt, (Response("a"), Response("a")), (Ranking(order=((0,), (1,))),))
    empty = Group("empty", RANKED.prompt, (Response("a"), Response("")), (Ranking(order=((0,), (1,))),))
    none = Group("none", RANKED.prompt, RANKED.responses)
    config = METHODS["reward_plackett_luce"].config()
    found = prepare("rankings", [RANKED, tied, equal, empty, none], scalar_model.template, config)
    assert found.used == 1 and {k: v for k, v in found.ledger.dropped.items()} == {
        "with tied places in a ranking": ["tied"],
        "with equal responses in one list": ["equal"],
        "with an empty response": ["empty"],
        "without a ranking": ["none"],
    }


# ------------------------------------------------------------------------------------------------- simulated labels

WORTH = dict(zip("abcdef", (1.5, 0.9, 0.3, -0.3, -0.9, -1.5)))


def utility(text):
    return sum(WORTH[c] for c in text)


def simulated(n, pairs, seed):
    """Groups of pairs of random texts, labelled by Bradley-Terry draws from their utility."""
    rng, out = np.random.default_rng(seed), []
    for i in range(n):
        texts = ["".join(rng.choice(list("abcdef"), 5)) for _ in range(2 * pairs)]
        chance = [expit(utility(texts[2 * k]) - utility(texts[2 * k + 1])) for k in range(pairs)]
        sides = [(2 * k, 2 * k + 1) if rng.random() < p else (2 * k + 1, 2 * k) for k, p in enumerate(chance)]
        feedback = tuple(Comparison(chosen=a, rejected=b) for a, b in sides)
        out.append(Group(f"{seed}-{i}", user("Q"), tuple(map(Response, texts)), feedback))
    return out


@pytest.mark.capability("R01")
def test_held_out_accuracy_is_the_ceiling_of_the_labels(tmp_path):
    """4000 noisy labels, then 20000 held-out pairs of new texts: the order is right as often as that of the true utility,
    E max(P, 1 - P), within one point; 15 of 100 labels are wrong by nature."""
    from valign.engine.local import LocalEngine
    from valign.models.policy import LocalPolicy

    policy = LocalPolicy(tiny_model("llama"), LocalEngine(precision="full"))
    method = METHODS["reward_model"]
    config = method.configure({"learning_rate": 1e-2, "batch_size": 1, "schedule": "linear"})
    with RunFolder(tmp_path / "run") as run:
        reward = train_reward(method, policy, config, run, groups=simulated(80, 50, seed=0)).reward
    held = simulated(40, 50, seed=1)
    rng, hits, right, best = np.random.default_rng(2), 0, [], []
    for group, r in zip(held, reward.score(held)):
        u = np.array([utility(x.text) for x in group.responses])
        i, j = rng.integers(0, len(u), (2, 500))
        p = expit(u[i] - u[j])
        label = rng.random(500) < p
        hits += int(((r[i] > r[j]) == label).sum())
        right.append(np.where(r[i] > r[j], p, 1 - p))
        best.append(np.maximum(p, 1 - p))
    accuracy, expected, ceiling = hits / 20000, np.mean(right), np.mean(best)
    print(f"\nheld-out accuracy {accuracy:.4f} (expected {expected:.4f}), ceiling {ceiling:.4f}")
    assert 0.75 < ceiling < 0.9
    assert ceiling - expected < 0.01, "without the noise of these labels"
    assert abs(accuracy - expected) < 4 * math.sqrt(0.25 / 20000), "false alarm: 6e-5"
