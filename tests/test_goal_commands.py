"""valign goal: list, show, check, diff, rescore and log, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from valign.goals import load_goal, load_principles, principle_sets, theories
from valign.goals.targets import named_targets

OLD = "id: mine\nlevel: value\ntheory: schwartz10\ntarget: {benevolence: 1, power: -1}\n"
NEW = "id: mine\nversion: 2\nlevel: value\ntheory: schwartz10\ntarget: {benevolence: 1, power: 1}\n"
VALUES = {"kind": {"BE": 0.8}, "rule": {"PO": 0.9}}


@pytest.fixture
def goals(tmp_path) -> tuple[Path, Path]:
    paths = tmp_path / "old.yaml", tmp_path / "new.yaml"
    for path, text in zip(paths, (OLD, NEW)):
        path.write_text(text)
    return paths


@pytest.fixture
def run(tmp_path) -> Path:
    """Stored outputs of the old goal with the values that the shipped evaluator would have stored."""
    from valign.pipeline.evaluate import goal_record
    from valign.pipeline.goals import make_goal

    folder = tmp_path / "run"
    folder.mkdir()
    goal = make_goal(dict(id="mine", level="value", theory="schwartz10", target={"benevolence": 1, "power": -1}))
    rows = []
    for i in range(3):
        responses = []
        for text, held in VALUES.items():
            vector = goal.theory.vector(held)
            values = dict(zip(goal.theory.ids, vector.tolist()))
            responses.append({"text": f"{text} {i}", "score": round(float(goal.utility_of(vector)), 6), "values": values})
        rows.append({"id": f"p{i}", "prompt": f"q {i}", "responses": responses, "score": None})
    (folder / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "goal.json").write_text(json.dumps(goal_record(goal)))
    return folder


@pytest.mark.capability("G03", "G06")
def test_everything_that_ships_is_listed_with_its_source(valign):
    found = valign.json("goal", "list")
    assert [r["id"] for r in found["sets"]] == list(principle_sets())
    assert [r["id"] for r in found["theories"]] == list(theories())
    assert [r["id"] for r in found["targets"]] == list(named_targets())
    assert all(r["source"] and r["title"] and r["size"] for rows in found.values() for r in rows)
    assert "salmon31" in valign("goal", "list", "sets").stdout
    assert "theories" in valign.error("goal", "list", "theorys", status=2)


def test_show_by_kind(valign):
    (entry,) = valign.json("goal", "show", "cai16")
    assert len(entry["principles"]) == 16 and len(entry["questions"]) == 16 and entry["source"]
    (entry,) = valign.json("goal", "show", "uk")
    assert entry["kind"] == "target" and entry["values"][0] == {"dimension": "SD", "name": "self-direction", "value": "+0.4809"}
    assert [e["kind"] for e in valign.json("goal", "show", "gert10")] == ["principle set", "value theory"]
    text = valign("goal", "show", "schwartz19").stdout
    assert "humility" in text and "pvqrr" in text and "to schwartz10" in text
    assert "did you mean: salmon31" in valign.error("goal", "show", "salmon13", status=2)


def test_show_and_check_of_files(valign, goals, tmp_path):
    assert "power  target -1  weight 1" in valign("goal", "show", goals[0]).stdout
    theory = tmp_path / "t.yaml"
    theory.write_text("id: t\ndimensions: [{id: a, name: a1, definition: x}]\n")
    assert valign.json("goal", "show", theory)[0]["kind"] == "value theory"
    rules = tmp_path / "rules.txt"
    rules.write_text("one rule\n")
    assert valign.json("goal", "show", f"opo:{rules}")[0]["principles"][0]["text"] == "one rule"
    found = valign.json("goal", "check", goals[0])
    assert (found["level"], found["version"]) == ("value", 1) and len(found["fingerprint"]) == 64
    assert [p["id"] for p in found["parts"]] == ["PO", "BE"]


def test_check_tells_file_line_and_field(valign, tmp_path):
    path = tmp_path / "house.yaml"
    path.write_text("level: principle\nprinciples:\n  - {id: a, text: x}\n  - {id: b, text: y, wieght: 2}\n")
    said = valign.error("goal", "check", path, status=2)
    assert "house.yaml" in said and "line 4" in said and "wieght" in said and "did you mean: weight" in said


def test_check_finds_doubtful_places(valign, tmp_path):
    path = tmp_path / "house.yaml"
    path.write_text(
        "level: principle\nprinciples:\n  - {id: a, text: name the source of figures, negation: hide sources}\n"
        "  - {id: b, text: name sources of the figures always}\n  - {id: c, text: hide sources}\n"
    )
    found = " ".join(valign.json("goal", "check", path)["findings"])
    assert "a and c" in found.replace("reads like the opposite of", "and") and "no negation" in found and "b, c" in found
    assert "opposed" in valign("goal", "check", "schwartz10:power=1,universalism=1").stdout
    assert not valign.json("goal", "check", "core")["findings"]
    path.write_text("level: principle\nset: asimov3\nid: robots\n")
    assert "does not use them" in valign("goal", "check", path).stdout
    path.write_text("level: principle\nset: asimov3\nid: robots\nconflict: lexicographic\n")
    found = valign.json("goal", "check", path)
    assert found["conflict"] == "lexicographic" and not found["findings"]


def test_check_with_stored_outputs_measures_the_parts(valign, run, tmp_path):
    """Standardization numbers and the conflict of two opposite goals, from values that were stored."""
    path = tmp_path / "both.yaml"
    path.write_text(
        "id: both\nlevel: composite\nparts:\n  - goal: {id: kind, level: value, theory: schwartz10, target: {BE: 1}}\n"
        "  - goal: {id: strong, level: value, theory: schwartz10, target: {PO: 1}}\n"
    )
    assert valign.json("goal", "check", path)["standard"] is None
    found = valign.json("goal", "check", path, "--run", run)
    # D = |v - 1| / 2 on one dimension: .1 and .5 for BE, .5 and .05 for PO; the mean of -D, and half the range as sd
    assert found["standard"] == {"kind": [-0.3, 0.2], "strong": [-0.275, 0.225]}
    (conflict,) = found["conflicts"]
    assert conflict["correlation"] == -1 and len(conflict["examples"]) == 3


def test_diff(valign, goals):
    assert "~ target.PO: -1 -> 1" in valign("goal", "diff", *goals).stdout
    assert valign.json("goal", "diff", goals[0], goals[0]) == {"changes": [], "rescored": None}


@pytest.mark.capability("G11")
def test_rescore_shows_what_flipped_and_log_keeps_it(valign, run, goals):
    """Three prompts: "rule" was worse than "kind" (and than silence) and is now better, each time by power."""
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    found = valign.json("goal", "diff", *goals, "--run", run)["rescored"]
    assert found["counts"]["order_flips"] == 3 and {p.name for p in run.iterdir()} == set(before)  # nothing written
    text = valign("goal", "rescore", run, "--goal", goals[1]).stdout
    assert "~ target.PO: -1 -> 1" in text and "order: 3 of 3 pairs flipped" in text and "by PO" in text
    assert {name: (run / name).read_bytes() for name in before} == before
    log = valign("goal", "log", run).stdout
    assert "mine v1 -> mine v2" in log and "3 of 3 orders and 3 of 6 standings flipped" in log
    again = valign.json("goal", "rescore", run, "--goal", goals[1])
    assert len(valign.json("goal", "log", run)) == 1
    assert {r["metric"] for r in again["results"]} == {"goal.utility", "goal.order_flips", "goal.standing_flips"}
    assert all(Path(p).exists() for p in again["files"].values())


def test_wrong_uses_are_told(valign, run, tmp_path):
    assert "no such file" in valign.error("goal", "rescore", tmp_path / "absent", "--goal", "uk")
    assert "revisions" in valign.error("goal", "log", run, status=2)
    assert "not both" in valign.error("goal", "check", "uk", "--run", run, "--data", "builtin:dilemmas", status=2)
    assert "--limit" in valign.error("goal", "check", "uk", "--limit", 3, status=2)


def test_a_survey_target_on_the_command_line(valign, tmp_path):
    path = tmp_path / "s.csv"
    names = [d.name for d in load_goal("uk").theory.dimensions]
    path.write_text(",".join(names) + "\n" + ",".join("6" if n == "benevolence" else "3" for n in names) + "\n")
    found = valign.json("goal", "check", f"survey:{path}")
    assert found["id"] == "survey:s.csv" and next(p for p in found["parts"] if p["id"] == "BE")["target"] == 1


def test_sets_are_goals_by_name(valign):
    for name in ("sparrow23", "udhr30"):
        assert len(valign.json("goal", "check", name)["parts"]) == len(load_principles(name).principles)


@pytest.mark.capability("G11")
def test_from_an_evaluation_to_what_a_changed_goal_flips(valign, vowels, model, situations, tmp_path):
    """`evaluate` stores the goal beside its samples; the reversed goal turns round every pair that is not even."""
    out = tmp_path / "eval"
    valign("evaluate", model, "--data", situations, "--goal", "schwartz10:benevolence=1", "--samples", 2,
           "--max-new-tokens", 6, "--kl-prompts", 0, "--out", out)  # fmt: skip
    stored = json.loads((out / "goal.json").read_text())
    assert load_goal(stored["goal"]).target == {"BE": 1} and stored["scorer"] == "vowels"
    found = valign.json("goal", "rescore", out, "--goal", "schwartz10:benevolence=-1")
    counts = found["counts"]
    assert counts["responses"] == 12 and counts["pairs"] > 0 and counts["order_flips"] == counts["pairs"]
    assert found["changes"] == ["~ target.BE: 1 -> -1"] and set(found["by_part"]) == {"BE"}
