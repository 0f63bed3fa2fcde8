"""A run remembers its training data by the name that the user wrote and by their content, never by a path of the machine."""

from __future__ import annotations

import hashlib
import json

import pytest

from valign.data.group import Demonstration, Group, Response, user
from valign.data.jsonl import write
from valign.errors import ValignError
from valign.pipeline import request
from valign.pipeline.recipe import Source
from valign.pipeline.training_data import FILE, origin, training_groups

GROUPS = [Group(f"g{i}", user(f"{i}?"), (Response(f"{i}."),), feedback=(Demonstration(response=0),)) for i in range(4)]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working directory with data/set.jsonl and a run that was trained on it, by its relative name."""
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    write(GROUPS, home / "data" / "set.jsonl")
    monkeypatch.chdir(home)
    run = home / "dpo" / "run"
    run.mkdir(parents=True)
    (run / request.FILE).write_text(json.dumps({"data": request.digest(GROUPS)}))
    (run / FILE).write_text(json.dumps(origin([Source(path="data/set.jsonl"), Source(path="builtin:dilemmas")], 3, 0.5)))
    return home


def test_no_path_of_the_machine_is_remembered(home):
    kept = json.loads((home / "dpo" / "run" / FILE).read_text())
    own, builtin = kept["sources"]
    assert (own["path"], builtin["path"], kept["seed"], kept["dev"]) == ("data/set.jsonl", "builtin:dilemmas", 3, 0.5)
    assert own["sha256"] == hashlib.sha256((home / "data" / "set.jsonl").read_bytes()).hexdigest() and builtin["sha256"] is None
    assert str(home) not in json.dumps(kept)


def test_the_data_are_found_from_where_it_was_trained_and_named_from_elsewhere(home, monkeypatch):
    (home / "dpo" / "run" / FILE).write_text(json.dumps(origin([Source(path="data/set.jsonl")], 0)))
    assert [g.id for g in training_groups(home / "dpo")] == [g.id for g in GROUPS]
    (home / "else" / "data").mkdir(parents=True)
    monkeypatch.chdir(home / "else")
    with pytest.raises(ValignError, match="its training data are not found") as error:
        training_groups(home / "dpo")
    assert "go to the folder from which it was trained" in str(error.value) and "--training FILE" in str(error.value)
    write(GROUPS[:2], home / "else" / "data" / "set.jsonl")
    with pytest.raises(ValignError, match="holds other data than the policy was trained on"):
        training_groups(home / "dpo")


def test_a_run_that_remembers_a_whole_path_is_still_read(home):
    rows = [{**Source(path=str(home / "data" / "set.jsonl")).model_dump()}]
    (home / "dpo" / "run" / FILE).write_text(json.dumps({"sources": rows, "seed": 0, "dev": 0.0}))
    assert len(training_groups(home / "dpo")) == 4
