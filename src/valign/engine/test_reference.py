"""Reference log-probs: computed once, found again by content, and never another policy's."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
import torch

from valign.engine.items import Item, collate
from valign.engine.reference import FILE, Reference, ReferenceStore, _key, with_references
from valign.engine.scorer import Scorer
from valign.engine.tree import from_paths
from valign.models.adapters import adapter_digest, attach_lora, unfreeze_adapter
from valign.models.loaded import memory_digest


def tokens(items):
    return [list(i.tokens["reference"]) for i in items]


def calls_of(scorer, monkeypatch):
    """Counts how often trees are scored."""
    real, calls = scorer.batches, []

    def batches(trees, **options):
        calls.extend([1] if trees else [])
        return real(trees, **options)

    monkeypatch.setattr(scorer, "batches", batches)
    return calls


@pytest.mark.proof("E8")
def test_a_hit_equals_fresh_scoring_bitwise(tiny, pairs, tmp_path, monkeypatch, worst):
    """E8: the second call reads; it scores nothing."""
    scorer, items = Scorer(tiny().model), pairs(5)
    fresh = with_references(items, scorer, "w", tmp_path, budget=200)
    assert worst(tokens(fresh), scorer.score([i.tree for i in items], budget=200)) == 0
    calls = calls_of(scorer, monkeypatch)
    again = with_references(items, scorer, "w", tmp_path, budget=10)
    assert worst(tokens(again), tokens(fresh)) == 0 and calls == []


@pytest.mark.proof("E8")
@pytest.mark.parametrize("change", ["weights", "temperature", "token", "loss", "border", "dtype", "allowed"])
def test_any_change_makes_another_key(tiny, tmp_path, monkeypatch, change):
    """E8: one weight, the temperature, one token, one loss weight, the border, the dtype, the vocabulary."""
    model = tiny().model
    trunk, branches = [1, 7, 8], [[9, 10, 2], [11, 2]]
    with_references([Item(from_paths("g", trunk, branches))], Scorer(model), "w", tmp_path, budget=99)
    tree = {
        "token": from_paths("g", trunk, [[9, 12, 2], [11, 2]]),
        "loss": from_paths("g", trunk, branches, [[1, 0, 1], [1, 1]]),
        "border": from_paths("g", [1, 7], [[8, 9, 10, 2], [8, 11, 2]], [[0, 1, 1, 1], [0, 1, 1]]),
    }.get(change, from_paths("g", trunk, branches))
    if change == "dtype":
        model = tiny(dtype="float32").model
    scorer = Scorer(
        model,
        temperature=0.5 if change == "temperature" else 1.0,
        allowed_tokens=range(2, 50) if change == "allowed" else None,
    )
    calls = calls_of(scorer, monkeypatch)
    with_references([Item(tree)], scorer, "w2" if change == "weights" else "w", tmp_path, budget=99)
    assert calls == [1]


@pytest.mark.proof("E8")
def test_one_weight_and_one_number_of_an_adapter_change_the_digest(tiny, tmp_path, monkeypatch):
    """E8: the digest that stands in the key, of weights in memory: the next number up in one place is another policy."""
    items = [Item(from_paths("g", [1, 7, 8], [[9, 10, 2], [11, 2]]))]

    def nudge(tensor):
        with torch.no_grad():
            flat = tensor.view(-1)
            flat[3] = torch.nextafter(flat[3], torch.tensor(torch.inf, dtype=flat.dtype))

    plain, adapted = tiny(fresh=True), attach_lora(tiny(fresh=True), r=2)
    for policy, digest in ((plain, lambda: memory_digest(plain.model)),
                           (adapted, lambda: adapter_digest(adapted, adapted.adapter))):  # fmt: skip
        scorer = Scorer(policy.model)
        calls, before = calls_of(scorer, monkeypatch), digest()
        with_references(items, scorer, before, tmp_path, budget=99)
        with_references(items, scorer, digest(), tmp_path, budget=99)
        assert calls == [1], "unchanged: found"
        nudge(next(p for n, p in policy.model.named_parameters() if policy is plain or "lora_A" in n))
        assert digest() != before
        with_references(items, scorer, digest(), tmp_path, budget=99)
        assert calls == [1, 1], "changed: scored again"


def test_what_another_data_set_holds_too_is_not_scored_again(tiny, pairs, tmp_path, monkeypatch):
    """Found by path: neither the order, nor the group, nor the loss weight of a scored token matters."""
    scorer, items = Scorer(tiny().model), pairs(6)
    with_references(items[:4], scorer, "w", tmp_path, budget=200)
    seen = []
    real = scorer.batches
    monkeypatch.setattr(scorer, "batches", lambda trees, **k: seen.extend(t.id for t in trees) or real(trees, **k))
    with_references(items[::-1], scorer, "w", tmp_path, budget=200)
    assert sorted(seen) == sorted(i.tree.id for i in items[4:])
    trunk, branches = [1, 7, 8], [[9, 10, 2], [11, 2]]
    with_references([Item(from_paths("a", trunk, branches))], scorer, "w", tmp_path, budget=99)
    seen.clear()
    half = from_paths("b", trunk, branches[::-1], [[1, 0.5], [0.5, 1, 1]])
    with_references([Item(half)], scorer, "w", tmp_path, budget=99)
    assert seen == []


def test_what_was_scored_before_an_interruption_is_kept(tiny, pairs, tmp_path, monkeypatch):
    """One micro-batch at a time is added."""
    scorer, items = Scorer(tiny().model), pairs(6)
    real = scorer.batches

    def stopping(trees, **options):
        yield from list(real(trees, **options))[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(scorer, "batches", stopping)
    with pytest.raises(KeyboardInterrupt):
        with_references(items, scorer, "w", tmp_path, budget=1)
    told = []
    monkeypatch.setattr(scorer, "batches", real)
    with_references(items, scorer, "w", tmp_path, budget=1, progress=lambda *x: told.append(x))
    assert told == [(3, 6), (4, 6), (5, 6), (6, 6)]


@pytest.mark.proof("E8")
@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_file_is_computed_again_and_said(tiny, pairs, tmp_path, caplog, worst, damage):
    """E8: never a crash, never wrong numbers in silence; the next run has a store again."""
    scorer, items = Scorer(tiny().model), pairs(60)
    good = tokens(with_references(items, scorer, "w", tmp_path, budget=99))
    file = tmp_path / FILE
    file.write_bytes({"cut": file.read_bytes()[: file.stat().st_size // 2], "empty": b"", "other": b"x" * 9000}[damage])
    with caplog.at_level(logging.WARNING):
        assert worst(tokens(with_references(items, scorer, "w", tmp_path, budget=99)), good) == 0
    # an empty file is an empty store: nothing is damaged, all is scored
    assert ("scored again" in caplog.text) == (damage != "empty")
    for _ in range(2):
        assert worst(tokens(with_references(items, scorer, "w", tmp_path, budget=99)), good) == 0
    assert len(ReferenceStore(file).read([_key(items[0].tree, items[0].tree.leaves[0], "w", scorer)])) == 1


@pytest.mark.proof("E8")
def test_a_damaged_record_is_scored_again(tiny, pairs, tmp_path, caplog, worst):
    """E8: one flipped bit in the numbers themselves. Scored alone its row has another shape: 1e-12."""
    scorer, items = Scorer(tiny().model), pairs(3)
    good = tokens(with_references(items, scorer, "w", tmp_path, budget=99))
    with sqlite3.connect(tmp_path / FILE) as db:
        key, data = db.execute("SELECT key, data FROM log_probs").fetchone()
        db.execute("UPDATE log_probs SET data = ? WHERE key = ?", (data[:6] + bytes([data[6] ^ 4]) + data[7:], key))
    with caplog.at_level(logging.WARNING):
        assert worst(tokens(with_references(items, scorer, "w", tmp_path, budget=99)), good) < 1e-12
    assert "1 damaged" in caplog.text


@pytest.mark.proof("E8")
def test_two_processes_fill_one_store(tmp_path):
    """E8: every record of both is there."""
    code = (
        "import sys, pathlib, numpy as np; from valign.engine.reference import ReferenceStore\n"
        "store = ReferenceStore(pathlib.Path(sys.argv[1]))\n"
        "for i in range(30): store.write({f'{sys.argv[2]}{i}'.encode(): np.full(9, i, np.float32)})"
    )
    file = tmp_path / FILE
    both = [subprocess.Popen([sys.executable, "-c", code, str(file), name]) for name in "ab"]
    assert [p.wait() for p in both] == [0, 0]
    found = ReferenceStore(file).read([f"{name}{i}".encode() for name in "ab" for i in range(30)])
    assert len(found) == 60 and all((v == int(k[1:])).all() for k, v in found.items())


def test_a_folder_that_refuses_costs_only_the_store(tiny, pairs, tmp_path, caplog):
    """Read-only or full: a warning, and the numbers."""
    (tmp_path / "file").write_text("")
    out = with_references(pairs(2), Scorer(tiny().model), "w", tmp_path / "file" / "below", budget=99)
    assert len(tokens(out)) == 2 and caplog.text.count("cannot be used") == 1


def test_no_items(tiny, tmp_path):
    assert with_references([], Scorer(tiny().model), "w", tmp_path, budget=99) == []


def test_groups_of_any_size_read_back(tiny, tmp_path, worst):
    """One response, none, many, and an empty one."""
    items = [
        Item(from_paths("a", [1], [[7, 2]])),
        Item(from_paths("b", [1], [])),
        Item(from_paths("c", [1], [[8, 2], [], [9, 9, 2]])),
    ]
    scorer = Scorer(tiny().model)
    first = tokens(with_references(items, scorer, "w", tmp_path, budget=99))
    again = tokens(with_references(items, scorer, "w", tmp_path, budget=99))
    assert [[len(x) for x in row] for row in again] == [[2], [], [2, 0, 3]]
    assert worst(first, again) == 0


# -------------------------------------------------------------------------------------------------------
# adapters


@pytest.mark.proof("E9")
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_a_fresh_adapter_is_the_base(tiny, objectives, pairs, worst, family):
    """E9: log-probs equal the base's bitwise, DPO's loss is ln 2."""
    base, fresh = tiny(family), tiny(family, fresh=True)
    items = pairs(5, model=base.model)
    adapted = attach_lora(fresh, r=4)
    scorer = Scorer(adapted.model)
    trees = [i.tree for i in items]
    assert worst(scorer.score(trees), Scorer(base.model).score(trees)) == 0
    losses = objectives["pair"](collate(items, scorer(trees))).losses
    assert (losses - np.log(2)).abs().max() < 1e-12  # the reference was scored in rows of other lengths


@pytest.mark.proof("E9")
def test_the_adapter_off_is_the_base_also_after_training(tiny, pairs, worst):
    """E9: 1e-12 after a step that moved the adapter far; on again it is the trained policy, still
    trainable.
    """
    base, trees = tiny().model, [i.tree for i in pairs(5)]
    adapted = attach_lora(tiny(fresh=True), r=4)
    unfreeze_adapter(adapted)
    scorer = Scorer(adapted.model)
    before = Scorer(base).score(trees)
    moving = [p for p in adapted.model.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in moving:
            p += 0.3 * torch.randn_like(p)
    trained = scorer.score(trees)
    assert worst(trained, before) > 0.1
    assert worst(Reference(scorer, adapted.adapter)(trees, budget=200), before) < 1e-12
    assert worst(scorer.score(trees), trained) == 0
    assert moving and all(p.requires_grad for p in moving)
    assert {id(p) for p in adapted.model.parameters() if p.requires_grad} == {id(p) for p in moving}


def test_full_weights_keep_a_frozen_copy(tiny, pairs, worst):
    """The reference stays the policy of step 0 while the policy moves; it asks for no gradient."""
    policy, trees = tiny(fresh=True), [i.tree for i in pairs(4)]
    scorer = Scorer(policy.model, temperature=0.7, allowed_tokens=list(range(2, 103)))
    reference, before = Reference(scorer), scorer.score(trees)
    with torch.no_grad():
        for p in policy.model.parameters():
            p += 0.2 * torch.randn_like(p)
    assert worst(reference(trees, budget=100), before) < 1e-12
    assert worst(scorer.score(trees), before) > 0.1
