"""What a training run will need, term by term, before anything large is allocated.

Nothing is guessed from a model's name: weights are counted, and what the backward pass keeps is measured on three short
rows, whose differences are the price of a token and of a query-key pair.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from valign.engine.audit import AuditLine
from valign.engine.checkpoint import complete
from valign.engine.head import CHUNK_BYTES
from valign.engine.layout import Layout
from valign.engine.processes import World
from valign.engine.recompute import can_recompute
from valign.engine.run import RunFolder
from valign.engine.scorer import BUDGETS, Scorer, causal_lm, positions
from valign.engine.tree import Tree, from_paths

FILE = "memory.json"  # in the run's folder
PROBE = (32, 64, 128)  # tokens of the rows on which activations are measured
SEEN = 16  # trees, from the smallest to the largest, whose rows are priced
# What is freed and taken again in unequal sizes leaves holes, and kernels take work space: on a CPU this much of it was
# resident for each byte in use (1.02 to 1.43 in six configurations, glibc 2.36); a GPU's caching allocator packs better.
SLACK = {"cpu": 1.25, "cuda": 1.1}
PASSING = ("activations", "head", "samples")  # terms that come and go with every micro-batch
LEAST = 256  # positions of a micro-batch that is chosen here; the most are those that suit the device
KNOBS = {
    "weights": "train an adapter (adapter=lora) or choose a smaller model",
    "other copies": "train an adapter (adapter=lora): the reference is then the same model with the adapter off",
    "gradients": "train an adapter (adapter=lora)",
    "optimizer": "train an adapter (adapter=lora)",
    "activations": "set activation_checkpointing=on, lower token_budget or max_length",
    "head": "train an adapter (adapter=lora)",
    "samples": "lower max_new_tokens or group_size",
}


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by what they are for, at a token budget, against what is free.

    resident   the part of `terms` that is allocated already
    slack      bytes taken for each byte of terms that come and go
    recompute  whether blocks are computed again in the backward pass (activation checkpointing)
    """

    terms: Mapping[str, int]
    free: int
    resident: int
    token_budget: int
    slack: float = 1.0
    recompute: bool = False

    @property
    def total(self) -> int:
        """All terms together, with the allocator's slack."""
        return math.ceil(sum(n * (self.slack if name in PASSING else 1.0) for name, n in self.terms.items()))

    @property
    def fits(self) -> bool:
        """Whether what is still to come has room."""
        return self.total - self.resident <= self.free

    def line(self) -> AuditLine:
        """For the audit; fatal where it does not fit."""
        parts = ", ".join(f"{name} {_gib(n)}" for name, n in self.terms.items() if n)
        how = f"token budget {self.token_budget}{', blocks are computed again' if self.recompute else ''}"
        text = f"{_gib(self.total)} of {_gib(self.free + self.resident)} ({parts}; {how})"
        return AuditLine("memory", self.fits, text if self.fits else f"{text}: {self.advice()}", fatal=True)

    def advice(self) -> str:
        """What to change when it does not fit: the largest term and what shrinks it."""
        worst = max(self.terms, key=lambda name: self.terms[name])
        knob = KNOBS[worst].removeprefix("set activation_checkpointing=on, ") if self.recompute else KNOBS[worst]
        return f"the largest part is {worst}; {knob}"


def memory_plan(
    scorer: Scorer,
    trees: Sequence[Tree],
    token_budget: int,
    *,
    groups: int = 1 << 30,
    copies: int = 0,
    samples: int = 0,
    free: int | None = None,
    checkpointing: str = "off",
) -> MemoryPlan:
    """The plan of a training run.

    trees          what will be trained (or like it): its longest row is the least that one micro-batch holds
    token_budget   positions of a micro-batch; 0: chosen here, as many as fit, from 256 to 1024 on a CPU
    groups         trees of one step: no micro-batch holds more
    copies         bytes of other models in memory: the policy before training, a frozen reference
    samples        bytes of the rollouts' cache
    free           bytes that can still be allocated; None: asked of the machine
    checkpointing  of activations: on, off, or auto: only where nothing fits without
    """
    free = free_bytes(scorer.device) if free is None else free
    sizes = [token_budget] if token_budget else _sizes(scorer.device)
    plan: MemoryPlan | None = None
    for recompute in _ways(scorer, checkpointing):
        at = _terms(scorer, trees, groups, copies, samples, recompute)
        for size in sizes:
            terms, resident = at(size)
            plan = MemoryPlan(terms, free, resident, size, SLACK.get(scorer.device.type, 1.1), recompute)
            if plan.fits:
                return plan
    assert plan is not None
    return plan


def _sizes(device: torch.device) -> list[int]:
    """Token budgets to try, the largest first."""
    sizes = [BUDGETS.get(device.type, LEAST)]
    while sizes[-1] // 2 >= LEAST:
        sizes.append(sizes[-1] // 2)
    return sizes


def _ways(scorer: Scorer, checkpointing: str) -> list[bool]:
    """Whether blocks are computed again: what is tried, in this order."""
    if checkpointing == "auto":
        return [False, True] if can_recompute(causal_lm(scorer.model)) else [False]
    return [checkpointing == "on"]


def _terms(
    scorer: Scorer, trees: Sequence[Tree], groups: int, copies: int, samples: int, recompute: bool
) -> Callable[[int], tuple[dict[str, int], int]]:
    """Token budget -> (bytes by what they are for, bytes of these that are allocated already)."""
    weights = [p for p in scorer.model.parameters()]
    moving = [p for p in weights if p.requires_grad]
    ordered = sorted(trees, key=lambda t: positions(t, scorer.path))
    longest = scorer.layout(ordered[-1:]).ids.size if ordered else 1
    fixed, per_position = _price(scorer, ordered, recompute)
    resident = sum(map(_bytes, weights)) + copies
    grads = sum(map(_bytes, moving))

    def at(budget: int) -> tuple[dict[str, int], int]:
        rows = max(longest, min(budget, groups * longest))
        terms = {
            "weights": sum(map(_bytes, weights)),
            "other copies": copies,
            "gradients": grads,
            "optimizer": 2 * grads,
            "activations": int(fixed + per_position * rows),
            "head": head_bytes(scorer),
            "samples": samples,
        }
        return terms, resident

    return at


def _price(scorer: Scorer, ordered: Sequence[Tree], recompute: bool) -> tuple[float, float]:
    """What a backward pass keeps: bytes whatever the length, and for each position of the dearest rows. Those are not
    always the longest: attention in blocks keeps its weights, the kernel of longer rows does not."""
    found: dict[bool, tuple[float, float, float]] = {}
    prices = []
    for i in sorted({round(x) for x in np.linspace(0, len(ordered) - 1, SEEN)}) if ordered else ():
        keys = scorer.keys_met(scorer.layout([ordered[i]]))
        blocks = keys <= scorer.grouped
        if blocks not in found:
            probe = copy.copy(scorer)
            probe.grouped = scorer.grouped if blocks else 0  # attend as this row will
            found[blocks] = activation_bytes(probe, recompute)
        fixed, token, pair = found[blocks]
        prices.append((token + pair * keys, fixed))
    dearest, fixed = max(prices, default=(0.0, 0.0))
    return fixed, dearest


@dataclass(frozen=True)
class Settled:
    """What a run keeps of its plan: fixed at its first start, because a run that continues elsewhere must cut its
    micro-batches where it cut them before.

    token_budget  positions of a micro-batch
    peak          bytes that this process was expected to take at most
    recompute     whether blocks are computed again in the backward pass
    audit         the plan's line, on the first start
    """

    token_budget: int
    peak: int
    recompute: bool = False
    audit: tuple[AuditLine, ...] = ()


def settle(plan: Callable[[], MemoryPlan], device: torch.device, run: RunFolder, world: World) -> Settled:
    """The plan of a run: made and written down when it starts, found again when it continues from a checkpoint.

    Processes that share a run use the smallest of their token budgets.
    """
    file = run.path / FILE
    found = world.from_leader(lambda: _read(file) if complete(run.checkpoints) else None)
    if found is None:
        made = plan()
        budget = min(world.gather(made.token_budget))
        peak = resident_bytes(device) + made.total - made.resident
        recompute = any(world.gather(made.recompute))
        record = {"token_budget": budget, "peak": peak, "recompute": recompute, "terms": dict(made.terms), "free": made.free}
        world.from_leader(lambda: run.write(FILE, json.dumps(record)))
        return Settled(budget, peak, recompute, (made.line(),))
    return Settled(found["token_budget"], found["peak"], bool(found.get("recompute")))


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # none yet, or damaged: it is made anew
        return None


@torch.enable_grad()
def activation_bytes(scorer: Scorer, recompute: bool = False) -> tuple[float, float, float]:
    """What a backward pass through the body keeps: bytes whatever the length, for each token, and for each query-key
    pair that is multiplied (the mask, and where the attention kernel is not fused its weights).

    recompute   blocks keep their inputs, and one block at a time everything
    """
    if not any(p.requires_grad for p in scorer.model.parameters()):
        return 0.0, 0.0, 0.0
    lengths: tuple[int, ...] = PROBE
    if PROBE[-1] > scorer.longest:  # toy models: too short for three points
        lengths = (min(PROBE[0], scorer.longest),)
    rows = [_probe(scorer, n) for n in lengths]
    kept = [_saved(scorer, row) for row in rows]
    if recompute:
        blocks = int(causal_lm(scorer.model).config.get_text_config().num_hidden_layers)
        again = copy.copy(scorer)
        again.recompute = True
        kept = [_saved(again, row) + whole // blocks for row, whole in zip(rows, kept, strict=True)]
    if len(lengths) == 1:
        return 0.0, kept[0] / lengths[0], 0.0
    pairs = [row.ids.size * scorer.keys_met(row) for row in rows]
    fixed, token, pair = np.linalg.solve([[1.0, row.ids.size, p] for row, p in zip(rows, pairs)], kept)
    return max(0.0, float(fixed)), max(0.0, float(token)), max(0.0, float(pair))


def _probe(scorer: Scorer, n: int) -> Layout:
    """One row of n tokens."""
    return scorer.layout([from_paths("probe", [1] * (n - 1), [[1]])])


def _saved(scorer: Scorer, layout: Layout) -> int:
    """Bytes of all tensors that autograd saves for these rows, weights left out, shared storage once."""
    known = {p.untyped_storage().data_ptr() for p in scorer.model.parameters()}
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return x.detach()  # x itself would hold the graph that holds it, for ever: no collector sees that circle

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        hidden = scorer.hidden(layout)  # held until here: a freed tensor's address may be given to the next one
    del hidden
    return sum(kept.values())


def head_bytes(scorer: Scorer) -> int:
    """Logits, their exponentials and gradients of one chunk, the head in the dtype of products, its float32 gradient;
    next to nothing for a scalar head."""
    if scorer.readout == "scalar_last":
        return 0
    head = causal_lm(scorer.model).get_output_embeddings().weight
    narrow = head.numel() * 2 if scorer.autocast is not None else 0
    return 3 * CHUNK_BYTES // 2 + narrow + (head.numel() * 4 if head.requires_grad else 0)


def sample_bytes(model: Any, rows: int, tokens: int, itemsize: int) -> int:
    """Keys and values of `rows` samples of at most `tokens` tokens, prompt included."""
    text = causal_lm(model).config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * rows * tokens * text.num_hidden_layers * heads * width * itemsize)


def resident_bytes(device: torch.device) -> int:
    """What this process holds now: its resident size, or what it allocated on a GPU."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    import psutil

    return int(psutil.Process().memory_info().rss)


def free_bytes(device: torch.device) -> int:
    """Memory that this process can still take on a device. A container's own limit counts, and processes that torchrun
    started on this machine get equal parts of its main memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return min([int(psutil.virtual_memory().available), *_cgroup_free()]) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _cgroup_free() -> list[int]:
    """What the control group of a container still allows, where there is one."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            with open(f"/sys/fs/cgroup/{limit}") as a, open(f"/sys/fs/cgroup/{used}") as b:
                return [int(a.read()) - int(b.read())]
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return []


def _bytes(p: Tensor) -> int:
    return p.numel() * p.element_size()


def _gib(n: int) -> str:
    return f"{n / 2**30:.2f} GiB"
