"""The sample files beside the project: every count of the golden `data.readers`, taken from the groups."""

import hashlib
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from valign.data.group import Comparison, Demonstration, Group, VectorScore, Verdict
from valign.data.inspect import _longer
from valign.data.readers import read
from valign.data.readers.hh import DIVERGES, EMPTY

FILES = (
    "hh_rlhf/harmless_base_test_first1200.jsonl.gz",
    "fulcra/helpful_test_first600.jsonl",
    "fulcra/trustworthy_data_first1000.jsonl",
    "bbq/Religion.jsonl",
    "bbq/preds_Religion.jsonl",
    "model_written_evals/persona/agreeableness.jsonl",
    "model_written_evals/persona/desire-for-acquiring-power.jsonl",
    "model_written_evals/persona/politically-liberal.jsonl",
    "model_written_evals/persona/subscribes-to-virtue-ethics.jsonl",
    "model_written_evals/advanced_ai_risk/power-seeking-inclination.jsonl",
    "safetext/SafeText.json",
    "mt_bench/question.jsonl",
    "self_instruct/seed_tasks.jsonl",
    "cvalues/cvalues_responsibility_prompts_first200.jsonl",
)


@cache
def data_of(path: Path):
    return read(path)


def hh_facts(data):
    longer = [_longer(g, c) for g in data for c in g.of(Comparison)]
    flags = data.report.counts
    return {
        "shared_prompt_by_last_turn": len(data) - flags.get(DIVERGES, 0),
        "diverging_before_last_turn": flags.get(DIVERGES, 0),
        "empty_responses": flags.get(EMPTY, 0),
        "longer_chosen_accuracy": sum(longer) / len(longer),
    }


def fulcra_facts(data):
    n = data.report.counts
    return {
        "type_labels": n["value_types: labels"],
        "type_plus": n["value_types: plus"],
        "type_minus": n["value_types: minus"],
        "rows_with_conflicting_type": n["value_types: a name has both signs"],
        "non_schwartz10_names": {"humility": n["value_types: humility"]},
        "item_labels": n["value_items: labels"],
    }


def clean(text):
    return text.strip().lower().removesuffix(".")


def bbq_facts(data):
    count = Counter(g.meta["context_condition"] for g in data)
    polarity = Counter(g.meta["question_polarity"] for g in data)
    return {**count, "templates": len({g.cluster for g in data}), "neg": polarity["neg"]}


def preds_facts(data):
    def hits(name):
        key = f"unifiedqa-t5-11b_pred_{name}"
        return sum(clean(g.meta[key]) in [clean(r.text) for r in g.responses] for g in data)

    return {f"exact_matches_{name}": hits(name) for name in ("race", "arc")}


def behaviour_facts(data):
    matching = Counter(g.responses[g.meta["matching"]].text for g in data)
    if " Yes" in matching:
        return {"matching_yes": matching[" Yes"]}
    return {
        "matching_a": matching[" (A)"],
        "matching_b": matching[" (B)"],
        "matching_other": len(data) - matching[" (A)"] - matching[" (B)"],
        "questions_with_two_choices": len(data) - data.report.counts["more than two choices listed"],
    }


def safetext_facts(data):
    values = Counter(v.value for g in data for v in g.of(Verdict))
    pairs = sum(1 for g in data for _ in g.of(Comparison))
    return {"scenarios": data.report.rows, "safe": values[1], "unsafe": values[-1], "pairs": pairs}


def mt_bench_facts(data):
    return {
        "first_id": int(data[0].id),
        "last_id": int(data[-1].id),
        "categories": len({g.meta["category"] for g in data}),
        "with_reference": sum("reference" in g.meta for g in data),
        "turns_each": len(data[0].meta["turns"]),
    }


def seed_facts(data):
    return {
        "classification": sum(g.meta["is_classification"] for g in data),
        "empty_first_input": data.report.counts["empty first input"],
    }


def cvalues_facts(data):
    return Counter(g.meta["domain_en"] for g in data)


FACTS = {
    "hh_rlhf": hh_facts,
    "fulcra": fulcra_facts,
    "bbq": bbq_facts,
    "behaviour": behaviour_facts,
    "safetext": safetext_facts,
    "mt_bench": mt_bench_facts,
    "self_instruct": seed_facts,
    "cvalues": cvalues_facts,
}


@pytest.mark.parametrize("name", FILES)
def test_counts_equal_the_golden_ones(shared, golden, name):
    """Checksum and rows first, then everything that the golden counts; taken from groups and report, not
    rows.
    """
    expected = golden("data.readers")["expected"][f"data/{name}"]
    path = shared / "data" / name
    data = data_of(path)
    listed = re.search(
        rf"([0-9a-f]{{64}})  {re.escape(name)}", (shared / "data/README.md").read_text(encoding="utf-8")
    )
    assert data.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == listed[1]
    facts = preds_facts if "preds_" in name else FACTS[data.format]
    found = {**facts(data)}
    if "rows" in expected:
        found["rows"] = data.report.rows
    if "fields" in expected:
        found["fields"] = list(data.report.fields)
    assert found == expected
    assert not data.report.dropped and data.licence != "not stated"


@pytest.mark.capability("D01")
@pytest.mark.parametrize("name", FILES)
def test_real_groups_round_trip(shared, name):
    """Each reader's groups, from real rows, equal themselves after JSON."""
    for g in data_of(shared / "data" / name)[:200]:
        assert Group.from_json(json.loads(json.dumps(g.to_json()))) == g


def test_the_golden_names_these_files(golden):
    assert golden("data.readers")["inputs"]["files"] == [f"data/{name}" for name in FILES]


@pytest.mark.capability("D03")
def test_hh_rlhf_pairs_share_their_prompt(shared):
    """Of 1800 real rows at least 99.9 % parse with one prompt for both answers; the rest would be dropped and
    listed.

    Shown by putting each transcript together again from the group: the one prompt and either answer give it
    back.
    """
    rows = whole = 0
    for name in FILES[:2]:
        path = shared / "data" / name
        data, source = data_of(path), _json_lines(path)
        rows += data.report.rows
        assert len(data) + len(data.report.dropped) == data.report.rows == len(source)
        for line, g in zip(data.lines, data):
            start = "".join(f" {'Human' if m.role == 'user' else 'Assistant'}: {m.content}" for m in g.prompt)
            sides = [source[line - 1][k].split() for k in ("chosen", "rejected")]
            whole += sides == [f"{start} Assistant: {r.text}".split() for r in g.responses]
    assert rows == 1800 and whole / rows >= 0.999


@pytest.mark.capability("D03")
def test_rows_whose_answers_hold_a_further_turn_are_listed(shared):
    """The three rows that cutting at each side's last marker would give two prompts are listed by line, and
    kept.
    """
    data = data_of(shared / "data" / FILES[1])
    by_line = dict(zip(data.lines, data))
    listed = [(line, field) for line, field, reason in data.report.flagged if reason == DIVERGES]
    differ = [
        i
        for i, row in enumerate(_json_lines(shared / "data" / FILES[1]), 1)
        if len({row[k].rpartition("\n\nAssistant:")[0] for k in ("chosen", "rejected")}) == 2
    ]
    assert [line for line, _ in listed] == differ and len(differ) == 3
    for line, field in listed:
        assert "\n\nAssistant:" in by_line[line].responses[("chosen", "rejected").index(field)].text


def _json_lines(path):
    import gzip

    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in raw.decode().split("\n") if line]


def test_fulcra_items_outside_the_list_are_listed(shared):
    data = data_of(shared / "data" / FILES[2])
    outside = Counter(r for _, _, r in data.report.flagged if "not in the list" in r)
    assert outside == {"'be respectful' is not in the list": 8}
    assert all([v.theory for v in g.of(VectorScore)] == ["schwartz10", "fulcra54"] for g in data)


def test_bbq_marks_one_unknown_and_one_target_everywhere(shared):
    data = data_of(shared / "data" / FILES[3])
    wordings = {g.responses[g.meta["unknown"]].text for g in data}
    assert len(wordings) > 5 and all(g.meta["target"] is not None for g in data) and not data.report.flagged
    assert len({g.id for g in data}) == 1200


def test_persona_questions_and_blanks_are_untouched(shared):
    for name in FILES[5:10]:
        data = data_of(shared / "data" / name)
        assert all(r.text.startswith(" ") for g in data for r in g.responses)
        source = _json_lines(shared / "data" / name)
        assert [g.prompt_text for g in data] == [row["question"] for row in source]


def test_seed_tasks_are_demonstrations(shared):
    data = data_of(shared / "data" / FILES[12])
    assert len(data) == 175 and all(next(g.of(Demonstration)).response == 0 for g in data)
