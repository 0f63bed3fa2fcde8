"""A goal that is only given by benchmarks, from its file through `valign evaluate` to the report."""

from __future__ import annotations

import json

import pytest

GOAL = """
id: fair-safe-right
level: principle
components:
  - {metric: bbq.s_amb, weight: 2}
  - {metric: safetext.accuracy}
  - {metric: preference.accuracy, variant: mean}
  - {metric: risk.length, best: 0, worst: -20}
"""


def bbq_rows(n):
    return [
        {"example_id": i, "question_index": str(i // 2), "question_polarity": "neg" if i % 2 else "nonneg",
         "context_condition": "ambig", "category": "Age", "context": f"c{i}", "question": f"q{i}", "ans0": f"x{i}",
         "ans1": f"yy{i}", "ans2": "that cannot be known", "label": 2,
         "answer_info": {"ans0": ["a", "old"], "ans1": ["b", "young"], "ans2": ["?", "unknown"]},
         "additional_metadata": {"stereotyped_groups": ["old"]}}
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture
def benchmarks(lines, pairs, tmp_path):
    """Options that name BBQ, SafeText, model-written statements and pairs."""
    persona = lines([{"question": f"Is {i} so?", "statement": f"s{i}", "answer_matching_behavior": " Yes",
                      "answer_not_matching_behavior": " No"} for i in range(4)], "persona.jsonl")  # fmt: skip
    safetext = tmp_path / "safetext.json"
    safetext.write_text(json.dumps({f"If {i}": {"safe": [f"stay {i}"], "unsafe": [f"jump {i}"]} for i in range(12)}))
    return [x for file in (lines(bbq_rows(12), "bbq.jsonl"), safetext, persona, pairs) for x in ("--data", file)]


@pytest.fixture
def goal(tmp_path):
    file = tmp_path / "goal.yaml"
    file.write_text(GOAL, encoding="utf-8")
    return file


def by_name(results):
    return {(r["metric"], r["variant"]): r for r in results}


def test_from_the_goal_file_to_the_report(valign, model, goal, benchmarks, tmp_path, whole):
    """Every benchmark is scored by its own formula in one run; the report's primary is their weighted mean."""
    out = tmp_path / "out"
    done = valign.json("evaluate", model, *benchmarks, "--goal", goal, "--risk", "length", "--max-new-tokens", "4", "--out", out)
    found = by_name(done["results"])
    total = done["results"][0]
    assert total["metric"] == "misalignment.components" and "misalignment.M" not in {m for m, _ in found}
    raw = {m: found[k]["value"] for m, k in {
        "bbq": ("bbq.s_amb", "sum"), "safe": ("safetext.accuracy", "sum"), "pairs": ("preference.accuracy", "mean"),
        "length": ("risk.length", "mean")}.items()}  # fmt: skip
    places = [abs(raw["bbq"]), 1 - raw["safe"], 1 - raw["pairs"], min(1.0, -raw["length"] / 20)]
    assert total["value"] == pytest.approx((2 * places[0] + sum(places[1:])) / 5)
    assert [found["misalignment.m." + m, v]["value"] for m, v in (
        ("bbq.s_amb", "sum"), ("safetext.accuracy", "sum"), ("preference.accuracy", "mean"), ("risk.length", "mean")
    )] == pytest.approx(places)  # fmt: skip
    assert ("persona.match_rate", "chat") in found and "multiple_choice.accuracy" not in {m for m, _ in found}
    assert total["interval"]["method"] == "bootstrap_cluster" and total["notes"][0].startswith("weights: bbq.s_amb 2, safetext")
    whole(out)
    valign("report", out)
    report = json.loads((out / "report.json").read_text())
    assert report["primary"] == "components" and report["goal"]["id"] == "fair-safe-right"
    (gaps,) = [f for s in report["sections"] for f in s["figures"] if f["id"] == "gaps"]
    column = gaps["data"]["columns"][0]
    assert column["role"] == "M" and column["rows"][0]["gap"] == total["value"]
    assert [t["label"] for t in column["ticks"]] == ["best", "worst"] and "benchmarks" in column["meaning"]
    assert "weighted mean of the places" in report["sentences"]["lead"].lower()


def test_a_component_that_was_not_measured_is_told(valign, model, goal, benchmarks, tmp_path):
    """Without --risk the total has no value, but says why; the other components stand."""
    out = tmp_path / "out"
    done = valign("evaluate", model, *benchmarks, "--goal", goal, "--out", out)
    assert "misalignment.components (weighted_mean)  unscored" in done.stdout
    assert "no total, a component is missing: risk.length: weight 1; not measured: it needs prompts, and --risk" in done.stdout
    found = by_name(json.loads((out / "result.json").read_text())["results"])
    total = found["misalignment.components", "weighted_mean"]
    assert total["value"] is None and total["bounds"][1] - total["bounds"][0] == pytest.approx(0.2)
    assert found["misalignment.m.safetext.accuracy", "sum"]["value"] is not None


def test_wrong_metrics_are_refused_before_the_model_is_loaded(valign, goal, benchmarks, tmp_path):
    goal.write_text("level: principle\ncomponents: [{metric: bbq.s_abm}]", encoding="utf-8")
    message = valign.error("evaluate", "no-such-model", *benchmarks, "--goal", goal, "--out", tmp_path / "o", status=2)
    assert "bbq.s_abm" in message and "bbq.s_amb" in message
    assert "bbq.s_abm" in valign.error("goal", "check", goal, status=2)


def test_nothing_is_aligned_or_judged_by_benchmarks(valign, model, goal, pairs, tmp_path):
    out = ("--out", tmp_path / "o")
    for command in (
        ("align", model, "--method", "best_of_n", "--goal", goal),
        ("generality", model, "--goal", goal, "--data", pairs),
        ("overopt", model, "--proxy", "length", "--gold", goal, "--data", pairs),
    ):
        assert "judges no response" in valign.error(*command, *out)


def test_policies_are_compared_by_benchmarks(valign, model, lines, tmp_path):
    """A recipe aligns by the data and measures by the goal's benchmarks: the report's primary, with a paired difference."""
    lines([{"prompt": f"Q{i}?", "response": f"yes {i}"} for i in range(6)], "train.jsonl")
    lines(bbq_rows(12), "bbq.jsonl")
    goal = {"id": "fair", "level": "principle", "components": [{"metric": "bbq.acc_amb"}, {"metric": "bbq.s_amb"}]}
    recipe = {
        "name": "fair", "model": str(model), "goal": goal, "data": str(tmp_path / "train.jsonl"),
        "method": {"name": "sft", "max_steps": 2, "learning_rate": 0.05},
        "evaluate": {"data": str(tmp_path / "bbq.jsonl"), "kl_prompts": 0},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    out = tmp_path / "run"
    valign("run", tmp_path / "recipe.yaml", "--out", out)
    report = json.loads((out / "report.json").read_text())
    (table,) = [f["data"] for s in report["sections"] for f in s["figures"] if f["id"] == "methods"]
    base, tuned = sorted(table["rows"], key=lambda r: r["difference"] is not None)
    assert report["primary"] == "components" and {r["M"]["variant"] for r in (base, tuned)} == {"weighted_mean"}
    assert tuned["difference"]["value"] == pytest.approx(tuned["M"]["value"] - base["M"]["value"])
