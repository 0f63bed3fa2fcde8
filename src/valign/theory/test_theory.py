"""Target, divergences, policy gradient, best-of-n, constraints, decoding, mixtures, Goodhart: goldens."""

import json
from pathlib import Path

import numpy as np
import pytest

from valign.theory import (
    Constraint,
    GibbsTarget,
    Target,
    bayes,
    best_of_n,
    constrained,
    decoding,
    divergence,
    goodhart,
    laws,
    mixtures,
    target,
)
from valign.theory import policy_gradient as pg
from valign.theory.worlds import SequenceWorld, TabularWorld, variants

ROOT = next(
    p for p in Path(__file__).resolve().parents if (p / "tests" / "fixtures" / "loss_goldens.json").exists()
)
DOCUMENT = json.loads((ROOT / "tests" / "fixtures" / "loss_goldens.json").read_text(encoding="utf-8"))
GOLDENS = {g["id"]: g for g in DOCUMENT["goldens"]}
ATOMS = {k: np.array(v) for k, v in DOCUMENT["fixtures"]["atoms"].items() if k != "about"}
NINE = {"rel": 1e-9, "abs": 1e-9}


def golden(name):
    case = GOLDENS[name]
    return case.get("inputs", {}), case.get("params", {}), case["expected"]


# the target


@pytest.mark.capability("F02")
def test_objective_decomposes_for_200_random_policies():
    rng = np.random.default_rng(0)
    world = TabularWorld()
    for x in range(4):
        one = GibbsTarget(world.log_reference[x], world.utilities[x], 0.5)
        q = laws.softmax(3 * rng.normal(size=(200, 8)))
        gap = one.optimum() - 0.5 * divergence.kl(q, one.gibbs()) - one.J(q)
        assert np.abs(gap).max() < 1e-10
        assert np.all(one.J(q) < one.optimum())


@pytest.mark.capability("F02")
def test_target_goldens():
    _, s, e = golden("target")
    one = GibbsTarget(np.log(ATOMS["reference"]), ATOMS["reward"], s["beta"])
    law = one.gibbs()
    assert law == pytest.approx(e["pi_star"], **NINE)
    assert one.optimum() == pytest.approx(e["value"], **NINE) and one.J(law) == pytest.approx(
        e["value"], **NINE
    )
    assert law @ ATOMS["reward"] == pytest.approx(e["expected_reward"], **NINE)
    assert divergence.kl(law, ATOMS["reference"]) == pytest.approx(e["kl"], **NINE)
    _, s, e = golden("target_ipo")
    assert target.win_probability(ATOMS["reward"], ATOMS["reference"]) == pytest.approx(
        e["win_probability"], **NINE
    )
    assert target.ipo_target(ATOMS["reference"], ATOMS["reward"], s["tau"]) == pytest.approx(e["pi"], **NINE)


def test_implicit_reward_is_the_reward_up_to_a_constant():
    one = GibbsTarget(np.log(ATOMS["reference"]), ATOMS["reward"], 0.5)
    assert np.ptp(one.implicit_reward(one.gibbs()) - ATOMS["reward"]) < 1e-12
    assert one.at_strength(0.0) == pytest.approx(ATOMS["reference"])
    assert one.at_strength(1e4)[4] == pytest.approx(1)
    shifted = GibbsTarget(one.log_reference, ATOMS["reward"] + 7, 0.5)
    assert shifted.gibbs() == pytest.approx(one.gibbs(), abs=1e-14)


def test_target_over_callables_with_a_constraint():
    words = ["a", "ab", "b"]
    one = Target(
        lambda x, y: float(len(y)),
        lambda x, y: 0.0,
        0.5,
        (Constraint(lambda x, y: float("b" in y), 0.5, 2.0),),
    )
    assert one.log_weight("x", "ab") == pytest.approx((2 - 2) / 0.5)
    listed = one.over("x", words)
    assert listed.gibbs() == pytest.approx(laws.softmax(np.array([1, 0, -1]) / 0.5))


def test_soft_values_of_a_prefix():
    world = SequenceWorld()
    one = GibbsTarget(world.log_reference, world.utilities, 0.5, world.response_list)
    assert one.soft_value(()) == pytest.approx(one.optimum())
    assert one.soft_value((1, 0)) == pytest.approx(world.utilities[:, world.response_index((1, 0))])
    tree = world.tree()
    values = decoding.soft_values(tree, world.reference_table(), world.utilities, 0.5)
    assert one.soft_value((1, 5)) == pytest.approx(values[:, tree.index[1, 5]])
    with pytest.raises(KeyError):
        one.soft_value((0, 1))


def test_bad_targets_are_refused():
    with pytest.raises(ValueError, match="beta"):
        target.gibbs([0.5, 0.5], [0.0, 1.0], 0.0)
    with pytest.raises(ValueError, match="normalized"):
        GibbsTarget(np.zeros(3), np.zeros(3), 1.0)
    with pytest.raises(ValueError, match="reaches"):
        target.filtered([0.5, 0.5], [0.0, 0.0], 1.0)
    with pytest.raises(ValueError):
        Constraint(lambda x, y: 0.0, 0.1, -1.0)


# divergences and laws


def test_kl_golden_of_the_notes():
    p, q = laws.softmax([0, 0.5, -1, 0.3, 0.8]), laws.softmax([0.2, -0.4, 0.6, 0, 0.1])
    six = [divergence.kl(p, q), divergence.kl(q, p), p @ divergence.k2(np.log(p), np.log(q))]
    six += [p @ divergence.k3(np.log(p), np.log(q)), divergence.jsd(p, q)]
    assert six == pytest.approx([0.278502, 0.379540, 0.225176, 0.278502, 0.075790], abs=1e-6)


def test_kl_estimator_goldens():
    _, _, e = golden("kl_estimators")
    p, q = laws.softmax(ATOMS["policy_logits"]), ATOMS["reference"]
    for name in ("k1", "k2", "k3"):
        values = getattr(divergence, name)(np.log(p), np.log(q))
        assert values == pytest.approx(e[name], **NINE) and p @ values == pytest.approx(
            e[f"e_{name}"], **NINE
        )


def test_kl_gradient_goldens():
    """A KL coefficient pulls by minus the stated gradient; one decision, five outcomes."""
    _, _, e = golden("kl_gradients")
    p, q = laws.softmax(ATOMS["policy_logits"]), ATOMS["reference"]
    for row, key in {
        "k2_seq": "k2_in_loss",
        "k3_seq": "k3_in_loss",
        "k3_token": "k3_in_loss",
        "ratio_k1": "ratio_k1_in_loss",
        "ratio_k3": "ratio_k3_in_loss",
        "in_reward": "grad_kl_policy_reference",
    }.items():
        c = pg.kl_coefficients(row, np.log(p)[:, None], np.log(q)[:, None])[:, 0]
        assert (p * c) @ laws.score_rows(p) == pytest.approx(-np.array(e[key]), abs=1e-9)
    assert np.allclose(pg.kl_coefficients("none", np.log(p)[:, None], np.log(q)[:, None]), 0)


def test_k1_as_a_loss_term_is_refused():
    with pytest.raises(ValueError, match="k1"):
        pg.kl_coefficients("k1", [[-1.0]], [[-1.0]])
    with pytest.raises(ValueError, match="none of"):
        pg.kl_loss_value("kl3", [-1.0], [-1.0])


def test_loss_values_of_the_kl_rows():
    policy, reference = np.array([-1.0, -2.0]), np.array([-1.5, -1.0])
    d = reference - policy
    assert pg.kl_loss_value("k2_seq", policy, reference) == pytest.approx(0.5 * 0.5**2)
    assert pg.kl_loss_value("k3_token", policy, reference) == pytest.approx(np.sum(np.exp(d) - 1 - d))
    assert pg.kl_loss_value("ratio_k1", policy, reference) == pytest.approx(-0.5)


def test_jsd_and_entropy_goldens():
    i, _, e = golden("jsd")
    assert [divergence.jsd(i["p"], i["q"], b) for b in (0.5, 0.1, 0.9)] == pytest.approx(
        [e["b_0_5"], e["b_0_1"], e["b_0_9"]], **NINE
    )
    i, _, e = golden("entropy")
    assert laws.entropy(laws.softmax(i["logits"])) == pytest.approx(e["entropy"], **NINE)
    assert divergence.kl([1.0, 0.0], [0.5, 0.5]) == pytest.approx(np.log(2))
    assert divergence.kl([0.5, 0.5], [1.0, 0.0]) == np.inf


def test_sampling_law_goldens():
    i, s, e = golden("sampling_law")
    assert laws.sampling_law(i["logits"], s["temperature"]) == pytest.approx(e["temperature"], **NINE)
    cut = laws.sampling_law(i["logits"], s["temperature"], top_p=s["top_p"])
    assert cut == pytest.approx(e["temperature_top_p"], **NINE)
    assert laws.sampling_law(i["logits"], top_k=s["top_k"]) == pytest.approx(e["top_k"], **NINE)
    assert laws.sampling_law(i["logits"], min_p=s["min_p"]) == pytest.approx(e["min_p"], **NINE)
    with pytest.raises(ValueError):
        laws.sampling_law(i["logits"], temperature=0.0)


@pytest.mark.parametrize("name", list(divergence.F_DIVERGENCES))
def test_f_divergences_are_consistent(name):
    """f(1) = 0, the slope is f', the curvature is u f'', the inverse inverts the slope."""
    f, u, step = divergence.F_DIVERGENCES[name], np.linspace(0.2, 4, 30), 1e-5
    assert f.value(np.ones(1)) == pytest.approx(0, abs=1e-12)
    drift = (f.value(u + step) - f.value(u - step)) / (2 * step) - f.slope(u)
    assert np.ptp(drift) < 1e-6  # slopes may differ by a constant: it does not move the optimum
    assert u * (f.slope(u + step) - f.slope(u - step)) / (2 * step) == pytest.approx(f.curvature(u), rel=1e-6)
    assert f.inverse(f.slope(u)) == pytest.approx(u)
    law = divergence.f_divergence(laws.softmax([0.0, 1.0, 2.0]), laws.softmax([0.5, 0.0, 0.0]), f)
    assert law > 0


# policy gradient


def test_advantage_goldens():
    i, _, e = golden("advantage_group")
    assert pg.group_advantage(i["rewards"]) == pytest.approx(e["unbiased_std_eps_1e_4"], **NINE)
    assert pg.group_advantage(i["rewards"], "biased") == pytest.approx(e["biased_std_eps_1e_4"], **NINE)
    assert pg.group_advantage(i["rewards"], eps=1e-6) == pytest.approx(e["unbiased_std_eps_1e_6"], **NINE)
    assert pg.group_advantage(i["rewards"], "none") == pytest.approx(e["no_std"], **NINE)
    assert np.all(pg.group_advantage(i["rewards_all_equal"], eps=1e-12) == 0)
    i, _, e = golden("advantage_rloo")
    assert pg.rloo_advantage(i["rewards"]) == pytest.approx(e["advantage"], **NINE)
    i, _, e = golden("advantage_remax")
    assert pg.remax_advantage(i["rewards"], i["reward_greedy"]) == pytest.approx(e["advantage"], **NINE)
    i, _, e = golden("advantage_opo")
    assert pg.opo_advantage(i["rewards"], i["lengths"]) == pytest.approx(e["advantage"], **NINE)
    i, s, e = golden("advantage_gdpo")
    assert pg.gdpo_advantage(i["rewards"], s["eps"]) == pytest.approx(e["per_reward_then_sum"], **NINE)
    summed = pg.group_advantage(np.sum(i["rewards"], 0), eps=s["eps"])
    assert summed == pytest.approx(e["sum_then_normalize"], **NINE)
    i, s, e = golden("advantage_batch_norm")
    assert pg.batch_norm_advantage(i["rewards"], s["eps"]) == pytest.approx(np.array(e["advantage"]), **NINE)
    with pytest.raises(ValueError):
        pg.group_advantage(i["rewards"], "robust")
    with pytest.raises(ValueError):
        pg.rloo_advantage([1.0])


def test_reward_and_value_goldens():
    i, s, e = golden("overlong_penalty")
    assert pg.overlong_penalty(i["lengths"], **s) == pytest.approx(e["penalty"], **NINE)
    i, s, e = golden("kl_shaped_rewards")
    assert pg.kl_shaped_rewards(**i, **s) == pytest.approx(e["rewards"], **NINE)
    for name in ("gae", "gae_lambda_1", "gae_lambda_0"):
        i, s, e = golden(name)
        for suffix in ("", "_b"):
            found = pg.gae(i["rewards" + suffix], i["values" + suffix], **s)
            assert found[0] == pytest.approx(e["advantage" + suffix], **NINE)
            assert found[1] == pytest.approx(e["returns" + suffix], **NINE)
    i, s, e = golden("value_loss")
    assert pg.value_loss(**i, clip=s["clip"]) == pytest.approx(e["clipped"], **NINE)
    assert pg.value_loss(**i, clip=None) == pytest.approx(e["unclipped"], **NINE)
    i, s, e = golden("whitening")
    assert pg.whiten(i["x"], eps=s["eps"]) == pytest.approx(e["biased"], **NINE)
    assert pg.whiten(i["x"], std="unbiased", eps=s["eps"]) == pytest.approx(e["unbiased"], **NINE)
    assert pg.whiten(i["x"], i["mask"], eps=s["eps"]) == pytest.approx(e["masked_biased"], **NINE)
    i, s, e = golden("adaptive_kl")
    assert [pg.adaptive_kl(1.0, k, **s) for k in i["kl"]] == pytest.approx(e["multiplier"], **NINE)
    i, s, e = golden("truncated_importance")
    assert pg.truncated_importance(**i, **s) == pytest.approx(e["weights"], **NINE)


def test_clip_table():
    _, s, e = golden("clip_table")
    for row in e["rows"]:
        ratio, a = np.log(row["ratio"]), row["advantage"]
        assert pg.clipped_loss(ratio, 0.0, a, **s) == pytest.approx(row["loss"], **NINE)
        slope = -row["ratio"] * a * pg.is_unclipped(row["ratio"], a, **s)
        assert slope == pytest.approx(row["grad_log_prob"], **NINE)


@pytest.mark.parametrize(
    "name", ["ppo_token_mean", "ppo_sequence_mean", "ppo_constant_length", "ppo_clip_higher", "ppo_dual_clip"]
)
@pytest.mark.parametrize("fixture", ["tokens", "tokens_uneven"])
def test_aggregation_goldens(name, fixture):
    case = GOLDENS[name if fixture == "tokens" else f"{name}@{fixture}"]
    f, s = DOCUMENT["fixtures"][fixture], dict(case["params"])
    length = s.pop("max_length", None)
    loss = pg.clipped_loss(f["policy"], f["old"], np.array(f["advantage"])[:, None], **s)
    reduce = {"ppo_sequence_mean": "sequence_mean", "ppo_constant_length": "constant_length"}.get(
        name, "token_mean"
    )
    assert pg.aggregate(loss, f["mask"], reduce, length) == pytest.approx(case["expected"]["loss"], **NINE)


def test_aggregation_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="reduction"):
        pg.token_weights([[1]], "mean")
    with pytest.raises(ValueError, match="max_length"):
        pg.token_weights([[1]], "constant_length")
    assert pg.aggregate([[1.0, np.inf]], [[1, 0]], "token_mean") == 1


# best of n


def test_best_of_n_goldens():
    i, _, e = golden("bon_kl_bound")
    assert best_of_n.best_of_n_kl_bound(i["n"]) == pytest.approx(e["bound"], **NINE)
    _, _, e = golden("bon_law")
    for n in (2, 4, 16):
        law = best_of_n.best_of_n_law(ATOMS["reference"], ATOMS["reward"], n)
        assert law == pytest.approx(e["law"][str(n)], **NINE)
        assert best_of_n.best_of_n_kl(ATOMS["reference"], ATOMS["reward"], n) == pytest.approx(
            e["kl"][str(n)], **NINE
        )
        value = best_of_n.best_of_n_value(ATOMS["reference"], ATOMS["reward"], n)
        assert value == pytest.approx(e["expected_reward"][str(n)], **NINE)
    i, _, e = golden("bon_uniform")
    assert best_of_n.expected_uniform_maximum(i["n"]) == pytest.approx(e["value"], **NINE)
    i, _, e = golden("bon_estimator")
    for n, value in e["value"].items():
        assert best_of_n.estimate_best_of_n(i["rewards"], int(n)) == pytest.approx(value, **NINE)
    i, _, e = golden("pass_at_k")
    found = [best_of_n.pass_at_k(*row) for row in zip(i["n"], i["c"], i["k"])]
    assert found == pytest.approx(e["value"], **NINE)


def test_best_of_n_shares_ties_by_the_reference():
    law = best_of_n.best_of_n_law([0.5, 0.3, 0.2], [0.0, 1.0, 1.0], 2)
    assert law == pytest.approx([0.25, 0.45, 0.30])
    assert best_of_n.best_of_n_kl([0.4, 0.6], [1.0, 1.0], 8) == pytest.approx(0)
    assert best_of_n.estimate_best_of_n(np.arange(3000.0), 1500) > 2997  # binomials beyond float64
    for bad in (
        lambda: best_of_n.best_of_n_law([1.0], [0.0], 0),
        lambda: best_of_n.pass_at_k(3, 4, 1),
        lambda: best_of_n.estimate_best_of_n([1.0], 2),
    ):
        with pytest.raises(ValueError):
            bad()


# constraints


def test_constrained_goldens():
    _, s, e = golden("target_constrained")
    arrays = ATOMS["reference"], ATOMS["reward"], ATOMS["cost"]
    found = constrained.constrained_optimum(*arrays, s["beta"], s["limit"])
    assert found.multiplier == pytest.approx(e["lam"], **NINE) and found.law == pytest.approx(e["pi"], **NINE)
    assert found.cost == pytest.approx(e["expected_cost"], **NINE)
    slack = constrained.constrained_optimum(*arrays, s["beta"], 2.0)
    assert slack.multiplier == 0 and slack.cost == pytest.approx(e["unconstrained_cost"], **NINE)
    i, s, e = golden("lagrange_dual")
    multiplier, trace = s["start"], []
    for cost in i["mean_costs"]:
        multiplier = constrained.dual_step(multiplier, s["rate"], cost, s["limit"])
        trace.append(multiplier)
    assert trace == pytest.approx(e["lam"], **NINE)
    assert constrained.log_dual_step(2.0, 0.1, 0.5, 0.25) == pytest.approx(2 * np.exp(0.05))
    with pytest.raises(ValueError):
        constrained.log_dual_step(0.0, 0.1, 0.5, 0.25)


def test_several_constraints_and_the_reverse_problem():
    reference, reward, cost = ATOMS["reference"], ATOMS["reward"], ATOMS["cost"]
    one = constrained.constrained_optimum(reference, reward, cost, 0.5, 0.35)
    law, multipliers = constrained.several_constraints(
        reference, reward, np.stack([cost, np.array([0.0, 0, 0, 0, 1.0])]), 0.5, [0.35, 0.9]
    )
    assert multipliers == pytest.approx([one.multiplier, 0], abs=1e-5) and law == pytest.approx(
        one.law, abs=1e-6
    )
    back = constrained.least_cost(reference, reward, cost, 0.5 / one.multiplier, one.reward)
    assert back.law == pytest.approx(one.law, abs=1e-9) and back.multiplier == pytest.approx(
        1 / one.multiplier
    )
    with pytest.raises(ValueError, match="out of reach"):
        constrained.constrained_optimum(reference, reward, cost, 0.5, -0.1)
    step, law = 1e-6, lambda m: target.gibbs(reference, reward - m * cost, 0.5)
    slope = (law(1 + step) @ cost - law(1 - step) @ cost) / (2 * step)
    assert constrained.cost_slope(law(1.0), cost, 0.5) == pytest.approx(slope, abs=1e-7)


# decoding, mixtures, context


def test_prefix_tree():
    tree = decoding.PrefixTree([(1, 0), (2, 1, 0), (2, 2, 0)])
    assert tree.prefixes[0] == () and len(tree.prefixes) == 8
    law = np.array([0.5, 0.3, 0.2])
    assert tree.sum_up(law)[tree.index[2,]] == pytest.approx(0.5)
    assert np.exp(tree.multiply_down(tree.token_log_probs(law))) == pytest.approx(law)
    assert decoding.step_log_law(tree, law, (2,), (1, 2, 5)) == pytest.approx(
        [np.log(0.6), np.log(0.4), -np.inf]
    )
    with pytest.raises(ValueError):
        decoding.PrefixTree([(1,), (1, 0)])


def test_soft_values_survive_large_rewards():
    tree = decoding.PrefixTree([(1, 0), (2, 0)])
    values = decoding.soft_values(tree, [0.5, 0.5], [1000.0, 999.0], 0.5)
    assert values[0] == pytest.approx(1000 + 0.5 * np.log(0.5 * (1 + np.exp(-2))))


def test_token_form_equals_sequence_form_for_one_law_only():
    world = SequenceWorld()
    tree, law = world.tree(), world.reference_table()
    assert np.abs(decoding.token_geometric_law(tree, law[None], [1.0]) - law).max() < 1e-14
    both = np.stack([law, np.exp(world.target_log_probs())])
    assert mixtures.token_form_gap(tree, both, [-1.0, 2.0]).min() > 1e-3


def test_proxy_tuning_is_gibbs_on_the_base():
    rng = np.random.default_rng(0)
    base, a, b = laws.softmax(rng.normal(size=(3, 6)))
    expected = target.gibbs(base, np.log(a / b), 1 / 0.7)
    assert mixtures.proxy_tuned(base, a, b, 0.7) == pytest.approx(expected)


def test_posterior_by_hand():
    concepts = np.array([[0.9, 0.1], [0.2, 0.8]])
    belief = bayes.posterior([0.5, 0.5], concepts, [0, 0, 1])
    odds = 0.9 * 0.9 * 0.1 / (0.2 * 0.2 * 0.8)
    assert belief == pytest.approx([odds / (1 + odds), 1 / (1 + odds)])
    assert bayes.predictive([0.5, 0.5], concepts, []) == pytest.approx([0.55, 0.45])
    scores = bayes.selection_score(concepts[0], [0.55, 0.45], [[0, 0], [1, 1]])
    assert scores[0] > 0 > scores[1]
    sharper = bayes.conditioned([0.5, 0.5], [0.8, 0.2], guidance=2.0)
    assert sharper == pytest.approx([16 / 17, 1 / 17])


# Goodhart


def test_the_alarm_fires_past_the_peak_and_not_before():
    """Rollouts of 64 per prompt, 400 prompts; each statement fails by chance in less than 1 of 1000."""
    world, rng = TabularWorld(), np.random.default_rng(0)
    peak = goodhart.gold_peak(world.reference_table(), world.proxies, world.utilities)

    def alarm(strength):
        law = target.at_strength(world.reference_table(), world.proxies, strength)
        x = np.repeat(np.arange(4), 100)
        picks = np.stack([rng.choice(8, size=64, p=law[i]) for i in x])
        return goodhart.covariance_alarm(world.utilities[x[:, None], picks], world.proxies[x[:, None], picks])

    assert not alarm(peak.strength / 3).fires and alarm(3 * peak.strength).fires
    early = alarm(peak.strength / 3)
    exact = np.mean(
        target.strength_slope(world.reference_table(), world.proxies, peak.strength / 3, world.utilities)
    )
    assert early.low - 0.05 < exact < early.high + 0.05
    with pytest.raises(ValueError):
        goodhart.covariance_alarm([[1.0]], [[1.0]])


def test_an_honest_proxy_has_no_peak():
    world = TabularWorld()
    assert goodhart.gold_peak(world.reference_table(), world.utilities, world.utilities, maximum=20) is None
    regressional = variants.proxy_regressional(world)
    points = [
        goodhart.gold_point(world.reference_table(), regressional, world.utilities, s) for s in (0, 1, 3)
    ]
    assert points[0].kl < points[1].kl < points[2].kl and points[0].gold < points[1].gold


def test_square_root_law_recovers_its_constants():
    kl = np.linspace(0.5, 9, 30)
    d = np.sqrt(kl)
    assert goodhart.fit_square_root_law(kl, d * (1.2 - 0.3 * d), "best_of_n") == pytest.approx((1.2, 0.3))
    assert goodhart.fit_square_root_law(kl, d * (1.2 - 0.3 * np.log(d)), "rl") == pytest.approx((1.2, 0.3))
    with pytest.raises(ValueError):
        goodhart.fit_square_root_law(kl, d, "sft")
