"""Every training method on the tabular world, by the exact population gradient of its pure objective.

A response is one token, the policy a free 4 x 8 table of logits. LBFGS must end within 1e-6 of the optimum,
Adam within 1e-3 (theory notes, section 16).
"""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from valign.methods.table import METHODS
from valign.theory.divergence import kl, kl_from_logs
from valign.theory.policy_gradient import group_advantage
from valign.theory.worlds import TabularWorld

BETA, NOISE = 0.5, 0.2
WORLD = TabularWorld()
REFERENCE = torch.as_tensor(WORLD.log_reference).reshape(-1, 1)  # (32, 1): one row per response, one token each
ONES = torch.ones_like(REFERENCE)
TARGET = np.exp(WORLD.target_log_probs(beta=BETA))


def minimized(loss, start=None):
    """The (4, 8) law that LBFGS finds; `loss` reads log-probs as rows (32, 1)."""
    logits = torch.as_tensor(WORLD.log_reference if start is None else start).clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=3000,
        tolerance_grad=1e-11,
        tolerance_change=0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        value = loss(logits.log_softmax(-1).reshape(-1, 1))
        value.backward()
        return value

    optimizer.step(closure)
    return logits.detach().softmax(-1).numpy()


def worst(a, b):
    return float(np.abs(a - b).max())


# ---------------------------------------------------------------------------------------------- demonstrations


def nll(law):
    """The SFT loss of a law's demonstrations: the law is the weight of each response."""
    weight = torch.as_tensor(law).reshape(-1, 1)
    return lambda policy: METHODS["sft"].objective(policy, weight).losses.sum()


@pytest.mark.capability("S01")
def test_sft_on_gibbs_demonstrations_ends_at_the_target():
    assert worst(minimized(nll(TARGET)), TARGET) < 1e-6


@pytest.mark.capability("S01")
def test_the_sft_fit_is_the_forward_kl_projection():
    """With one row of logits for all prompts the fit is the mean law: argmin_q sum_x KL(p_x || q)."""
    row = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [row], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = nll(TARGET)(row.log_softmax(-1).expand(4, 8).reshape(-1, 1))
        value.backward()
        return value

    optimizer.step(closure)
    fit, mean = row.detach().softmax(-1).numpy(), TARGET.mean(0)
    assert worst(fit, mean) < 1e-6
    gap = sum(kl(p, fit) for p in TARGET)
    rng = np.random.default_rng(0)
    assert all(sum(kl(p, q) for p in TARGET) > gap for q in rng.dirichlet(50 * mean + 0.1, 100))


# ------------------------------------------------------------------------------------------------------- pairs


def pairs_of(kind):
    """(n, 2) rows: all pairs of each prompt, or seven that connect its responses."""
    if kind == "all":
        local = list(combinations(range(8), 2))
    else:
        rng = np.random.default_rng(1)
        local = [(i, int(rng.integers(i))) for i in range(1, 8)]
    return torch.as_tensor([(8 * x + i, 8 * x + j) for x in range(4) for i, j in local])


def preference(name, pairs, label, **settings):
    pairs, label = torch.as_tensor(pairs), torch.as_tensor(label)
    function = METHODS[name].objective
    return lambda policy: function(policy, REFERENCE, ONES, pairs, label, **settings).losses.sum()


def chances(pairs):
    """Bradley-Terry probability that the first of each pair wins."""
    u = WORLD.utilities.reshape(-1)
    return expit(u[pairs[:, 0]] - u[pairs[:, 1]])


@pytest.mark.capability("S10")
@pytest.mark.parametrize("kind", ["all", "connecting"])
def test_dpo_with_label_probabilities_ends_at_the_target(kind):
    """I2: the population minimizer is pi*, from all pairs as from any that connect the responses."""
    pairs = pairs_of(kind)
    assert worst(minimized(preference("dpo", pairs, chances(pairs), beta=BETA)), TARGET) < 1e-6


@pytest.mark.capability("S10")
@pytest.mark.parametrize("noise", [0.05, NOISE, 0.4])
def test_robust_dpo_on_flipped_labels_ends_at_the_target_of_clean_ones(noise):
    pairs = pairs_of("all")
    clean = chances(pairs)
    flipped = (1 - noise) * clean + noise * (1 - clean)
    robust = minimized(preference("robust_dpo", pairs, flipped, beta=BETA, label_noise=noise))
    assert worst(robust, TARGET) < 1e-6
    plain = minimized(preference("dpo", pairs, flipped, beta=BETA))
    assert worst(plain, TARGET) > 0.01, "flips cost plain dpo something"


@pytest.mark.capability("S10")
def test_cdpo_ends_at_its_own_stated_optimum():
    """Each pair's margin is the log-odds of its smoothed label: log((1-e)/e) where the label is certain."""
    pairs = pairs_of("connecting")
    for label in (np.ones(len(pairs)), chances(pairs)):
        law = minimized(preference("cdpo", pairs, label, beta=BETA, label_noise=NOISE))
        implied = BETA * (np.log(law) - WORLD.log_reference).reshape(-1)
        margin = implied[pairs[:, 0]] - implied[pairs[:, 1]]
        smoothed = (1 - NOISE) * label + NOISE * (1 - label)
        assert worst(margin, logit(smoothed)) < 1e-5
    certain = logit(1 - NOISE)
    assert certain == pytest.approx(np.log((1 - NOISE) / NOISE))


@pytest.mark.capability("S10")
def test_cdpo_with_little_smoothing_ends_near_the_target():
    pairs = pairs_of("all")
    laws = [minimized(preference("cdpo", pairs, chances(pairs), beta=BETA, label_noise=e)) for e in (1e-2, 1e-4, 1e-8)]
    away = [worst(law, TARGET) for law in laws]
    assert away[0] > away[1] > away[2] and away[2] < 1e-6


# ---------------------------------------------------------------------------------------------------- rollouts

DRAWS = np.array(list(product(range(8), repeat=2)))  # every group of two responses
ROW = torch.as_tensor((8 * np.arange(4)[:, None, None] + DRAWS).reshape(-1))  # (4 * 64 * 2,)


def expected_loss(name, logits, advantage_of, **settings):
    """The loss of all groups of two, each weighted by its probability under the policy itself."""
    policy = logits.log_softmax(-1).reshape(-1, 1)
    with torch.no_grad():
        law = policy.exp().reshape(4, 8).numpy()
        chance = law[:, DRAWS].prod(-1)  # (4, 64)
        ratio = (policy - REFERENCE).reshape(4, 8).numpy()[:, DRAWS]
        advantage = advantage_of(WORLD.utilities[:, DRAWS], ratio)  # (4, 64, 2)
    given = {"policy": policy[ROW], "old": policy[ROW].detach(), "reference": REFERENCE[ROW], "mask": ONES[ROW]}
    given["advantage"] = torch.as_tensor(advantage.reshape(-1))
    function = METHODS[name].objective
    wanted = [given[n] for n in function.__code__.co_varnames[: function.__code__.co_argcount]]
    losses = function(*wanted, **settings).losses.reshape(4, 64, 2)
    return (torch.as_tensor(chance)[..., None] * losses).sum() / 8


def climbed(name, advantage_of, steps=1500, rate=0.05, **settings):
    """The law after Adam on the exact expected gradient."""
    logits = torch.as_tensor(WORLD.log_reference).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([logits], lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        expected_loss(name, logits, advantage_of, **settings).backward()
        optimizer.step()
        schedule.step()
    return logits.detach().softmax(-1).numpy()


def rloo_advantages(rewards, ratio):
    method = METHODS["rloo"]
    return method.advantage(rewards, ratio, method.config(beta=BETA))


def test_the_expected_rloo_gradient_is_that_of_the_objective():
    """I19a through the method's own advantage and loss: the mean over all groups is the gradient of J."""
    torch.manual_seed(0)
    logits = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(expected_loss("rloo", logits, rloo_advantages), logits)
    log_law = logits.log_softmax(-1)
    reward = torch.as_tensor(WORLD.utilities) - BETA * (log_law - torch.as_tensor(WORLD.log_reference))
    (exact,) = torch.autograd.grad((log_law.exp() * reward).sum(-1).mean(), logits)
    assert float((ours + exact).abs().max()) < 1e-12


def test_rloo_with_kl_in_the_reward_ends_at_the_target():
    law = climbed("rloo", rloo_advantages)
    assert worst(law, TARGET) < 1e-3
    assert WORLD.gap(np.log(law), BETA) < 1e-4


@pytest.mark.parametrize("std", ["none", "unbiased"])
def test_grpo_without_kl_moves_all_mass_to_the_best_responses(std):
    """beta 0: whether advantages are divided by their deviation or not, the argmax set is all that is left."""
    law = climbed("grpo", lambda r, _: group_advantage(r, std=std), steps=600, rate=0.1, beta=0.0, clip=0.2)
    best = WORLD.utilities == WORLD.utilities.max(1, keepdims=True)
    assert (law * best).sum(1).min() > 0.99


def test_grpo_with_its_kl_raises_gold_and_ends_elsewhere():
    """Standard deviation and k3 in the loss: gold rises, and the distance to pi* is no small one."""
    method = METHODS["grpo"]
    config = method.config()
    law = climbed(
        "grpo", lambda r, h: method.advantage(r, h, config), steps=600, rate=0.1, beta=config.beta, clip=config.clip
    )
    before = WORLD.mean(WORLD.log_reference, WORLD.utilities)
    after = WORLD.mean(np.log(law), WORLD.utilities)
    away = float(np.mean(kl_from_logs(np.log(TARGET), np.log(law))))
    print(
        f"\ngrpo: gold {before:.4f} -> {after:.4f}, max |pi - pi*| {worst(law, TARGET):.4f}, KL(pi* || pi) {away:.4f}"
    )
    assert after > before + 1 and worst(law, TARGET) > 0.05 and np.isfinite(away)
