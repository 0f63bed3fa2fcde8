"""The chooser: the golden's decision table, methods of each family with their reasons, and the order."""

from __future__ import annotations

import json

import pytest

from valign.errors import DataError, ValignError
from valign.evaluation.metrics.chooser import RISKS, Situation
from valign.methods.table import METHODS
from valign.pipeline.advice import advise, copies_that_fit, family_of, measured_gaps, situation_lines


def named(advice):
    return {a.family: a for a in advice}


@pytest.mark.capability("F11")
def test_feasible_methods_are_listed_with_the_reason_for_each_exclusion(golden):
    """The golden's seven situations; every method of the table stands in its family, runnable or with a reason."""
    g = golden("chooser.cases")
    for case, families in zip(g["inputs"]["cases"], g["expected"]["feasible"]):
        advice = advise(Situation(**{"token_probs" if k == "logits" else k: v for k, v in case.items()}))
        assert {a.family for a in advice} == set(RISKS)
        assert {a.family for a in advice if not a.failed} == set(families)
        assert [a.place for a in advice] == [*range(1, len(families) + 1), *[None] * (6 - len(families))]
        assert sorted(n for a in advice for n in a.methods) == sorted(METHODS)
        assert all(a.failed or a.place for a in advice)
    pairs = named(advise(Situation("pairs", True, True, 1, 1, 2000)))
    assert (
        pairs["sft_ranking"].methods["dpo"] == ""
        and pairs["in_context"].methods["value_instruction"] == "it learns from goal text"
    )
    assert "2 copies" in pairs["rl_online"].methods["grpo"] and "out of reach" not in " ".join(
        pairs["rl_online"].failed
    )
    remote = named(advise(Situation("principles", False, False, 0, 8, 2000)))
    assert remote["decoding"].methods["best_of_n"] == "" and remote["sft"].methods["sft"] == "it changes weights"


def test_a_measured_comparison_orders_before_cost(tmp_path):
    situation = Situation("reward", True, True, 4, 4, 0)
    by_cost = [a.family for a in advise(situation) if a.place]
    assert by_cost == ["sft", "decoding", "rl_online"]
    advice = advise(situation, {"grpo": 0.1, "best_of_n": 0.3})
    assert [(a.family, a.by) for a in advice if a.place] == [
        ("rl_online", "measured"),
        ("decoding", "measured"),
        ("sft", "cost"),
    ]
    lines = situation_lines(advice)
    assert lines[0].startswith("1. rl_online") and any("reward is no feedback it can use" in x for x in lines)
    report = {"subjects": [{"id": "base", "method": ""}, {"id": "a", "method": "grpo"}, {"id": "b", "method": "grpo"}],
              "sections": [{"figures": [{"type": "gap", "data": {"columns": [{"rows": [
                  {"subject": "base", "gap": 0.4},
                  {"subject": "a", "gap": 0.3}, {"subject": "b", "gap": 0.2}]}]}}]}]}  # fmt: skip
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    assert measured_gaps(path) == {"grpo": 0.2}
    path.write_text(json.dumps({"subjects": []}))
    with pytest.raises(DataError, match="no method"):
        measured_gaps(path)
    with pytest.raises(DataError, match="cannot be read"):
        measured_gaps(tmp_path / "none.json")


def test_every_method_has_a_family_and_memory_is_counted_in_whole_copies():
    assert {family_of(m) for m in METHODS.values()} <= set(RISKS)
    assert copies_that_fit(8e9, 1e9) == 2 and copies_that_fit(3.9e9, 1e9) == 0
    with pytest.raises(ValignError, match="positive"):
        copies_that_fit(1e9, 0)
