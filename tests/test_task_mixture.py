"""An instruction goal's tasks, from its file through `valign align` to a policy trained on them."""

from __future__ import annotations

import json

import pytest

COLLECTION = {
    "checkers": {"short": {"type": "words", "max": 3}},
    "tasks": [
        {"id": name, "patterns": [["Say {w}.", "{w}"]], "examples": [{"w": f"{name}{i}"} for i in range(n)], "checks": ["short"]}
        for name, n in (("refund", 12), ("delivery", 4))
    ],
}


@pytest.fixture
def collection(tmp_path):
    file = tmp_path / "tasks.yaml"
    file.write_text(json.dumps(COLLECTION), encoding="utf-8")
    return file


def trained(valign, model, data, out, *more):
    done = valign("align", model, "--method", "sft", "--data", data, "--out", out, "--set", "max_steps=1", *more)
    return done, json.loads((out / "run" / "data.json").read_text(encoding="utf-8"))


def test_sft_learns_from_a_collection_and_from_a_goals_mixture(valign, model, collection, tmp_path, whole):
    """Every task with its share: told on the terminal, kept by the run, and read again as what was trained on."""
    from valign.pipeline.training_data import training_groups

    done, kept = trained(valign, model, collection, tmp_path / "all")
    assert "16 groups: refund 12, delivery 4" in " ".join(done.stderr.split()) and kept["tasks"] == {"refund": 12, "delivery": 4}
    goal = tmp_path / "goal.yaml"
    tasks = f"{{collection: {collection.name}, weights: {{delivery: 3}}, n: 8, seed: 1}}"  # found beside the goal's file
    goal.write_text(f"id: shop\nlevel: instruction\ntasks: {tasks}\n", encoding="utf-8")
    done, kept = trained(valign, model, goal, tmp_path / "goal")
    assert "8 groups: refund 4, delivery 4" in " ".join(done.stderr.split()) and kept["tasks"] == {"refund": 4, "delivery": 4}
    groups = training_groups(tmp_path / "goal")
    assert len(groups) == 8 and all(g.meta["checks"] for g in groups)
    whole(tmp_path / "goal")


def test_it_is_data_wherever_data_are_read(valign, collection):
    shown = valign.json("data", "inspect", collection, "--limit", "6")
    assert shown["format"] == "tasks" and shown["groups"] == 6


def test_what_cannot_be_dealt_is_refused_before_a_model_is_loaded(valign, collection, tmp_path):
    """An unknown task, a mixture larger than the data, a goal of another level, a goal without tasks."""
    for text, message in (
        (f"level: instruction\ntasks: {{collection: {collection}, weights: {{refnd: 1}}}}", "unknown task 'refnd'"),
        (f"level: instruction\ntasks: {{collection: {collection}, n: 17}}", "17 groups are more than the data allow"),
        ("level: principle\nset: core", "only an instruction goal brings data"),
        ("level: instruction", "the goal names no tasks"),
    ):
        goal = tmp_path / "goal.yaml"
        goal.write_text(text, encoding="utf-8")
        done = valign.runner.invoke(_app(), ["align", "no-such-model", "--method", "sft", "--data", str(goal), "--out",
                                             str(tmp_path / "o")])  # fmt: skip
        assert done.exit_code in (1, 2) and message in " ".join(done.stderr.split()), done.stderr


def _app():
    from valign.cli import app

    return app
