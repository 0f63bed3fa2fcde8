"""The value theories that ship: dimensions, definitions, structure, and a target of each one's own type."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from valign.data.group import Group, Response, VectorScore, user
from valign.errors import DataError, UsageError, ValignError
from valign.goals import load_goal, load_theory, theories
from valign.goals.files import DATA

# Goals notes section 3: number of dimensions, structure and target of each theory.
SHAPES = {
    "schwartz10": (10, "circle", "vector"), "schwartz19": (19, "circle", "vector"), "mft5": (5, "list", "vector"),
    "mft6": (6, "list", "vector"), "mfq2": (6, "list", "vector"), "gert10": (10, "list", "vector"),
    "svo": (2, "angle", "angle"), "rokeach_terminal": (18, "list", "ranking"),
    "rokeach_instrumental": (18, "list", "ranking"), "lvi14": (14, "list", "vector"), "hofstede6": (6, "list", "vector"),
    "llm6": (6, "list", "vector"), "safety6": (6, "list", "vector"), "profile27": (27, "list", "vector"),
}  # fmt: skip
# The same section: higher-order groups with their dimensions, in vector order; a theory that is not here has none.
SCHWARTZ = {"openness": "SD ST HE", "self-enhancement": "HE AC PO", "conservation": "SE TR CO", "self-transcendence": "BE UN"}
MORAL = {"individualizing": "care fairness", "binding": "loyalty authority sanctity"}
LLM = {"competence": "self-competent user-oriented", "character": "social idealistic", "integrity": "professional ethical"}
GROUPS = {
    "schwartz10": SCHWARTZ,
    "schwartz19": {
        "openness": "SDT SDA ST HE", "self-enhancement": "HE AC POD POR FAC", "conservation": "FAC SEP SES TR COR COI HUM",
        "self-transcendence": "HUM BED BEC UNC UNN UNT",
    },
    "mft5": MORAL, "mft6": MORAL,
    "mfq2": {"individualizing": "care equality proportionality", "binding": "loyalty authority purity"},
    "gert10": {"direct harm": "kill pain disable freedom pleasure", "usual cause of harm": "deceive promise cheat law duty"},
    "llm6": LLM, "profile27": SCHWARTZ | MORAL | LLM,
}  # fmt: skip
# The same section: dimensions that pull against each other, groups that do, and the poles that a dimension has a name for.
OPPOSITES = {
    "schwartz10": ["SD ST - SE TR CO", "AC PO - BE UN", "HE - TR CO"],
    "schwartz19": ["SDT SDA ST - SEP SES TR COR COI", "AC POD POR - BED BEC UNC UNN UNT"],
}
OPPOSITES["profile27"] = OPPOSITES["schwartz10"]
OF_THE_CIRCLE = [("openness", "conservation"), ("self-enhancement", "self-transcendence")]
OPPOSED_GROUPS = {"schwartz10": OF_THE_CIRCLE, "schwartz19": OF_THE_CIRCLE, "profile27": OF_THE_CIRCLE}
FIVE = ["care/harm", "fairness/cheating", "loyalty/betrayal", "authority/subversion", "sanctity/degradation"]
TWO_FOR_FAIRNESS = ["equality/inequality", "proportionality/undeserved reward"]
POLES = {
    "mft5": FIVE, "mft6": [*FIVE, "liberty/oppression"], "profile27": FIVE,
    "mfq2": [FIVE[0], *TWO_FOR_FAIRNESS, *FIVE[2:4], "purity/degradation"],
}  # fmt: skip
CLAUSE = 4  # words of a definition, at least
STEP = 360 / 19


def labelled(theory: str, *rows: dict[str, float]) -> Group:
    """A prompt whose responses carry value labels."""
    feedback = tuple(VectorScore(response=k, theory=theory, values=v) for k, v in enumerate(rows))
    return Group(id="g", prompt=user("?"), responses=tuple(Response(str(k)) for k in range(len(rows))), feedback=feedback)


@pytest.mark.capability("G06")
@pytest.mark.parametrize("name", theories())
def test_each_theory_has_dimensions_definitions_structure_and_a_target_type(name):
    theory = load_theory(name)
    assert (len(theory.dimensions), theory.structure, theory.target) == SHAPES[name]
    assert theory.source and theory.title and theory.wording == "own" and (theory.low, theory.high) == (-1, 1)
    assert all(d.id and d.name and len(d.definition.split()) >= CLAUSE for d in theory.dimensions)
    assert len({d.definition for d in theory.dimensions}) == len(theory.dimensions)
    s = theory.similarity()
    assert np.allclose(s, s.T) and np.allclose(np.diag(s), 1) and (np.abs(s) <= 1).all()
    assert load_theory(theory.to_json()).fingerprint() == theory.fingerprint()


@pytest.mark.capability("G06")
@pytest.mark.parametrize("name", theories())
def test_each_theory_has_the_groups_and_the_opposites_of_its_source(name):
    """All of them and no others; a theory without any says so in its file, and one of parts has those of its parts."""
    theory = load_theory(name)
    members = {g: " ".join(d.id for d in theory.dimensions if g in d.groups) for g in theory.groups}
    assert members == GROUPS.get(name, {}) and list(members) == list(GROUPS.get(name, {}))
    assert [f"{' '.join(one)} - {' '.join(other)}" for one, other in theory.opposites] == OPPOSITES.get(name, [])
    assert list(theory.opposed_groups) == OPPOSED_GROUPS.get(name, [])
    assert [f"{d.virtue}/{d.vice}" for d in theory.dimensions if d.vice] == POLES.get(name, [])
    content = yaml.safe_load((DATA / "theories" / f"{name}.yaml").read_text())
    assert "parts" in content or {"groups", "opposites", "opposed_groups"} <= set(content)


@pytest.mark.capability("G06")
@pytest.mark.parametrize("name", theories())
def test_each_theory_makes_a_goal_from_a_target_of_its_type(name):
    """A vector by dimension, a ranking as a list, an angle in degrees: the response that has it is the best one, its
    opposite the worst, and the goal comes back from its own JSON."""
    theory = load_theory(name)
    first, last = theory.ids[0], theory.ids[-1]
    target = {"vector": {first: 1, last: -1}, "ranking": list(theory.ids), "angle": {"angle": 45}}[theory.target]
    goal = load_goal({"level": "value", "theory": name, "target": target})
    if theory.target == "angle":
        best = {"self": 0.7, "other": 0.7}
    else:
        best = dict(zip(theory.ids, np.linspace(1, -1, len(theory.ids)).tolist(), strict=True))
    worst = {d: -x for d, x in best.items()}
    (u,) = goal.labels([labelled(name, best, {}, worst)])
    assert u[0] > u[1] > u[2]
    assert goal.describe() and load_goal(goal.to_json()).fingerprint() == goal.fingerprint()


def test_all_theories_are_there():
    assert set(theories()) == set(SHAPES)


# -------------------------------------------------------------------------------------------- Schwartz, nineteen


def test_nineteen_equal_wedges():
    """Neighbours are 360/19 degrees apart, and every pair of opposites more than 90."""
    theory = load_theory("schwartz19")
    assert [theory.angles[i] for i in theory.order] == pytest.approx([STEP * k for k in range(19)])
    s = theory.similarity()
    assert s[theory.index("SDT"), theory.index("SDA")] == pytest.approx(np.cos(np.radians(STEP)))
    for one, other in theory.opposites:
        assert all(s[theory.index(a), theory.index(b)] < 0 for a in one for b in other)


def test_nineteen_to_ten():
    """By name, face to power, humility to conformity: the mean of what maps."""
    nineteen, ten = load_theory("schwartz19"), load_theory("schwartz10")
    v = nineteen.vector({"FAC": 0.9, "POD": 0.3, "HUM": -0.6, "UNN": 0.3})
    got = dict(zip(ten.ids, nineteen.onto(v, ten), strict=True))
    assert got == pytest.approx(dict.fromkeys(ten.ids, 0.0) | {"PO": 0.4, "CO": -0.2, "UN": 0.1})
    assert set(nineteen.maps["schwartz10"].values()) == set(ten.ids)
    assert nineteen.onto(np.stack([v, -v]), ten).shape == (2, 10)
    with pytest.raises(UsageError, match="no map"):
        ten.onto(np.zeros(10), nineteen)


def test_key_of_the_57_items_uses_each_once():
    key = load_theory("schwartz19").instrument("pvqrr").key
    assert sorted(i for items in key.values() for i in items) == list(range(1, 58))
    assert key["FAC"] == (9, 24, 49) and key["UNT"] == (14, 34, 57)


# ------------------------------------------------------------------------------------------------ the other theories


def test_moral_foundations():
    """Two poles each; 1 within individualizing and binding, 0 across; fairness is split in the second questionnaire."""
    theory = load_theory("mft5")
    s = theory.similarity()
    assert s[0].tolist() == [1, 1, 0, 0, 0] and s[4].tolist() == [0, 0, 1, 1, 1]
    assert [d.vice for d in theory.dimensions] == ["harm", "cheating", "betrayal", "subversion", "degradation"]
    two = load_theory("mfq2")
    v = two.vector({"equality": 1, "proportionality": -0.5, "purity": 0.2})
    assert two.onto(v, theory).tolist() == pytest.approx([0, 0.25, 0, 0, 0.2])
    six = load_theory("mft6")
    assert six.similarity()[5].tolist() == [0, 0, 0, 0, 0, 1]  # liberty stands alone


def test_rules_and_dimensions_of_gert_share_a_name():
    """`gert10` alone is the set of rules; with a target it is the value space; both have the same ten."""
    rules, space = load_goal("gert10"), load_goal("gert10", deceive=1)
    assert (rules.level, space.level) == ("principle", "value") and rules.ids == space.theory.ids


def test_the_long_profile_is_its_parts_side_by_side():
    theory = load_theory("profile27")
    assert [p.id for p in theory.parts] == ["schwartz10", "mft5", "safety6", "llm6"]
    assert theory.ids == tuple(i for p in theory.parts for i in p.ids)
    s = theory.similarity()
    assert np.allclose(s[:10, :10], load_theory("schwartz10").similarity()) and not s[:10, 10:].any()
    assert load_theory(theory.to_json()).opposites == theory.opposites == load_theory("schwartz10").opposites


def test_lists_without_groups_have_no_similarity():
    for name in ("lvi14", "rokeach_terminal", "hofstede6"):
        assert np.array_equal(load_theory(name).similarity(), np.eye(SHAPES[name][0]))


# ------------------------------------------------------------------------------------------------------ own theories


def test_own_circle_needs_only_an_order(tmp_path):
    """Equal wedges in that order; opposites are half a turn apart."""
    names = ["north", "east", "south", "west"]
    content = {"id": "wind", "structure": "circle", "order": names,
               "dimensions": [{"id": n, "name": n, "definition": f"to the {n}"} for n in names]}  # fmt: skip
    path = tmp_path / "wind.yaml"
    path.write_text(yaml.safe_dump(content))
    theory = load_theory(path)
    assert theory.similarity()[0].tolist() == pytest.approx([1, 0, -1, 0])
    goal = load_goal({"level": "value", "theory": str(path), "target": {"north": 1}, "distance": "circle_cosine"})
    (u,) = goal.labels([labelled("wind", {"north": 1}, {"east": 1}, {"south": 1})])
    assert u.tolist() == pytest.approx([1, 0, -1])


def test_own_pairs_and_own_similarity():
    two = [{"id": i, "name": i, "definition": i} for i in ("hot", "cold")]
    pairs = {"id": "t", "structure": "pairs", "opposites": [{"one": ["hot"], "other": ["cold"]}], "dimensions": two}
    assert load_theory(pairs).similarity().tolist() == [[1, -1], [-1, 1]]
    stated = {"id": "t", "similarity": [[1, 0.25], [0.25, 1]], "dimensions": two}
    assert load_theory(stated).similarity().tolist() == [[1, 0.25], [0.25, 1]]


TWO = "dimensions: [{id: a, name: a1, definition: x}, {id: b, name: b1, definition: y}]\nid: t\n"


@pytest.mark.parametrize(
    ("text", "words", "place"),
    [
        (TWO + "similarity: [[1, 2], [2, 1]]\n", "symmetric", "similarity"),
        (TWO + "similarity: [[1]]\n", "2 rows of 2", "similarity"),
        (TWO + "structure: circle\norder: [a]\n", "no angle for", r"angles"),
        (TWO + "maps: {u: {c: x}}\n", "unknown dimension 'c'", ""),
        (TWO + "target: vectr\n", "vector", "line 3"),
        (TWO + "opposed_groups: [[x, y]]\n", "unknown group", "line 3"),
        (TWO + "groups: [x]\n", "the dimensions name none", "line 3"),
        ("id: t\nparts: [mft5]\nopposites: []\n", "come from the parts", "line 3"),
        (TWO + "instruments: [{id: i, items: 2, scale: [1, 5], key: {a: [1]}}]\n", "each dimension once", "line 3"),
        (TWO + "instruments: [{id: i, items: 2, scale: [1, 5], key: {a: [1], b: [3]}}]\n", "among 1 to 2", "key"),
        ("id: t\nparts: [mft5]\ndimensions: []\n", "either parts or dimensions", "line 3"),
    ],
)
def test_faulty_theory_files(tmp_path, text, words, place):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(ValignError, match=words) as caught:
        load_theory(path)
    assert "t.yaml" in caught.value.where and place in caught.value.where


def test_a_theory_refuses_the_target_of_another_type():
    with pytest.raises(DataError, match="ranked theory"):
        load_goal({"level": "value", "theory": "mft5", "target": ["care", "fairness"]})
    with pytest.raises(UsageError, match="prosocial"):
        load_goal({"level": "value", "theory": "svo", "target": "prosozial"})
    with pytest.raises(DataError, match="not both"):
        load_goal({"level": "value", "theory": "svo", "target": {"angle": 45, "self": 1}})
