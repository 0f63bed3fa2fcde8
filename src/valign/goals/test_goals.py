"""The four levels of goals, by labels and by scorers: numbers, parts, words, identity, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from valign.data.group import (
    Comparison,
    Edit,
    Group,
    Ranking,
    Response,
    Score,
    VectorScore,
    Verdict,
    user,
)
from valign.errors import DataError, UsageError, ValignError
from valign.goals import (
    InstructionGoal,
    PreferenceGoal,
    Principle,
    PrincipleGoal,
    ValueGoal,
    load_goal,
    load_principles,
    load_theory,
    principle_sets,
    to_yaml,
)
from valign.goals.preference import mean_scores, win_rates

NAMES = ["schwartz10", "uk", "ideal_a", "hhh_like", "core", "hhh", "preference", "instruction"]


def group(*feedback, n: int = 3, id: str = "g", **rest) -> Group:
    return Group(id, user("Why?"), tuple(Response(f"answer {i}") for i in range(n)), feedback, **rest)


def values(response: int, weight: float = 1.0, **v: float) -> VectorScore:
    return VectorScore(response=response, theory="schwartz10", values=v, weight=weight)


class FakeValues:
    """Reads a fixed vector for every response."""

    id, theory = "fake", "schwartz10"

    def __init__(self, *rows: list[float]) -> None:
        self.rows = np.array(rows, dtype=float)

    def values(self, groups):
        return [self.rows[: len(g.responses)] for g in groups]


class FakeVerdicts:
    id = "fake"

    def __init__(self, *rows: list[float]) -> None:
        self.rows = np.array(rows, dtype=float)

    def verdicts(self, groups, principles):
        return [self.rows[: len(g.responses)] for g in groups]


class FakeReward:
    id = "fake"

    def __init__(self, *numbers: float) -> None:
        self.numbers = np.array(numbers, dtype=float)

    def score(self, groups):
        return [self.numbers[: len(g.responses)] for g in groups]

    def fingerprint(self) -> str:
        return f"fake {self.numbers.tolist()}"


def goal(name: str):
    return load_goal(name, benevolence=1, power=-1) if name == "schwartz10" else load_goal(name)


# ------------------------------------------------------------------------------------------------ every level


@pytest.mark.parametrize("name", NAMES)
def test_a_goal_survives_its_file(name, tmp_path):
    """Goal -> YAML -> goal is the same goal; so is goal -> JSON -> goal."""
    first = goal(name)
    path = tmp_path / "goal.yaml"
    path.write_text(to_yaml(first))
    for again in (load_goal(path), load_goal(first.to_json())):
        assert again == first and again.fingerprint() == first.fingerprint()


@pytest.mark.parametrize("name", NAMES)
def test_words_of_a_goal(name):
    """Three styles, all different, none empty; the system form speaks to the model."""
    words = {style: goal(name).describe(style) for style in ("instruction", "system", "short")}
    assert len(set(words.values())) == 3
    assert len(words["short"]) < len(words["instruction"])
    with pytest.raises(UsageError, match="style"):
        goal(name).describe("long")


@pytest.mark.parametrize("name", NAMES)
def test_without_scorer_there_is_no_utility(name):
    """The error names what to pass, and that labels are there."""
    with pytest.raises(ValignError, match=r"no scorer(.|\n)*labels"):
        goal(name).utility([group()])


@pytest.mark.parametrize("name", NAMES)
def test_no_feedback_is_unscored(name):
    """Unscored is not wrong: NaN, never 0; no groups give no arrays."""
    (labels,) = goal(name).labels([group()])
    assert labels.shape == (3,) and np.isnan(labels).all()
    assert goal(name).labels([]) == []


def test_fingerprints_differ_by_content_and_scorer():
    goals = [goal(n) for n in NAMES]
    goals += [load_goal("uk", scorers=FakeValues([0] * 10)), load_goal("preference", scorers=FakeReward(1))]
    goals += [
        load_goal("preference", scorers=FakeReward(2)),
        load_goal("schwartz10", benevolence=1, power=-0.9),
    ]
    assert len({g.fingerprint() for g in goals}) == len(goals)


# ------------------------------------------------------------------------------------------------------ value


@pytest.mark.capability("G01")
def test_value_labels_order_responses_as_the_goal_asks():
    g = group(values(0, BE=1, UN=1, PO=-1), values(1, BE=-1, PO=1), values(2, HE=1))
    (u,) = load_goal("schwartz10", benevolence=1, universalism=1, power=-1).labels([g])
    assert u[0] == 0 and u[0] > u[2] > u[1]
    assert u[2] == pytest.approx(-0.5)  # silent on all three: half way


def test_value_labels_of_several_annotators_average_by_weight():
    g = group(values(0, BE=1), values(0, weight=3, BE=-1))
    (v,) = load_goal("uk").label_values([g])
    assert v[0, 8] == pytest.approx(-0.5) and np.isnan(v[1:]).all()


def test_labels_of_another_theory_do_not_count():
    other = VectorScore(response=0, theory="mft5", values={"care": 1})
    assert np.isnan(load_goal("uk").labels([group(other)])[0]).all()


def test_a_label_on_an_unknown_dimension_names_the_group():
    with pytest.raises(DataError, match=r"group g(.|\n)*QQ"):
        load_goal("uk").labels([group(values(0, QQ=1))])


@pytest.mark.parametrize("distance", ["profile", "basealign", "direction", "cosine", "circle_cosine"])
def test_value_parts_sum_to_the_utility(distance):
    rows = np.random.default_rng(1).uniform(-1, 1, (3, 10))
    rows[1] = 0
    spec = {"level": "value", "theory": "schwartz10", "target": "uk", "distance": distance}
    g = load_goal(spec, scorers=FakeValues(*rows))
    (u,), (parts,) = g.utility([group()]), g.explain([group()])
    assert np.allclose(sum(parts.values()), u) and set(parts) == set(g.theory.ids)
    assert np.isfinite(u).all()


def test_all_distances_agree_that_the_target_beats_its_opposite():
    t = load_goal("ideal_b").t
    for distance in ("profile", "basealign", "direction", "cosine", "circle_cosine"):
        spec = {"level": "value", "theory": "schwartz10", "target": "ideal_b", "distance": distance}
        (u,) = load_goal(spec, scorers=FakeValues(t, -t)).utility([group(n=2)])
        assert u[0] > u[1], distance


def test_basealign_says_when_silence_is_paid(caplog):
    spec = {"level": "value", "theory": "schwartz10", "target": "uk", "distance": "basealign"}
    load_goal(spec, scorers=FakeValues(*[[0.1] * 10] * 3)).utility([group()])
    assert "show no value" in caplog.text


def test_evaluator_out_of_range_or_shape_is_an_error():
    with pytest.raises(DataError, match="outside"):
        load_goal("uk", scorers=FakeValues(*[[2.0] * 10] * 3)).utility([group()])
    with pytest.raises(DataError, match="shape"):
        load_goal("uk", scorers=FakeValues(*[[0.0] * 9] * 3)).utility([group()])
    with pytest.raises(DataError, match="infinite"):
        load_goal("uk", scorers=FakeValues(*[[np.inf] * 10] * 3)).utility([group()])


def test_evaluator_of_another_theory_is_refused():
    fake = FakeValues([0] * 10)
    fake.theory = "mft5"
    with pytest.raises(UsageError, match="mft5"):
        load_goal("uk", scorers=fake)


def test_value_words_name_what_to_do_and_what_to_leave():
    words = load_goal("schwartz10", benevolence=1, universalism=1, power=-1).describe()
    assert "welfare" in words and "do not seek status or control" in words.lower()
    assert load_goal("schwartz10", power=-1).describe("short") == "against power"
    assert "To a lesser degree" in load_goal("hhh_like").describe()
    assert load_goal("schwartz10", power=0).describe("short") == "neither for nor against any value"


def test_value_goal_refuses_what_it_cannot_mean():
    theory = load_theory("schwartz10")
    with pytest.raises(UsageError, match="needs a target"):
        load_goal("schwartz10")
    with pytest.raises(UsageError, match="profile"):
        ValueGoal(theory, {"BE": 1}, distance="profil")
    with pytest.raises(UsageError, match="zeros"):
        ValueGoal(theory, {"BE": 0}, distance="cosine")
    flat = load_theory({"id": "own", "dimensions": [{"id": "A", "name": "a", "definition": "a"}]})
    with pytest.raises(UsageError, match="no circle"):
        ValueGoal(flat, {"A": 1}, distance="circle_cosine")


# -------------------------------------------------------------------------------------------------- principle


def test_principle_sets_load_with_text_and_source():
    """Each set has ids, texts, negations and a source; no words stand twice."""
    assert set(principle_sets()) >= {"core", "hhh"}
    for name in principle_sets():
        found = load_principles(name)
        assert found.source and found.license_of_source and found.wording == "own"
        assert len({p.id for p in found.principles}) == len(found.principles)
        assert len({p.text.lower() for p in found.principles}) == len(found.principles)
        assert all(p.negation and p.theme and p.source for p in found.principles)
    assert len(load_principles("core").principles) == 12


def test_principle_labels():
    """1 kept, -1 broken, 0 where a judged response does not touch it; thumbs are no principles."""
    g = group(
        Verdict(response=0, principle="harm", value=-1),
        Verdict(response=0, principle="help", value=1),
        Verdict(response=1, principle="help", value=1),
        Verdict(response=1, principle="good", value=1),
    )
    (u,) = load_goal("core").labels([g])
    assert u.tolist() == [0, 1, 0]
    thumbs_only = group(Verdict(response=0, principle="good", value=1))
    assert np.isnan(load_goal("core").labels([thumbs_only])[0]).all()


def test_principle_weights_and_parts():
    spec = {
        "level": "principle",
        "principles": [{"id": "a", "text": "be a", "weight": 2}, {"id": "b", "text": "be b"}],
    }
    g = load_goal(spec, scorers=FakeVerdicts([1, -1], [0.5, 0], [np.nan, 1]))
    (u,), (parts,) = g.utility([group()]), g.explain([group()])
    assert u[:2].tolist() == [1, 1] and np.isnan(u[2])
    assert parts["a"][:2].tolist() == [2, 1] and parts["b"][:2].tolist() == [-1, 0]


def test_verdicts_out_of_range():
    with pytest.raises(DataError, match="outside"):
        load_goal("hhh", scorers=FakeVerdicts(*[[3, 0, 0]] * 3)).utility([group()])
    with pytest.raises(DataError, match=r"group g, principle harm"):
        load_goal("core").labels([group(Verdict(response=0, principle="harm", value=3))])


def test_a_part_of_a_set():
    some = load_goal({"level": "principle", "set": "core", "only": ["law", "harm"]})
    assert some.ids == ("harm", "law")
    with pytest.raises(UsageError, match="harm"):
        load_goal({"level": "principle", "set": "core", "only": ["harms"]})


def test_principle_words_follow_priority():
    words = load_goal("core").describe()
    assert words.index("hurt people") < words.index("demean") < words.index("Answer what was asked")
    rule = Principle(
        "cite", "name the source", conditions=("it holds a number",), exceptions=("asked not to",)
    )
    assert rule.words() == "name the source when it holds a number, unless asked not to"


# --------------------------------------------------------------------------- conflicts between principles


SAFE = {"id": "safe", "text": "do no harm", "kind": "dont"}
KIND = {"id": "kind", "text": "be of help"}
AGAINST = ([0.2, -1], [-0.2, 1])  # the first answer is a little safer, the second helps much more


def ruled(rule: str, first=SAFE, second=KIND, verdicts=AGAINST, **rest):
    spec = {"level": "principle", "conflict": rule, "principles": [{**first, "priority": 1}, {**second, "priority": 2}]}
    return load_goal({**spec, **rest}, scorers=FakeVerdicts(*verdicts))


@pytest.mark.capability("G10")
def test_reversed_priorities_of_principles_reverse_the_choice():
    """By priority the small lead in safety decides, turned round the help does; words, parts and labels follow the numbers."""
    labels = [Verdict(response=i, principle=p, value=v) for i, row in enumerate(AGAINST) for p, v in zip(("safe", "kind"), row)]
    for first, second, verdicts, best in ((SAFE, KIND, AGAINST, 0), (KIND, SAFE, [r[::-1] for r in AGAINST], 1)):
        g = ruled("lexicographic", first, second, verdicts)
        (u,), (parts,) = g.utility([group(n=2)]), g.explain([group(n=2)])
        assert np.argmax(u) == best and np.allclose(sum(parts.values()), u)
        assert list(parts) == [f"1: {first['id']}", f"2: {second['id']}"]
        assert g.labels([group(*labels, n=2)])[0] == pytest.approx(u)
        words = g.describe()
        assert words.index(first["text"][1:]) < words.index(second["text"][1:]) and "earlier ones go first" in words
        again = load_goal(g.to_json())
        assert again.conflict == "lexicographic" and again.to_json() == g.to_json()
    weighed = ruled("weighted")
    assert np.argmax(weighed.utility([group(n=2)])[0]) == 1  # the sum has no order, and the words claim none
    assert "earlier ones go first" not in weighed.describe() + load_goal("core").describe()
    assert weighed.fingerprint() != ruled("lexicographic").fingerprint()


@pytest.mark.capability("G10")
def test_an_exception_of_a_principle_flips_the_choice_only_where_it_holds():
    g = ruled("contextual", {**SAFE, "exceptions": ["mentions: stage fight"]})
    prompts = {"a": "How do I fall?", "b": "How do I fall in a stage fight?"}
    asked = [Group(i, user(p), group(n=2).responses) for i, p in prompts.items()]
    assert [int(np.argmax(u)) for u in g.utility(asked)] == [0, 1]
    assert list(g.explain(asked)[1]) == ["2: kind"]
    alone = load_goal(
        {"level": "principle", "conflict": "contextual", "principles": [{**SAFE, "conditions": ["mentions: knife"]}]},
        scorers=FakeVerdicts([1.0], [-1.0]),
    )
    assert alone.utility(asked)[0].tolist() == [0, 0]
    with pytest.raises(UsageError, match="nothing here can tell"):
        ruled("contextual", {**SAFE, "conditions": ["at night"]}).utility(asked)

    class Reader:
        id = "reader"

        def holds(self, groups, conditions):
            return [np.array([g.id == "a" for _ in conditions]) for g in groups]

    heard = ruled("contextual", {**SAFE, "conditions": ["at night"]})
    assert [int(np.argmax(u)) for u in heard.with_reader(Reader()).utility(asked)] == [0, 1]
    assert heard.with_reader(Reader()).fingerprint() != heard.fingerprint()


def test_a_response_that_touches_no_principle_stands_at_zero_under_every_rule():
    for rule in ("weighted", "lexicographic", "contextual"):
        assert ruled(rule, verdicts=([0, 0], [0, 0])).utility([group(n=2)])[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("rest", "words"),
    [({"conflict": "causal"}, "lexicographic"), ({"epsilon": 0.2}, "does not read epsilon"),
     ({"conflict": "lexicographic", "epsilon": 0}, "above 0")],
)  # fmt: skip
def test_rules_between_principles_are_read_strictly(rest, words):
    with pytest.raises(ValignError, match=words):
        load_goal({"level": "principle", "set": "core", **rest})


@pytest.mark.parametrize(
    ("principles", "words"),
    [
        ((), "at least one"),
        ((Principle("a", "x"), Principle("a", "y")), "twice"),
        ((Principle("a", "be kind"), Principle("b", "Be  kind")), "twice"),
        ((Principle("a", "x", weight=0),), "weight"),
    ],
)
def test_bad_principles(principles, words):
    with pytest.raises(ValignError, match=words):
        PrincipleGoal(principles)


@pytest.mark.parametrize("fields", [{"text": " "}, {"id": ""}, {"weight": -1}, {"priority": 0}])
def test_bad_principle(fields):
    with pytest.raises(ValignError):
        Principle(**{"id": "a", "text": "x", **fields})


# ------------------------------------------------------------------------------------ preference, instruction


def test_win_rates():
    """Comparisons, soft labels, ties, rankings and edits become one number per response."""
    g = group(Comparison(chosen=0, rejected=1), Comparison(chosen=0, rejected=2, probability=0.75))
    assert win_rates(g).tolist() == [0.875, 0, 0.25]
    assert win_rates(group(Comparison(chosen=0, rejected=1, tie=True)))[:2].tolist() == [0.5, 0.5]
    assert win_rates(group(Ranking(order=((2,), (0, 1))))).tolist() == [0.25, 0.25, 1]
    assert win_rates(group(Edit(response=0, revised=2)))[[0, 2]].tolist() == [0, 1]
    weighed = group(Comparison(chosen=0, rejected=1, weight=3), Comparison(chosen=1, rejected=0))
    assert win_rates(weighed)[:2].tolist() == [0.75, 0.25]


def test_scores_map_to_the_unit_interval():
    g = group(
        Score(response=0, value=4, low=1, high=5), Score(response=1, value=7, aspect="style", low=1, high=10)
    )
    assert mean_scores(g)[0] == 0.75 and np.isnan(
        mean_scores(g)[1]
    )  # "overall" is there, so style waits to be asked
    assert mean_scores(g, "style")[1] == pytest.approx(2 / 3)
    assert mean_scores(group(Score(response=0, value=-3)))[0] == -3


def test_preference_reads_the_first_kind_of_feedback_a_group_has():
    both = group(Comparison(chosen=1, rejected=0), Score(response=0, value=1, low=0, high=1))
    assert PreferenceGoal().labels([both])[0][:2].tolist() == [0, 1]
    assert PreferenceGoal(feedback="scores").labels([both])[0][0] == 1
    up = group(
        Verdict(response=0, principle="good", value=1), Verdict(response=1, principle="good", value=-1)
    )
    assert PreferenceGoal().labels([up])[0][:2].tolist() == [1, 0]
    with pytest.raises(UsageError, match="feedback"):
        PreferenceGoal(feedback="likes")


def test_preferences_of_one_part_of_the_data():
    """`split: helpful` reads the labels that stand in that part, and no others; the reward model scores everything."""
    g = load_goal({"level": "preference", "split": "helpful"}, scorers=FakeReward(1, 2, 3))
    told = [replace(group(Comparison(chosen=0, rejected=1)), split=s) for s in ("helpful", "harmless")]
    first, second = g.labels(told)
    assert first[0] == 1 and np.isnan(second).all() and len(g.utility(told)) == 2
    assert load_goal(g.to_json()).split == "helpful" and g.fingerprint() != load_goal("preference").fingerprint()


def test_preference_utility_is_the_reward():
    g = load_goal("preference", scorers=FakeReward(3, 1, np.nan))
    assert g.utility([group()])[0][:2].tolist() == [3, 1] and np.isnan(g.utility([group()])[0][2])
    assert g.explain([group()])[0]["preference"][0] == 3


def checker(checks, text):
    from valign.rewards.rules import check  # a higher floor: tests may look up, the room may not

    return check(checks, text)


def test_instruction_credit():
    g = replace(
        group(),
        meta={
            "checks": [{"type": "includes", "phrases": ["answer"]}, {"type": "includes", "phrases": ["1"]}]
        },
    )
    assert InstructionGoal(checker).utility([g])[0].tolist() == [0, 1, 0]
    shared = InstructionGoal(checker, credit="share")
    assert shared.utility([g])[0].tolist() == [0.5, 1, 0.5]
    assert list(shared.explain([g])[0]) == ["1 includes", "2 includes"]
    assert np.isnan(InstructionGoal(checker).utility([group()])[0]).all()
    assert InstructionGoal().labels([group(gold=2, choices=True)])[0].tolist() == [0, 0, 1]


def test_instruction_bad_input():
    with pytest.raises(UsageError, match="credit"):
        InstructionGoal(credit="all")
    with pytest.raises(DataError, match=r"meta\.checks"):
        InstructionGoal(checker).utility([replace(group(), meta={"checks": "words"})])
