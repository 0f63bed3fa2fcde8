"""Constrained, contextual, causal and social goals: what each rule promises, against oracles and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from valign.data.group import Group, Response, user
from valign.errors import DataError, UsageError, ValignError
from valign.goals import CompositeGoal, Part, PreferenceGoal, load_goal
from valign.goals.causal import intervene, measured_relation, moved, pushes_for
from valign.goals.constraints import Constraint, fit_multipliers
from valign.goals.theory import load_theory
from valign.goals.welfare import DISAGREEMENT, welfare_parts
from valign.theory.constrained import constrained_optimum


class Fixed:
    """A reward that reads its number from the response's text: "a b" -> number `column`."""

    def __init__(self, column: int) -> None:
        self.column, self.id = column, f"fixed {column}"

    def score(self, groups):
        return [np.array([float(r.text.split()[self.column]) for r in g.responses]) for g in groups]

    def fingerprint(self) -> str:
        return self.id


def goal(name: str, column: int) -> PreferenceGoal:
    return PreferenceGoal(Fixed(column), id=name)


def group(*rows: tuple[float, ...], prompt: str = "What now?", **meta) -> Group:
    return Group("g", user(prompt), tuple(Response(" ".join(map(str, row))) for row in rows), meta=meta)


CONFLICT = group((1.0, -1.0), (-1.0, 1.0))  # good for a and bad for b, and the other way round


def best(made: CompositeGoal, asked: Group = CONFLICT) -> int:
    return int(np.argmax(made.utility([asked])[0]))


@pytest.mark.capability("G10")
@pytest.mark.parametrize("rule", ["weighted", "lexicographic", "contextual", "causal", "social"])
def test_reversed_priorities_reverse_the_choice_under_every_rule(rule):
    """The same two parts, the same conflict item: who counts more, or comes first, decides, and turned round the other."""
    for strong, weak, choice in (("a", "b", 0), ("b", "a", 1)):
        columns = {"a": 0, "b": 1}
        parts = (Part(goal(strong, columns[strong]), weight=3, priority=1),
                 Part(goal(weak, columns[weak]), weight=1, priority=2))  # fmt: skip
        rest = {"relation": ((1.0, 0.2), (0.2, 1.0))} if rule == "causal" else {}
        made = CompositeGoal(parts, conflict=rule, standard="raw", **rest)
        assert best(made) == choice
        assert strong in made.decided_by(CONFLICT, choice, 1 - choice)


@pytest.mark.capability("G10")
def test_a_cost_that_is_made_the_goal_reverses_the_choice():
    """Constrained: a is bought until b's limit; with a and b exchanged the other response wins."""
    for main, cost, choice in ((0, 1, 1), (1, 0, 0)):
        parts = (Part(goal("main", main)), Part(goal("little", main), weight=1e-6))
        limits = (Constraint(goal("cost", cost), limit=0.0, multiplier=4.0),)
        assert best(CompositeGoal(parts, conflict="constrained", standard="raw", constraints=limits)) == choice


# --------------------------------------------------------------------------------------------------- constrained


def test_multipliers_are_those_of_the_exact_optimum():
    """The samples are all responses of a uniform reference: λ, cost and slackness agree with the theory room's law."""
    rng = np.random.default_rng(0)
    reward, cost = rng.normal(size=(8, 6)), rng.normal(size=(8, 6))
    for limit in (-0.3, 0.1, 5.0):
        exact = constrained_optimum(np.full((8, 6), 1 / 6), reward, cost, beta=0.5, limit=limit)
        found = fit_multipliers(list(reward), list(cost[..., None]), np.array([limit]), beta=0.5)
        assert found.multipliers[0] == pytest.approx(exact.multiplier, abs=1e-4)
        assert found.costs[0] == pytest.approx(exact.cost, abs=1e-4)
    assert found.multipliers[0] == 0 and found.costs[0] == pytest.approx(found.before[0])


def test_a_constrained_goal_meets_its_limit_and_reports_its_multiplier():
    rng = np.random.default_rng(1)
    groups = [group(*rng.normal(size=(40, 3)).round(3).tolist()) for _ in range(10)]
    parts = (Part(goal("a", 0)), Part(goal("b", 1)))
    made = CompositeGoal(parts, "constrained", constraints=(Constraint(goal("c", 2), limit=-0.4),), beta=0.5)
    with pytest.raises(UsageError, match="standardized"):
        made.utility(groups)
    ready = made.standardized(groups)
    (constraint,) = ready.constraints
    assert constraint.multiplier > 0
    law = [np.exp(u / 0.5) / np.exp(u / 0.5).sum() for u in ready.utility(groups)]
    costs = [-np.array([float(r.text.split()[2]) for r in g.responses]) for g in groups]
    assert np.mean([p @ c for p, c in zip(law, costs)]) == pytest.approx(-0.4, abs=0.01)  # tight, for λ > 0
    assert "cost c" in ready.explain(groups)[0]
    assert load_goal(ready.to_json()).constraints[0].multiplier == constraint.multiplier
    with pytest.raises(DataError, match="above its limit"):
        fit_multipliers([np.zeros(3)], [np.ones((3, 1))], np.array([0.0]), 0.1)


@pytest.mark.capability("G10")
@pytest.mark.parametrize("rule", ["lexicographic", "contextual", "causal", "social"])
def test_a_limit_is_met_under_every_rule(rule):
    """The rule says what is best, the limit what may not be paid for it: λ is fitted to the rule's own utility, the target
    meets the limit, and the order of the rule stands among responses of the same cost.
    """
    rng = np.random.default_rng(2)
    groups = [group(*rng.normal(size=(60, 3)).round(3).tolist()) for _ in range(8)]
    parts = (Part(goal("a", 0), priority=1), Part(goal("b", 1), priority=2))
    made = CompositeGoal(parts, rule, constraints=(Constraint(goal("c", 2), limit=-0.3),), beta=0.5).standardized(groups)
    assert made.constraints[0].multiplier > 0
    law = [np.exp(u / 0.5) / np.exp(u / 0.5).sum() for u in made.utility(groups)]
    costs = [-np.array([float(r.text.split()[2]) for r in g.responses]) for g in groups]
    assert np.mean([p @ c for p, c in zip(law, costs)]) == pytest.approx(-0.3, abs=0.01)
    even = group((1.0, -1.0, 0.5), (-1.0, 2.0, 0.5))
    free = replace(made, constraints=())
    assert np.argmax(made.utility([even])[0]) == np.argmax(free.utility([even])[0])
    costly = group((0.3, 0.0, -9.0), (0.2, 0.0, 9.0))
    assert best(made, costly) == 1 and made.decided_by(costly, 1, 0) == "cost c"


# ---------------------------------------------------------------------------------------------------- contextual


def contextual(**second) -> CompositeGoal:
    return CompositeGoal(
        (Part(goal("a", 0), priority=1, **second), Part(goal("b", 1), priority=2)), "contextual", standard="raw")  # fmt: skip


@pytest.mark.capability("G10")
def test_an_exception_flips_the_choice_only_where_its_condition_holds():
    made = contextual(exceptions=("mentions: first aid, ambulance",))
    plain = group((1, -1), (-1, 1), prompt="How do I cut meat?")
    aid = group((1, -1), (-1, 1), prompt="How do I give FIRST AID for a cut?")
    near = group((1, -1), (-1, 1), prompt="I want first aids of all kinds")
    assert [best(made, g) for g in (plain, aid, near)] == [0, 1, 0]
    assert made.decided_by(plain, 0, 1) == "1: a" and made.decided_by(aid, 1, 0) == "2: b"
    assert best(contextual(conditions=("mentions: cut",)), group((1, -1), (-1, 1), prompt="Cut it")) == 0


def test_conditions_in_words_need_somebody_who_reads_them():
    made = contextual(conditions=("the user is a child",))
    with pytest.raises(UsageError, match="nothing here can tell when 'the user is a child' holds"):
        made.utility([CONFLICT])
    listed = [group((1, -1), (-1, 1), context=c) for c in (["the user is a child"], [])]
    assert [best(made, g) for g in listed] == [0, 1]

    class Reader:
        id = "reader"

        def holds(self, groups, conditions):
            return [np.array([g.prompt_text.startswith("Mum") for _ in conditions]) for g in groups]

    heard = made.with_reader(Reader())
    asked = [group((1, -1), (-1, 1), prompt=p) for p in ("Mum, what now?", "What now?")]
    assert [best(heard, g) for g in asked] == [0, 1] and heard.fingerprint() != made.fingerprint()


def test_where_no_part_holds_every_response_is_as_good():
    parts = tuple(Part(goal(n, k), conditions=("mentions: x",)) for k, n in enumerate("ab"))
    (row,) = CompositeGoal(parts, "contextual", standard="raw").explain([CONFLICT])
    assert [x.tolist() for x in row.values()] == [[0, 0]]


# -------------------------------------------------------------------------------------------------------- causal


@pytest.mark.capability("G10")
def test_pushes_that_know_the_relations_come_nearer_to_the_whole_profile():
    """300 worlds on the circle of ten values, true relations = circle + noise, one world's answer v = v0 + R u: aiming with
    the circle ends nearer to the target over all ten values than pushing each value by its own gap, and never by luck of
    one value alone. Single pushes too: an intervention's side effects are predicted, the naive forecast leaves them out.
    """
    rng = np.random.default_rng(0)
    circle = load_theory("schwartz10").similarity()
    known, naive, forecast, blind = [], [], [], []
    for _ in range(300):
        noise = rng.normal(scale=0.1, size=circle.shape)
        true = np.where(np.eye(10, dtype=bool), 1, np.clip(circle + noise, -1, 1))
        start, target = rng.uniform(-0.3, 0.3, 10), circle @ rng.normal(scale=0.3, size=10)
        gap = target - start
        known.append(np.abs(moved(start, pushes_for(gap, circle), true) - target).mean())
        naive.append(np.abs(moved(start, gap, true) - target).mean())
        k, level = int(rng.integers(10)), float(rng.uniform(-1, 1))
        after = intervene(start, k, level, true)
        forecast.append(np.abs(intervene(start, k, level, circle) - after).mean())
        blind.append(np.abs(intervene(start, k, level, np.eye(10)) - after).mean())
    for ours, other in ((known, naive), (forecast, blind)):
        gain = np.array(other) - np.array(ours)
        assert gain.mean() - 2 * gain.std() / np.sqrt(300) > 0.05
    assert np.mean(np.array(known) < np.array(naive)) > 0.95


def test_interventions_by_hand():
    relation = np.array([[1.0, 0.5], [-0.5, 1.0]])
    assert intervene(np.array([0.2, 0.1]), 0, 1.0, relation).tolist() == pytest.approx([1.0, 0.1 - 0.5 * 0.8])
    assert pushes_for(np.array([1.0, 0.0]), relation, ridge=0).tolist() == pytest.approx([0.8, 0.4])  # the inverse
    assert np.allclose(pushes_for(np.array([3.0, 1.0]), np.eye(2), ridge=0), [3, 1])


def test_a_relation_is_measured_or_taken_from_the_circle():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 1))
    scores = np.hstack([x, 0.6 * x + 0.8 * rng.normal(size=(4000, 1)), np.ones((4000, 1))])
    assert np.allclose(measured_relation(scores), [[1, 0.6, 0], [0.6, 1, 0], [0, 0, 1]], atol=0.05)
    spec = {
        "level": "composite", "conflict": "causal", "relation": "circle", "standard": "raw",
        "parts": [{"goal": {"id": n, "level": "value", "theory": "schwartz10", "target": {n: s}}}
                  for n, s in (("SD", 1), ("SE", 1), ("PO", -1))],
    }  # fmt: skip
    cos = [[np.cos(np.radians(a - b)) for b in (0, 200, 160)] for a in (0, 200, 160)]
    signs = np.outer([1, 1, -1], [1, 1, -1])
    made = load_goal(spec)
    assert np.allclose(made.relation, np.array(cos) * signs)
    assert load_goal(made.to_json()).fingerprint() == made.fingerprint()
    groups = [group(*rng.normal(size=(50, 2)).round(2).tolist())]
    ready = CompositeGoal((Part(goal("a", 0)), Part(goal("b", 1))), "causal").standardized(groups)
    assert np.array(ready.relation).shape == (2, 2) and ready.utility(groups)[0].shape == (50,)


# -------------------------------------------------------------------------------------------------------- social

PROFILE = np.array([  # four people, five responses
    [2.0, 1.0, -0.5, 0.5, -2.0],
    [1.0, 2.0, -1.5, 0.6, -2.0],
    [-2.0, -1.0, 1.5, 0.4, -2.5],
    [-1.0, -2.0, 2.0, 0.3, -2.5],
])  # fmt: skip


def social(u: np.ndarray, rule: str, weights: np.ndarray | None = None) -> np.ndarray:
    return welfare_parts(u, np.ones(len(u)) if weights is None else weights, rule).sum(0)


def test_social_rules_by_hand():
    assert social(PROFILE, "mean")[0] == pytest.approx(0.0)
    assert social(PROFILE, "maxmin").tolist() == [-2, -2, -1.5, 0.3, -2.5]
    assert social(PROFILE, "nash")[3] == pytest.approx(np.log([3.5, 3.6, 3.4, 3.3]).mean())
    assert social(PROFILE, "approval").tolist() == [0.5, 0.5, 0.5, 1.0, 0.0]
    one = np.array([[3.0, 2.0, 2.0]])
    assert social(one, "borda").tolist() == [1.0, 0.25, 0.25]
    assert social(one, "condorcet").tolist() == [2.0, 0.25, 0.25]
    assert DISAGREEMENT == -3.0


@pytest.mark.capability("G10")
def test_the_worst_off_person_fares_best_under_maxmin():
    """Worst-group utility of the chosen response, over 500 societies: maxmin is never below any other rule."""
    rng = np.random.default_rng(0)
    gains = {rule: [] for rule in ("mean", "nash", "approval", "borda", "condorcet")}
    for _ in range(500):
        u = rng.normal(size=(5, 8))
        worst = u.min(0)
        top = worst[social(u, "maxmin").argmax()]
        for rule, out in gains.items():
            out.append(top - worst[social(u, rule).argmax()])
    assert all(min(out) >= -1e-12 for out in gains.values())
    assert np.mean(gains["mean"]) > np.mean(gains["nash"]) > 0.01  # Nash lies between the sum and the worst


@pytest.mark.parametrize("rule", ["mean", "maxmin", "nash", "approval", "borda"])
def test_who_likes_a_response_more_never_lowers_it(rule):
    """Monotonicity: raising one person's utility of one response never lowers its social utility."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        u = rng.normal(size=(4, 6))
        up = u.copy()
        up[rng.integers(4), 2] += rng.exponential()
        assert social(up, rule)[2] >= social(u, rule)[2] - 1e-12


@pytest.mark.capability("G10")
def test_a_condorcet_winner_wins_and_without_one_borda_decides():
    rng = np.random.default_rng(2)
    winners = differs = 0
    for _ in range(500):
        u = rng.normal(size=(5, 4))
        beats = (u[:, :, None] > u[:, None, :]).sum(0) > 2.5
        found = [j for j in range(4) if all(beats[j, i] for i in range(4) if i != j)]
        choice = int(social(u, "condorcet").argmax())
        if found:
            winners += 1
            assert choice == found[0]
            differs += int(social(u, "borda").argmax()) != found[0]
        else:
            assert choice == int(social(u, "borda").argmax())
    assert winners > 300 and differs > 5  # both branches were tried, and Borda alone would have failed
    cycle = np.array([[3.0, 2, 1], [1.0, 3, 2], [2.0, 1, 3]])
    assert np.allclose(social(cycle, "condorcet"), 0.5)


@pytest.mark.parametrize("rule", ["borda", "condorcet"])
def test_a_rank_needs_another_response(rule):
    """One response has no rank: 0 would put every policy that is asked for one response on the same level in silence."""
    assert np.isnan(social(np.array([[1.0], [2.0]]), rule)).all()
    assert np.isnan(social(np.array([[1.0, np.nan], [2.0, 0.0]]), rule)).all()
    assert social(np.array([[1.0, 0.0], [2.0, 0.0]]), rule)[0] > 0.9


def test_weights_are_people_and_the_unknown_stays_unknown():
    u = np.array([[1.0, 0.0, np.nan], [0.0, 1.0, 1.0]])
    assert social(u, "mean", np.array([3.0, 1.0]))[:2].tolist() == [0.75, 0.25]
    assert np.isnan(social(u, "borda")).tolist() == [False, False, True]


# --------------------------------------------------------------------------------------------------------- files


def test_a_file_with_every_rule_comes_back_the_same():
    value = {"level": "value", "theory": "schwartz10", "target": {"benevolence": 1}}
    parts = [{"goal": "core"}, {"goal": value, "priority": 2}]
    costs = [{"cost": "hhh", "limit": 0.1}, {"goal": {**value, "id": "x"}, "limit": 1, "sign": 1, "multiplier": 2}]
    for rest in (
        {"conflict": "constrained", "constraints": costs},
        {"conflict": "contextual", "parts": [{**parts[0], "conditions": ["mentions: a"], "exceptions": ["b"]}, parts[1]]},
        {"conflict": "causal", "relation": [[1, 0.5], [0.5, 1]]},
        {"conflict": "social", "social": "nash"},
    ):
        made = load_goal({"level": "composite", "parts": parts, **rest})
        again = load_goal(made.to_json())
        assert again.to_json() == made.to_json() and again.fingerprint() == made.fingerprint()
        assert len(made.describe()) > 20


@pytest.mark.parametrize(
    "rest, message",
    [
        ({"conflict": "constrained"}, "needs constraints"),
        ({"constraints": [{"cost": "hhh", "limit": 1}]}, "does not read constraints"),
        ({"social": "nash"}, "does not read social"),
        ({"epsilon": 0.2}, "weighted does not read epsilon"),
        ({"conflict": "social", "social": "nsh"}, "did you mean: nash"),
        ({"relation": [[1, 0], [0, 1]]}, "does not read relation"),
        ({"conflict": "causal", "relation": [[1, 0]]}, "2 rows of 2"),
        ({"conflict": "causal", "relation": [[2, 0], [0, 1]]}, "1 on the diagonal"),
        ({"conflict": "causal", "relation": "circle"}, "aim at one value each"),
        ({"parts": [{"goal": "core", "conditions": ["a"]}, {"goal": "uk"}]}, "which weighted does not read"),
        ({"conflict": "constrained", "constraints": [{"cost": "hhh"}]}, "limit"),
        ({"parts": [{"goal": "core", "wieght": 2}, {"goal": "uk"}]}, "wieght"),
    ],
)
def test_what_a_rule_does_not_read_is_refused(rest, message):
    with pytest.raises(ValignError, match=message):
        load_goal({"level": "composite", "parts": [{"goal": "core"}, {"goal": "uk"}], **rest})
