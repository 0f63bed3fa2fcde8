"""The portraits are balanced and whole, and files of a user's own items are read or refused in words."""

import json
from collections import Counter

import pytest

from valign.data.inventory import personas, portraits, read_inventory
from valign.data.questionnaires import MFQ_CATCH, QUESTIONNAIRES
from valign.errors import DataError, UsageError

TEN = ["SD", "ST", "HE", "AC", "PO", "SE", "TR", "CO", "BE", "UN"]


def test_portraits_hold_four_items_for_and_four_against_each_value_and_say_each_twice():
    inventory = portraits()
    assert list(inventory.dimensions) == TEN and (inventory.low, inventory.high) == (1, 6)
    assert Counter((i.dimension, i.keyed) for i in inventory.items) == {(v, s): 4 for v in TEN for s in (1, -1)}
    texts = [t for i in inventory.items for t in (i.text, i.paraphrase)]
    assert len({t.lower() for t in texts}) == 160 and inventory.has_paraphrases
    assert all("this person" in t.lower() or "they" in t.lower() for t in texts)
    for i in inventory.items:
        assert 5 <= len(i.text.split()) <= 25 and i.text.endswith(".") and i.paraphrase.endswith(".")
    assert inventory.source == "builtin:portraits" and "Apache-2.0" in inventory.licence and len(inventory.sha256) == 64


def test_a_limited_inventory_stays_balanced():
    kept = portraits().limited(1)
    assert Counter((i.dimension, i.keyed) for i in kept.items) == {(v, s): 1 for v in TEN for s in (1, -1)}
    assert portraits().limited(None) is portraits()


def test_personas_are_many_different_and_name_no_value():
    known = personas()
    assert len(known) == len(set(known)) == 36
    words = ["wealth", "help", "power", "faith", "safe", "fun", "rule", "success", "freedom", "nature"]
    assert not any(w in p.lower() for p in known for w in words)


@pytest.mark.parametrize("name", ["pvq40", "pvq21", "mfq30"])
def test_keys_count_every_item_once(name):
    kind = QUESTIONNAIRES[name]
    numbers = [n for items in kind.key.values() for n in items] + (list(MFQ_CATCH.values()) if name == "mfq30" else [])
    assert sorted(numbers) == list(range(1, kind.count + 1))


def written(tmp_path, rows, name="items.jsonl"):
    path = tmp_path / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def test_a_users_questionnaire_is_read_with_our_key(tmp_path):
    path = written(tmp_path, [{"number": n, "text": f"Item {n}."} for n in range(21, 0, -1)])
    inventory = read_inventory(path, instrument="pvq21")
    assert len(inventory) == 21 and set(inventory.dimensions) == set(TEN) and not inventory.has_paraphrases
    assert {i.id: i.dimension for i in inventory.items}["8"] == "UN"
    import hashlib

    assert inventory.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and "own copy" in inventory.licence


def test_own_items_are_read(tmp_path):
    rows = [{"id": f"{d}{k}", "dimension": d, "keyed": k, "text": f"{d} {k}"} for d in ("calm", "brave") for k in (1, -1)]
    inventory = read_inventory(written(tmp_path, rows))
    assert inventory.dimensions == ("calm", "brave") and inventory.id == "items"


@pytest.mark.parametrize(
    "rows, instrument, message",
    [
        (["{not json"], "", "items.jsonl:1"),
        ([{"id": "a", "dimension": "x", "keyed": 2, "text": "t"}], "", "keyed"),
        ([{"id": "a", "dimension": "x", "keyed": 1, "text": " "}], "", "no text"),
        ([{"id": "a", "dimension": "", "keyed": 1, "text": "t"}], "", "no dimension"),
        ([{"id": "a", "dimension": "x", "keyed": 1, "text": "t", "weight": 1}], "", "unknown field 'weight'"),
        ([{"id": "a", "dimension": "x", "keyed": 1, "text": "t"}] * 2, "", "twice"),
        ([{"id": "a", "dimension": "x", "keyed": 1, "text": "t"}], "", "two dimensions"),
        ([{"number": 41, "text": "t"}], "pvq40", "1 to 40"),
        ([{"number": 1, "text": "t"}], "pvq40", "39 of 40 items are missing: 2, 3"),
        (["[1]"], "pvq40", "not a JSON object"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_and_why(tmp_path, rows, instrument, message):
    with pytest.raises(DataError, match=message):
        read_inventory(written(tmp_path, rows), instrument=instrument)


def test_an_unknown_questionnaire_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(UsageError, match="pvq40"):
        read_inventory(tmp_path / "x", instrument="pvq4")
    with pytest.raises(DataError, match="cannot be read"):
        read_inventory(tmp_path / "x")
