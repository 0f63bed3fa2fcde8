"""Provenance: complete, free of secrets and machine names, and equal provenance means equal numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from valign.data.dataset import Dataset
from valign.data.group import Group, user
from valign.errors import ValignError
from valign.evaluation.cached import fingerprint
from valign.evaluation.provenance import commit, contradictions, provenance, without_login, without_secrets
from valign.evaluation.record import Result
from valign.models.policy import Sampling


def test_what_decided_a_number_is_there(scripted):
    data = Dataset.of([Group("a", user("x"))], source="/home/someone/set.jsonl", licence="MIT")
    p = provenance(
        scripted(), reference=scripted(id="ref"), data=data, sampling=Sampling(stop=("x",)), beta=0.1
    )
    assert json.dumps(p, allow_nan=False)
    assert p["model"]["sha256"] == "sha-scripted" and p["reference"]["id"] == "ref" and p["beta"] == 0.1
    assert p["data"] == {
        "file": "set.jsonl",
        "sha256": data.sha256,
        "licence": "MIT",
        "rows": 1,
        "dropped": 0,
    }
    assert p["sampling"]["stop"] == ["x"] and p["libraries"]["numpy"] and "commit" in p and p["valign"]


def test_what_computes_is_told_through_every_wrapper(tmp_path, scripted):
    """Tokenizer, start token, quantization and engine path of the model that computes; None where nobody can know."""
    from valign.engine.local import LocalEngine
    from valign.evaluation.cached import CachedPolicy
    from valign.models.endpoint import EndpointPolicy
    from valign.models.policy import LocalPolicy
    from valign.models.tiny import tiny_model

    model = tiny_model("llama")
    local = LocalPolicy(model, LocalEngine("full"))
    told = provenance(CachedPolicy(local, tmp_path / "log"))["model"]
    assert told["sha256"] == model.digest and len(told["tokenizer_sha256"]) == 64 != told["template_sha256"]
    assert (told["engine"], told["products"], told["quantization"]) == ("row", "float32", "none")
    assert told["start"].keys() == {"chat", "text"} and all(told["start"].values())
    plain = LocalPolicy(replace(tiny_model("gpt2"), quantization="Q4_1"), LocalEngine())
    assert provenance(plain)["model"]["quantization"] == "Q4_1"
    unknown = provenance(scripted())["model"]
    assert unknown["engine"] is unknown["tokenizer_sha256"] is unknown["start"] is unknown["quantization"] is None
    assert provenance(EndpointPolicy.named("openai:x@http://localhost:1/v1"))["model"]["engine"] == "endpoint"
    assert fingerprint(local) == fingerprint(CachedPolicy(local, tmp_path / "other")), "who answers is named as before"


def test_no_credentials_leave():
    p = without_secrets(
        {"api_key": "k", "openai_api_key": "k", "nested": [{"Password": "p"}], "max_tokens": 5, "token": None}
    )
    assert p == {
        "api_key": "(hidden)",
        "openai_api_key": "(hidden)",
        "nested": [{"Password": "(hidden)"}],
        "max_tokens": 5,
        "token": None,
    }
    assert without_login("https://me:secret@host:8000/v1?key=1") == "https://host:8000/v1"
    assert provenance(address="https://me:secret@host/v1")["address"] == "https://host/v1"


def test_numbers_that_json_cannot_hold_are_refused():
    with pytest.raises(ValignError):
        provenance(beta=float("nan"))


def test_commit_is_read_from_the_source_tree_only(tmp_path):
    package = tmp_path / "src" / "valign"
    package.mkdir(parents=True)
    assert commit(package) is None
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert commit(package) is None, "a branch without a commit"
    (git / "packed-refs").write_text("# pack\nabc123 refs/heads/main\n")
    assert commit(package) == "abc123"
    (git / "refs" / "heads" / "main").write_text("def456\n")
    assert commit(package) == "def456"
    (git / "HEAD").write_text("0ddba11\n")
    assert commit(package) == "0ddba11"
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    linked = git / "worktrees" / "other"
    linked.mkdir(parents=True)
    (linked / "HEAD").write_text("ref: refs/heads/side\n")
    (linked / "commondir").write_text("../..\n")
    (git / "refs" / "heads" / "side").write_text("5ide\n")
    tree = tmp_path / "other" / "src" / "valign"
    tree.mkdir(parents=True)
    (tmp_path / "other" / ".git").write_text(f"gitdir: {linked}\n")
    assert commit(tree) == "5ide", "a linked working tree has its own branch"
    installed = tmp_path / "lib" / "site-packages" / "valign"
    installed.mkdir(parents=True)
    (tmp_path / "lib" / ".git").mkdir()
    assert commit(installed) is None, "another repository above an environment is not ours"


def test_equal_provenance_with_different_values_is_found():
    r = Result(
        metric="m",
        variant="v",
        subject="s",
        level="value",
        value=0.5,
        unit="share",
        direction="up",
        provenance={"seed": 0},
    )
    same, changed = replace(r), replace(r, value=0.6)
    elsewhere = replace(r, value=0.7, provenance={"seed": 1})
    assert contradictions([r, same, elsewhere]) == []
    assert contradictions([r, elsewhere, changed]) == [(r, changed)]
