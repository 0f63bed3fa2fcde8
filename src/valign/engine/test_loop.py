"""The one loop: a step is its items' sum over one normalizer, and nothing that goes wrong touches the
weights.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import valign.engine.loop as loop_room
from valign.engine import checkpoint
from valign.engine.audit import AuditLine
from valign.engine.config import FeedbackConfig, TrainConfig
from valign.engine.hooks import Look
from valign.engine.items import Item, Objective
from valign.engine.loop import HeldOut, Interrupted, train
from valign.engine.objective import Terms
from valign.engine.run import RunFolder, read_log
from valign.engine.sampler import DataSampler
from valign.engine.scorer import Scorer
from valign.engine.tree import from_paths
from valign.errors import ValignError
from valign.models.adapters import attach_lora, unfreeze_adapter

CONFIG = TrainConfig(learning_rate=1e-2, batch_size=4, epochs=2, warmup=0.1, checkpoint_every=2)


def run(folder, model, items, objective, config=CONFIG, scorer=None, listen=None, **more):
    """Train; the outcome and the list of events."""
    events = []

    def on_event(name, fields):
        events.append((name, dict(fields)))
        if listen is not None:
            listen(name, fields)

    sampler = DataSampler(
        items, batch=config.batch_size, epochs=config.epochs, max_steps=config.max_steps, seed=config.seed
    )
    with RunFolder(folder) as open_run:
        out = train(
            scorer or Scorer(model),
            sampler,
            objective,
            config,
            open_run,
            stop_ids=[2],
            on_event=on_event,
            **more,
        )
    return out, events


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def equal(a, b):
    return set(a) == set(b) and all(torch.equal(a[n], b[n]) for n in a)


def named(events, name):
    return [fields for event, fields in events if event == name]


# ---------------------------------------------------------------------------------------------- one exact
# normalizer


@pytest.mark.proof("E5", "E10")
@pytest.mark.parametrize("unit", ["token", "response", "pair"])
def test_micro_batches_change_no_gradient(tiny, pairs, objectives, tmp_path, monkeypatch, worst, gradients, unit):
    """E10, E5: the gradient of a step under micro-batches of 1, 2 and all groups equals one big batch:
    1e-12.
    """
    grads = {}
    items = pairs(9, model=tiny("llama_tied").model)
    for budget in (1, 60, 10**6):
        model = tiny(fresh=True).model
        kept = grads[budget] = []
        monkeypatch.setattr(
            loop_room, "clip", lambda ps, _limit, kept=kept: kept.extend(p.grad.clone() for p in ps) or 1.0
        )
        run(
            tmp_path / f"{budget}",
            model,
            items,
            replace(objectives[unit], at_start=None),
            replace(CONFIG, batch_size=9, max_steps=1, token_budget=budget),
        )
    from valign.engine.items import collate

    model = tiny().model
    scores = Scorer(model)([i.tree for i in items])
    losses = objectives[unit](collate(items, scores)).losses
    n = {"token": float(scores.mask.sum()), "response": 18, "pair": 9}[unit]
    whole = list(gradients(model, losses.sum() / n).values())
    for kept in grads.values():
        assert worst(kept, whole) < 1e-12


@pytest.mark.proof("E10")
@pytest.mark.parametrize("unit", ["token", "response", "pair"])
def test_micro_batches_in_float32(tiny, pairs, objectives, tmp_path, monkeypatch, unit):
    """E10: float32 weights and stock norms: 1e-6 of the gradient's norm."""
    kept, items = [], pairs(9, model=tiny("llama_tied").model)
    monkeypatch.setattr(
        loop_room, "clip", lambda ps, _: kept.append(torch.cat([p.grad.flatten() for p in ps]).double()) or 1.0
    )
    for budget in (1, 60, 10**6):
        model = tiny(fresh=True, dtype="float32").model
        config = replace(CONFIG, batch_size=9, max_steps=1, token_budget=budget)
        run(tmp_path / f"{budget}", model, items, replace(objectives[unit], at_start=None), config)
    one, some, whole = kept
    assert whole.norm() > 1e-2 and not torch.equal(one, whole)
    assert max((one - whole).norm(), (some - whole).norm()) < 1e-6 * whole.norm()


@pytest.mark.proof("E7")
def test_metrics_and_evaluation_change_nothing(tiny, pairs, objectives, tmp_path):
    """E7: with metrics and a dev split, and without: bitwise the same weights."""
    items, ends = pairs(8), []
    silent = Objective(lambda policy, mask: Terms(-policy * mask, unit="token"), {}, "token")
    for name, objective, more in (
        ("a", objectives["token"], {}),
        ("b", silent, {}),
        ("c", objectives["token"], {"dev": HeldOut(pairs(3, seed=9), every=1)}),
    ):
        model = tiny(fresh=True).model
        run(tmp_path / name, model, items, objective, **more)
        ends.append(weights(model))
    assert equal(ends[0], ends[1]) and equal(ends[0], ends[2])


def test_the_loss_falls_and_the_line_is_complete(tiny, pairs, objectives, tmp_path):
    model = tiny(fresh=True).model
    out, events = run(tmp_path, model, pairs(8), objectives["token"], replace(CONFIG, epochs=6))
    steps = named(events, "step")
    assert [s["step"] for s in steps] == list(range(1, 13)) and out.steps == 12
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
    assert {
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "pad_share",
        "tokens_per_second",
        "nll",
        "epoch",
    } <= set(steps[0])
    assert steps[0]["nll"] == pytest.approx(steps[0]["loss"], abs=1e-7)
    assert out.tokens_trained == sum(s["tokens"] for s in steps)
    assert [e["event"] for e in read_log(tmp_path)] == [name for name, _ in events]


def test_an_adapter_moves_and_its_base_stays(tiny, pairs, objectives, tmp_path):
    """Frozen weights are bitwise what they were; the adapter has its own default rate."""
    base = attach_lora(tiny(fresh=True), r=2)
    unfreeze_adapter(base)
    before = weights(base.model)
    _, events = run(tmp_path, base.model, pairs(8), objectives["token"], replace(CONFIG, learning_rate=None, warmup=0))
    after = weights(base.model)
    moved = {n for n in after if not torch.equal(after[n], before[n])}
    assert moved and all("lora_" in n for n in moved)
    assert named(events, "step")[0]["learning_rate"] == TrainConfig.rates[1]


# ------------------------------------------------------------------------------------------------------
# refused runs


def test_a_refused_run_changes_nothing(tiny, pairs, objectives, tmp_path):
    """Negative: a start loss that is absurd, a fatal finding of the caller, a missing stop token.
    Nothing is written.
    """
    other = pairs(4, model=tiny("llama_tied").model)
    unstopped = [Item(from_paths("g", [1, 7], [[8, 9]]))]
    for name, items, objective, audit, word in (
        ("start", other, objectives["pair"], (), "loss at start"),
        ("caller", pairs(4), objectives["token"], [AuditLine("cut", False, "9.0%", fatal=True)], "cut: 9.0%"),
        ("stop", unstopped, objectives["token"], (), "stop token"),
    ):
        model = tiny(fresh=True).model
        before = weights(model)
        with pytest.raises(ValignError, match=rf"refuses this run.*{word}[\s\S]*nothing was trained"):
            run(tmp_path / name, model, items, objective, audit=audit)
        assert equal(weights(model), before) and not (tmp_path / name / "checkpoints").exists()
        assert any(not e["ok"] for e in read_log(tmp_path / name) if e["event"] == "audit")


def test_a_finding_that_is_not_fatal_is_told_and_goes_on(tiny, pairs, objectives, tmp_path):
    line = AuditLine("left out", False, "3 too long")
    out, events = run(tmp_path, tiny(fresh=True).model, pairs(4), objectives["token"], audit=[line])
    assert out.steps == 2 and {"name": "left out", "ok": False, "text": "3 too long"} in named(events, "audit")


def test_a_step_without_a_scored_token_names_its_groups(tiny, pairs, objectives, tmp_path):
    empty = Item(from_paths("hollow", [1, 7], [[8, 2]], [[0, 0]]))
    config = replace(CONFIG, batch_size=1, epochs=1)
    with pytest.raises(ValignError, match="hollow: the step has no scored token"):
        run(tmp_path, tiny(fresh=True).model, [*pairs(3), empty], objectives["token"], config)


# --------------------------------------------------------------------------------------------------------
# bad numbers


def poisoned(how, steps, at):
    """An objective that breaks in the given steps; `at` is the step that runs now."""

    def loss(policy, mask):
        out = -policy * mask
        if at["step"] not in steps:
            return Terms(out, unit="token")
        return Terms(
            {
                "nan": out * float("nan"),
                "inf": out + float("inf"),
                "gradient": out + (policy * 0).abs().sqrt(),
            }[how],
            unit="token",
        )

    return Objective(loss, {}, "token")


@pytest.mark.proof("E22")
@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_a_bad_step_changes_no_weight(tiny, pairs, tmp_path, how):
    """E22: NaN and Inf in the loss, NaN in the gradient alone: weights and optimizer as before, the
    groups are named.
    """
    model, at, trail = tiny(fresh=True).model, {"step": 0}, []

    def listen(name, fields):
        if name == "step":
            at["step"] = fields["step"]
            trail.append(weights(model))

    config = replace(CONFIG, learning_rate=1e-3, schedule="constant", warmup=0, epochs=3)
    out, events = run(tmp_path, model, pairs(8), poisoned(how, {2, 3}, at), config, listen=listen)
    assert [equal(a, b) for a, b in pairwise(trail)] == [False, True, True, False, False]
    assert out.steps == 6 and len(named(events, "warning")) == 2
    bad = json.loads((tmp_path / "bad" / "step-2.json").read_text())
    assert len(bad["groups"]) == 4 and all(g.startswith("g") for g in bad["groups"])
    assert checkpoint.latest(tmp_path / "checkpoints")[0].optimizer["model.norm.weight/step"].item() == 4


@pytest.mark.proof("E22")
def test_three_bad_steps_in_a_row_stop_at_the_last_good_state(tiny, pairs, tmp_path):
    """E22: the checkpoint holds the good weights; mended, the run goes on from there."""
    model, at, good = tiny(fresh=True).model, {"step": 0}, {}

    def listen(name, fields):
        if name == "step":
            at["step"] = fields["step"]
            good[fields["step"]] = weights(model)

    config = replace(CONFIG, epochs=4)
    with pytest.raises(ValignError, match=r"3 non-finite steps in a row[\s\S]*learning_rate"):
        run(tmp_path, model, pairs(8), poisoned("nan", {3, 4, 5}, at), config, listen=listen)
    assert equal(weights(model), good[3])
    saved, _ = checkpoint.latest(tmp_path / "checkpoints")
    assert equal(saved.weights, good[3])
    out, events = run(tmp_path, tiny(fresh=True).model, pairs(8), poisoned("nan", set(), at), config)
    assert out.steps == 8 and named(events, "resume")


class Starved(Scorer):
    """Runs out of memory on micro-batches of more than `most` trees."""

    def __init__(self, model, most, how):
        super().__init__(model)
        self.most, self.how = most, how

    def __call__(self, trees):
        out = super().__call__(trees)
        if len(trees) > self.most and torch.is_grad_enabled():
            if self.how == "allocator":
                torch.empty(2**55)  # what a full machine says
            raise self.how("no memory left")
        return out


@pytest.mark.proof("E22")
@pytest.mark.parametrize("how", [torch.OutOfMemoryError, MemoryError, "allocator"])
def test_out_of_memory_halves_the_budget_and_redoes_the_step(tiny, pairs, objectives, tmp_path, worst, how):
    """E22: the gradient of the redone step is the same, so the end is: 1e-12; it is told."""
    free, starved = tiny(fresh=True).model, tiny(fresh=True).model
    run(tmp_path / "a", free, pairs(8), objectives["token"])
    _, events = run(tmp_path / "b", starved, pairs(8), objectives["token"], scorer=Starved(starved, 2, how))
    assert worst(weights(starved), weights(free)) < 1e-12
    told = [w["text"] for w in named(events, "warning")]
    assert told and all("token budget is halved" in t for t in told)


@pytest.mark.proof("E22")
def test_one_group_that_does_not_fit_stops_the_run(tiny, pairs, objectives, tmp_path):
    model = tiny(fresh=True).model
    before = weights(model)
    with pytest.raises(ValignError, match=r"out of memory on a single group[\s\S]*max_length"):
        run(tmp_path, model, pairs(4), objectives["token"], scorer=Starved(model, 0, MemoryError))
    assert equal(weights(model), before)


def test_another_error_is_not_taken_for_out_of_memory(tiny, pairs, tmp_path):
    def broken(policy):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run(tmp_path, tiny(fresh=True).model, pairs(4), Objective(broken, {}, "token"))


# --------------------------------------------------------------------------------------------- disks,
# signals, resume


def test_a_full_disk_while_saving_warns_and_goes_on(tiny, pairs, objectives, tmp_path, monkeypatch):
    """The last good checkpoint is kept; when there is room again the next one is written."""
    real, calls = checkpoint.save, []

    def full_twice(folder, step, *args):
        calls.append(step)
        if step in (2, 4):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(folder, step, *args)

    monkeypatch.setattr(checkpoint, "save", full_twice)
    out, events = run(tmp_path, tiny(fresh=True).model, pairs(8), objectives["token"], replace(CONFIG, epochs=3))
    assert out.steps == 6 and calls == [2, 4, 6]
    assert sum("No space left" in w["text"] for w in named(events, "warning")) == 2
    assert [p.name for p in checkpoint.complete(tmp_path / "checkpoints")] == ["step-000006"]


def full_at(monkeypatch, *steps):
    """The disk is full when a checkpoint of one of `steps` is written."""
    real = checkpoint.save

    def save(folder, step, *args):
        if step in steps:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(folder, step, *args)

    monkeypatch.setattr(checkpoint, "save", save)


def test_a_signal_on_a_full_disk_says_what_is_saved(tiny, pairs, objectives, tmp_path, monkeypatch):
    """Not that everything is: the step of the last checkpoint, and a status that is not 0."""

    def listen(name, fields):
        if name == "step" and fields["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    full_at(monkeypatch, 3)
    with pytest.raises(ValignError, match="after step 3 of 4; the last checkpoint is of step 2") as stopped:
        run(tmp_path, tiny(fresh=True).model, pairs(8), objectives["token"], listen=listen)
    assert stopped.value.exit_code == 1


def test_best_weights_that_could_not_be_written_are_not_the_best_that_is_kept(tiny, pairs, objectives, tmp_path, monkeypatch):
    """The best evaluation's checkpoint meets a full disk: the run ends with the best one that is on the disk."""
    model, trail = tiny(fresh=True).model, {}

    def listen(name, fields):
        if name == "step":
            trail[fields["step"]] = weights(model)

    config = replace(CONFIG, epochs=40, learning_rate=3e-2, schedule="constant", checkpoint_every=0)
    dev = HeldOut(pairs(6, seed=5), every=1, patience=3)
    free, _ = run(tmp_path / "free", tiny(fresh=True).model, pairs(4), objectives["token"], config, dev=dev)
    best = free.best[0]
    full_at(monkeypatch, best)
    out, events = run(tmp_path / "full", model, pairs(4), objectives["token"], config, listen=listen, dev=dev)
    losses = {e["step"]: e["loss"] for e in named(events, "eval")}
    second = min(losses.keys() - {best}, key=losses.__getitem__)
    assert losses[best] < losses[second] and out.best == (second, pytest.approx(losses[second]))
    assert out.kept == second and equal(weights(model), trail[second])
    assert any("not written" in w["text"] for w in named(events, "warning"))


class Watcher:
    """A hook that notes where it looked; `fall_at` steps end the process before it has looked."""

    rolls_back = False

    def __init__(self, fall_at=()):
        self.fall_at, self.looked = fall_at, []

    def begin(self):
        return Look()

    def resume(self, step):
        return False

    def after(self, step, steps, meters):
        if step in self.fall_at:
            raise KeyboardInterrupt
        self.looked.append(step)
        return Look()


def test_a_kill_between_the_evaluation_and_the_hook_takes_no_look_away(tiny, pairs, objectives, tmp_path):
    """The best evaluation so far has a checkpoint of its own, and the hook was about to look at the same step."""
    config, more = replace(CONFIG, checkpoint_every=0), {"dev": HeldOut(pairs(3, seed=5), every=1, patience=9)}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, tiny(fresh=True).model, pairs(8), objectives["token"], config, hook=Watcher([2]), **more)
    again = Watcher()
    run(tmp_path, tiny(fresh=True).model, pairs(8), objectives["token"], config, hook=again, **more)
    assert again.looked == [2, 3, 4]


def test_a_log_that_cannot_be_written_does_not_stop_training(tiny, pairs, objectives, tmp_path, monkeypatch):
    def full(self, event, **fields):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RunFolder, "log", full)
    out, events = run(tmp_path, tiny(fresh=True).model, pairs(4), objectives["token"])
    assert out.steps == 2 and "training goes on" in named(events, "warning")[0]["text"]


@pytest.mark.proof("E20")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(tiny, pairs, objectives, tmp_path, number):
    """E20 by hand: interrupted after step 3, continued, the end is bitwise that of the uninterrupted run."""
    items, straight, halved = pairs(8), tiny(fresh=True).model, tiny(fresh=True).model
    config = replace(CONFIG, epochs=3, checkpoint_every=0)
    end, _ = run(tmp_path / "a", straight, items, objectives["token"], config)

    def listen(name, fields):
        if name == "step" and fields["step"] == 3:
            os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"after step 3 of 6; everything is saved[\s\S]*same command") as stopped:
        run(tmp_path / "b", halved, items, objectives["token"], config, listen=listen)
    assert stopped.value.exit_code == 0 and signal.getsignal(number) is handler
    fresh = tiny(fresh=True).model
    out, events = run(tmp_path / "b", fresh, items, objectives["token"], config)
    assert named(events, "resume") == [{"step": 3}] and not named(events, "audit")
    assert equal(weights(fresh), weights(straight))
    timed = {"tokens_per_second"}
    assert {k: v for k, v in out.meters.items() if k not in timed} == {
        k: v for k, v in end.meters.items() if k not in timed
    }


def test_a_finished_run_is_not_trained_again(tiny, pairs, objectives, tmp_path):
    first, again = tiny(fresh=True).model, tiny(fresh=True).model
    run(tmp_path, first, pairs(8), objectives["token"])
    out, events = run(tmp_path, again, pairs(8), objectives["token"])
    assert equal(weights(first), weights(again)) and not named(events, "step") and out.steps == 4


@pytest.mark.proof("E21")
def test_a_damaged_checkpoint_is_passed_over_and_said(tiny, pairs, objectives, tmp_path):
    """E21 in the loop: the one before is used, and the end is bitwise the same."""
    first, again = tiny(fresh=True).model, tiny(fresh=True).model
    config = replace(CONFIG, epochs=3)
    run(tmp_path, first, pairs(8), objectives["token"], config)
    file = tmp_path / "checkpoints" / "step-000006" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    _, events = run(tmp_path, again, pairs(8), objectives["token"], config)
    assert "step-000006/weights.safetensors" in named(events, "warning")[0]["text"]
    assert named(events, "resume") == [{"step": 4}]
    assert equal(weights(first), weights(again))


def test_a_checkpoint_of_another_model_is_refused(tiny, pairs, objectives, tmp_path):
    run(tmp_path, tiny(fresh=True).model, pairs(4), objectives["token"])
    with pytest.raises(ValignError, match="another model"):
        run(tmp_path, tiny("gpt2", fresh=True).model, pairs(4), objectives["token"])
    with pytest.raises(ValignError, match="another model"):  # the same family without a head of its own
        run(tmp_path, tiny("llama_tied", fresh=True).model, pairs(4), objectives["token"])


# ------------------------------------------------------------------------------------------------------
# early stopping


def test_patience_stops_and_keeps_the_best(tiny, pairs, objectives, tmp_path):
    """The dev loss rises after a while: the run stops, the weights are those of the best evaluation."""
    model, trail = tiny(fresh=True).model, {}

    def listen(name, fields):
        if name == "step":
            trail[fields["step"]] = weights(model)

    config = replace(CONFIG, epochs=40, learning_rate=3e-2, schedule="constant")
    dev = HeldOut(pairs(6, seed=5), every=1, patience=3)
    out, events = run(tmp_path, model, pairs(4), objectives["token"], config, listen=listen, dev=dev)
    evals = named(events, "eval")
    best = min(range(len(evals)), key=lambda i: evals[i]["loss"])
    assert out.stopped_early and out.steps == best + 1 + 3 < 40
    assert out.best == (best + 1, pytest.approx(evals[best]["loss"]))
    assert equal(weights(model), trail[best + 1])
    # killed after the last checkpoint, before its policy was written: the same end, not one more step
    again = tiny(fresh=True).model
    later, events = run(tmp_path, again, pairs(4), objectives["token"], config, dev=dev)
    assert not named(events, "step") and later.steps == out.steps and later.stopped_early and later.best == out.best
    assert equal(weights(again), trail[best + 1])


def test_the_dev_loss_is_the_mean_over_the_dev_split(tiny, pairs, objectives, tmp_path, oracle):
    """Whatever the budget: the sum over all tokens, divided by their number."""
    dev = pairs(5, seed=3)
    model = tiny(fresh=True).model
    _, events = run(tmp_path, model, pairs(4), objectives["token"], replace(CONFIG, token_budget=40), dev=HeldOut(dev))
    flat = torch.cat([x for i in dev for x in oracle(model, i.tree)])
    assert named(events, "eval")[-1]["loss"] == pytest.approx(-float(flat.mean().detach()), abs=1e-10)


@pytest.mark.parametrize(
    "bad",
    [
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"epochs": 0},
        {"warmup": 1.0},
        {"patience": 2},
        {"token_budget": -1},
        {"max_length": 1},
        {"lora_rank": 0},
        {"weight_decay": -1},
        {"checkpoint_every": -1},
        {"max_steps": -1},
        {"seed": 2**63},
    ],
)
def test_a_setting_out_of_range_names_itself(bad):
    with pytest.raises(ValignError, match=next(iter(bad))):
        FeedbackConfig(**bad)
