"""Each family on the sequence world, through the real engine: does it end where theory says?

Gaps, M1, agreement, KL, gold and length before and after are printed (pytest -s); bounds are those of the theory
notes, section 16. Whole versions, with every response in every step and three seeds, run in `make real`.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import chisquare

from valign.data.group import Comparison, Demonstration, Group
from valign.engine.items import Item, bind
from valign.engine.tree import from_paths
from valign.methods.context.value_instruction import ValueInstructionConfig, value_instruction
from valign.methods.decoding.best_of_n import BestOfNConfig, best_of_n, curve
from valign.methods.supervised.dpo import DPOConfig, dpo
from valign.methods.table import METHODS
from valign.methods.target import Target
from valign.models.policy import LocalPolicy, Sampling
from valign.theory.best_of_n import best_of_n_kl, best_of_n_kl_bound, best_of_n_law
from valign.theory.divergence import kl_from_logs

BETA = 0.5  # of the world
CLOSE = 0.02  # gap of the population mode
FALSE_ALARM = 1e-3  # of each chi-square test

whole = pytest.mark.skipif(os.environ.get("VALIGN_REAL") != "whole", reason="minutes each: make real")


def told(name, report):
    """Show what the notes ask every run to report."""
    numbers = ", ".join(f"{k} {v:.4f}" for k, v in vars(report).items())
    print(f"\n{name}: {numbers}")
    return report


def star(lab):
    """log pi* of the reference that is in use."""
    return lab.world.target_log_probs(lab.reference, beta=BETA)


def test_the_world_is_the_one_of_the_notes(lab):
    """The reference is within .01 nats of the analytic one, and trimming a layout changes no score."""
    told("reference", lab.world.report(lab.reference, reference_log_probs=lab.reference))
    x = 5
    y = np.random.default_rng(0).choice(3906, 40, replace=False)
    group = Group(id="x", prompt=lab.prompt(x), responses=lab.responses(y))
    scored = [s.log_prob for s in lab.policy.score([group])[0]]
    assert scored == pytest.approx(lab.reference[x, y], abs=1e-4)


# ------------------------------------------------------------------------------------------------- supervised family


def test_sft_on_gibbs_demonstrations_reaches_the_target(lab):
    """Population mode, weights of demonstrations as loss weights in the tree: gap <= .02."""
    model = lab.fit(lab.start, star(lab), steps=180)
    report = told("sft", lab.report(model))
    assert report.gap <= CLOSE
    assert report.gold > 1.2 and report.order_agreement > 0.9
    assert report.m1 < 0.25 * lab.world.report(lab.reference, reference_log_probs=lab.reference).m1


def paired(lab, y, x, rng):
    """A group of responses with one exact soft label each: every response is compared with an earlier one."""
    u = lab.world.utilities[x, y]
    feedback = []
    for i in range(1, len(y)):
        j = int(rng.integers(i))
        feedback.append(Comparison(chosen=i, rejected=j, probability=float(expit(u[i] - u[j]))))
    return feedback


def preference_groups(lab, n, size, seed=0):
    """`n` groups per prompt with `size` different responses of the reference and Bradley-Terry probabilities."""
    rng, out = np.random.default_rng(seed), []
    for k in range(n):
        for x in range(16):
            law = np.exp(lab.reference[x])
            y = rng.choice(len(law), size, replace=False, p=law / law.sum())
            feedback = tuple(paired(lab, y, x, rng))
            out.append(Group(id=f"{x}-{k}", prompt=lab.prompt(x), responses=lab.responses(y), feedback=feedback))
    return out


def test_dpo_on_label_probabilities_reaches_the_target(lab):
    """Groups of sampled responses through feedback, reference store, audit and loop: gap <= .05 + floor (0 here)."""
    groups = preference_groups(lab, 20, 48)
    trained = lab.train(METHODS["dpo"], groups, beta=BETA, epochs=1e6, max_steps=220)
    report = told("dpo", lab.report(trained.policy.model))
    assert report.gap <= 0.05
    assert report.order_agreement > 0.9 and report.gold > 1.1


def whole_pairs(lab, x, reference):
    """All 3906 responses as one item: by falling reference probability each is compared with an earlier one."""
    rng = np.random.default_rng(x)
    order = np.argsort(-reference)
    law = np.exp(reference[order])
    earlier = np.cumsum(law)
    j = np.array([np.searchsorted(earlier, rng.random() * earlier[i - 1]) for i in range(1, len(order))])
    pairs = np.stack([order[1:], order[np.minimum(j, np.arange(len(j)))]], 1)
    u = lab.world.utilities[x]
    weight = law[1:] ** 0.5  # any weights above 0 leave the minimizer where it is
    return Item(
        from_paths(f"x{x}", lab.ids(x), lab.world.response_list),
        rows={"pairs": pairs},
        values={"label": expit(u[pairs[:, 0]] - u[pairs[:, 1]]), "pair_weight": weight / weight.sum()},
    )


@whole
@pytest.mark.slow
@pytest.mark.real
def test_every_response_in_every_step(lab):
    """Whole population mode: all 3906 responses of all prompts, merged to prefix trees; gap <= max(.02, 2 floor)."""
    floor = told("floor", lab.report(lab.fit(lab.start, star(lab), steps=300))).gap
    sft = told("sft, whole", lab.report(lab.fit(lab.start, star(lab), steps=150, exact=True)))
    assert sft.gap <= max(CLOSE, 2 * floor)
    items = lab.with_reference([whole_pairs(lab, x, lab.reference[x]) for x in range(16)])
    config = lab.config(DPOConfig, beta=BETA, max_steps=150)
    model = lab.run(lab.start, [items], bind(dpo, config, "pair"), config)
    report = told("dpo, whole", lab.report(model))
    assert report.gap <= max(CLOSE, 2 * floor)


# ---------------------------------------------------------------------------------------------- reinforcement family


def test_rloo_with_kl_in_the_reward_reaches_the_target(lab):
    """Sampled mode, the real generator and sampler, one seed: gap <= .05 + floor."""
    trained = lab.train(
        METHODS["rloo"], lab.groups(), lab.gold, beta=BETA, learning_rate=3e-3, group_size=8, max_new_tokens=5,
        epochs=1e6, max_steps=130,
    )  # fmt: skip
    report = told("rloo", lab.report(trained.policy.model))
    assert report.gap <= 0.05
    assert report.order_agreement > 0.9


def test_grpo_raises_gold_and_its_distance_is_told(lab):
    """With std and k3 the fixed point is not pi*: gold rises, the KL stays finite, the distance is reported."""
    before = lab.world.mean(lab.reference, lab.world.utilities)
    trained = lab.train(
        METHODS["grpo"], lab.groups(), lab.gold, learning_rate=3e-3, group_size=8, max_new_tokens=5, epochs=1e6,
        max_steps=30,
    )  # fmt: skip
    law = lab.enumerate(trained.policy.model)
    report = told("grpo", lab.world.report(law, reference_log_probs=lab.reference))
    away = float(np.mean(kl_from_logs(star(lab), law)))
    print(f"KL(pi* || grpo) = {away:.3f}")
    assert report.gold > before + 0.6 and np.isfinite(report.kl) and away > 0.05


@whole
@pytest.mark.slow
@pytest.mark.real
def test_rloo_over_three_seeds(lab):
    """Sampled mode in full: the upper end of the 95 % interval of the gap over 3 seeds is <= .05 + floor."""
    gaps = []
    for seed in range(3):
        trained = lab.train(
            METHODS["rloo"], lab.groups(), lab.gold, beta=BETA, learning_rate=3e-3, group_size=16,
            max_new_tokens=5, epochs=1e6, max_steps=200, seed=seed,
        )  # fmt: skip
        gaps.append(told(f"rloo, seed {seed}", lab.report(trained.policy.model)).gap)
    upper = np.mean(gaps) + 4.303 * np.std(gaps, ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom
    print(f"gaps {gaps}, upper end {upper:.4f}")
    assert upper <= 0.05


# -------------------------------------------------------------------------------------------------- generator's law


def law_fits(counts, law):
    """p of a chi-square test; responses are merged, rarest first, into cells that expect 8 or more."""
    order = np.argsort(law)
    at = np.floor(np.cumsum(law[order]) / law.sum() * counts.sum() / 8).astype(int)
    cell = np.unique(np.minimum(at, at[-1] - 1), return_inverse=True)[1]  # the last cell would hold what is left over
    observed, expected = np.bincount(cell, counts[order]), np.bincount(cell, law[order])
    return chisquare(observed, expected / expected.sum() * counts.sum()).pvalue


def test_the_generator_draws_from_the_enumerated_law(lab):
    """Samples of the real generator against the law that the scorer enumerates; false-alarm rate .001."""
    x = 6
    drawn = lab.policy.generate([lab.prompt(x)], Sampling(n=3000, max_new_tokens=5, seed=1))[0]
    index = [lab.world.response_index(s.ids) for s in drawn]
    counts = np.bincount(index, minlength=3906)
    assert law_fits(counts, np.exp(lab.reference[x])) > FALSE_ALARM
    assert law_fits(counts, np.exp(lab.reference[7])) < 1e-6, "the test could not fail"
    assert [float(s.raw.sum()) for s in drawn] == pytest.approx(lab.reference[x, index], abs=1e-4)


# ------------------------------------------------------------------------------------------------- decoding family


@pytest.mark.capability("T01")
def test_best_of_n_has_the_law_that_theory_gives_it(lab):
    """Winners of the real wrapper against q_n; its KL is below log n - (n-1)/n; false-alarm rate .001."""
    x, n = 3, 4
    policy = best_of_n(
        lab.policy, Target(reward=lambda groups: [lab.gold([_at(g, x)])[0] for g in groups]), BestOfNConfig(n=n)
    )
    drawn = policy.generate([lab.prompt(x)], Sampling(n=1000, max_new_tokens=5, seed=2))[0]
    counts = np.bincount([lab.world.response_index(s.ids) for s in drawn], minlength=3906)
    law = best_of_n_law(np.exp(lab.reference[x]), lab.world.utilities[x], n)
    assert law_fits(counts, law) > FALSE_ALARM
    assert law_fits(counts, np.exp(lab.reference[x])) < 1e-6, "the test could not fail"
    for size in (1, 2, 4, 16, 64):
        spent = best_of_n_kl(np.exp(lab.reference), lab.world.utilities, size)
        assert (spent <= best_of_n_kl_bound(size) + 1e-9).all()


@pytest.mark.capability("T01")
def test_the_gain_of_best_of_n_stands_next_to_gibbs_at_equal_kl(lab):
    """From one pool of real samples per prompt: best-of-n gains, never more than Gibbs at the same KL (I6)."""
    prompts = [lab.prompt(x) for x in range(16)]
    drawn = lab.policy.generate(prompts, Sampling(n=64, max_new_tokens=5, seed=3))
    index = lab.world.response_index
    pools = [np.array([lab.world.utilities[x, index(s.ids)] for s in row]) for x, row in enumerate(drawn)]
    rows = curve(pools, [1, 2, 4, 16])
    exact = [best_of_n_kl(np.exp(lab.reference), lab.world.utilities, n).mean() for n in (1, 2, 4, 16)]
    for row, spent in zip(rows, exact):
        print({k: round(v, 4) for k, v in row.items()}, f"exact kl {spent:.4f}")
        assert row["pool_kl"] <= row["kl_bound"] + 1e-9 and spent <= row["kl_bound"] + 1e-9
        assert row["pool_gibbs"] >= row["pool_reward"] - 1e-9
    gains = [r["reward"] - rows[0]["reward"] for r in rows]
    assert gains[0] == 0 and (np.diff(gains) > 0).all()


def _at(group, x):
    return Group(id=str(x), prompt=group.prompt, responses=group.responses)


# -------------------------------------------------------------------------------------------------- context family


def test_a_value_instruction_conditions_a_model_that_knows_control_words(lab):
    """Reward with the good word > without > with the bad word, said by the wrapper; the plain question is unchanged."""
    good, bad = (6, 6, 6), (7, 7, 7)
    tables = {good: star(lab), bad: lab.world.target_log_probs(lab.reference, -lab.world.utilities, BETA)}
    model = lab.fit(lab.start, lab.reference, steps=60, controls=tables)
    policy = LocalPolicy(model, lab.policy.engine)
    sampling = Sampling(n=32, max_new_tokens=5, seed=4)

    def gold(settings):
        said = value_instruction(policy, Target(), ValueInstructionConfig(**settings))
        drawn = said.generate([lab.prompt(x) for x in range(16)], sampling)
        return np.array([
            np.mean([lab.world.utilities[x, lab.world.response_index(s.ids)] for s in row]) for x, row in enumerate(drawn)
        ])  # fmt: skip

    with_good, plain, with_bad = (
        gold({"text": "+++", "place": "after"}),
        gold({"mode": "q"}),
        gold({"text": "---", "place": "after"}),
    )
    print(
        f"\ngold with the good word {with_good.mean():.3f}, without {plain.mean():.3f}, with the bad one {with_bad.mean():.3f}"
    )
    for higher, lower in ((with_good, plain), (plain, with_bad)):
        gain = higher - lower
        assert gain.mean() - 1.96 * gain.std(ddof=1) / 4 > 0.3
    assert torch.equal(*(torch.as_tensor(v) for v in (plain, gold({"mode": "q", "text": "+++"}))))


# ------------------------------------------------------------------------------------------- what weights feedback


@whole
@pytest.mark.slow
@pytest.mark.real
def test_sft_on_drawn_demonstrations(lab):
    """Sampled mode: 16 x 1024 draws of pi* through `train_policy`; gap <= .05 + floor, or the measured one is told."""
    draws = lab.world.demonstrations(16384, seed=0, beta=BETA)
    groups = []
    for k in range(0, 16384, 64):
        x = draws.prompt[k : k + 64]
        for p in np.unique(x):
            y = draws.response[k : k + 64][x == p]
            shown = tuple(Demonstration(response=i) for i in range(len(y)))
            groups.append(Group(id=f"{p}-{k}", prompt=lab.prompt(int(p)), responses=lab.responses(y), feedback=shown))
    trained = lab.train(METHODS["sft"], groups, epochs=1, batch_size=64, learning_rate=3e-3)
    report = told("sft, drawn", lab.report(trained.policy.model))
    assert report.gap <= 0.1
