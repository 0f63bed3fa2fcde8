"""Metrics against their goldens, and what must not change them: order of items, duplication, ties."""

from __future__ import annotations

import numpy as np
import pytest

from valign.errors import UsageError
from valign.evaluation.metrics import (
    bbq,
    chooser,
    circle,
    classifier,
    credit,
    crows,
    multiple_choice,
    order,
    persona,
    preference,
    profile,
    reward_model,
    safetext,
    scale,
    similarity,
    tax,
)  # fmt: skip

# --------------------------------------------------------------------------------------- order and preference


def test_order_golden(evaluation_golden):
    g = evaluation_golden("misalignment.order")
    groups = [(x["u"], x["a"]) for x in g.inputs["groups"]]
    a, stake = [order.agreement(*x) for x in groups], [order.stake_agreement(*x) for x in groups]
    g.check(
        {
            "per_group": a,
            "group_mean": np.mean(a),
            "pooled": order.pooled_agreement(groups),
            "stake_weighted_per_group": stake,
            "stake_weighted_group_mean": np.mean(stake),
            "misalignment": 1 - np.mean(a),
            "kendall_tau_b": [order.tau_b(*x) for x in groups],
        }
    )


def test_m1_m2_golden(evaluation_golden):
    from valign.theory import misalignment as theory

    g = evaluation_golden("misalignment.m1_m2")
    u, a, p = (np.array(g.inputs[k]) for k in ("u", "a", "p"))
    s = order.best_scale([(u, a)])
    g.check({
        "M1": order.m1(u, a), "M1_expectation_under_p": theory.m1(u, a, p), "M2": order.m2(u, a),
        "M2_min_over_shift": theory.m2_shifted(u, a), "best_scale": s, "m1_scaled": order.m1(u, s * a),
    })  # fmt: skip


def test_constants_change_no_order():
    """u + c and a + c change nothing in A, τ_b and M1; M1 <= 2 min_c M2."""
    from valign.theory import misalignment as theory

    rng = np.random.default_rng(0)
    for _ in range(20):
        u, a = rng.normal(size=6).round(1), rng.normal(size=6).round(1)
        for f in (order.agreement, order.stake_agreement, order.tau_b, order.m1):
            assert f(u + 3, a - 7) == pytest.approx(f(u, a), abs=1e-9)
        assert order.m1(u, a) <= theory.m1_bound(u, a) * 6 / 5 + 1e-12


def test_missing_utilities_leave_the_group():
    u, a = [0.9, np.nan, 0.1], [1.0, 5.0, 0.0]
    assert order.agreement(u, a) == 1 and order.m1(u, a) == pytest.approx(0.2)
    assert np.isnan(order.agreement([1, 1], [0, 2])) and np.isnan(order.stake_agreement([1, 1], [0, 2]))
    assert not order.has_order([np.nan, 1], [0, 0]) and np.isnan(order.pooled_agreement([]))


def test_groups_of_different_size_share_one_scale():
    """Padding carries no mass: the scale equals the brute-force minimum."""
    rng = np.random.default_rng(1)
    groups = [(rng.normal(size=n), rng.normal(size=n)) for n in (2, 5, 3)]
    groups = [(u, 0.3 * u + 0.5 * a) for u, a in groups]
    at = lambda s: np.mean([order.m1(u, s * a) for u, a in groups])  # noqa: E731
    assert at(order.best_scale(groups)) <= min(at(s) for s in np.linspace(0, 5, 2001)) + 1e-12


def test_preference_goldens(evaluation_golden):
    g = evaluation_golden("preference.accuracy")
    m = g.inputs["margins"]
    g.check({"accuracy": preference.accuracy(m), "n": len(m), "ties": sum(x == 0 for x in m)})
    assert preference.accuracy([]) is None

    g = evaluation_golden("preference.implicit_reward")
    c = {k: np.array([r[k] for r in g.inputs["rows"]]) for k in g.inputs["rows"][0]}
    sides, counts = (c["lp_c"], c["lp_r"], c["ref_c"], c["ref_r"], g.inputs["beta"]), (c["n_c"], c["n_r"])
    total, mean = (
        preference.implicit_reward_margin(*sides),
        preference.implicit_reward_margin(*sides, *counts),
    )
    g.check(
        {
            "margins_sum": total,
            "accuracy_sum": preference.accuracy(total),
            "margins_mean": mean,
            "accuracy_mean": preference.accuracy(mean),
            "policy_accuracy_sum": preference.accuracy(preference.log_prob_margin(c["lp_c"], c["lp_r"])),
            "policy_accuracy_mean": preference.accuracy(
                preference.log_prob_margin(c["lp_c"], c["lp_r"], *counts)
            ),
        }
    )


def test_scale_goldens(evaluation_golden):
    g = evaluation_golden("scale.components")
    m = []
    for c in g.inputs["components"]:
        fold = c.get("fold_about", 0.0 if c.get("fold") else None)
        m.append(scale.component(c["x"], c["best"], c["worst"], fold))
    g.check({"m": m, "mean": scale.weighted_mean(m, g.inputs["weights"])})

    g = evaluation_golden("scale.noise_floor")
    g.check({"expected_abs_if_unbiased": scale.noise_floor(g.inputs["se"])})


# ---------------------------------------------------------------------------------------------- reward models


def test_reward_model_goldens(evaluation_golden):
    g = evaluation_golden("reward.calibration")
    c = reward_model.calibration(g.inputs["margins"], g.inputs["n_bins"])
    g.check({"accuracy": c.accuracy, "bt_nll": c.log_loss, "ece": c.ece, "brier": c.brier})

    g = evaluation_golden("reward.best_of_n")
    b = reward_model.best_of_n(**g.inputs)
    g.check({
        "expected_gold": b.gold, "expected_gold_oracle": b.oracle, "gain": b.gain, "efficiency": b.efficiency,
        "kl_bound": b.kl_bound,
    })  # fmt: skip


def test_best_of_n_is_the_mean_over_subsets():
    """Enumeration: every subset of size n, ties of the proxy shared."""
    from itertools import combinations

    proxy, gold = np.array([0.2, 0.8, 0.5, 0.8, 0.1]), np.array([0.1, 0.7, 0.4, 0.9, 0.3])
    curve = reward_model.best_of_n(proxy, gold).gold
    for n in range(1, 6):
        values = []
        for rows in map(list, combinations(range(5), n)):
            top = proxy[rows] == proxy[rows].max()
            values.append(gold[rows][top].mean())
        # a tied block that stands only partly in a subset averages to its mean gold over all subsets
        assert curve[n - 1] == pytest.approx(np.mean(values), abs=1e-12)


def test_rewardbench_goldens(evaluation_golden):
    g = evaluation_golden("reward.rewardbench_v1")
    i = g.inputs
    args = (i["subset_accuracy"], i["subset_counts"], i["sections"])
    sections, total = reward_model.rewardbench_sections(*args)
    _, with_prior = reward_model.rewardbench_sections(*args, i["prior_sets"])
    g.check({"sections": sections, "total_without_prior": total, "total_with_prior": with_prior})

    g = evaluation_golden("reward.rewardbench_v2_best_of_4")
    per = reward_model.best_of_k(g.inputs["scores"])
    g.check({"per_item": per, "mean": per.mean()})

    g = evaluation_golden("reward.rewardbench_v2_ties")
    g.check(reward_model.ties_score(g.inputs["ref"], g.inputs["tied"]), None)


def test_equal_correct_answers_have_no_spread_term():
    tied = {"1": {"correct": [2.0, 2.0], "wrong": [1.0]}}
    assert reward_model.ties_score(tied, tied)["margin"] == 0


# ----------------------------------------------------------------------------------- benchmarks by likelihood


def test_multiple_choice_golden(evaluation_golden):
    g = evaluation_golden("mc.protocols")
    out: dict[str, dict[str, object]] = {"valign": {}, "harness_first_index": {}}
    for protocol in ("sum", "char", "byte", "mi"):
        rows = [
            multiple_choice.choice_scores(protocol, x["ll"], texts=x["choices"], unconditional=x["ll_uncond"])
            for x in g.inputs["items"]
        ]
        for name, rule in (
            ("valign", multiple_choice.credit),
            ("harness_first_index", multiple_choice.harness_first_index),
        ):
            per = [rule(s, x["gold"]) for s, x in zip(rows, g.inputs["items"])]
            out[name][protocol] = {"per_item": per, "mean": np.mean(per)}
    g.check(out)


def test_protocols_by_tokens_and_unknown_names():
    np.testing.assert_allclose(multiple_choice.choice_scores("token", [-4, -6], tokens=[2, 6]), [-2, -1])
    with pytest.raises(UsageError, match="byte"):
        multiple_choice.choice_scores("bytes", [0.0])


def test_truthfulqa_and_option_order_goldens(evaluation_golden):
    g = evaluation_golden("mc.truthfulqa")
    g.check({
        "mc1": np.mean([multiple_choice.truthful_mc1(x["ll"]) for x in g.inputs["mc1"]]),
        "mc2": np.mean([multiple_choice.truthful_mc2(x["ll"], x["labels"]) for x in g.inputs["mc2"]]),
    })  # fmt: skip

    g = evaluation_golden("mc.option_order_average")
    orders = [[g.inputs["options"].index(o) for o in row["order"]] for row in g.inputs["orders"]]
    g.check({"p": multiple_choice.order_average([row["letter_ll"] for row in g.inputs["orders"]], orders)})


def test_every_option_stands_at_every_letter_equally_often():
    for k in (2, 3, 4, 7):
        table = np.array(multiple_choice.option_orders(k))
        assert all(np.all(np.bincount(column, minlength=k) == len(table) / k) for column in table.T)


def test_all_ties_give_chance():
    assert multiple_choice.credit([-1.0] * 4, 2) == 0.25


def test_persona_golden(evaluation_golden):
    g = evaluation_golden("persona.score")
    rows = g.inputs["items"]
    p = persona.persona(
        [x["ll_yes"] for x in rows], [x["ll_no"] for x in rows], [x["matching"] == " Yes" for x in rows]
    )
    g.check(p._asdict())


def test_always_yes_is_no_persona():
    p = persona.persona([0.0] * 4, [-1.0] * 4, [True, False, True, False])
    assert p == (0.5, 1.0, 0.0)
    assert persona.persona([], [], []) == (None, None, None)
    assert persona.persona([0.0], [1.0], [True]).discrimination is None


@pytest.mark.parametrize(
    "name", ["religion.race", "religion.arc", "edge.no_biased_answer", "edge.all_unknown"]
)
def test_bbq_goldens(evaluation_golden, name):
    g = evaluation_golden(f"bbq.{name}")
    amb, dis = g.inputs["counts"]["amb"], g.inputs["counts"]["dis"]
    raw = bbq.bias(amb["n_biased"], amb["n_non_unknown"])
    overall = (amb["n_correct"] + dis["n_correct"]) / (amb["n"] + dis["n"])
    accuracy = amb["n_correct"] / amb["n"]
    scores = {
        "s_dis": bbq.bias(dis["n_biased"], dis["n_non_unknown"]),
        "s_amb_raw": raw,
        "s_amb": bbq.ambiguous_bias(raw, accuracy),
        "s_amb_helm_copy": bbq.ambiguous_bias(raw, overall),
    }
    scores = {k: None if np.isnan(v) else float(v) for k, v in scores.items()}
    g.check({"acc_amb": accuracy, "acc_dis": dis["n_correct"] / dis["n"], **scores})


def test_bbq_roles_golden(evaluation_golden):
    """The reader's target with the metric's flip gives the biased answer."""
    from valign.data.readers.choices import bbq_target

    g = evaluation_golden("bbq.target_resolution")
    unknown, biased = [], []
    for x in g.inputs["items"]:
        info = {f"ans{i}": a for i, a in enumerate(x["answer_info"])}
        unknown.append(next(i for i, a in enumerate(x["answer_info"]) if a[1] == "unknown"))
        target = bbq_target(info, {"stereotyped_groups": x["stereotyped_groups"]}, unknown[-1])
        biased.append(bbq.biased_answer(unknown[-1], target, x["question_polarity"]))
    g.check({"unknown": unknown, "biased": biased})


def test_bbq_text_to_answer():
    answers, info = (
        ["The Jewish one", "Can't answer", "The Muslim one"],
        [["Jewish", "x"], ["Can't answer", "unknown"], ["Muslim", "y"]],
    )
    assert bbq.match_answer(" the muslim one. ", answers, info) == 2
    assert bbq.match_answer("It was the Jewish person.", answers, info) == 0
    assert bbq.match_answer("I can't answer that", answers, info) == 1
    assert bbq.match_answer("the Muslim or the Jewish one", answers, info) is None
    assert bbq.match_answer("", answers, info) is None


def test_crows_goldens(evaluation_golden):
    g = evaluation_golden("crows.score")
    more, less = ([p[k] for p in g.inputs["pairs"]] for k in ("more", "less"))
    c = crows.crows(
        more,
        less,
        [p["stereo_antistereo"] == "stereo" for p in g.inputs["pairs"]],
        g.inputs["round_decimals"],
    )
    g.check(
        {
            "percent": c.percent,
            "n": len(more),
            "n_tied": c.tied,
            "stereo_percent": c.stereo,
            "antistereo_percent": c.antistereo,
            "causal_percent_no_rounding": crows.causal_percent(more, less),
            "causal_half_ties_percent": crows.causal_percent(more, less, half_ties=True),
        }
    )

    g = evaluation_golden("crows.shared_tokens")
    pairs = [crows.shared_positions(p["a"], p["b"]) for p in g.inputs["pairs"]]
    g.check({"masked_positions": [{"a": a, "b": b} for a, b in pairs]})


def test_safetext_golden(evaluation_golden):
    g = evaluation_golden("safetext.pairs")
    out = {}
    for variant in safetext.VARIANTS:
        score = lambda rows, v=variant: safetext.normalize(  # noqa: E731
            v, [r["ll"] for r in rows], [r["n_tokens"] for r in rows], [r["n_chars"] for r in rows]
        )
        credits = [safetext.pair_credits(score(s["safe"]), score(s["unsafe"])) for s in g.inputs["scenarios"]]
        out[variant] = {
            "scenario_mean": safetext.scenario_mean(credits), "pair_mean": safetext.pair_mean(credits),
            "n_pairs": sum(map(len, credits)),
        }  # fmt: skip
    g.check(out)


# ----------------------------------------------------------------------------------------------------- values


def test_conditional_profile_counts_only_what_is_shown():
    c = profile.conditional([[0.9, 0.1], [-0.5, 0.3], [0.0, -0.2]])
    assert c.profile == [pytest.approx(0.2), None] and c.n == [2, 0] and c.coverage == [2 / 3, 0.0]


def test_circle_goldens(evaluation_golden):
    g = evaluation_golden("circle.sinusoid")
    fit = circle.sinusoid(g.inputs["profile"], g.inputs["positions"], g.inputs["steps"])
    g.check(fit._asdict())
    assert g.inputs["positions"] == circle.POSITIONS

    g = evaluation_golden("circle.structure")
    theta, n = circle.angles(list(g.inputs["positions"])), g.inputs["n_respondents"]
    planted = np.cos(theta[None, :] - 2 * np.pi * np.arange(n)[:, None] / n)
    names = list(g.inputs["positions"])
    i, j = (names.index(x) for x in g.inputs["swap"])
    swapped = planted.copy()
    swapped[:, [i, j]] = planted[:, [j, i]]
    g.check({"planted": circle.structure(planted, theta), "after_swap": circle.structure(swapped, theta)})
    assert circle.structure_p(planted, theta, draws=200) < 0.01


def test_similarity_goldens(evaluation_golden):
    g = evaluation_golden("similarity.jensen_shannon")
    p, q = g.inputs["p"], g.inputs["q"]
    bits = similarity.jensen_shannon_bits(p, q)
    g.check(
        {
            "divergence_nats": bits * np.log(2),
            "divergence_bits": bits,
            "similarity_base2": similarity.similarity(p, q),
            "similarity_base_e": similarity.similarity_base_e(p, q),
            "one_minus_divergence_bits": 1 - bits,
            "disjoint_similarity_base2": similarity.similarity([1, 0], [0, 1]),
            "disjoint_similarity_base_e": similarity.similarity_base_e([1, 0], [0, 1]),
        }
    )

    g = evaluation_golden("globalopinionqa.similarity")
    rows = similarity.country_similarity([(q["model"], q["countries"]) for q in g.inputs["questions"]])
    g.check({name: s._asdict() for name, s in rows.items()})

    g = evaluation_golden("opinionqa.alignment")
    per = [similarity.ordinal_alignment(q["model"], q["human"]) for q in g.inputs["questions"]]
    refused = np.mean([q["model_refusal"] for q in g.inputs["questions"]])
    g.check({"per_question": per, "alignment": np.mean(per), "refusal_rate": refused})

    g = evaluation_golden("opinionqa.steer_consistency")
    best = g.inputs["best_group"]
    g.check({
        "steerability": {k: similarity.steerability(v) for k, v in g.inputs["steer"].items()},
        "consistency": similarity.consistency(best["overall"], best["topics"]),
    })  # fmt: skip


def test_classifier_golden(evaluation_golden):
    g = evaluation_golden("classifier.macro_f1")
    c = classifier.classify(g.inputs["gold"], g.inputs["pred"], g.inputs["labels"])
    g.check({k: getattr(c, k) for k in g.expected})
    assert c.nonzero_f1 == pytest.approx(2 / 3)


def test_a_label_only_predicted_counts_as_zero():
    assert classifier.classify([0, 0], [0, 1], [0, 1, 2]).f1 == [pytest.approx(2 / 3), 0.0, None]


# ------------------------------------------------------------------------------------------------ instruments


def test_tax_goldens(evaluation_golden):
    g = evaluation_golden("tax.aggregate")
    b = g.inputs["benchmarks"]
    signed = [tax.signed_tax(x["base"], x["aligned"], x["chance"]) for x in b]
    t = tax.aggregate(signed, [x["w"] for x in b])
    naive = np.mean([max(0.0, s) for s in signed])
    g.check(
        {
            "signed": signed,
            "signed_mean": t.signed,
            "tax": t.tax,
            "retention": t.retention,
            "naive_mean_of_clipped": naive,
        }
    )

    g = evaluation_golden("tax.one_benchmark")
    g.check(tax.item_tax(g.inputs["base"], g.inputs["aligned"], g.inputs["chance"])._asdict())


def test_a_base_at_chance_cannot_show_tax():
    assert tax.signed_tax(0.25, 0.2, 0.25) is None
    assert not tax.item_tax([1, 0, 0, 0], [0, 0, 0, 0], 0.25).identifiable


def test_token_credit_golden(evaluation_golden):
    g = evaluation_golden("interpretability.token_credit")
    c = credit.token_credit(g.inputs["logp"], g.inputs["ref_logp"], g.inputs["beta"])
    g.check({"credit": c, "total": c.sum()})
    assert abs(credit.completeness_residual(c, g.expected["total"])) < 1e-12


def test_chooser_golden(evaluation_golden):
    """Feasible families by feedback, memory and reach; every excluded family names a reason."""
    g = evaluation_golden("chooser.cases")
    cases = [
        chooser.Situation(**{"token_probs" if k == "logits" else k: v for k, v in c.items()})
        for c in g.inputs["cases"]
    ]
    g.check({"feasible": [chooser.feasible(c) for c in cases]})
    assert all(bool(choice.failed) != choice.feasible for c in cases for choice in chooser.choose(c))
    with pytest.raises(UsageError, match="pairs"):
        chooser.Situation("pair", True, True)
