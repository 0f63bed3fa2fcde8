"""The memory plan: what it adds up, what it chooses, and how near it comes.

This file is also a program: it trains two steps of a random model and tells what was planned and what was taken.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from valign.engine import checkpoint, memory
from valign.engine.generator import Generator
from valign.engine.memory import MemoryPlan, activation_bytes, memory_plan, sample_bytes, settle
from valign.engine.processes import SINGLE
from valign.engine.run import RunFolder
from valign.engine.scorer import Scorer
from valign.engine.tree import from_paths
from valign.models.adapters import attach_lora, unfreeze_adapter
from valign.models.policy import Sampling
from valign.models.precision import bfloat16_is_fast


def trees(n=4, tokens=40):
    return [from_paths(str(i), [1, *range(7, 7 + tokens - 10)], [[9] * 5, [8] * 5]) for i in range(n)]


# ------------------------------------------------------------------------------------------------ the program


def measure(kind: str, budget: int) -> dict[str, Any]:
    """Plan, then train two steps; bytes planned and bytes taken beyond what lay there before."""
    import psutil
    from transformers import AutoConfig, AutoModelForCausalLM

    from valign.engine.head import token_log_probs  # noqa: F401  (imports are no part of the run)
    from valign.engine.optimizer import adamw

    torch.set_num_threads(1)
    config = AutoConfig.for_model(
        "llama", vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(config).eval()
    if kind == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
    # where bfloat16 is emulated, its products take minutes and nobody trains so
    scorer = Scorer(model, autocast=torch.bfloat16 if bfloat16_is_fast("cpu") else None)
    # prompts that begin apart: rows of their own
    batch = [from_paths(str(i), [i + 1] * 120, [[5] * 64, [6] * 72]) for i in range(budget // 256)]
    scorer.score(batch[:1])  # kernels load, thread pools start
    plan = memory_plan(scorer, batch, budget)
    with contextlib.suppress(OSError, AttributeError):  # what the probe freed must not lie ready for the run
        ctypes.CDLL(None).malloc_trim(0)
    before = psutil.Process().memory_info().rss
    optimizer = adamw(model, weight_decay=0.0)
    for _ in range(2):
        scorer(batch).log_probs.sum().backward()
        optimizer.step()
    peak = _highest()
    return {"planned": plan.total - plan.resident, "taken": peak - before, "terms": dict(plan.terms)}


def _highest() -> int:
    """The highest resident size of this process in bytes. /proc first: getrusage also remembers the size of the process
    that started this one."""
    import re
    import resource

    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---------------------------------------------------------------------------------------------------- the tests


@pytest.mark.proof("E25")
@pytest.mark.parametrize("weights", ["full", "lora"])
@pytest.mark.parametrize("budget", [512, 1024])
def test_the_plan_comes_within_a_quarter_of_what_is_taken(weights, budget):
    """E25: full weights and adapter, small and large micro-batches."""
    done = subprocess.run([sys.executable, __file__, weights, str(budget)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0.75 < found["planned"] / found["taken"] < 1.25, found


def test_weights_gradients_and_optimizer_are_counted(tiny):
    """float64 here: 8 bytes a weight; AdamW holds two numbers for each."""
    model = tiny(fresh=True).model.requires_grad_(True)
    n = 8 * sum(p.numel() for p in model.parameters())
    terms = memory_plan(Scorer(model), trees(), 512, copies=123, samples=45).terms
    assert (terms["weights"], terms["gradients"], terms["optimizer"]) == (n, n, 2 * n)
    assert (terms["other copies"], terms["samples"]) == (123, 45)


def test_an_adapter_needs_room_for_itself_alone(tiny):
    policy = attach_lora(tiny(fresh=True), r=4)
    unfreeze_adapter(policy)
    terms = memory_plan(Scorer(policy.model), trees(), 512).terms
    moving = 8 * sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    assert terms["gradients"] == moving < 0.2 * terms["weights"]


def test_a_token_costs_the_same_in_a_longer_row(tiny, kind):
    """What the backward pass keeps is a constant, a price per token and, without a fused kernel, one per pair."""
    model = tiny(kind, fresh=True).model.requires_grad_(True)
    scorer = Scorer(model)
    _, token, pair = activation_bytes(scorer)
    config = model.config.get_text_config()
    scores = 8 * config.num_hidden_layers * config.num_attention_heads  # one float64 number for each pair
    assert token > 0
    if scorer.grouped:
        assert pair == pytest.approx(scores, rel=0.01)
        scorer.grouped = 0
        assert activation_bytes(scorer)[2] <= 8.5 * len(scorer.attention.kinds or "1"), "only the mask is kept"
    else:  # soft-caps: scores, before and after, and weights
        assert kind == "gemma2" and pair > (2 - 1e-9) * scores
    for row in (memory._probe(scorer, 200), scorer.layout([from_paths("wide", [1] * 60, [[2] * 40] * 6)])):
        fixed, token, pair = activation_bytes(scorer)
        expected = fixed + row.ids.size * (token + scorer.keys_met(row) * pair)
        assert memory._saved(scorer, row) == pytest.approx(expected, rel=0.1)


def test_a_long_row_is_planned_as_it_will_attend(tiny):
    """Beyond the length of plain products the scores are not kept: the price of a pair is not theirs."""
    scorer = Scorer(tiny(fresh=True).model.requires_grad_(True))
    scorer.grouped = 100
    long = [from_paths("long", [1] * 150, [[2] * 20])]
    planned = memory_plan(scorer, long, 176).terms["activations"]
    scorer.grouped = 0
    assert planned == memory_plan(scorer, long, 176).terms["activations"]
    scorer.grouped = 1000
    assert planned < memory_plan(scorer, long, 176).terms["activations"]


def test_the_dearest_rows_are_planned_though_others_are_longer(tiny):
    """Rows in blocks keep the weights of attention, one longer row does not: it must not hide what they take."""
    scorer = Scorer(tiny(fresh=True).model.requires_grad_(True))
    scorer.grouped = 100
    short = [from_paths(f"s{i}", [1] * 60, [[2] * 30]) for i in range(20)]
    long = [from_paths("long", [1] * 150, [[2] * 20])]
    plan = lambda given: memory_plan(scorer, given, 960).terms["activations"]  # noqa: E731
    assert plan([*short, *long]) == pytest.approx(plan(short), rel=0.01) and plan(short) > 1.2 * plan(long)


def test_a_model_without_shared_rows_is_planned_too(tiny):
    """Plain rows, one for each response; here a state-space model, which has no pairs."""
    scorer = Scorer(tiny("mamba", fresh=True).model.requires_grad_(True))
    assert scorer.path == "plain"
    plan = memory_plan(scorer, trees(2), 300)
    assert plan.terms["activations"] > 0 and plan.fits


def test_no_more_is_planned_than_a_step_holds(tiny):
    """Four trees of 40 tokens fill no budget of a million."""
    scorer = Scorer(tiny(fresh=True).model.requires_grad_(True))
    whole = memory_plan(scorer, trees(), 10**6, groups=4).terms["activations"]
    assert whole == memory_plan(scorer, trees(), 4 * 48).terms["activations"]


def test_a_model_too_short_for_three_points_is_planned_too(tiny):
    scorer = Scorer(tiny(fresh=True).model.requires_grad_(True))
    scorer.longest = 16
    short = [from_paths(str(i), [1] * 5, [[2] * 6]) for i in range(3)]
    assert memory_plan(scorer, short, 0).terms["activations"] > 0


def test_a_probe_leaves_no_graph_behind(tiny):
    """Tensors of the probe die with it: planning must not take the memory that it plans."""
    scorer = Scorer(tiny("llama", fresh=True).model.requires_grad_(True))
    born: list[weakref.ref[torch.Tensor]] = []
    layer = scorer.model.model.layers[0]
    handle = layer.register_forward_hook(lambda module, given, out: born.append(weakref.ref(out)))
    activation_bytes(scorer)
    handle.remove()
    assert born
    assert all(x() is None for x in born)


@pytest.mark.parametrize("work", ["generate", "score", "train"])
def test_nothing_waits_for_the_garbage_collector(tiny, work):
    """Keys, values and activations die with the call that made them. In a cycle of references they would stay until Python
    looks for one, which objects on a CPU do not hasten, however large."""
    model = tiny("llama", fresh=True).model.requires_grad_(work == "train")
    model.zero_grad(set_to_none=False)
    scorer, generator = Scorer(model), Generator(model, stop_ids=[2], decode=str, rows=3)
    prompts = [[1, *range(7, 60), 60 + i] for i in range(5)]
    branches = [from_paths(str(i), p, [[9] * 5, [8] * 5]) for i, p in enumerate(prompts)]

    def once() -> None:
        if work == "generate":
            generator(prompts, Sampling(n=2, max_new_tokens=4))
        elif work == "score":
            scorer.score(branches)
        else:
            scorer(branches).log_probs.sum().backward()

    once()  # what a model keeps for good
    gc.collect()
    gc.disable()
    try:
        before = {id(x) for x in gc.get_objects() if issubclass(type(x), torch.Tensor)}
        once()
        assert not [tuple(x.shape) for x in gc.get_objects() if issubclass(type(x), torch.Tensor) and id(x) not in before]
    finally:
        gc.enable()


def test_nothing_is_kept_where_nothing_is_trained(tiny):
    assert activation_bytes(Scorer(tiny(fresh=True).model.requires_grad_(False))) == (0, 0, 0)


def test_the_budget_is_the_largest_that_fits(tiny):
    """From 1024 downward; a long tree is never cut for it."""
    model = tiny(fresh=True).model.requires_grad_(True)
    scorer = Scorer(model)
    assert memory_plan(scorer, trees(), 0, free=10**12).token_budget == 1024
    whole = memory_plan(scorer, trees(), 0, free=10**12)
    less = memory_plan(scorer, trees(), 0, free=whole.total - whole.resident - 1)
    assert less.token_budget < 1024
    assert memory_plan(scorer, trees(), 300, free=10**12).token_budget == 300


def test_blocks_are_computed_again_where_nothing_fits_otherwise(tiny):
    """auto: the switch is thrown only when it decides; the plan says so, and on and off are obeyed."""
    scorer = Scorer(tiny("llama", fresh=True).model.requires_grad_(True))
    off, on = (memory_plan(scorer, trees(), 256, free=1 << 40, checkpointing=x) for x in ("off", "on"))
    assert on.terms["activations"] < 0.8 * off.terms["activations"]
    room = (off.total - off.resident + on.total - on.resident) // 2
    tight = memory_plan(scorer, trees(), 256, free=room, checkpointing="auto")
    assert tight.recompute and tight.fits and "blocks are computed again" in tight.line().text
    assert not memory_plan(scorer, trees(), 256, free=1 << 40, checkpointing="auto").recompute
    refused = memory_plan(scorer, trees(), 256, free=room, checkpointing="off")
    assert not refused.fits and not refused.recompute


def test_a_run_that_cannot_fit_says_what_to_change(tiny):
    model = tiny(fresh=True).model.requires_grad_(True)
    plan = memory_plan(Scorer(model), trees(), 0, free=1000)
    assert plan.token_budget == 256 and not plan.fits
    line = plan.line()
    assert not line.ok and line.fatal and "largest part is" in line.text
    crowded = replace(plan, terms={**plan.terms, "activations": 10**12})
    assert "token_budget" in crowded.line().text
    assert MemoryPlan({"weights": 10}, 0, 10, 512).fits, "what is there already needs no room"


def test_a_plan_is_made_again_until_a_checkpoint_rests_on_it(tmp_path):
    """A run that was refused, or killed before it saved, is planned and audited anew; one with a checkpoint keeps its budget."""
    plans = [MemoryPlan({"weights": 100}, 10, 0, 512), MemoryPlan({"weights": 5}, 10, 0, 256), MemoryPlan({}, 10, 0, 128)]
    run, cpu = RunFolder(tmp_path), torch.device("cpu")

    def start():
        return settle(lambda: plans.pop(0), cpu, run, SINGLE)

    first, second = start(), start()
    assert [x.audit[0].ok for x in (first, second)] == [False, True]
    assert (first.token_budget, second.token_budget) == (512, 256)
    checkpoint.save(run.checkpoints, 1, {}, {}, {})
    assert start() == replace(second, audit=())


def test_the_cache_of_samples(tiny):
    policy = tiny()
    text = policy.model.config
    one = 2 * text.num_hidden_layers * text.num_key_value_heads * (text.hidden_size // text.num_attention_heads) * 8
    assert sample_bytes(policy.model, 3, 50, 8) == 150 * one


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
