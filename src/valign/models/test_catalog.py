"""What is at hand: everything that loads is listed, and nothing that is half written."""

from __future__ import annotations

import json

import pytest

from valign.models import embedded
from valign.models.adapters import attach_lora
from valign.models.catalog import models_at_hand
from valign.models.loading import load_model
from valign.models.policy_folder import save_model, write_policy_folder
from valign.models.tiny import tiny_model


@pytest.fixture
def own_caches(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setenv("VALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def test_the_default_is_always_listed(own_caches, monkeypatch):
    (entry,) = models_at_hand()
    assert (entry.name, entry.kind) == (embedded.EMBEDDED, "embedded")
    assert entry.size_bytes > 90e6 and "at first use" in entry.note
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (entry,) = models_at_hand()
    assert entry.where is None and embedded.INSTALL in entry.note


def test_conversions_and_the_hub_cache_are_listed(own_caches):
    for place in (embedded.cached_folder(), embedded.cached_folder().with_name("old")):
        place.mkdir(parents=True)
        (place / "manifest.json").write_text("{}")
    snapshot = own_caches / "hub" / "models--somebody--small" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    entries = {e.name: e for e in models_at_hand()}
    assert "ready" in entries[embedded.EMBEDDED].note
    assert entries["somebody/small"].kind == "hub"
    assert "older conversion" in entries[str(embedded.cached_folder().with_name("old"))].note


def test_policy_folders_are_listed_and_load_by_their_names(own_caches):
    runs = own_caches / "runs"
    base = save_model(tiny_model("llama"), runs / "base")
    save_model(attach_lora(base), runs / "one" / "policy", method="dpo")
    write_policy_folder(runs / "context", kind="context", base="x", method="urial")
    (runs / "half.partial").mkdir()
    (runs / "half.partial" / "policy.json").write_text("{}")
    (runs / "odd").mkdir()
    (runs / "odd" / "policy.json").write_text(json.dumps({"schema": 99}))
    entries = {e.name: e for e in models_at_hand(runs) if e.kind != "embedded"}
    assert {n.removeprefix(str(runs)): e.kind for n, e in entries.items()} == {
        "/base": "weights",
        "/one/policy": "adapter",
        "/context": "context",
        "/odd": "weights",
    }
    assert entries[str(runs / "one" / "policy")].note == f"dpo on {runs / 'base'}"
    assert "schema 99" in entries[str(runs / "odd")].note
    assert load_model(str(runs / "one" / "policy"), dtype="float32").kind == "adapter"
