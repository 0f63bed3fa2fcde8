"""What a training step does not do: wait for its device, tokenize, or score the reference again."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from valign.data.group import Comparison, Demonstration, Group, Response, user
from valign.engine.attention import Attention
from valign.engine.local import LocalEngine
from valign.engine.loop import _Loop
from valign.engine.run import RunFolder
from valign.engine.scorer import Scorer, body_of
from valign.methods.table import METHODS
from valign.methods.target import Target
from valign.methods.train import train_policy, trainable_copy
from valign.models.policy import LocalPolicy
from valign.models.tiny import tiny_model

# operations whose result, or its shape, must be known on the host: on a GPU each of them waits for all work before it
WAITING = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim")


class Reads(TorchDispatchMode):
    """Counts operations that read a tensor's numbers on the host."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        picked = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
        if name in WAITING or any(x is not None and x.dtype == torch.bool for x in picked):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def counted(monkeypatch):
    """`with counted() as found`: what happened inside, by name: reads of a device, calls of a tokenizer."""
    active = []

    def noted(owner, name):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            for found in active:
                found[f"{owner.__name__}.{name}"] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for name in ("tolist", "numpy", "cpu", "__array__"):  # they pass no operation that could be counted
        noted(torch.Tensor, name)
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    noted(PreTrainedTokenizerBase, "__call__")
    for name in ("_encode_plus", "encode", "tokenize"):
        noted(PreTrainedTokenizerFast, name)

    @contextmanager
    def inside():
        with Reads() as reads:
            active.append(reads.found)
            try:
                yield reads.found
            finally:
                active.pop()

    return inside


def groups(feedback, n=6):
    mark = {"demonstrations": Demonstration(response=0), "pairs": Comparison(chosen=0, rejected=1)}.get(feedback)
    answers = (Response("yes, because of it"), Response("no")) if mark else ()
    return [Group(id=f"g{i}", prompt=user(f"Why {i}?"), responses=answers, feedback=(mark,) if mark else ()) for i in range(n)]


def trained(policy, folder, name, **settings):
    method = METHODS[name]
    small = {"group_size": 3, "max_new_tokens": 5} if method.samples else {}
    config = method.configure({"learning_rate": 1e-2, "batch_size": 6, "epochs": 2, **small, **settings})
    target = Target(reward=lambda gs: [np.array([float(len(r.text)) for r in g.responses]) for g in gs])
    with RunFolder(folder) as run:
        return train_policy(method, policy, target if method.samples else Target(), config, run, groups=groups(method.feedback))


@pytest.fixture
def watched(monkeypatch, counted):
    """(what each call of a part of the loop read, less what is in `but` of it; micro-batches that it scored)."""

    def watch(part, but=None):
        real, passes, seen, batches = getattr(_Loop, part), Scorer.__call__, [], []

        def scored(self, trees, *more):
            batches.append(len(trees))
            return passes(self, trees, *more)

        def call(self, *args):
            batches.clear()
            if but is not None:
                but.clear()
            with counted() as found:
                out = real(self, *args)
            seen.append((dict(found - (but or Counter())), len(batches)))
            return out

        monkeypatch.setattr(_Loop, part, call)
        monkeypatch.setattr(Scorer, "__call__", scored)
        return seen

    return watch


@pytest.mark.proof("E30")
@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("name", ["sft", "dpo"])
@pytest.mark.parametrize("budget", [1, 10**6])
def test_a_step_reads_its_device_twice_and_no_text(tiny_policy, tmp_path, watched, name, adapter, budget):
    """E30: the loss with all metrics, and the gradient norm that decides on the update: one micro-batch or six."""
    seen = watched("_step")
    trained(tiny_policy, tmp_path, name, adapter=adapter, token_budget=budget)
    assert len(seen) == 2
    for found, batches in seen:
        assert batches == (6 if budget == 1 else 1)
        assert found == {"Tensor.tolist": 1, "_local_scalar_dense": 1}, found


@pytest.mark.proof("E30")
@pytest.mark.parametrize(
    ("family", "path", "own"),
    [("gemma3", "row", False), ("gpt2", "row", False), ("mixtral", "row", True), ("llama", "plain", True)],
)
def test_other_models_and_plain_rows_read_no_more(tmp_path, watched, counted, monkeypatch, family, path, own):
    """E30: windows, learned positions; and experts and one padded row per response, where the model's own code reads its
    router and its mask (`own`), and the engine around it no more than elsewhere."""
    if path == "plain":
        monkeypatch.setattr("valign.engine.scorer.attention_of", lambda config: Attention("plain", "as if nobody had proven it"))
    inside, hidden = Counter(), Scorer.hidden

    def body(self, *args):
        with counted() as found:
            out = hidden(self, *args)
        inside.update(found)
        return out

    monkeypatch.setattr(Scorer, "hidden", body)
    seen = watched("_step", inside)
    policy = LocalPolicy(tiny_model(family, dtype="float64"), LocalEngine(precision="full"))
    trained(policy, tmp_path, "dpo", token_budget=1)
    assert [x for x, _ in seen] == [{"Tensor.tolist": 1, "_local_scalar_dense": 1}] * 2, seen
    assert bool(inside) == own


@pytest.mark.proof("E30")
@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_the_gradient_of_a_rollout_reads_its_device_once(tiny_policy, tmp_path, watched, name):
    """E30: between the rollout, which must see its own samples, and the norm."""
    seen = watched("_gradients")
    trained(tiny_policy, tmp_path, name, token_budget=1)
    assert len(seen) == 2 and all(x == ({"Tensor.tolist": 1}, 6) for x in seen), seen


@pytest.mark.proof("E30")
def test_a_look_in_every_micro_batch_is_seen(tiny_policy, tmp_path, watched, monkeypatch):
    """Negative: an objective that reads its loss, its reference's mask, or a text is counted once per micro-batch."""
    from dataclasses import replace

    sft = METHODS["sft"]

    def looking(policy, mask):
        terms = sft.objective(policy, mask)
        float(terms.losses.detach().sum())
        policy.detach()[mask != 0]
        tiny_policy.model.tokenizer("a text")
        return terms

    monkeypatch.setitem(METHODS, "sft", replace(sft, objective=looking))
    seen = watched("_gradients")
    trained(tiny_policy, tmp_path, "sft", token_budget=1)
    found, batches = seen[0]
    assert batches == 6 and found["_local_scalar_dense"] == 6 and found["index"] == 6
    assert found["PreTrainedTokenizerBase.__call__"] == 6


@pytest.mark.proof("E13")
def test_later_epochs_score_no_reference(tiny_policy, tmp_path, watched, monkeypatch):
    """E13: from the first step on only the policy passes the body, epoch after epoch: one pass for each group."""
    seen, positions, before = watched("_step"), [], []
    step = _Loop._step
    monkeypatch.setattr(_Loop, "_step", lambda self: before.append(len(positions)) or step(self))
    monkeypatch.setattr(
        "valign.methods.train.trainable_copy", lambda model, config: _counting(trainable_copy(model, config), positions)
    )
    trained(tiny_policy, tmp_path, "dpo", epochs=4, token_budget=1)
    assert [batches for _, batches in seen] == [6] * 4
    assert len(positions) - before[0] == 4 * 6 and before[0] >= 6, "the reference was scored before"
    assert len({sum(positions[a : a + 6]) for a in before}) == 1


def _counting(model, positions):
    body_of(model.model).register_forward_pre_hook(
        lambda _, args, kwargs: positions.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return model
