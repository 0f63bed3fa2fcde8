"""FULCRA labels: the spellings that occur, both signs at once, and the list of items."""

import json

import pytest

from valign.data.group import VectorScore
from valign.data.readers import read
from valign.data.readers.fulcra import ITEMS, SAME_ITEM, VALUES, parse_label


def test_labels_equal_the_golden_ones(golden):
    case = golden("fulcra.labels")
    parsed = [list(p) if (p := parse_label(label)) else None for label in case["inputs"]["labels"]]
    assert parsed == case["expected"]["parsed"]


@pytest.mark.parametrize(
    ("label", "parsed"), [("x:0", ("x", 0)), ("a: b: +1", ("a: b", 1)), ("x:1-", ("x", -1)), ("", None)]
)
def test_labels_at_the_edge(label, parsed):
    assert parse_label(label) == parsed


def read_one(tmp_path, items, types, dialogue="Human: q\nBob: a"):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"dialogue": dialogue, "value_items": items, "value_types": types}))
    data = read(path)
    return data, {v.theory: dict(v.values) for v in data[0].of(VectorScore)}


def test_values_items_and_what_is_left_out(tmp_path):
    data, values = read_one(
        tmp_path,
        ["Be Honest: +1", "have a social recognition: -1", "be respectful: +1", "be honest: 1"],
        [
            "benevolence: +1",
            "power: -1",
            "security: 1",
            "security: -1",
            "humility: 1",
            "kindness: 1",
            "no label",
        ],
    )
    assert values["schwartz10"] == {"BE": 1, "PO": -1, "CO": 1}
    assert values["fulcra54"] == {"be honest": 1, "have social recognition": -1}
    reasons = {(field, reason) for _, field, reason in data.report.flagged}
    assert reasons == {
        ("value_items[2]", "'be respectful' is not in the list"),
        ("value_types", "value_types: a name has both signs"),
        ("value_types[5]", "'kindness' is not in the list"),
        ("value_types[6]", "a label is not readable"),
    }


def test_a_value_with_both_signs_is_left_out_whoever_names_it(tmp_path):
    disagree = "value_types: two names of one value disagree"
    data, values = read_one(tmp_path, [], ["humility: 1", "conformity: -1"])
    assert values["schwartz10"] == {} and data.report.counts[disagree] == 1 and not data.report.flagged
    data, values = read_one(tmp_path, [], ["humility: 1", "conformity: -1", "conformity: 1", "power: 1"])
    assert (
        values["schwartz10"] == {"PO": 1}
        and disagree not in data.report.counts
        and len(data.report.flagged) == 1
    )


def test_a_dialogue_of_several_turns_and_words_that_look_like_speakers(tmp_path):
    dialogue = "Human: one\nBob: two\nHuman: three\nBob: Introduction: four\n\nConclusion: Bob: five"
    data, _ = read_one(tmp_path, [], ["power: 1"], dialogue)
    assert [(m.role, m.content) for m in data[0].prompt] == [
        ("user", "one"),
        ("assistant", "two"),
        ("user", "three"),
    ]
    assert data[0].responses[0].text == "Introduction: four\n\nConclusion: Bob: five"


def test_the_list_has_54_items_over_the_ten_values():
    assert (
        len(ITEMS) == 54 and set(ITEMS.values()) == set(VALUES.values()) and len(set(VALUES.values())) == 10
    )


def test_every_item_maps_to_the_value_that_the_rows_give_it(shared):
    """The mapping is the data's own: in every row an item's value stands among the row's values with its
    sign.

    Exceptions are rows in which the value has both signs, or whose labels were written by hand otherwise:
    below 1 %.
    """
    path = shared / "data/fulcra/trustworthy_data_first1000.jsonl"
    total, seen, off = 0, set(), []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        types = {(VALUES[p[0]], p[1]) for t in row["value_types"] if (p := parse_label(t))}
        for label in row["value_items"]:
            name, sign = parse_label(label)
            name = SAME_ITEM.get(name, name)
            if name in ITEMS:
                total += 1
                seen.add(name)
                if (ITEMS[name], sign) not in types:
                    off.append(name)
    assert total == 3552 - 8 and len(seen) == 51
    assert len(off) < 0.01 * total
    assert all(off.count(name) <= 0.5 * total for name in set(off))
