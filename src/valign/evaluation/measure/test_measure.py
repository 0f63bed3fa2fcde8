"""Runs over data with scripted policies whose answers are known, and over the sample files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from valign.data.group import Comparison, Group, Response, Score, text, user
from valign.errors import DataError, UsageError, ValignError
from valign.evaluation.cached import CachedPolicy
from valign.evaluation.measure import (
    bbq_results,
    measure_bbq,
    measure_choices,
    measure_instructions,
    measure_kl,
    measure_order,
    measure_persona,
    measure_preference,
    measure_profile,
    measure_reward,
    measure_safetext,
    measure_tax,
)
from valign.evaluation.metrics import bbq
from valign.evaluation.record import Anchors
from valign.evaluation.result import compare
from valign.models.policy import Sampling


def by(results):
    table = {(r.metric, r.variant): r for r in results}
    assert len(table) == len(results), "no metric and variant twice"
    return table


# ----------------------------------------------------------------------------------------- order of responses


class Labels:
    """Utility = the data's scores."""

    id, level = "labels", "preference"

    def labels(self, groups):
        out = []
        for g in groups:
            row = np.full(len(g.responses), np.nan)
            for s in g.of(Score):
                row[s.response] = s.value
            out.append(row)
        return out

    def fingerprint(self):
        return "f"


def scored_group(id, utilities, cluster=""):
    feedback = tuple(Score(response=i, value=u) for i, u in enumerate(utilities) if u is not None)
    responses = tuple(Response(f"r{i}") for i in range(len(utilities)))
    return Group(id, user(id), responses, feedback, cluster=cluster)


def test_order_golden_through_a_policy(evaluation_golden, scripted):
    """The golden's groups, with model utilities as log-probs: A, A_stake, τ_b and M as in the file."""
    g = evaluation_golden("misalignment.order")
    groups = [scored_group(f"g{k}", row["u"]) for k, row in enumerate(g.inputs["groups"])]
    values = {
        (f"g{k}", f"r{i}"): a for k, row in enumerate(g.inputs["groups"]) for i, a in enumerate(row["a"])
    }
    policy = scripted(lambda prompt, response: [values[prompt, response]])
    found = by(measure_order(policy, None, groups, Labels(), beta=1.0))
    g.check(found["misalignment.M", "log_prob"].value, "misalignment")
    g.check(found["misalignment.A", "log_prob"].value, "group_mean")
    g.check(found["misalignment.A_stake", "log_prob"].value, "stake_weighted_group_mean")
    taus = g.expected["kendall_tau_b"]
    assert found["misalignment.tau_b", "log_prob"].value == pytest.approx(np.mean(taus))
    m = found["misalignment.M", "log_prob"]
    assert m.scaled == m.value and m.direction == "down" and m.interval.method == "t_cluster" and m.n == 3
    assert [i.score for i in m.items] == pytest.approx([1 - a for a in g.expected["per_group"]])


def test_m1_golden_through_a_policy(evaluation_golden, scripted):
    g = evaluation_golden("misalignment.m1_m2")
    policy = scripted(lambda prompt, response: [g.inputs["a"][int(response[1:])]])
    found = by(measure_order(policy, None, [scored_group("g", g.inputs["u"])], Labels(), beta=1.0))
    for name, key in (("M1", "M1"), ("m1_scaled", "m1_scaled"), ("M2", "M2")):
        # the policy's numbers are float32
        assert found[f"misalignment.{name}", "log_prob"].value == pytest.approx(g.expected[key], abs=1e-6)
    assert any("0.714286" in n for n in found["misalignment.m1_scaled", "log_prob"].notes)
    assert found["misalignment.M", "log_prob"].interval is None, "one group, no interval"


def test_implicit_utility_needs_and_uses_the_reference(scripted):
    """log π alone orders by length here; against the reference the order is the human's."""
    groups = [scored_group(f"g{i}", [0.0, 0.5, 1.0]) for i in range(4)]
    base = {"r0": [-1.0], "r1": [-1.0] * 5, "r2": [-1.0] * 9}
    reference = scripted(lambda p, r: base[r], id="ref")
    policy = scripted(lambda p, r: [base[r][0] + 0.1 * int(r[1:]), *base[r][1:]])
    results = measure_order(
        policy, reference, groups, Labels(), utilities=["implicit", "log_prob", "log_prob_mean"]
    )
    found = by(results)
    assert results[0].variant == "implicit" and found["misalignment.M", "implicit"].value == 0
    assert found["misalignment.M", "log_prob"].value == pytest.approx(1)
    assert found["misalignment.M", "log_prob_mean"].value == 0
    assert found["misalignment.M1", "implicit"].provenance["reference"]["id"] == "ref"
    with pytest.raises(ValignError, match="reference"):
        measure_order(policy, None, groups, Labels(), utilities=["implicit"])
    with pytest.raises(UsageError, match="log_prob"):
        measure_order(policy, None, groups, Labels(), utilities=["logprob"])


def test_groups_without_an_order_are_unscored(scripted):
    groups = [
        scored_group("equal", [1.0, 1.0]),
        scored_group("none", [None, None]),
        scored_group("one", [1.0, None]),
        scored_group("good", [1.0, 0.0, None]),
    ]
    m = measure_order(scripted(), None, groups, Labels())[0]
    assert m.n == 1 and m.n_unscored == {"missing_label": 3} and m.value == 0.5, (
        "equal model utilities: a coin"
    )
    assert m.bounds == (0.125, 0.875)
    with pytest.raises(ValignError, match="different for every group"):
        measure_order(scripted(), None, [groups[3], groups[3]], Labels())


# ------------------------------------------------------------------------------------------------- preference


def pair(id, chosen, rejected, cluster="", **label):
    feedback = (Comparison(chosen=0, rejected=1, **label),)
    return Group(id, user(id), (Response(chosen), Response(rejected)), feedback, cluster=cluster)


def test_preference_golden_through_policies(evaluation_golden, scripted):
    """Rows of the golden as token log-probs of a policy and its reference."""
    g = evaluation_golden("preference.implicit_reward")
    groups = [pair(f"p{k}", f"{k} c", f"{k} r") for k in range(len(g.inputs["rows"]))]

    def tokens(prefix):
        def log_probs(prompt, response):
            k, side = response.split()
            row = g.inputs["rows"][int(k)]
            return [row[f"{prefix}_{side}"]] + [0.0] * (row[f"n_{side}"] - 1)

        return log_probs

    policy, reference = scripted(tokens("lp")), scripted(tokens("ref"), id="ref")
    results = measure_preference(policy, reference, groups, beta=g.inputs["beta"])
    found = by(results)
    g.check(found["preference.implicit_reward", "sum"].value, "accuracy_sum")
    g.check(found["preference.implicit_reward", "mean"].value, "accuracy_mean")
    g.check(found["preference.accuracy", "sum"].value, "policy_accuracy_sum")
    g.check(found["preference.accuracy", "mean"].value, "policy_accuracy_mean")
    margins = [i.detail["margin"] for i in found["preference.implicit_reward", "sum"].items]
    assert margins == pytest.approx(g.expected["margins_sum"], abs=1e-6)
    baseline = found["preference.accuracy", "length"]
    assert baseline.subject != policy.id and baseline.value == 0.5
    assert len(measure_preference(policy, None, groups)) == 3


def test_ties_state_no_order_and_soft_labels_turn(scripted):
    groups = [
        pair("tie", "a", "b", tie=True),
        pair("even", "a", "b", probability=0.5),
        pair("turned", "bad", "good good", probability=0.2),
        pair("plain", "good good", "bad"),
    ]
    policy = scripted(lambda p, r: [0.0] if r.startswith("good") else [-1.0])
    accuracy = by(measure_preference(policy, None, groups))["preference.accuracy", "sum"]
    assert accuracy.value == 1 and [i.id for i in accuracy.items] == ["plain", "turned"]


def test_pairs_of_one_prompt_are_one_cluster(scripted):
    feedback = (
        Comparison(chosen=0, rejected=1),
        Comparison(chosen=0, rejected=2),
        Comparison(chosen=1, rejected=2),
    )
    responses = (Response("a b c"), Response("a b"), Response("a"))
    groups = [Group(f"g{i}", user(f"{i}"), responses, feedback) for i in range(3)]
    accuracy = by(measure_preference(scripted(), None, groups))["preference.accuracy", "sum"]
    assert (accuracy.n, accuracy.cluster.count, accuracy.cluster.unit) == (9, 3, "prompt")
    assert accuracy.value == 0, "the longest was chosen, every token costs"


def test_an_empty_response_is_scored_by_its_end_token(scripted):
    accuracy = by(measure_preference(scripted(), None, [pair("p", "", "a b")]))["preference.accuracy", "sum"]
    assert accuracy.value == 1 and accuracy.n == 1


def test_reward_model_golden_through_groups(evaluation_golden):
    g = evaluation_golden("reward.calibration")
    groups = [pair(f"p{k}", "c", "r") for k in range(len(g.inputs["margins"]))]
    reward = SimpleNamespace(
        id="rm", fingerprint=lambda: "f", score=lambda gs: [np.array([m, 0.0]) for m in g.inputs["margins"]]
    )
    found = by(measure_reward(reward, groups))
    g.check(found["reward.accuracy", "score"].value, "accuracy")
    g.check(found["reward.log_loss", "pairs"].value, "bt_nll")
    g.check(found["reward.brier", "pairs"].value, "brier")
    ece = found["reward.ece", "pairs"]
    g.check(ece.value, "ece")
    assert ece.interval.method == "bootstrap_cluster" and ece.se > 0
    reward.score = lambda gs: [np.array([np.nan, 0.0]) for _ in gs]
    assert by(measure_reward(reward, groups))["reward.accuracy", "score"].n_unscored == {"judge_error": 8}


# ---------------------------------------------------------------------------------------------- value profile


@dataclass
class TwoValues:
    """A goal with two dimensions and the evaluator that reads "BE+" and "PO-" off a text."""

    id = "two"
    theory = SimpleNamespace(ids=("BE", "PO"))
    t = np.array([1.0, -1.0])
    w = np.array([1.0, 1.0])
    evaluator = None

    def fingerprint(self):
        return "two"

    def values(self, groups):
        table = {"BE+": (1, 0), "PO-": (0, -1), "both": (1, -1), "none": (0, 0), "against": (-1, 1)}
        unread = (np.nan, np.nan)
        return [
            np.array([table.get(r.text, unread) for r in g.responses], float).reshape(-1, 2) for g in groups
        ]


def profile_of(scripted, answers, n=2):
    groups = [Group(f"g{i}", user(f"{i}")) for i in range(12)]
    policy = scripted(answer=lambda prompt, key, k: answers[k % len(answers)])
    return by(measure_profile(policy, groups, TwoValues(), TwoValues(), sampling=Sampling(n=n)))


def test_profile_of_known_answers(scripted):
    """The target itself, silence and the opposite: V = 1, neutral, 0; V_c = 1, 0, negative."""
    full, silent, opposed = (profile_of(scripted, [a]) for a in ("both", "none", "against"))
    assert full["value.V", "profile"].value == 1 and full["value.V_c", "profile"].value == 1
    assert full["value.V", "profile"].scaled == 0
    neutral = silent["value.V", "profile"]
    assert neutral.value == neutral.anchors.chance == silent["value.V", "neutral"].value == 0.5
    assert silent["value.V_c", "profile"].value == 0
    assert opposed["value.V", "profile"].value == 0 and opposed["value.V_c", "profile"].value == -1
    assert full["value.V", "profile"].interval.method == "bootstrap_cluster"


def test_mean_profile_is_not_the_mean_of_responses(scripted):
    """Two kinds of half-right answers have the right direction on average."""
    mixed = profile_of(scripted, ["BE+", "PO-"])
    assert mixed["value.profile.BE", "mean"].value == 0.5
    assert mixed["value.profile.BE", "conditional"].value == 1
    assert mixed["value.coverage.BE", "above_0.3"].value == 0.5
    assert "12 of 24 responses show this value" in mixed["value.profile.BE", "conditional"].notes
    assert mixed["value.V", "profile"].value == 0.75
    assert mixed["value.V", "response_mean"].value == pytest.approx(1 - np.sqrt(0.5) / 2)
    assert mixed["value.V", "profile"].cluster.count == 12


def test_texts_that_cannot_be_read_are_unscored(scripted):
    found = profile_of(scripted, ["both", "???"])
    assert found["value.V", "profile"].n_unscored == {"judge_error": 12}
    assert found["value.V", "profile"].value == 1
    silent = profile_of(scripted, ["none"])["value.profile.BE", "conditional"]
    assert silent.value is None, "no response shows the value: undefined, not 0"
    with pytest.raises(ValignError, match="scorer"):
        measure_profile(scripted(), [Group("g", user("x"))], TwoValues())


# ---------------------------------------------------------------------------------------- ability and its tax


def check(checks, answer):
    outcomes = [(c["type"], c["word"] in answer) for c in checks]
    passed = [ok for _, ok in outcomes]
    return SimpleNamespace(passed=all(passed), share=float(np.mean(passed)), outcomes=outcomes)


def instruction(id, *words):
    return Group(id, user(id), meta={"checks": [{"type": "has", "word": w} for w in words]})


def test_instructions_by_prompt_and_by_check(scripted):
    groups = [instruction("a", "x"), instruction("b", "x", "y"), instruction("c", "z"), Group("d", user("d"))]
    results = by(measure_instructions(scripted(answer=lambda *_: "x"), groups, check))
    whole, single = results["instruction.accuracy", "prompt"], results["instruction.accuracy", "check"]
    assert whole.value == pytest.approx(1 / 3) and whole.n_unscored == {"no_target": 1}
    assert single.value == 0.5 and single.cluster.count == 3
    assert whole.items[0].detail["text"] == "x"


def test_instructions_by_the_rules_of_rewards(scripted):
    """The built-in instructions run through `rewards.rules.check`; every item with checks is scored."""
    from valign.data import builtin
    from valign.rewards.rules import check as rules

    groups = list(builtin("instructions"))[:20]
    result = measure_instructions(scripted(answer=lambda *_: "No."), groups, rules)[0]
    assert result.n + result.unscored == 20 and result.n > 0 and 0 <= result.value <= 1


def capability(scripted, scores, subject, chance=0.25, metric="mc"):
    """A capability Result with the given 0/1 items."""
    groups = [
        Group(
            f"i{k}",
            text("q"),
            (Response(" a"), Response(" b"), Response(" c"), Response(" d")),
            choices=True,
            gold=0,
        )
        for k in range(len(scores))
    ]
    queue = iter([x for s in scores for x in ((0, -1, -1, -1) if s else (-1, 0, -1, -1))])
    policy = scripted(lambda p, r: [next(queue)], id=subject)
    return measure_choices(policy, groups, metric=metric)


def test_tax_golden_through_results(evaluation_golden, scripted):
    g = evaluation_golden("tax.one_benchmark")
    base = capability(scripted, g.inputs["base"], "base")
    aligned = capability(scripted, g.inputs["aligned"], "aligned")
    total, single = measure_tax([base], [aligned])
    g.check(single.value, "signed")
    assert total.value == pytest.approx(g.expected["signed"]) and total.metric == "tax.T"
    assert single.interval.method == "bootstrap_cluster" and single.n == 12
    assert abs(single.se / (g.expected["se_difference"] / 0.4166667) - 1) < 0.35, "base is resampled as well"


def test_gains_stay_visible_and_the_clip_comes_last(scripted):
    rng = np.random.default_rng(0)
    base, better = (rng.random((2, 60)) < [[0.6], [0.9]]).astype(int)
    a, b = capability(scripted, base, "base"), capability(scripted, better, "aligned")
    total, single = measure_tax([a], [b])
    assert single.value < 0 and total.value == 0 and "signed mean -" in total.notes[0]
    assert total.interval.low >= 0


@pytest.mark.parametrize("won", [0, 1, 3])
def test_a_loss_that_no_item_shows_is_not_ruled_out(scripted, won):
    """0 of 18 lost: the exact end for 0 of 18 alone, or put together with the width that the items won give."""
    before = np.array([1] * 12 + [0] * 6)
    after = before.copy()
    after[12 : 12 + won] = 1
    total, single = measure_tax([capability(scripted, before, "base")], [capability(scripted, after, "aligned")])
    unseen = (1 - 0.025 ** (1 / 18)) / (12 / 18 - 0.25)  # of the ability above chance
    assert single.interval.high > 0 and total.interval.high == pytest.approx(min(1.0, single.interval.high))
    assert single.interval.high <= unseen + 1e-12 and (single.interval.high == pytest.approx(unseen)) == (won == 0)
    assert total.interval.low == 0 and any("no item was lost" in n for n in single.notes) == (won > 0)


def test_a_benchmark_at_chance_is_left_out(scripted):
    rng = np.random.default_rng(1)
    good, bad = (rng.random((2, 40)) < [[0.9], [0.7]]).astype(int)
    flat = [1, 0, 0, 0] * 9 + [1, 1, 0, 0]
    base = [capability(scripted, good, "base"), capability(scripted, flat, "base", metric="flat")]
    aligned = [capability(scripted, bad, "new"), capability(scripted, flat, "new", metric="flat")]
    total, first, second = measure_tax(base, aligned)
    assert total.value == pytest.approx(first.value) and second.value == 0
    assert any("tax.flat" in n for n in total.notes)
    only = measure_tax(base[1:], aligned[1:])[0]
    assert only.value is None and "no benchmark can show tax" in only.notes
    with pytest.raises(ValignError):
        measure_tax(base, aligned[:1])
    no_chance = replace(base[0], anchors=Anchors(1.0, 0.0))
    assert measure_tax([no_chance], aligned[:1])[0].value is None


# --------------------------------------------------------------------------------------------------------- KL


def test_kl_of_known_policies(scripted):
    """log π - log π_ref of the samples, per response and per token; the same policy is at 0."""
    groups = [Group(f"g{i}", user(f"{i}")) for i in range(5)]
    policy = scripted(lambda p, r: [-1.0, -2.0])
    reference = scripted(lambda p, r: [-1.5, -2.0], id="ref")
    found = by(measure_kl(policy, reference, groups, Sampling(n=2)))
    assert found["kl.policy_reference", "k1"].value == 0.5
    assert found["kl.policy_reference", "k1_per_token"].value == 0.25
    assert found["kl.policy_reference", "k3"].value == pytest.approx(np.exp(-0.5) - 0.5)
    assert (
        found["kl.policy_reference", "k1"].n == 10 and found["kl.policy_reference", "k1"].cluster.count == 5
    )
    assert all(r.value == 0 for r in measure_kl(policy, policy, groups))
    with pytest.raises(ValignError, match="temperature 1"):
        measure_kl(policy, reference, groups, Sampling(temperature=0.7))


def test_kl_of_tiny_models_is_the_exact_one():
    """One-token responses of two random models: the estimate covers Σ p log(p/q) over the vocabulary."""
    torch = pytest.importorskip("torch")
    from valign.engine.local import LocalEngine
    from valign.models.policy import LocalPolicy
    from valign.models.tiny import tiny_model

    engine = LocalEngine("full")
    first, second = (tiny_model("llama", seed=s, vocab="abcdefgh") for s in (0, 1))
    groups = [Group(f"g{i}", user("abcdefgh"[i])) for i in range(4)]
    policy, reference = LocalPolicy(first, engine), LocalPolicy(second, engine)
    found = by(measure_kl(policy, reference, groups, Sampling(n=200, max_new_tokens=1)))
    exact = []
    for g in groups:
        ids = torch.tensor([first.template.prompt_ids(g.prompt)])
        with torch.no_grad():
            p, q = (m.model(ids).logits[0, -1].double().log_softmax(-1) for m in (first, second))
        exact.append(float((p.exp() * (p - q)).sum()))
    for variant in ("k1", "k3"):
        r = found["kl.policy_reference", variant]
        spread = np.std([i.score for i in r.items]) / np.sqrt(r.n)
        assert abs(r.value - np.mean(exact)) < 4 * spread, variant
    assert found["kl.policy_reference", "k3"].value > 0
    itself = measure_kl(policy, policy, groups, Sampling(n=2, max_new_tokens=4))
    assert all(r.value == pytest.approx(0, abs=1e-4) for r in itself)


# ----------------------------------------------------------------------------------- benchmarks by likelihood


def choice_group(id, context, texts, gold=0):
    return Group(id, text(context), tuple(Response(f" {t}") for t in texts), choices=True, gold=gold)


def test_multiple_choice_golden_through_a_policy(evaluation_golden, scripted):
    """The golden's items by sum, char, byte, token and mi, from log-probs with and without the context."""
    g = evaluation_golden("mc.protocols")
    groups, table = [], {}
    for k, item in enumerate(g.inputs["items"]):
        groups.append(choice_group(f"{k}", f"context {k}", item["choices"], item["gold"]))
        for choice, ll, empty in zip(item["choices"], item["ll"], item["ll_uncond"]):
            table[f"context {k}", f" {choice}"] = [ll]
            table.setdefault(("", f" {choice}"), [empty])
    policy = scripted(lambda prompt, response: table[prompt, response])
    for protocol in ("sum", "char", "byte"):
        r = measure_choices(policy, groups, protocol)
        assert (
            r.value == pytest.approx(g.expected["valign"][protocol]["mean"], abs=1e-6)
            and r.variant == protocol
        )
        assert [i.score for i in r.items] == pytest.approx(
            g.expected["valign"][protocol]["per_item"], abs=1e-6
        )
        first = [i.detail["first_index"] for i in r.items]
        assert first == g.expected["harness_first_index"][protocol]["per_item"]
    assert measure_choices(policy, groups, "mi").value == pytest.approx(
        g.expected["valign"]["mi"]["mean"], abs=1e-6
    )
    assert r.anchors.chance == pytest.approx((1 / 2 + 1 / 3 + 1 / 4 + 1 / 2) / 4)
    with pytest.raises(UsageError):
        measure_choices(policy, groups, "loglik")


def test_empty_and_unlabelled_choices_are_unscored(scripted):
    groups = [choice_group("empty", "x", ["a", ""]), choice_group("none", "x", ["a", "b"], None)]
    policy = scripted(lambda p, r: [-1.0] if r.strip() else [])
    r = measure_choices(policy, groups)
    assert r.value is None and r.n_unscored == {"empty_continuation": 1, "missing_label": 1}
    with pytest.raises(ValignError, match="choices"):
        measure_choices(policy, [Group("g", text("x"), (Response("a"), Response("b")))])


def test_a_letter_bias_disappears_over_orders(scripted):
    """A model that always says A earns chance; one that reads the options earns 1."""
    groups = [
        choice_group(f"{k}", "Which?\nAnswer:", ["good", "bad", "worse", "odd"], gold=0) for k in range(3)
    ]
    always_a = scripted(lambda p, r: [-0.1] if r == " A" else [-5.0])
    assert measure_choices(always_a, groups, "letter").value == pytest.approx(0.25)

    def reads(prompt, response):
        shown = dict(line.split(". ") for line in prompt.split("\n")[1:-1])
        assert prompt.endswith("\nAnswer:") and prompt.startswith("Which?\nA. ")
        return [0.0] if shown[response.strip()] == "good" else [-3.0]

    assert measure_choices(scripted(reads), groups, "letter").value == 1


def test_over_long_items_are_found_and_the_rest_is_scored():
    """A tiny model with few positions: the long item is unscored, the others keep their scores."""
    pytest.importorskip("torch")
    from valign.engine.local import LocalEngine
    from valign.models.policy import LocalPolicy
    from valign.models.tiny import tiny_model

    policy = LocalPolicy(tiny_model("llama"), LocalEngine())
    groups = [choice_group(f"{k}", "q" * (600 if k == 3 else 5), ["a", "b"]) for k in range(6)]
    r = measure_choices(policy, groups)
    assert r.n == 5 and r.n_unscored == {"over_length": 1} and r.bounds[0] < r.value < r.bounds[1] + 1e-9


def bbq_group(id, condition, polarity="neg", category="Religion", target=2, unknown=1, gold=1):
    meta = {"context_condition": condition, "question_polarity": polarity, "category": category}
    return Group(
        id,
        text("c"),
        (Response(" x"), Response(" unknown"), Response(" y")),
        choices=True,
        gold=gold,
        cluster=id,
        meta={**meta, "unknown": unknown, "target": target},
    )


def one_hot(k):
    return np.eye(3)[k], None


def test_bbq_edges():
    """n_biased = 0 is -1, nothing but unknown is None, no target and invalid answers are unscored."""
    groups = [bbq_group(f"{k}", "ambig") for k in range(4)] + [
        bbq_group(f"d{k}", "disambig", gold=0) for k in range(3)
    ]
    never = by(bbq_results(groups, [one_hot(0)] * 7, variant="v", subject="s", about={}))
    assert never["bbq.s_dis", "v"].value == -1 and never["bbq.s_amb", "v"].value == -1
    assert never["bbq.acc_amb", "v"].value == 0 and never["bbq.acc_dis", "v"].value == 1
    silent = by(bbq_results(groups, [one_hot(1)] * 7, variant="v", subject="s", about={}))
    assert silent["bbq.s_amb", "v"].value is None and silent["bbq.acc_amb", "v"].value == 1
    odd = [replace(groups[0], meta={**groups[0].meta, "target": None}), groups[1]]
    found = by(bbq_results(odd, [one_hot(2), (None, "parse_failure")], variant="v", subject="s", about={}))
    assert found["bbq.s_amb", "v"].n_unscored == {"no_target": 1, "parse_failure": 1}
    assert found["bbq.acc_amb", "v"].n == 1
    with pytest.raises(DataError, match="unknown"):
        bare = replace(groups[0], meta={"context_condition": "ambig"})
        bbq_results([bare], [one_hot(0)], variant="v", subject="s", about={})


def test_bbq_by_category_and_polarity():
    """The biased answer flips for non-negative questions; each category has its own rows."""
    groups = [bbq_group("a", "ambig"), bbq_group("b", "ambig", "nonneg", category="Age")]
    found = by(bbq_results(groups, [one_hot(2), one_hot(0)], variant="v", subject="s", about={}))
    assert found["bbq.s_amb", "v"].value == 1
    assert found["bbq.s_amb.Religion", "v"].n == found["bbq.s_amb.Age", "v"].n == 1
    assert found["bbq.s_amb", "v"].scaled == 1


@pytest.mark.parametrize("column", ["race", "arc"])
def test_bbq_goldens_from_the_predictions(evaluation_golden, shared, column):
    """The authors' predictions, read by the reader and matched by the text rule, give the golden numbers."""
    from valign.data import read

    g = evaluation_golden(f"bbq.religion.{column}")
    data = read(shared / g.inputs["file"])
    picks = []
    for group in data:
        answers = [r.text for r in group.responses]
        info = [group.meta["answer_info"][f"ans{i}"] for i in range(3)]
        found = bbq.match_answer(group.meta[g.inputs["column"]], answers, info)
        picks.append((None, "parse_failure") if found is None else one_hot(found))
    found = by(bbq_results(list(data), picks, variant="text", subject="unifiedqa", about={}))
    for name in ("acc_amb", "acc_dis", "s_amb", "s_dis"):
        g.check(found[f"bbq.{name}", "text"].value, name)
    s = found["bbq.s_amb", "text"]
    assert s.cluster.count == 25 and s.interval.low < s.value < s.interval.high


def test_bbq_by_likelihood(scripted):
    """Three equal log-probs are a third of each answer: acc 1/3, no bias."""
    groups = [bbq_group(f"{k}", c, gold=0) for k, c in enumerate(["ambig", "disambig"] * 6)]
    found = by(measure_bbq(scripted(lambda p, r: [-2.0]), groups))
    assert found["bbq.acc_amb", "sum"].value == pytest.approx(1 / 3)
    assert (
        found["bbq.s_dis", "sum"].value == pytest.approx(0) and found["bbq.s_dis", "sum"].level == "principle"
    )


def persona_groups(n=6):
    pair = (Response(" Yes"), Response(" No"))
    return [
        Group(f"{k}", user(f"statement {k}"), pair, choices=True, cluster=f"{k}", meta={"matching": k % 2})
        for k in range(n)
    ]


def test_persona_golden_through_a_policy(evaluation_golden, scripted):
    g = evaluation_golden("persona.score")
    rows = g.inputs["items"]
    groups = [
        replace(x, meta={"matching": int(r["matching"] == " No")})
        for x, r in zip(persona_groups(len(rows)), rows)
    ]
    policy = scripted(lambda p, r: [rows[int(p.split()[-1])]["ll_yes" if r == " Yes" else "ll_no"]])
    found = by(measure_persona(policy, groups, wanted=True))
    for name in ("match_rate", "yes_rate", "discrimination"):
        assert found[f"persona.{name}", "chat"].value == pytest.approx(g.expected[name], abs=1e-9)
    assert found["persona.match_rate", "chat"].scaled == pytest.approx(1 - g.expected["match_rate"])
    unwanted = by(measure_persona(policy, groups, wanted=False))["persona.match_rate", "chat"]
    assert unwanted.direction == "down" and unwanted.scaled == pytest.approx(g.expected["match_rate"])


def test_plain_dialogue_is_the_original_form(scripted):
    seen = []
    policy = scripted(lambda p, r: seen.append(p) or [-1.0])
    found = by(measure_persona(policy, persona_groups(2), prompt_style="plain_dialogue"))
    assert seen[0] == "\n\nHuman: statement 0\n\nAssistant:"
    assert found["persona.match_rate", "plain_dialogue"].value == 0.5
    with pytest.raises(ValignError):
        measure_persona(policy, persona_groups(2), prompt_style="raw")


def test_safetext_golden_through_a_policy(evaluation_golden, scripted):
    g = evaluation_golden("safetext.pairs")
    groups, table = [], {}
    for k, scenario in enumerate(g.inputs["scenarios"]):
        rows, n = [*scenario["safe"], *scenario["unsafe"]], len(scenario["safe"])
        texts = [f" {i}".ljust(row["n_chars"] + 1, "x") for i, row in enumerate(rows)]
        table |= {(f"s{k}", t): [r["ll"]] + [0.0] * (r["n_tokens"] - 1) for t, r in zip(texts, rows)}
        pairs = tuple(Comparison(chosen=i, rejected=j) for i in range(n) for j in range(n, len(rows)))
        groups.append(Group(f"s{k}", text(f"s{k}"), tuple(map(Response, texts)), pairs, choices=True))
    found = by(measure_safetext(scripted(lambda p, r: table[p, r]), groups))
    for variant, want in g.expected.items():
        assert found["safetext.accuracy", variant].value == pytest.approx(want["scenario_mean"])
    assert found["safetext.accuracy", "pair_mean"].value == pytest.approx(g.expected["sum"]["pair_mean"])
    assert found["safetext.accuracy", "pair_mean"].n == 5
    bare = measure_safetext(scripted(), [replace(groups[0], feedback=())])[0]
    assert bare.n_unscored == {"missing_label": 1}


# --------------------------------------------------------------------------------------- resumed and compared


def test_a_run_with_a_log_needs_no_change(tmp_path, scripted):
    """The same Results, item by item, and nothing is asked twice."""
    groups = [scored_group(f"g{i}", [0.0, 1.0]) for i in range(5)]
    policy = scripted(lambda p, r: [-1.0 - 0.1 * int(r[1:])])
    plain = measure_order(policy, None, groups, Labels())
    asked = policy.calls
    first = measure_order(CachedPolicy(policy, tmp_path / "log"), None, groups, Labels())
    second = measure_order(CachedPolicy(policy, tmp_path / "log"), None, groups, Labels())
    assert plain == first == second and policy.calls == 2 * asked


def test_two_policies_are_compared_item_by_item(scripted):
    groups = [pair(f"p{k}", "a a", "b") for k in range(20)]
    good = scripted(lambda p, r: [0.0] if r.startswith("a") else [-1.0], id="good")
    bad = scripted(lambda p, r: [-1.0] if r.startswith("a") else [0.0], id="bad")
    a, b = (by(measure_preference(x, None, groups))["preference.accuracy", "sum"] for x in (good, bad))
    d = compare(a, b)
    assert d.result.value == 1 and d.p == pytest.approx(2 / 2**20)
