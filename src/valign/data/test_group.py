"""The schema: what it refuses, that nothing changes it, and that JSON gives the same group back."""

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valign.data.frozen import Frozen
from valign.data.group import (
    KINDS,
    ROLES,
    Comparison,
    Critique,
    Demonstration,
    Edit,
    Group,
    Message,
    Profile,
    Ranking,
    Response,
    Score,
    VectorScore,
    Verdict,
    user,
)
from valign.data.jsonl import read_groups, write
from valign.errors import DataError

words = st.text(max_size=12)
number = st.floats(allow_nan=False, allow_infinity=False)
share = st.floats(0, 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | number | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=5,
)


def some_feedback(kind: str, n: int) -> st.SearchStrategy:
    """Any feedback of one kind in a group of n >= 2 responses."""
    one = st.integers(0, n - 1)
    two = st.permutations(range(n)).map(lambda p: p[:2])
    common = {"annotator": words, "weight": st.floats(0, 9)}
    places = st.permutations(range(n)).flatmap(
        lambda p: st.integers(1, n).map(lambda k: (tuple(p[:k]), *tuple((i,) for i in p[k:])))
    )
    match kind:
        case "demonstration":
            return st.builds(Demonstration, response=one, **common)
        case "comparison":
            return two.flatmap(
                lambda p: st.builds(
                    Comparison,
                    chosen=st.just(p[0]),
                    rejected=st.just(p[1]),
                    probability=share,
                    strength=st.none() | number,
                    tie=st.booleans(),
                    **common,
                )
            )
        case "ranking":
            return st.builds(Ranking, order=places, **common)
        case "score":
            ends = st.none() | number
            return st.builds(Score, response=one, value=number, aspect=words, low=ends, high=ends, **common)
        case "vector":
            values = st.dictionaries(words, st.floats(-1, 1), max_size=3)
            return st.builds(VectorScore, response=one, theory=words, values=values, **common)
        case "critique":
            span = st.none() | st.tuples(st.integers(0, 5), st.integers(5, 9))
            return st.builds(Critique, response=one, text=words, span=span, **common)
        case "edit":
            return two.flatmap(
                lambda p: st.builds(Edit, response=st.just(p[0]), revised=st.just(p[1]), **common)
            )
        case "verdict":
            return st.builds(
                Verdict, response=one, principle=words, value=st.floats(-1, 1), quote=words, **common
            )
    raise AssertionError(f"no strategy for {kind}: add one")


def some_group(kinds: list[str]) -> st.SearchStrategy:
    """Any group with feedback of these kinds."""
    ids = st.none() | st.lists(st.integers(0, 99), max_size=3).map(tuple)
    responses = st.lists(
        st.builds(
            Response,
            text=words,
            id=words,
            source=words,
            ids=ids,
            finish=st.sampled_from(["stop", "length", None]),
        ),
        min_size=2,
        max_size=4,
    ).map(tuple)
    return responses.flatmap(
        lambda r: st.builds(
            Group,
            id=words,
            prompt=st.lists(st.builds(Message, st.sampled_from(ROLES), words), max_size=3).map(tuple),
            responses=st.just(r),
            feedback=st.tuples(*(some_feedback(k, len(r)) for k in kinds)),
            profiles=st.lists(
                st.builds(Profile, words, st.dictionaries(words, words, max_size=2)), max_size=2
            ).map(tuple),
            choices=st.booleans(),
            gold=st.none() | st.integers(0, len(r) - 1),
            cluster=words,
            split=st.sampled_from(["", "train", "dev", "test"]),
            meta=st.dictionaries(words, json_values, max_size=2),
        )
    )


@pytest.mark.capability("D01")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_feedback_round_trips_through_json(kind, tmp_path_factory):
    """A group equals itself after JSON, in memory and through a file, and keeps its fingerprint."""
    path = tmp_path_factory.mktemp("groups") / "g.jsonl"

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(some_group([kind, kind]))
    def round_trip(group):
        again = Group.from_json(json.loads(json.dumps(group.to_json())))
        assert again == group and again.fingerprint() == group.fingerprint()
        write([group], path)
        assert read_groups(path) == (group,)

    round_trip()


def test_all_kinds_together_and_profiles_round_trip():
    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(some_group(sorted(KINDS)))
    def round_trip(group):
        assert Group.from_json(group.to_json()) == group
        assert pickle.loads(pickle.dumps(group)) == copy.deepcopy(group) == group

    round_trip()


def test_the_kinds_are_those_of_the_design():
    """The eight kinds of feedback of the one schema, and a profile; a new kind needs a strategy above."""
    kinds = {"demonstration", "comparison", "ranking", "score", "vector", "critique", "edit", "verdict"}
    assert set(KINDS) == kinds
    assert {f.name for f in fields(Profile)} == {"id", "attributes"}


def test_defaults_are_left_out_of_json():
    g = Group("a", user("hi"), (Response("yo", ids=(1, 2)),), gold=0, choices=True)
    assert g.to_json() == {
        "id": "a",
        "prompt": [["user", "hi"]],
        "responses": [{"text": "yo", "ids": [1, 2]}],
        "choices": True,
        "gold": 0,
    }


def test_nothing_can_be_changed():
    v = VectorScore(response=0, theory="schwartz10", values={"BE": 1.0})
    g = Group("a", user("hi"), (Response("yo"),), (v,), meta={"a": {"b": 1}})
    with pytest.raises(FrozenInstanceError):
        g.id = "b"
    with pytest.raises(TypeError, match="immutable"):
        v.values["BE"] = 0.0
    with pytest.raises(TypeError, match="immutable"):
        g.meta["a"]["b"] = 2
    with pytest.raises(TypeError, match="immutable"):
        g.meta.update(a=1)
    source = {"k": [1]}
    kept = Group("a", user("hi"), meta=source)
    source["k"].append(2)
    assert kept.meta == {"k": [1]} and isinstance(kept.meta, Frozen)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "comparison", "chosen": "0", "rejected": 1}, "chosen: '0' is str, not int"),
        ({"kind": "comparison", "chosen": True, "rejected": 1}, "chosen: True is bool, not int"),
        ({"kind": "comparison", "chosen": 0, "rejected": 1, "probability": None}, "probability: None is NoneType"),
        ({"kind": "comparison", "chosen": 0, "rejected": 1, "strength": "much"}, "strength: 'much' is str"),
        ({"kind": "comparison", "chosen": 0, "rejected": 1, "weight": "2"}, "weight: '2' is str"),
        ({"kind": "ranking", "order": [["a"], [1]]}, "order: 'a' is str, not int"),
        ({"kind": "ranking", "order": [0, 1]}, "order: 0 is int, not list"),
        ({"kind": "score", "response": 0, "value": "high"}, "value: 'high' is str"),
        ({"kind": "score", "response": 0, "value": float("nan")}, "value: nan is not a finite number"),
        ({"kind": "vector", "response": 0, "theory": "t", "values": [1]}, r"values: \[1\] is list"),
        ({"kind": "vector", "response": 0, "theory": "t", "values": {"BE": "x"}}, "values: 'x' is str"),
        ({"kind": "critique", "response": 0, "text": 3}, "text: 3 is int, not str"),
        ({"kind": "comparison", "chosen": 0}, r"comparison: field\(s\) \['rejected'\] are missing"),
        ("comparison", "'comparison' is str, not Mapping"),
    ],
)
def test_a_value_of_a_wrong_type_is_named_by_its_field(wrong, says):
    row = {"id": "g", "prompt": [["user", "q"]], "responses": [{"text": "a"}, {"text": "b"}], "feedback": [wrong]}
    with pytest.raises(DataError, match=f"(?s)group g, field feedback.*{says}"):
        Group.from_json(row)


@pytest.mark.parametrize(
    "wrong", [{"text": 1}, {"text": "a", "ids": "ab"}, {"text": "a", "ids": [0.5]}, {"text": "a", "finish": "x"}, {}, "a", None]
)
def test_a_response_of_wrong_types_is_refused(wrong):
    with pytest.raises(DataError, match="field responses"):
        Group.from_json({"id": "g", "prompt": [["user", "q"]], "responses": [wrong]})


@pytest.mark.parametrize(
    ("feedback", "says"),
    [
        (Demonstration(response=2), "names response 2, but the group has 2"),
        (Comparison(chosen=0, rejected=0), "compares response 0 with itself"),
        (Comparison(chosen=0, rejected=1, probability=1.5), "probability 1.5"),
        (Comparison(chosen=0, rejected=1, probability=float("nan")), "probability nan"),
        (Ranking(order=((0,), (1, 0))), "names a response twice"),
        (VectorScore(response=0, theory="t", values={"BE": 2.0}), "gives BE the value 2.0"),
        (Score(response=0, value=1.0, weight=-1.0), "weight -1.0"),
        (Edit(response=0, revised=5), "names response 5"),
    ],
)
def test_feedback_that_cannot_be_is_refused(feedback, says):
    with pytest.raises(DataError, match=f"group g.*{says}"):
        Group("g", user("q"), (Response("a"), Response("b")), (feedback,))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"promt": 1}, "unknown field"),
        ({"prompt": [["alien", "hi"]]}, "field prompt.*unknown role 'alien'"),
        ({"prompt": [["user", 3]]}, "field prompt.*must be text, not int"),
        ({"prompt": [["user"]]}, "field prompt"),
        ({"responses": [{"txt": "a"}]}, "field responses"),
        ({"responses": [{"text": 3}]}, "field responses.*not str"),
        ({"feedback": [{"kind": "applause"}]}, "field feedback.*unknown feedback kind 'applause'"),
        ({"feedback": [{"kind": "demonstration", "respons": 0}]}, "field feedback.*unknown field"),
        ({"gold": "1"}, "field gold"),
        ({"gold": True}, "field gold"),
        ({"gold": 4}, "gold is 4"),
        ({"split": 3}, "field split"),
        ({"meta": []}, "field meta"),
    ],
)
def test_a_json_row_that_is_no_group_names_its_field(change, says):
    row = {"id": "a", "prompt": [["user", "hi"]], "responses": [{"text": "x"}], **change}
    with pytest.raises(DataError, match=f"(?s){says}"):
        Group.from_json(row)


def test_a_missing_field_is_named():
    with pytest.raises(DataError, match="field 'prompt' is missing"):
        Group.from_json({"id": "a"})


def test_fingerprint_follows_the_content_only():
    a = Group("a", user("hi"), meta={"x": 1, "y": 2})
    assert a.fingerprint() == Group("a", user("hi"), meta={"y": 2, "x": 1}).fingerprint()
    assert a.fingerprint() != Group("a", user("hi!"), meta={"x": 1, "y": 2}).fingerprint()
    assert Group("a", user("half \ud83d")).fingerprint()  # a broken pair of surrogates must not break a run


def test_prompt_text_shows_roles_only_where_there_are_several():
    assert Group("a", user("hi")).prompt_text == "hi"
    assert Group("a", user("hi", system="be kind")).prompt_text == "system: be kind\n\nuser: hi"
