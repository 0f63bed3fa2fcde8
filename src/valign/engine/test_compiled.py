"""E14: compiled blocks give the numbers of those that are not, and leave no trace in the model."""

from __future__ import annotations

import shutil

import pytest
import torch

from valign.engine import compiled
from valign.engine.compiled import blocks_of
from valign.engine.scorer import Scorer, body_of
from valign.errors import ValignError

COMPILER = any(map(shutil.which, ("g++", "c++", "clang++")))


@pytest.mark.proof("E14")
@pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler on a CPU, and there is none here")
def test_a_compiled_body_scores_and_learns_the_same(tiny, trees, gradients):
    """E14: log-probs of several shapes and gradients of all weights within 1e-5 in float32, computed again or not."""
    model = tiny("llama", fresh=True).model.float()
    plain, fast = Scorer(model), Scorer(model, compiled=True)
    for n in (2, 4):  # another shape of rows
        ours, theirs = fast(trees(n)).log_probs, plain(trees(n)).log_probs
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        torch.testing.assert_close(gradients(model, ours.mean()), gradients(model, theirs.mean()), atol=1e-5, rtol=1e-5)
    again = Scorer(model, compiled=True, recompute=True)
    again.compiled = fast.compiled
    torch.testing.assert_close(again(trees(2)).log_probs, plain(trees(2)).log_probs, atol=1e-5, rtol=0)
    assert all(b._compiled_call_impl is None for b in blocks_of(body_of(model)))


def test_blocks_are_the_layers(tiny):
    for family in ("llama", "gpt2"):
        model = tiny(family).model
        assert len(blocks_of(body_of(model))) == model.config.num_hidden_layers


def test_without_a_compiler_the_setting_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(ValignError, match="no C\\+\\+ compiler"):
        Scorer(tiny("llama").model, compiled=True)
