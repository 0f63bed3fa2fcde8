"""`valign goal standardize`: the numbers are those of the samples, the file that is written scores, wrong input is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from valign.goals import load_goal
from valign.rewards import default_scorers

GOAL = """
id: two
level: composite
conflict: constrained
parts:
  - goal: {id: one, level: preference, reward: {kind: reward, reward: length}}
  - goal: {id: other, level: preference, reward: {kind: planted, cues: {for: [a, e, i, o, u], against: [x, y, z]}}}
constraints:
  - {goal: {id: few, level: preference, reward: {kind: reward, reward: length}}, limit: 1000, sign: 1}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from valign.models.gguf import quiet
    from valign.models.tiny import tiny_model

    made = tiny_model("llama", seed=0)
    with quiet():
        made.model.save_pretrained(tmp_path / "tiny")
    made.tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_goal_gets_its_numbers_and_is_ready(model, tmp_path):
    from valign.cli import app

    goal, data, out = tmp_path / "goal.yaml", tmp_path / "d.jsonl", tmp_path / "ready.yaml"
    goal.write_text(GOAL, encoding="utf-8")
    data.write_text("".join(json.dumps({"prompt": f"Say {i}"}) + "\n" for i in range(4)), encoding="utf-8")
    run = CliRunner()
    args = ["--data", str(data), "--model", str(model), "--max-new-tokens", "12"]
    done = run.invoke(app, ["goal", "standardize", str(goal), "--out", str(out), *args])
    assert done.exit_code == 0, done.output
    ready = load_goal(str(out), scorers=default_scorers())
    from valign.data import read
    from valign.evaluation.measure.common import sample_groups
    from valign.models.policy import Sampling
    from valign.pipeline.policies import load_policy

    _, sampled = sample_groups(load_policy(model), list(read(data)), Sampling(n=4, max_new_tokens=12))
    words = np.array([len(r.text.split()) for g in sampled for r in g.responses], float)
    assert ready.standard["one"] == pytest.approx((words.mean(), words.std() or 1.0))
    assert ready.constraints[0].multiplier == 0 and np.isfinite(ready.utility(sampled)[0]).all()
    one = run.invoke(app, ["goal", "standardize", str(goal), "--out", str(tmp_path / "x.yaml"), *args, "--samples", "1"])
    assert one.exit_code == 2 and not (tmp_path / "x.yaml").exists()
    plain = run.invoke(app, ["goal", "standardize", "core", "--out", str(tmp_path / "x.yaml"), *args])
    assert plain.exit_code == 2 and not (tmp_path / "x.yaml").exists()
