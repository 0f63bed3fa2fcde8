"""read: recognition, ambiguity, splits, limits, ids, the hub; and that every format round-trips as groups."""

import json

import pytest

from valign.data.group import Group
from valign.data.jsonl import write
from valign.data.readers import READERS, read, recognize
from valign.errors import DataError, UsageError, ValignError

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
SAID = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
TREE = {
    "message_id": "m",
    "role": "prompter",
    "text": "q",
    "replies": [{"message_id": "n", "role": "assistant", "text": "a"}],
}
BBQ = {
    "example_id": 0,
    "question_index": "1",
    "category": "Age",
    "context": "c",
    "question": "q",
    "ans0": "x",
    "ans1": "y",
    "ans2": "z",
    "label": 0,
    "answer_info": {"ans0": ["a", "old"], "ans1": ["b", "young"], "ans2": ["?", "unknown"]},
    "additional_metadata": {"stereotyped_groups": ["old"]},
}
HUMAN = "\n\nHuman: q\n\nAssistant:"

EXAMPLES = {
    "groups": {"id": "g", "prompt": [["user", "q"]]},
    "dilemmas": {
        "id": "d",
        "topic": "t",
        "prompt": "q",
        "responses": [{"text": "a", "values": {"BE": 1}, "verdicts": {"help": 1}}],
    },
    "instructions": {
        "id": "i",
        "kind": "k",
        "prompt": "q",
        "checks": [{"type": "exact", "answers": ["a"]}],
        "reference": "a",
    },
    "demonstrations": {"id": "e", "topic": "t", "prompt": "q", "response": "a"},
    "hh_rlhf": {"chosen": HUMAN + " a", "rejected": HUMAN + " b"},
    "preference": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "unpaired": {"prompt": "q", "completion": "a", "label": True},
    "prompt_completion": {"prompt": "q", "completion": "a"},
    "prompt": {"prompt": "q"},
    "prompted": {"inputs": "q", "targets": "a"},
    "text": {"text": "once upon a time"},
    "messages": {"messages": TURNS},
    "sharegpt": {"id": "s", "conversations": SAID},
    "ultrachat": {"id": "u", "data": ["q", "a"]},
    "baize": {"topic": "t", "input": "A chat.\n[|Human|] q\n[|AI|] a\n[|Human|] "},
    "alpaca": {"instruction": "do", "input": "it", "output": "done"},
    "self_instruct": {
        "id": "seed",
        "instruction": "do",
        "instances": [{"input": "", "output": "done"}],
        "is_classification": False,
    },
    "mt_bench": {"question_id": 81, "category": "writing", "turns": ["one", "two"]},
    "cvalues": {"id_": 1, "prompt": "问", "domain_en": "x", "domain_zh": "y"},
    "ultrafeedback": {"instruction": "q", "completions": [{"response": "a", "overall_score": 7}]},
    "helpsteer": {"prompt": "q", "response": "a", "helpfulness": 3, "correctness": 4},
    "saferlhf": {
        "prompt": "q",
        "response_0": "a",
        "response_1": "b",
        "better_response_id": 0,
        "safer_response_id": 1,
        "is_response_0_safe": False,
        "is_response_1_safe": True,
    },
    "summaries": {
        "info": {"id": "p", "post": "text"},
        "summaries": [{"text": " a"}, {"text": " b"}],
        "choice": 1,
        "worker": "w",
    },
    "oasst_messages": {"message_id": "m", "parent_id": None, "role": "prompter", "text": "q"},
    "oasst_trees": {"message_tree_id": "t", "prompt": TREE},
    "webgpt_comparisons": {
        "question": {"full_text": "q", "dataset": "eli5", "id": "x"},
        "answer_0": "a",
        "answer_1": "b",
        "score_0": 0.5,
        "score_1": -0.5,
        "quotes_0": {},
        "quotes_1": {},
    },
    "browsing": {
        "question": "q",
        "steps": [{"action": "search", "argument": "w", "observation": "page"}],
        "answer": "a",
    },
    "fulcra": {
        "dialogue": "Human: q\nBob: a",
        "value_items": ["be honest: +1"],
        "value_types": ["benevolence: +1"],
    },
    "bbq": BBQ,
    "behaviour": {
        "question": "q?",
        "answer_matching_behavior": " No",
        "answer_not_matching_behavior": " Yes",
    },
    "safetext": {"To stay warm,": {"safe": ["wear a coat."], "unsafe": ["light a fire in bed."]}},
}


def put(tmp_path, *rows):
    path = tmp_path / "data"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_there_is_an_example_for_every_format():
    assert set(EXAMPLES) == set(READERS)


@pytest.mark.capability("D01")
@pytest.mark.parametrize("name", sorted(READERS))
def test_every_format_is_recognized_alone_and_round_trips_through_group(tmp_path, name):
    """Its own fields name the format and no other; the groups it gives equal themselves after JSON."""
    assert recognize([EXAMPLES[name]]).name == name
    data = read(put(tmp_path, EXAMPLES[name]))
    assert data.format == name and len(data) == 1 and data.report.rows == 1 and not data.report.dropped
    assert [Group.from_json(json.loads(json.dumps(g.to_json()))) for g in data] == list(data)
    again = read(write(data, tmp_path / "again.jsonl"))
    assert again.format == "groups" and again.groups == data.groups


@pytest.mark.parametrize("name", sorted(READERS))
def test_every_format_lists_a_row_that_it_cannot_read(tmp_path, name):
    """Named by the user, a row without the fields is dropped with line, field and reason; never silently."""
    if name == "safetext":
        bad = {"Scenario": {"safe": "not a list", "unsafe": []}}
        rows = [EXAMPLES[name] | bad]
    else:
        rows = [EXAMPLES[name], {"something": "else"}]
    report = read(put(tmp_path, *rows), format=name).report
    ((line, field, reason),) = report.dropped
    assert line == 2 and field and reason and report.rows == 2


def test_ambiguous_fields_ask_for_a_format(tmp_path):
    row = EXAMPLES["preference"] | {"question": "q", "steps": [], "answer": "a"}
    path = put(tmp_path, row)
    with pytest.raises(DataError, match=r"(?s)several formats: preference, browsing.*format='preference'"):
        read(path)
    assert read(path, format="preference").format == "preference"


def test_an_unknown_format_names_the_nearest(tmp_path):
    with pytest.raises(UsageError, match=r"(?s)unknown format 'alpacca'.*did you mean: alpaca"):
        read(put(tmp_path, EXAMPLES["alpaca"]), format="alpacca")


def test_a_few_broken_first_rows_do_not_hide_the_format(tmp_path):
    data = read(put(tmp_path, {"x": 1}, *[EXAMPLES["preference"]] * 3))
    assert data.format == "preference" and [d[0] for d in data.report.dropped] == [1]


def test_repeated_ids_are_numbered_and_counted(tmp_path):
    data = read(put(tmp_path, *[EXAMPLES["demonstrations"]] * 3, EXAMPLES["demonstrations"] | {"id": "e#2"}))
    assert [g.id for g in data] == ["e", "e#3", "e#4", "e#2"]
    assert [g.cluster for g in data] == ["", "e", "e", ""]
    assert data.report.counts["repeated ids"] == 2 and "2 repeated ids" in data.report.notes[0]


def test_limit_stops_early_and_says_so(tmp_path):
    path = put(tmp_path, *[EXAMPLES["prompt"]] * 60)
    data = read(path, limit=3)
    assert (
        len(data) == 3
        and data.report.rows < 60
        and data.report.notes == ("stopped after 3 groups, as asked",)
    )
    with pytest.raises(ValignError, match="limit"):
        read(path, limit=0)


def test_split_keeps_or_gives_the_split(tmp_path):
    rows = [EXAMPLES["demonstrations"] | {"id": s, "split": s} for s in ("train", "test")]
    assert [g.id for g in read(put(tmp_path, *rows), split="test")] == ["test"]
    with pytest.raises(DataError, match="rows could be read"):
        read(put(tmp_path, *rows), split="dev")
    assert [g.split for g in read(put(tmp_path, EXAMPLES["prompt"]), split="dev")] == ["dev"]


def test_provenance_is_that_of_the_bytes(tmp_path):
    path = put(tmp_path, BBQ)
    data = read(str(path))
    import hashlib

    assert data.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert data.source == str(path) and data.licence == "CC-BY-4.0 (nyu-mll/BBQ)"
    assert read(put(tmp_path, EXAMPLES["preference"])).licence == "not stated"
    assert data.licence in data.summary() and data.sha256[:12] in data.summary()


class Hub:
    """Stands in for `datasets`: remembers what it was asked for."""

    def __init__(self, result):
        self.result, self.asked = result, []

    def __call__(self, *args, **options):
        self.asked.append((args, options))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("name", "split", "asked"),
    [
        ("hub:owner/name", None, (("owner/name", None), {"split": "train"})),
        ("hub:owner/name:test", None, (("owner/name", None), {"split": "test"})),
        ("hub:owner/name/config:test", "dev", (("owner/name", "config"), {"split": "dev"})),
    ],
)
def test_a_hub_id_goes_through_datasets(monkeypatch, name, split, asked):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([EXAMPLES["preference"]] * 3)
    rows.info.license = "mit"
    hub = Hub(rows)
    monkeypatch.setattr(datasets, "load_dataset", hub)
    data = read(name, split=split)
    assert hub.asked == [asked] and data.format == "preference" and len(data) == 3
    assert data.source == name and data.licence == "mit" and {g.split for g in data} == {asked[1]["split"]}


@pytest.mark.parametrize(
    "fault", [ConnectionError("no route"), OSError("offline"), ValueError("Unknown split")]
)
def test_a_hub_that_cannot_be_reached_is_said(monkeypatch, fault):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", Hub(fault))
    with pytest.raises(DataError, match=f"hub:owner/name: cannot be loaded from the hub: {fault}"):
        read("hub:owner/name")
    with pytest.raises(DataError, match="not a hub id"):
        read("hub:name")


def test_only_a_named_hub_id_reaches_for_the_network(monkeypatch):
    datasets = pytest.importorskip("datasets")
    hub = Hub(ConnectionError("never"))
    monkeypatch.setattr(datasets, "load_dataset", hub)
    with pytest.raises(DataError, match="no such file"):
        read("owner/name")
    assert hub.asked == []
