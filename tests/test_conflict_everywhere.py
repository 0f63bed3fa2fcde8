"""One rule for conflicts, obeyed alike by what is trained, said, chosen and measured: turned round, all of them turn round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import valign as va
from valign.data.group import Group, Response, user
from valign.goals import CompositeGoal, Part, PreferenceGoal, load_goal
from valign.goals.constraints import Constraint
from valign.models.policy import Cost, Sample, Sampling, Scored

ANSWERS = ("aaaaaa", "bbbbbb")  # all that is asked for one part of the goal, and nothing of what the other part asks
RULES = ("weighted", "lexicographic", "contextual", "causal", "social", "constrained", "principles")
TRAINING = {"batch_size": 4, "learning_rate": 3e-2}


class Share:
    """How much of a response is one letter."""

    def __init__(self, letter: str) -> None:
        self.letter, self.id = letter, f"share of {letter}"

    def score(self, groups: Sequence[Group]) -> list[np.ndarray]:
        return [np.array([r.text.count(self.letter) / max(1, len(r.text)) for r in g.responses]) for g in groups]

    def fingerprint(self) -> str:
        return self.id


class Kept:
    """Principles named after letters."""

    id = "letters"

    def verdicts(self, groups: Sequence[Group], principles: Sequence[Any]) -> list[np.ndarray]:
        return [np.stack([2 * u - 1 for u in (Share(p.id).score([g])[0] for p in principles)], axis=1) for g in groups]


class Says:
    """A policy whose answers are known; several samples go through them in turn."""

    kind = "weights"

    def __init__(self, *texts: str) -> None:
        self.texts, self.id, self.cost = texts, f"says {texts[0][0]}", Cost()

    def card(self) -> dict[str, Any]:
        return {"id": self.id, "kind": self.kind, "sha256": self.id.encode().hex().ljust(64, "0"), "notes": []}

    def generate(self, prompts, sampling, *, keys=None, progress=None):
        zero = np.zeros(1, np.float32)
        samples = [Sample(self.texts[i % len(self.texts)], (0,), zero, zero, "stop") for i in range(sampling.n)]
        return [list(samples) for _ in prompts]

    def score(self, groups, *, progress=None):
        return [[Scored(np.array([-1.0], np.float32)) for _ in g.responses] for g in groups]


def asked(n: int) -> list[Group]:
    """Prompts with both answers and no feedback: only the goal can say which is better."""
    return [Group(f"q{i}", user(f"What now, {i}?"), tuple(map(Response, ANSWERS))) for i in range(n)]


def wish(letter: str, id: str = "") -> PreferenceGoal:
    return PreferenceGoal(Share(letter), id=id or letter, text=f"answers full of {letter}")


def goal_of(rule: str, first: str, second: str):
    """A goal in which `first` goes before `second`: by weight, by priority, or as the limit that comes before the rest."""
    if rule == "principles":
        rows = [(1, first), (2, second)]  # the first comes before although it weighs less
        rules = [{"id": x, "text": f"answers full of {x}", "priority": i, "weight": i} for i, x in rows]
        return load_goal({"level": "principle", "conflict": "lexicographic", "principles": rules}, scorers=Kept())
    if rule == "constrained":
        parts = (Part(wish(second)), Part(wish(second, "again"), weight=0.01))
        return CompositeGoal(parts, rule, "raw", constraints=(Constraint(wish(first), limit=-0.5, multiplier=9.0),))
    # by priority the first goes before the second although it weighs less
    weights = (1, 3) if rule in ("lexicographic", "contextual") else (3, 1)
    extra = {"relation": ((1.0, 0.2), (0.2, 1.0))} if rule == "causal" else {}
    made = CompositeGoal((Part(wish(first), weights[0], 1), Part(wish(second), weights[1], 2)), rule, **extra)
    return made.standardized(asked(4))


@pytest.fixture(scope="module")
def policy(model):
    return va.load(model)


@pytest.mark.capability("G10")
@pytest.mark.parametrize("first, second, best", [("a", "b", 0), ("b", "a", 1)])
@pytest.mark.parametrize("rule", RULES)
def test_reversed_priorities_reverse_what_is_learned_said_chosen_and_measured(rule, first, second, best, policy):
    """7 rules, both ways round. SFT and DPO make the chosen answer more probable from data without any feedback, rollouts are
    rewarded for it, best of n returns it, the words of value instruction put its part first, evaluation puts the policy that
    gives it above the other.
    """
    goal = goal_of(rule, first, second)
    target = va.Target(goal, policy)

    before = policy.score(asked(1))[0]
    for method in ("sft", "dpo"):
        trained = va.align(policy, target, method, asked(4), **TRAINING).score(asked(1))[0]
        gain = [m.log_prob - b.log_prob for m, b in zip(trained, before)]
        assert int(np.argmax(gain)) == best, method

    assert all(int(np.argmax(u)) == best for u in target.utility()(asked(3)))  # what rollouts are rewarded by

    both = Says(*ANSWERS)
    chosen = va.align(both, va.Target(goal, both), "best_of_n", n=2).generate([user("What now?")], Sampling(max_new_tokens=3))
    assert chosen[0][0].text == ANSWERS[best]

    words = va.align(both, va.Target(goal, both), "value_instruction").rewrite([user("What now?")])[0][0].content
    limit = words.find("Only rarely may an answer fail in this")
    assert (words.index(f"full of {first}") < words.index(f"full of {second}")) == (rule != "constrained")
    assert (words.index(f"full of {second}") < words.index(f"full of {first}") < limit) == (rule == "constrained")

    policies = [Says(text) for text in ANSWERS]
    judged = va.evaluate(policies, goal, asked(3), sampling=Sampling(max_new_tokens=3), kl_prompts=0)
    utility = [judged.headline("goal.utility")[p.id] for p in policies]
    assert int(np.argmax(utility)) == best and utility[0] != utility[1]


@pytest.mark.parametrize("rule, best", [("borda", 0.75), ("condorcet", 1.75)])
def test_two_policies_are_told_apart_by_a_rule_that_ranks(rule, best):
    """Three of four people want "a": answers full of it beat the reference's in 3/4 of the opinions, and by majority. The
    reference is as good as itself, and a policy without a reference is refused before it is asked for anything."""
    goal = CompositeGoal((Part(wish("a"), 3), Part(wish("b"), 1)), "social", "raw", social=rule)
    liked, other = (Says(text) for text in ANSWERS)
    for n in (1, 3):
        options = {"sampling": Sampling(n=n, max_new_tokens=3), "kl_prompts": 0}
        judged = va.evaluate([other, liked], goal, asked(3), **options)
        found = judged.headline("goal.utility")
        assert (found[other.id], found[liked.id]) == pytest.approx((0.5, best))
        note = next(r for r in judged.measured[1].results if r.metric == "goal.utility").notes
        assert any(f"among those of {other.id}" in text for text in note)
    with pytest.raises(va.ValignError, match="answers of another policy") as caught:
        va.evaluate(liked, goal, asked(3), kl_prompts=0)
    assert any("social: mean" in how for how in caught.value.how)


def test_a_rule_that_ranks_asks_for_a_reference_before_anything_is_loaded(valign, tmp_path):
    file = tmp_path / "vote.yaml"
    parts = "[{goal: uk}, {goal: nl}]"
    file.write_text(f"id: vote\nlevel: composite\nconflict: social\nsocial: borda\nstandard: raw\nparts: {parts}\n")
    out = ("--out", tmp_path / "out")
    for command, option in (
        (("evaluate", "nowhere", "--data", "builtin:dilemmas#test", "--goal", file), "--reference"),
        (("generality", "nowhere", "--data", "builtin:dilemmas#test", "--goal", file), "--goal"),
        (("tax", "nowhere", "other", "--data", "builtin:dilemmas#test", "--reward", file), "--reward"),
    ):
        said = valign.error(*command, *out, status=2)
        assert said.startswith(f"valign: {option}: goal vote ranks") and "mean, maxmin, nash or approval" in said
    assert not (tmp_path / "out").exists()
