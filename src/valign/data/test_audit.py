"""Each audit line fails on the fault it is for, and on nothing else; a clean set passes."""

import random
from dataclasses import replace

import pytest

from valign.data.audit import (
    DEMO_GOAL,
    VALUES,
    audit_demonstrations,
    audit_dilemmas,
    audit_instructions,
    demo_distance,
)
from valign.data.group import Demonstration, Group, Response, VectorScore, Verdict, user

SYLLABLES = [
    "ba",
    "den",
    "fi",
    "gor",
    "hul",
    "jam",
    "kes",
    "lo",
    "mir",
    "nu",
    "pof",
    "ras",
    "sel",
    "tu",
    "vek",
]


def words(rng, n):
    return " ".join(rng.choice(SYLLABLES) + rng.choice(SYLLABLES) + rng.choice(SYLLABLES) for _ in range(n))


def clean(n=200, seed=0):
    """Situations with random texts of random length, whose labels say nothing about length or position."""
    rng = random.Random(seed)
    groups = []
    for k in range(n):
        responses = tuple(Response(words(rng, rng.randint(22, 50))) for _ in range(4))
        plans = [
            {"BE": 1.0, "PO": -1.0},
            {"PO": 1.0, "UN": -1.0},
            {"BE": -1.0, "HE": 1.0},
            {"UN": 1.0, "TR": 1.0},
        ]
        for plan in plans:
            other = rng.choice([v for v in VALUES if v not in ("BE", "UN", "PO")])
            plan.setdefault(other, rng.choice((1.0, -1.0)))
        rng.shuffle(plans)
        labels = [VectorScore(response=i, theory="schwartz10", values=v) for i, v in enumerate(plans)]
        verdicts = [Verdict(response=i, principle="help", value=(1.0, -1.0)[i % 2]) for i in range(4)]
        split = "test" if k % 4 == 0 else "train"
        prompt = user(words(rng, 25))
        groups.append(Group(f"s{k}", prompt, responses, (*labels, *verdicts), cluster=f"s{k}", split=split))
    return groups


@pytest.fixture(scope="module")
def good():
    return clean()


def failed(lines):
    return {line.name for line in lines if not line.ok}


def relabelled(group, change):
    """The group with the values of each response changed: change(response index, values) -> values."""
    feedback = [
        replace(f, values=change(f.response, dict(f.values))) if isinstance(f, VectorScore) else f
        for f in group.feedback
    ]
    return replace(group, feedback=tuple(feedback))


def test_a_clean_set_passes_every_line(good):
    lines = audit_dilemmas(good)
    assert failed(lines) == set()
    assert len(lines) == len({line.name for line in lines}) == 2 + 10 + 1 + 2 + 10 + 4


def test_distance_by_hand():
    """D = sqrt(sum w (v - t)^2 / sum w) / 2: 0 at the target, 1 at its opposite, 1/2 where nothing is
    said.
    """
    assert demo_distance({"BE": 1, "UN": 1, "PO": -1}) == 0
    assert demo_distance({"BE": -1, "UN": -1, "PO": 1}) == 1
    assert demo_distance({"HE": 1}) == 0.5
    assert demo_distance({"BE": 1, "PO": 1}) == pytest.approx(((0 + 1 + 4) / 3) ** 0.5 / 2)
    assert demo_distance({"BE": 1}, {"BE": 2.0, "PO": 1.0}) == pytest.approx(((2 * 1 + 1) / 3) ** 0.5 / 2)
    assert DEMO_GOAL == {"BE": 1, "UN": 1, "PO": -1}


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_too_few_labels_of_one_sign_fail(good, sign):
    faulty = [
        relabelled(g, lambda i, v: {k: x for k, x in v.items() if (k, x) != ("SD", sign)}) for g in good
    ]
    assert failed(audit_dilemmas(faulty)) >= {"labels.SD"}
    assert "labels.BE" not in failed(audit_dilemmas(faulty))


def padded(group, chosen, rng):
    responses = list(group.responses)
    for i in chosen(group):
        responses[i] = replace(responses[i], text=responses[i].text + " " + words(rng, 30))
    return replace(group, responses=tuple(responses))


def test_length_that_gives_the_preference_away_fails(good):
    """The response closest to the goal is made the longest one in most situations."""
    rng = random.Random(1)

    def best(g):
        return [min(g.of(VectorScore), key=lambda f: demo_distance(f.values)).response]

    assert failed(audit_dilemmas([padded(g, best, rng) for g in good])) >= {"length.preferred"}


def test_length_that_gives_the_sign_of_a_value_away_fails(good):
    rng = random.Random(2)
    faulty = [
        padded(g, lambda g: [f.response for f in g.of(VectorScore) if f.values.get("TR", 0) < 0], rng)
        for g in good
    ]
    assert failed(audit_dilemmas(faulty)) == {"length.TR"}


def test_position_that_gives_the_preference_away_fails(good):
    """Responses are sorted by the goal, best first."""
    faulty = []
    for g in good:
        order = [f.response for f in sorted(g.of(VectorScore), key=lambda f: demo_distance(f.values))]
        place = {old: new for new, old in enumerate(order)}
        feedback = tuple(replace(f, response=place[f.response]) for f in g.feedback)
        faulty.append(replace(g, responses=tuple(g.responses[i] for i in order), feedback=feedback))
    assert failed(audit_dilemmas(faulty)) == {"position.preferred"}


def test_a_situation_without_order_or_labels_fails(good):
    flat = [relabelled(good[0], lambda i, v: {"HE": 1.0}), *good[1:]]
    assert failed(audit_dilemmas(flat)) == {"order"}
    unlabelled = replace(good[0], feedback=tuple(f for f in good[0].feedback if f.response != 2))
    assert failed(audit_dilemmas([unlabelled, *good[1:]])) == {"order"}
    assert "order" in failed(audit_dilemmas([]))


def test_a_principle_with_one_side_fails(good):
    extra = [g.with_feedback(Verdict(response=0, principle="self", value=1.0)) for g in good]
    assert failed(audit_dilemmas(extra)) == {"principles"}


def test_the_same_response_twice_fails(good):
    """Equal after normalization, and with one word changed."""
    text = good[5].responses[1].text
    for copy in (text.upper() + "!!", text.replace(text.split()[10], "altered", 1)):
        faulty = list(good)
        faulty[9] = replace(good[9], responses=(Response(copy), *good[9].responses[1:]))
        faulty[5], faulty[9] = (replace(g, split="train") for g in (faulty[5], faulty[9]))
        assert failed(audit_dilemmas(faulty)) == {"repeats.responses"}


def test_the_same_prompt_twice_fails(good):
    faulty = list(good)
    faulty[3] = replace(good[3], prompt=user(good[1].prompt_text + " indeed"))
    assert good[1].split == good[3].split
    assert failed(audit_dilemmas(faulty)) == {"repeats.prompts"}


def test_a_test_situation_in_training_fails(good):
    """A test prompt of which a fifth is reworded stands in training: no repeat any more, but a leak."""
    text = good[0].prompt_text.split()
    text[-4:] = ["and", "now", "it", "ends", "otherwise"]
    faulty = list(good)
    faulty[1] = replace(good[1], prompt=user(" ".join(text)))
    assert (faulty[0].split, faulty[1].split) == ("test", "train")
    assert "leaks.prompts" in failed(audit_dilemmas(faulty))
    slight = [
        replace(g, prompt=user(" ".join([*text[:15], *words(random.Random(9), 10).split()])))
        if g is good[1]
        else g
        for g in good
    ]
    assert failed(audit_dilemmas(slight)) == {"leaks.prompts"}


def test_a_test_response_in_training_fails(good):
    faulty = list(good)
    faulty[1] = replace(good[1], responses=(good[0].responses[0], *good[1].responses[1:]))
    assert failed(audit_dilemmas(faulty)) == {"repeats.responses", "leaks.responses"}


def test_one_id_in_two_splits_fails(good):
    faulty = [*good, replace(clean(1, seed=7)[0], id="s0", split="train", cluster="other")]
    assert failed(audit_dilemmas(faulty)) >= {"ids", "leaks.prompts"}
    same_cluster = [replace(g, cluster="s0") if g.id == "s1" else g for g in good]
    assert failed(audit_dilemmas(same_cluster)) == {"leaks.prompts", "leaks.responses"}


def instruction(k, **meta):
    spec = {"type": "contains", "answer": f"w{k}"}
    given = {"kind": "exact", "checks": [spec], "reference": f"The answer is w{k}.", **meta}
    return Group(f"i{k}", user(words(random.Random(k), 8)), meta=given, split=("train", "test")[k % 2])


def contains(spec, text):
    return (float(spec["answer"] in text), f"lacks {spec['answer']}")


def test_instructions_and_their_faults():
    good = [instruction(k) for k in range(20)]
    assert failed(audit_instructions(good, contains)) == set()
    assert failed(audit_instructions([*good, instruction(20, reference=" ")])) == {"reference"}
    assert failed(audit_instructions([*good, instruction(20, checks=[])])) == {"checks"}
    assert failed(audit_instructions([*good, instruction(20, reference="no")], contains)) == {
        "reference passes"
    }
    empty = instruction(20, checks=[{"type": "contains", "answer": ""}])
    assert failed(audit_instructions([*good, empty], contains)) == {"checks can fail"}
    again = replace(good[0], id="other", split="train")
    assert failed(audit_instructions([*good, again])) == {"repeats.prompts"}
    assert failed(audit_instructions([*good, replace(again, split="test")])) == {
        "repeats.prompts",
        "leaks.prompts",
    }
    assert failed(audit_instructions([*good, replace(instruction(22), id="i0")])) == {"ids"}


def demonstration(k):
    rng = random.Random(1000 + k)
    return Group(f"d{k}", user(words(rng, 20)), (Response(words(rng, 30)),), (Demonstration(response=0),))


def test_demonstrations_and_their_faults(good):
    shown, test = [demonstration(k) for k in range(20)], [g for g in good if g.split == "test"]
    assert failed(audit_demonstrations(shown, test)) == set()
    assert failed(audit_demonstrations([*shown, replace(shown[0], id="x")], test)) >= {"repeats.prompts"}
    assert failed(audit_demonstrations([*shown, replace(demonstration(30), feedback=())], test)) == {
        "one answer"
    }
    leak = replace(demonstration(31), prompt=test[3].prompt)
    assert failed(audit_demonstrations([*shown, leak], test)) == {"leaks.prompts"}
    leak = replace(demonstration(31), responses=(test[3].responses[2],))
    assert failed(audit_demonstrations([*shown, leak], test)) == {"leaks.responses"}
    assert (
        failed(audit_demonstrations([replace(d, id="s0") for d in shown[:1]], test)) == set()
    )  # ids of two sets


def test_lines_name_the_offenders(good):
    faulty = list(good)
    faulty[3] = replace(good[3], prompt=good[1].prompt)
    (line,) = [line for line in audit_dilemmas(faulty) if not line.ok]
    assert "s1 = s3" in line.text and line.name == "repeats.prompts"
