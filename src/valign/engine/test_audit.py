"""Absurd runs are refused before step 0."""

from __future__ import annotations

import numpy as np
import pytest

from valign.engine.audit import audit_items, audit_rows, audit_start
from valign.engine.items import Item, Objective
from valign.engine.scorer import Scorer
from valign.engine.tree import Leaf, Segment, Tree, from_paths

STOP = 2


def line(lines, name):
    return next(x for x in lines if x.name == name)


def test_a_good_data_set_passes(pairs):
    lines = audit_items(pairs(5), [STOP])
    assert all(x.ok for x in lines)
    assert line(lines, "stop token").text == "trained in 100.0% of 10 responses"


@pytest.mark.parametrize("masked", [False, True])
def test_no_trained_stop_token_is_refused(masked):
    """Negative: left out of the ids, or there but masked (as where pad = eos): fatal."""
    ids, loss = ([7, 8, STOP], [1, 1, 0]) if masked else ([7, 8], [1, 1])
    found = line(audit_items([Item(from_paths("g", [1], [ids], [loss]))], [STOP]), "stop token")
    assert not found.ok and found.fatal and "0.0%" in found.text


def test_nothing_scored_is_refused():
    found = line(audit_items([Item(from_paths("g", [1], [[7, STOP]], [[0, 0]]))], [STOP]), "scored tokens")
    assert not found.ok and found.fatal


def test_a_trained_prompt_is_refused():
    """Loss weights before a response's first token are a mistake of the mask."""
    root = Segment(np.array([1, 7, 8, STOP], np.int32), -1, "prompt", np.array([0, 1, 1, 1], np.float32), 0)
    found = line(audit_items([Item(Tree("g", (root,), (Leaf(0, 4, 0, 2),)))], [STOP]), "prompt tokens in the loss")
    assert not found.ok and found.fatal and found.text == "1"


def test_the_start_loss_is_checked_against_its_known_value(tiny, objectives, pairs):
    """DPO at policy = reference is ln 2; another reference is refused, and the gap in log-probs is told."""
    model, dpo = tiny().model, objectives["pair"]
    lines = audit_start(pairs(6, model=model), Scorer(model), dpo, 100)
    assert all(x.ok for x in lines) and "0.6931" in line(lines, "loss at start").text
    other = audit_start(pairs(6, model=tiny("llama_tied").model), Scorer(model), dpo, 100)
    assert not line(other, "loss at start").ok and line(other, "loss at start").fatal
    assert not line(other, "policy = reference").ok


def test_the_start_loss_is_the_mean_over_weighted_units(tiny, objectives, pairs):
    """Feedback that counts double, or padding between unequal responses, does not move the value."""
    model, items = tiny().model, pairs(4, model=tiny().model)
    doubled = [Item(i.tree, i.rows, {"pair_weight": np.array([2.0])}, i.tokens) for i in items]
    assert line(audit_start(doubled, Scorer(model), objectives["pair"], 10**6), "loss at start").ok
    known = -np.concatenate([r for g in Scorer(model).score([i.tree for i in items]) for r in g]).mean()
    token = Objective(objectives["token"].function, {}, "token", float(known))
    assert line(audit_start(items, Scorer(model), token, 10**6), "loss at start").ok


def test_no_known_value_no_check(tiny, objectives, pairs):
    assert audit_start(pairs(2), Scorer(tiny().model), objectives["token"], 100) == []
    assert audit_start([], Scorer(tiny().model), objectives["pair"], 100) == []


def test_rows_are_told_before_they_are_computed(tiny):
    """One row for each tree of 2 + 1 + 3 tokens, or one for each response where a model cannot share, and why."""
    items = [Item(from_paths(str(i), [1, 2], [[3] * (1 + i), [4, 4, STOP]])) for i in range(2)]
    row, plain = (audit_rows(items, Scorer(tiny(kind).model), 100, 2)[0].text for kind in ("llama", "mamba"))
    assert "in one row; longest path 5 tokens, padding about 59%" in row, "6 and 7 tokens in rows of 16"
    assert "one row for each response (a state-space layer reads tokens in order)" in plain
    assert "padding about 73%" in plain, "3, 5, 4 and 5 tokens in rows of 16"
