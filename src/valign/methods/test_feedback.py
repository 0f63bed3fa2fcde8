"""From groups to items: what is trained on, what is converted, and every reason for leaving something out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from valign.data.group import Comparison, Demonstration, Group, Message, Ranking, Response, Score, Verdict, user
from valign.engine.items import bind, collate
from valign.engine.scorer import Scorer
from valign.errors import DataError, ValignError
from valign.methods.feedback import prepare
from valign.methods.supervised.dpo import DPOConfig, dpo
from valign.methods.supervised.sft import SFTConfig, sft
from valign.models.tiny import float64_norms

SFT, DPO = SFTConfig(), DPOConfig()


def group(texts, *feedback, id="g", prompt=None):
    return Group(id=id, prompt=prompt or user("Why?"), responses=tuple(Response(t) for t in texts), feedback=feedback)


def texts_of(template, item):
    return [template.decode(item.tree.response_ids(leaf)) for leaf in item.tree.leaves]


def lines(prepared):
    return {line.name: line for line in prepared.audit()}


@pytest.fixture
def template(tiny_policy):
    return tiny_policy.model.template


# --------------------------------------------------------------------------------------------------- conversions


def test_all_demonstrations_of_a_group_and_nothing_else_are_trained(template):
    shown = group(
        ["one", "two", "three"],
        Demonstration(response=0),
        Demonstration(response=2),
        Verdict(response=1, principle="p", value=1),
    )
    (item,) = prepare("demonstrations", [shown], template, SFT).items
    assert texts_of(template, item) == ["one", "three"]
    assert all((item.tree.response_loss(leaf) == 1).all() for leaf in item.tree.leaves)


def test_chosen_responses_stand_in_for_demonstrations_and_it_is_said(template):
    """Ties and labels of one half or less show nothing; each chosen response is shown once."""
    groups = [
        group(
            ["a", "b", "c"],
            Comparison(chosen=0, rejected=1),
            Comparison(chosen=0, rejected=2),
            Comparison(chosen=1, rejected=2),
        ),
        group(["d", "e"], Comparison(chosen=0, rejected=1, probability=0.5, tie=True), id="tie"),
        group(["f", "g"], Comparison(chosen=0, rejected=1, probability=0.4), id="unlikely"),
        group(["h", "i"], Demonstration(response=1), Comparison(chosen=0, rejected=1), id="both"),
    ]
    found = prepare("demonstrations", groups, template, SFT)
    assert [texts_of(template, i) for i in found.items] == [["a", "b"], ["i"]]
    assert found.notes == ["1 groups have comparisons: their chosen responses are the demonstrations"]
    assert found.ledger.dropped == {"without a demonstration": ["tie", "unlikely"]}


@pytest.mark.parametrize(
    ("feedback", "pairs"),
    [
        ((Ranking(order=((2,), (0,), (1,))),), [(2, 0), (2, 1), (0, 1)]),
        ((Ranking(order=((2,), (0, 1))),), [(2, 0), (2, 1)]),
        (tuple(Score(response=i, value=v) for i, v in enumerate((1.0, 3.0, 2.0))), [(1, 0), (2, 0), (1, 2)]),
        (tuple(Score(response=i, value=v) for i, v in enumerate((1.0, 1.0, 2.0))), [(2, 0), (2, 1)]),
        ((Comparison(chosen=1, rejected=0), Ranking(order=((2,), (0,), (1,)))), [(1, 0)]),
    ],
    ids=["ranking", "tied ranking", "scores", "tied scores", "comparisons come first"],
)
def test_rankings_and_scores_become_pairs(template, feedback, pairs):
    names = ["x", "y", "z"]
    (item,) = prepare("pairs", [group(names, *feedback)], template, DPO).items
    said = texts_of(template, item)
    assert {(said[c], said[r]) for c, r in item.rows["pairs"]} == {(names[c], names[r]) for c, r in pairs}
    assert (item.values["label"] == 1).all() and len(said) == len(set(said))


def test_soft_labels_ties_and_weights_arrive(template):
    """A tie is a label of one half whatever its probability field says; responses in no pair are not computed."""
    made = group(
        ["a", "b", "c", "unused"],
        Comparison(chosen=0, rejected=1, probability=0.7, weight=2.0),
        Comparison(chosen=2, rejected=1, tie=True, probability=0.5),
        Comparison(chosen=1, rejected=0, probability=0.2),
    )
    (item,) = prepare("pairs", [made], template, DPO).items
    assert item.values["label"].tolist() == [0.7, 0.5, 0.2]
    assert item.values["pair_weight"].tolist() == [2.0, 1.0, 1.0]
    assert texts_of(template, item) == ["a", "b", "c"] and item.units("pair") == 4.0


# ------------------------------------------------------------------------------------------------------- weights


def step_gradient(policy, items, objective):
    """The gradient of one optimizer step: sum of losses over the number of units."""
    model = policy.model.model
    model.requires_grad_(True)
    units = sum(i.units(objective.unit) for i in items)
    with float64_norms(policy.model):  # equal trees may share a row: float32 norms would round them apart
        loss = objective(collate(items, Scorer(model)([i.tree for i in items]))).losses.sum() / units
        grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    model.requires_grad_(False)
    return torch.cat([g.flatten() for g in grads if g is not None])


def same(a, b):
    return float((a - b).abs().max()) < 1e-12 and float(a.abs().max()) > 1e-4


def test_a_pair_of_weight_two_equals_the_pair_twice(tiny_policy, template):
    """pair_weight multiplies the loss and the normalizer."""
    objective = bind(dpo, DPO, "pair", math.log(2))

    def made(weight, id):
        return group(["good", "bad"], Comparison(chosen=0, rejected=1, weight=weight), id=id)

    other = group(["yes", "no way"], Comparison(chosen=1, rejected=0, probability=0.8), id="o")

    def items(groups):
        found = prepare("pairs", groups, template, DPO).items
        return [
            i.with_tokens(reference=[np.full(len(i.tree.response_ids(x)), -1.0) for x in i.tree.leaves]) for i in found
        ]

    twice = step_gradient(tiny_policy, items([made(1.0, "a"), made(1.0, "b"), other]), objective)
    assert same(step_gradient(tiny_policy, items([made(2.0, "a"), other]), objective), twice)
    assert not same(step_gradient(tiny_policy, items([made(1.0, "a"), other]), objective), twice)


def test_a_pair_of_weight_zero_is_none(template):
    """It would be a group without units: a step of it alone, or an audit of the shortest groups, could not be normalized."""
    nothing, both = Comparison(chosen=0, rejected=1, weight=0.0), ["good", "bad"]
    groups = [group(both, nothing), group(both, nothing, Comparison(chosen=1, rejected=0), id="h")]
    prepared = prepare("pairs", groups, template, DPO)
    (item,) = prepared.items
    assert item.tree.id == "h" and item.values["pair_weight"].tolist() == [1.0]
    assert prepared.ledger.dropped == {"without a comparison": ["g"]}


def test_a_demonstration_of_weight_two_equals_it_twice(tiny_policy, template):
    """Also among demonstrations of other weights, and where two people demonstrate the same; weight 0 is none."""
    objective = bind(sft, SFT, "token")

    def gradient(*groups):
        return step_gradient(tiny_policy, prepare("demonstrations", groups, template, SFT).items, objective)

    once, other = group(["one"], Demonstration(response=0)), group(["other"], Demonstration(response=0), id="o")
    twice = gradient(once, once, other)
    assert same(gradient(group(["one"], Demonstration(response=0, weight=2.0)), other), twice)
    mixed = group(
        ["other", "one", "never"],
        Demonstration(response=0),
        Demonstration(response=1, weight=2.0),
        Demonstration(response=2, weight=0.0),
    )
    assert same(gradient(mixed), twice)
    two_people = group(["one"], Demonstration(response=0, annotator="a"), Demonstration(response=0, annotator="b"))
    assert same(gradient(two_people, other), twice)
    assert not same(gradient(once, other), twice)


# ------------------------------------------------------------------------------------------------- what is left out


def test_pairs_that_teach_no_order_are_counted(template):
    groups = [
        group(["a", "a", "b"], Comparison(chosen=0, rejected=1), Comparison(chosen=0, rejected=2), id="kept"),
        group(["a", "a"], Comparison(chosen=0, rejected=1), id="same"),
        group(["a", ""], Comparison(chosen=0, rejected=1), id="empty"),
        group(["a", "b"], id="bare"),
    ]
    found = prepare("pairs", groups, template, DPO)
    assert len(found.items) == 1 and len(found.items[0].rows["pairs"]) == 1
    assert found.ledger.dropped == {
        "with chosen = rejected": ["kept", "same"], "with an empty response": ["empty"], "without a comparison": ["bare"],
    }  # fmt: skip
    told = lines(found)
    assert told["groups"].text == "1 of 4" and told["groups"].ok
    assert told["left out"].text == "2 with chosen = rejected, 1 with an empty response, 1 without a comparison"


def test_empty_demonstrations_are_counted(template):
    groups = [
        group(["", "said"], Demonstration(response=0), Demonstration(response=1), id="half"),
        group([""], Demonstration(response=0), id="none"),
    ]
    found = prepare("demonstrations", groups, template, SFT)
    assert [texts_of(template, i) for i in found.items] == [["said"]]
    assert found.ledger.dropped == {"with an empty response": ["half", "none"]}
    assert lines(found)["groups"].text == "1 of 2"


def test_a_response_that_has_ids_but_no_text_is_one(template):
    made = Group(
        id="g", prompt=user("Why?"), responses=(Response("", ids=(9, 2)),), feedback=(Demonstration(response=0),)
    )
    (item,) = prepare("demonstrations", [made], template, SFT).items
    assert item.tree.response_ids(item.tree.leaves[0]).tolist() == [9, 2]


@pytest.mark.parametrize("feedback", ["demonstrations", "pairs"])
def test_long_paths_meet_the_policy_that_was_chosen(template, feedback):
    """error names the group, drop counts it, cuts are counted and the answer keeps no stop token it has lost."""
    kind = DPOConfig if feedback == "pairs" else SFTConfig
    mark = Comparison(chosen=0, rejected=1) if feedback == "pairs" else Demonstration(response=0)
    groups = [group(["short", "tiny"], mark, id="ok"), group(["a very long answer " * 9, "short"], mark, id="long")]

    def made(on_long):
        return prepare(feedback, groups, template, kind(max_length=40, on_long=on_long))

    with pytest.raises(ValignError, match="group long"):
        made("error")
    dropped = made("drop")
    assert dropped.ledger.dropped == {"too long": ["long"]} and len(dropped.items) == 1
    assert lines(dropped)["groups"].text == "1 of 2" and lines(dropped)["cut"].ok
    cut = made("cut_response")
    assert cut.ledger.cut == {"response": ["long"]} and len(cut.items) == 2
    assert max(i.tree.longest for i in cut.items) == 40
    long = cut.items[1].tree
    assert template.stop_id not in long.response_ids(long.leaves[0]) and not lines(cut)["cut"].ok
    left = made("cut_prompt_left")
    assert left.ledger.dropped == {"response alone is too long": ["long"]}


def test_a_long_prompt_is_cut_at_its_left(template):
    made = group(["yes"], Demonstration(response=0), prompt=user("word " * 20))
    found = prepare("demonstrations", [made], template, SFTConfig(max_length=40, on_long="cut_prompt_left"))
    assert found.items[0].tree.longest == 40 and found.ledger.cut == {"prompt": ["g"]}
    assert texts_of(template, found.items[0]) == ["yes"]


@pytest.mark.parametrize(("feedback", "config"), [("demonstrations", SFT), ("pairs", DPO)])
def test_data_without_the_feedback_is_one_clear_error(template, feedback, config):
    with pytest.raises(DataError, match=rf"no group can be used: the method learns from {feedback} \(2 without"):
        prepare(feedback, [group(["a"], id="1"), group(["b"], id="2")], template, config)
    with pytest.raises(DataError, match="the data is empty"):
        prepare(feedback, [], template, config)


# ----------------------------------------------------------------------------------------------------- conversations


def test_train_on_all_trains_every_turn_of_the_assistant(template):
    """The tokens in the loss are those of encode_chat's own mask; train_on=last trains the last turn alone."""
    talk = (Message("user", "hi"), Message("assistant", "hello"), Message("user", "and?"))
    made = group(["bye"], Demonstration(response=0), prompt=talk)
    (last,) = prepare("demonstrations", [made], template, SFT).items
    (every,) = prepare("demonstrations", [made], template, SFTConfig(train_on="all")).items
    ids, mask = template.encode_chat((*talk, Message("assistant", "bye")), train_on="all")
    leaf = every.tree.leaves[0]
    assert every.tree.path(leaf).tolist() == ids and every.tree.path_loss(leaf).tolist() == mask
    spoken = [i for i, m in zip(ids, mask) if m]
    assert template.decode(spoken) == "hellobye" and spoken.count(template.stop_id) == 2
    assert texts_of(template, last) == ["bye"] and last.tree.mask_sum == len("bye") + 1
