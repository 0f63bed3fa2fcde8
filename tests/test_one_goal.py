"""One goal object, every family: what the six nouns promise, in Python, on a tiny model."""

from __future__ import annotations

import numpy as np
import pytest

import valign as va
from valign.data.group import Group, Response, VectorScore, user
from valign.engine.rollout import with_samples
from valign.engine.sampler import address
from valign.errors import ValignError

TEXTS = ("aaa eee iii", "bcd fgh", "zzz")
LABELS = ({"BE": 1.0}, {"BE": -1.0, "PO": 1.0}, {"PO": 0.5})


def groups(n: int, first: int = 0) -> list[Group]:
    """Situations with three responses, labelled with values."""
    return [
        Group(
            id=f"s{i}",
            prompt=user(f"What now, {i}?"),
            responses=tuple(map(Response, TEXTS)),
            feedback=tuple(VectorScore(response=k, theory="schwartz10", values=v) for k, v in enumerate(LABELS)),
        )
        for i in range(first, first + n)
    ]


@pytest.fixture
def policy(model):
    return va.load(model)


@pytest.fixture
def care(vowels):
    """A value goal with a scripted evaluator."""
    return va.goal("schwartz10", benevolence=1, power=-1)


SETTINGS = {
    "grpo": {"batch_size": 4, "group_size": 2, "max_new_tokens": 6, "max_steps": 2},
    "sft": {"batch_size": 4, "learning_rate": 1e-3},
    "dpo": {"batch_size": 4, "learning_rate": 1e-3},
    "value_instruction": {},
    "best_of_n": {"n": 3},
}


@pytest.mark.capability("G01")
def test_one_goal_drives_rl_sft_in_context_and_decoding_and_gives_comparable_scores(policy, care):
    """No data set names a preferred response: RL is rewarded by the goal, SFT and DPO learn what it finds
    best,
    the in-context method says it, best-of-n chooses by it; and every policy is measured on its one scale.
    """
    data = groups(8)
    aligned = [va.align(policy, va.Target(care, policy), method=m, data=data, **s) for m, s in SETTINGS.items()]
    assert [p.kind for p in aligned] == ["weights", "weights", "weights", "context", "decoding"]
    judged = va.evaluate(
        [policy, *aligned], care, groups(6, first=100), sampling=va.Sampling(max_new_tokens=6), kl_prompts=0
    )
    for metric, span in (("goal.utility", (-1, 0)), ("misalignment.M", (0, 1))):
        found = [next(r for r in m.results if r.metric == metric) for m in judged.measured]
        assert len({(r.variant, r.unit, r.direction, r.level) for r in found}) == 1, metric
        assert len({tuple(i.id for i in r.items) for r in found}) == 1  # item by item
        assert all(r.value is not None and span[0] <= r.value <= span[1] for r in found), metric
    goals = {
        m.results[-1].provenance.get("goal", {}).get("fingerprint") for m in judged.measured if m.results[-1].provenance
    }
    assert len(goals) == 1


def test_the_goal_decides_what_supervised_methods_learn(policy, care):
    """The responses with vowels become more probable than those without, by SFT and by DPO alike."""
    data = groups(8)
    before = policy.score(data[:1])[0]
    for method in ("sft", "dpo"):
        settings = {**SETTINGS[method], "learning_rate": 3e-2}
        moved = va.align(policy, va.Target(care, policy), method=method, data=data, **settings).score(data[:1])[0]
        gain = np.array([m.log_prob - b.log_prob for m, b in zip(moved, before)])
        assert gain.argmax() == 0, method


def test_best_of_n_answers_nearer_to_the_goal_than_its_base(policy, care):
    judged = va.evaluate(
        [policy, va.align(policy, care, "best_of_n", n=8)],
        care,
        groups(8),
        sampling=va.Sampling(max_new_tokens=6),
        kl_prompts=0,
    )
    plain, best = (judged.headline("goal.utility")[p.id] for p in judged.policies)
    assert best > plain


# --------------------------------------------------------------- every method, every evaluator, every level

LEVELS = ("instruction", "preference", "principle", "value")
TINY_RUN = {"batch_size": 2, "max_steps": 1}
QUICK = {**TINY_RUN, "learning_rate": 1e-2}
CHEAP = {
    **{name: QUICK for name in ("sft", "dpo", "cdpo", "robust_dpo", "reward_model", "reward_ranked_pairs",
                                "reward_plackett_luce")},
    **{name: {**QUICK, "batch_size": 4, "group_size": 16, "max_new_tokens": 6} for name in ("grpo", "rloo")},
    "value_instruction": {}, "urial": {"examples": 0, "system": ""}, "best_of_n": {"n": 64},
}  # fmt: skip
SIGNS = {True: "an answer is full of vowels", False: "an answer has no vowel"}


def vowel_share(text: str) -> float:
    return sum(c in "aeiou" for c in text) / max(1, len(text))


class VowelShare:
    """One scripted truth for the other three levels: the share of vowels (or of other signs), as a verdict, a reward, a
    judge of tasks."""

    def __init__(self, liked: bool = True) -> None:
        self.liked, self.id = liked, "vowel share" if liked else "share of other signs"

    def score(self, groups):
        shares = [np.array([vowel_share(r.text) for r in g.responses]) for g in groups]
        return shares if self.liked else [1 - s for s in shares]

    def verdicts(self, groups, principles):
        return [np.tile(2 * u[:, None] - 1, (1, len(principles))) for u in self.score(groups)]

    def fingerprint(self) -> str:
        return self.id


def goal_of(level: str, vowels, liked: bool = True):
    """A goal of each level whose scorer is scripted: all four like vowels, or (liked=False) all four like the others."""
    from valign.goals.instruction import InstructionGoal
    from valign.goals.loading import load_goal

    scorer, sign = VowelShare(liked), 1 if liked else -1
    match level:
        case "instruction":
            return InstructionGoal(judge=scorer)
        case "preference":
            return load_goal({"level": "preference", "text": SIGNS[liked]}, scorers=scorer)
        case "principle":
            words = {"id": "help", "text": SIGNS[liked], "negation": SIGNS[not liked]}
            return load_goal({"level": "principle", "principles": [words]}, scorers=scorer)
    return load_goal("schwartz10", scorers=vowels, benevolence=sign, power=-sign)


@pytest.fixture(scope="session")
def shared_policy(model):
    return va.load(model)


def bare(n: int, first: int = 0) -> list[Group]:
    """Prompts with three responses and no feedback: only the goal can order them."""
    return [Group(f"b{i}", user(f"Why {i}?"), tuple(map(Response, TEXTS))) for i in range(first, first + n)]


def test_every_method_of_the_table_is_driven_below():
    from valign.methods.table import METHODS

    assert set(CHEAP) == set(METHODS)


def toward_vowels(name, goal, policy):
    """How far `goal` moves what a method makes toward vowels; prompts, for a method that only changes these.

    reward models    reward of the response with vowels minus that of the others
    offline methods  the same of the gain in log-prob
    on-policy ones   covariance of that gain with the share of vowels, within a prompt, over the samples of the step
    best of n        share of vowels of what it chose
    """
    from valign.methods.table import METHODS

    settings, method = CHEAP[name], METHODS[name]
    if method.makes_reward:
        (r,) = va.train_reward(policy, bare(2), method=name, goal=goal, **settings).score(bare(1))
        return r[0] - r[1:].mean()
    data = bare(settings["batch_size"]) if method.trains else ()
    aligned = va.align(policy, va.Target(goal, policy), name, data, **settings)
    assert aligned.kind == {"context": "context", "decoding": "decoding"}.get(method.family, "weights")
    prompts = [user("Why?"), user("Who?")]
    answers = aligned.generate(prompts, va.Sampling(max_new_tokens=6))
    assert [len(row) for row in answers] == [1, 1]
    if method.family == "context":
        return aligned.rewrite(prompts)
    if method.family == "decoding":
        return np.mean([vowel_share(row[0].text) for row in answers])
    if method.samples:  # drawn again from the addresses of step 0
        law = va.Sampling(n=settings["group_size"], max_new_tokens=6, seed=address(0, "rollout", 0))
        drawn = policy.generate([g.prompt for g in data], law, keys=[g.id for g in data])
        asked = [with_samples(g, row) for g, row in zip(data, drawn)]
    else:
        asked = bare(1)
    scored = zip(aligned.score(asked), policy.score(asked))
    gains = [np.array([a.log_prob - b.log_prob for a, b in zip(now, before)]) for now, before in scored]
    if method.samples:
        shares = [[vowel_share(r.text) for r in g.responses] for g in asked]
        return np.mean([np.cov(gain, share)[0, 1] for gain, share in zip(gains, shares)])
    return gains[0][0] - gains[0][1:].mean()


@pytest.mark.capability("G01")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", sorted(CHEAP))
def test_a_goal_of_every_level_drives_every_method(name, level, shared_policy, vowels):
    """12 methods x 4 levels, one optimizer step each, toward a goal and toward its opposite. No feedback stands in the data:
    what is learned, preferred, rewarded, said or chosen comes from the goal object alone, so it must differ, and the way
    the goal asks for.
    """
    goal, opposite = (goal_of(level, vowels, liked) for liked in (True, False))
    one, other = (toward_vowels(name, g, shared_policy) for g in (goal, opposite))
    if isinstance(one, list):
        assert all(goal.describe("system") in p[0].content for p in one)
        # tasks say what they want themselves: goals of this level all say "do what is asked"
        assert (one != other) == (level != "instruction")
        assert one != [user("Why?"), user("Who?")]
    elif name.startswith("reward") or name == "best_of_n":
        assert one > other
    else:
        assert one > 0 > other, "away from where it started, to either side"


@pytest.mark.capability("G01")
@pytest.mark.parametrize("level", LEVELS)
def test_a_goal_of_every_level_is_measured_by_every_evaluator(level, shared_policy, vowels):
    """Utility of new responses, order of given ones against the labels, preferences, reward model's order, KL, and for
    values the profile: all that `evaluate` has, on groups that carry every kind of label; each number names the goal."""
    from valign.data.group import Comparison, Verdict

    goal = goal_of(level, vowels)
    labels = (
        Comparison(chosen=0, rejected=1), Verdict(response=0, principle="help", value=1.0),
        Verdict(response=1, principle="help", value=-1.0), Verdict(response=0, principle="good", value=1.0),
        Verdict(response=2, principle="good", value=-1.0),
        *(VectorScore(response=k, theory="schwartz10", values=v) for k, v in enumerate(LABELS)),
    )  # fmt: skip
    data = [g.with_feedback(*labels) for g in bare(3)]
    aligned = va.align(shared_policy, va.Target(goal, shared_policy), "best_of_n", n=2)
    found = va.evaluate([shared_policy, aligned], goal, data, sampling=va.Sampling(max_new_tokens=3), kl_prompts=2)
    metrics = {r.metric for r in found.results}
    expected = {"goal.utility", "misalignment.M", "preference.accuracy", "kl.policy_reference"}
    assert expected <= metrics
    assert ("value.profile.BE" in metrics) == (level == "value")
    utilities = [r for r in found.results if r.metric == "goal.utility"]
    assert len(utilities) == 2 and all(r.value is not None and r.level == level for r in utilities)
    assert {r.provenance["goal"]["fingerprint"] for r in utilities} == {goal.fingerprint()}
    orders = [r for r in found.results if r.metric == "misalignment.M" and r.provenance and r.provenance.get("goal")]
    assert orders and all(r.n > 0 for r in orders)


FEW = va.Sampling(n=24, max_new_tokens=6)
TASK = [Group("t", user("Say a."), meta={"checks": [{"type": "characters", "min": 1}]})]


def by_tax(goal, opposite, policy, folder):
    """The best of 64 by the goal gain what one sample has not."""
    from valign.pipeline.tax import TaxPlan, tax_section
    from valign.rewards.base import from_goal

    best = va.align(policy, goal, "best_of_n", n=64)
    plan = TaxPlan({"tasks": TASK}, bare(3), from_goal(goal), sampling=va.Sampling(max_new_tokens=6), kl_prompts=0)
    found = tax_section(policy, best, plan).results
    assert next(r for r in found if r.metric == "reward.gain").value > 0
    return [r for r in found if r.metric == "reward.mean"]


def by_generality(goal, opposite, policy, folder):
    """The same answers turn under the opposite goal."""
    from valign.pipeline.generality import Splits, measure_generality

    found = measure_generality(policy, goal, Splits(bare(3), bare(3, first=9), ("story",)), FEW).results
    scores = {r.variant.removeprefix(f"{goal.id}."): r for r in found if r.metric == "goal.utility"}
    assert set(scores) == {"iid", "ood", "jailbreak", "value_swap"}
    assert scores["value_swap"].value != scores["iid"].value
    return list(scores.values())


def by_overopt(goal, opposite, policy, folder):
    """As proxy and as gold: pushed toward the opposite, the goal falls."""
    from valign.evaluation.measure.common import sample_groups
    from valign.evaluation.measure.overopt import overopt_section
    from valign.rewards.base import from_goal

    groups = sample_groups(policy, bare(4), FEW)[1]
    section = overopt_section(groups, from_goal(opposite), from_goal(goal), subject=policy.id, about={"gold": goal.id})
    found = {(r.metric, r.variant): r for r in section.results}
    assert found["overopt.covariance", "start"].value < 0 and found["overopt.gold_change", "best_of_16"].value < 0
    return []


def by_explain(goal, opposite, policy, folder):
    """The reward of each given answer, what its words add to it, and the level's own record."""
    from valign.evaluation.measure.explain import Question, explain
    from valign.rewards.base import from_goal

    first, *others = explain(bare(1), Question(judge=from_goal(goal), goal=goal, by="word"))
    assert first["reward"]["judge"] == goal.id and all(first["reward"]["score"] > r["reward"]["score"] for r in others)
    assert len(first["reward"]["segments"]) == 3 and ("values" in first) == (goal.level == "value")
    assert [p["id"] for p in first.get("principles", ())] == (["help"] if goal.level == "principle" else [])
    return []


def by_guard(goal, opposite, policy, folder):
    """The hook in a run of one step: gold that is the reward has slope 1 on it, the opposite gold rings before step 0."""
    from valign.methods.guard import curve

    rows = {}
    for name, gold in (("same", goal), ("opposite", opposite)):
        guard = va.Guard(gold, bare(8, first=20), samples=24, every=1)
        va.align(policy, va.Target(goal, policy), "rloo", bare(4), guard=guard, out=folder / name, **CHEAP["rloo"])
        rows[name] = curve(folder / name / "run")
    assert all([r["step"] for r in found] == [0, 1] for found in rows.values())
    assert all(r["slope"] == pytest.approx(1) and not r["fires"] for r in rows["same"])
    assert rows["opposite"][0]["fires"] and rows["opposite"][0]["covariance"] < 0
    return []


def by_rescore(goal, opposite, policy, folder):
    """Every pair that one goal orders the other orders the other way round."""
    from valign.pipeline.evaluate import write_evaluation
    from valign.pipeline.rescore import rescore
    from valign.pipeline.rescored_results import measured_again
    from valign.pipeline.stored import read_outputs

    stored = va.evaluate(policy, goal, bare(3), sampling=FEW, kl_prompts=0).measured[0]
    write_evaluation(folder, stored)
    found = rescore(read_outputs(folder), opposite, goal)
    assert 0 < found.counts["order_flips"] == found.counts["pairs"]
    again = measured_again(found, 0)
    assert again.goal["goal"] == opposite.to_json()
    return [r for r in again.results if r.metric == "goal.utility"]


INSTRUMENTS = {"tax": by_tax, "generality": by_generality, "overopt": by_overopt, "explain": by_explain, "guard": by_guard,
               "rescore": by_rescore}  # fmt: skip


@pytest.mark.capability("G01")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_a_goal_of_every_level_drives_every_instrument(instrument, level, shared_policy, vowels, tmp_path):
    """The other evaluators, 6 x 4: each judges by the goal it was given, and its Results carry that goal's level and name."""
    goal, opposite = (goal_of(level, vowels, liked) for liked in (True, False))
    for r in INSTRUMENTS[instrument](goal, opposite, shared_policy, tmp_path):
        assert r.value is not None and r.level == level and r.variant.startswith(goal.id)


@pytest.mark.parametrize("rule", ["weighted", "lexicographic", "social", "causal"])
def test_goals_of_all_levels_as_one_goal(rule, shared_policy, vowels):
    """The four in a composite, measured on the reference's samples, drive a choice and are evaluated like any other."""
    from valign.goals import CompositeGoal, Part

    parts = tuple(Part(goal_of(level, vowels), priority=i + 1) for i, level in enumerate(LEVELS))
    goal = CompositeGoal(parts, conflict=rule).standardized(bare(3))
    best = va.align(shared_policy, va.Target(goal, shared_policy), "best_of_n", n=2)
    found = va.evaluate([shared_policy, best], goal, bare(2), sampling=va.Sampling(max_new_tokens=3), kl_prompts=0)
    assert all(r.value is not None for r in found.results if r.metric == "goal.utility")


# ----------------------------------------------------------------------------------- the Python of the design


def test_the_six_nouns_from_python(policy, care, situations, tmp_path):
    data = va.read(situations)
    assert isinstance(data, va.Dataset)
    target = va.Target(care, reference=policy, beta=0.2)
    aligned = va.align(policy, target, method="dpo", data=data, out=tmp_path / "dpo", batch_size=3)
    assert aligned.card()["config"]["beta"] == 0.2  # the target's strength is the method's
    assert va.load(tmp_path / "dpo").card()["sha256"] == aligned.card()["sha256"]
    heard = []
    result = va.evaluate([policy, aligned], care, data, sampling=va.Sampling(max_new_tokens=4), kl_prompts=2,
                         risks=[va.reward("length")],
                         on_event=lambda event, fields: heard.append(event))  # fmt: skip
    page = result.report(tmp_path / "page.html")
    assert page == tmp_path / "page.html"
    assert "dpo(" in page.read_text()
    assert {"measuring", "progress"} <= set(heard)
    assert set(result.headline()) == {policy.id, aligned.id} == {r.subject for r in result.results if r.metric == "risk.length"}
    result.save(tmp_path / "results")
    assert (tmp_path / "results" / "1" / "result.json").exists()


def test_the_policy_that_was_given_stays_as_it_was(policy, care):
    before = policy.score(groups(1))[0][0].log_prob
    va.align(policy, care, "sft", groups(4), batch_size=2, learning_rate=0.1)
    assert policy.score(groups(1))[0][0].log_prob == before


def test_a_finished_folder_is_read_again_as_the_same_policy(policy, pairs, tmp_path):
    data = va.read(pairs)
    for settings in ({}, {"adapter": "lora"}):
        out = tmp_path / f"out{len(settings)}"
        first = va.align(policy, va.Target(None, policy), "dpo", data, out=out, batch_size=6, **settings)
        again = va.align(policy, va.Target(None, policy), "dpo", data, out=out, batch_size=6, **settings)
        assert again.card() == first.card()


def test_mistakes_from_python_are_the_same_errors(policy, care, tmp_path):
    with pytest.raises(ValignError, match="did you mean: beta"):
        va.align(policy, care, "dpo", groups(2), betta=1)
    with pytest.raises(ValignError, match="unknown method"):
        va.align(policy, care, "dop", groups(2))
    with pytest.raises(ValignError, match="no policy"):
        va.evaluate([], care)
    with pytest.raises(ValignError, match="held-out data are needed"):
        va.evaluate(policy)
    unsaved = va.align(policy, care, "sft", groups(4), batch_size=4)
    with pytest.raises(ValignError, match="only when this one is"):
        va.align(unsaved, care, "value_instruction").save(tmp_path / "out")


# ---------------------------------------------------------------------------------------- the implicit reward


@pytest.mark.capability("R08")
def test_the_implicit_reward_orders_pairs_exactly_as_the_margin_of_the_training_loss(policy, pairs):
    """beta log pi/pi_ref of `preference.implicit_reward` is the margin inside the DPO loss, pair by pair."""
    from valign.engine.items import collate
    from valign.engine.reference import with_references
    from valign.evaluation.measure import measure_preference
    from valign.methods.feedback import prepare
    from valign.methods.supervised.dpo import dpo
    from valign.methods.table import METHODS

    data, beta = va.read(pairs), 0.3
    trained = va.align(policy, va.Target(None, policy), "dpo", data, batch_size=4, learning_rate=1e-2, beta=beta)
    config = METHODS["dpo"].configure({"beta": beta, "max_length": 512})
    items = prepare("pairs", data, policy.model.template, config).items
    engine = policy.engine
    items = with_references(items, engine.scorer(policy.model), "test", pairs.parent, budget=4096)
    tensors = collate(items, engine.scorer(trained.model)([i.tree for i in items]))
    terms = dpo(*(tensors[k] for k in ("policy", "reference", "mask", "pairs", "label")), beta=beta)
    margin = terms.metrics["margin"].detach().numpy()

    measured = next(r for r in measure_preference(trained, policy, list(data), beta=beta) if r.variant == "sum")
    by_pair = {i.id: i.detail["margin"] for i in measured.items}
    implicit = np.array([by_pair[i.tree.id] for i in items])
    assert np.abs(margin).max() > 0.01
    assert np.abs(implicit - margin).max() < 1e-4
    assert (np.argsort(implicit) == np.argsort(margin)).all()
    assert measured.value == pytest.approx(float(terms.metrics["correct"].mean()))
