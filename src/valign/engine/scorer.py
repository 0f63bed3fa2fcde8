"""The scorer: what a model says of every response in a set of trees, for training and for evaluation alike.

The trunk of a tree runs once. Readout "log_probs": the head runs only at positions that predict a scored token.
Readout "scalar_last": a head of width 1 reads the last token of each response, and nothing of the vocabulary's size is
computed. `Scorer(model)(trees)` is differentiable and makes one forward pass; `Scorer.score` cuts any number of trees
into micro-batches by a token budget and returns numpy arrays.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from valign.engine.allocator import is_out_of_memory, keep_freed_memory
from valign.engine.attention import PROVEN, Attention, Path, attention_of, masks, seen_by_any
from valign.engine.compiled import compiled_blocks, run_compiled
from valign.engine.forest import common_root, plant
from valign.engine.grouped import KEYS, attend_grouped, in_blocks, keys_met
from valign.engine.head import head_spec, scalars, token_log_probs, wrapped_log_probs
from valign.engine.layout import Int, Layout, plain_layout, row_layout
from valign.engine.prefix import SHARED, Prefix, caches_kept
from valign.engine.recompute import blocks_recomputed
from valign.engine.rotary import lengthwise, rows_apart
from valign.engine.tree import Leaf, Tree, from_paths
from valign.errors import TooLong, ValignError
from valign.models.scalar_head import scalar_head

log = logging.getLogger(__name__)
Readout = Literal["log_probs", "scalar_last"]
Row = NDArray[np.float32]
# positions of one micro-batch, padding included; a unit of memory and time, never of meaning. On a processor its tensors
# then stay in the cache: 4096 took half as long again (measured)
BUDGETS = {"cpu": 1024, "cuda": 16384}
HEAD_SLACK = 0.2  # nats between two ways to compute a log-prob: bf16 rounding is below, another head far above
ATTENTION = 2.0  # an operation of masked attention takes this much longer than one of a matrix product (CPU)
_ROUND = 16


@dataclass(frozen=True)
class Scores:
    """What the responses of a micro-batch were read as.

    log_probs  (responses, tokens) nats, float32 (float64 for float64 models), 0 where mask is 0; of width 0 where the
               readout is another
    mask       (responses, tokens) loss weight of each token
    group      (responses,) position of the response's tree in the call
    tokens     positions computed, padding included; `real` without it; `scored` hidden rows that met the head
    scalars    (responses,) the number of each response, float32 or float64, for readout "scalar_last"; else None
    """

    log_probs: Tensor
    mask: Tensor
    group: Tensor
    tokens: int
    real: int
    scored: int
    scalars: Tensor | None = None

    @property
    def values(self) -> Tensor:
        """What was read: log-probs per token, or one number per response."""
        return self.log_probs if self.scalars is None else self.scalars


def causal_lm(model: Any) -> Any:
    """The transformers model inside adapters."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


def body_of(model: Any) -> Any:
    """The part of a causal LM that gives hidden states."""
    inner = causal_lm(model)
    return getattr(inner, inner.base_model_prefix)


class Scorer:
    """Scores trees under one model.

    model           a transformers causal LM, with or without adapters
    path            "row", "plain", or None: what the architecture allows
    allowed_tokens  the policy's own restriction of the vocabulary (a toy world's), None for all
    autocast        dtype of matrix products when weights are wider (training with float32 weights), None for none
    temperature     logits are divided by it: must be the temperature that sampled
    readout         "log_probs", or "scalar_last" for a model with a scalar head
    recompute       activation checkpointing: blocks keep their input and are computed again in the backward pass
    compiled        blocks run as torch.compile makes them
    """

    def __init__(
        self,
        model: Any,
        *,
        path: Path | None = None,
        allowed_tokens: Sequence[int] | None = None,
        autocast: torch.dtype | None = None,
        temperature: float = 1.0,
        head_chunk: int | None = None,
        readout: Readout = "log_probs",
        recompute: bool = False,
        compiled: bool = False,
    ) -> None:
        self.model = model
        self.recompute = recompute
        self.compiled = compiled_blocks(body_of(model)) if compiled else {}
        if self.device.type == "cpu":
            keep_freed_memory()
        self.readout: Readout = readout
        config = causal_lm(model).config
        self.attention: Attention = attention_of(config)
        self.rotary = lengthwise(causal_lm(model), self.attention.switch)
        self.path: Path = path or self.attention.path
        if path == "row" and self.attention.path != "row":
            raise ValignError(f"this model cannot share a trunk: {self.attention.reason}", where="path=row")
        self.spec = replace(head_spec(config, temperature), chunk=head_chunk)
        self.autocast = autocast
        self.allowed = None if allowed_tokens is None else torch.as_tensor(sorted(set(allowed_tokens)))
        self.longest = positions_of(config)
        # keys a query may meet on average where attention is plain products; 0: it never is
        self.grouped = KEYS if self.path == "row" and attend_grouped(causal_lm(model)) else 0
        self.pair_cost = _pair_cost(self.model, config) if self.path == "row" else 0.0
        self._check_head(str(getattr(config.get_text_config(), "model_type", "")))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def multiple(self) -> int:
        """What the length of rows is rounded up to: processors like few distinct shapes."""
        return _ROUND if self.device.type == "cpu" else 1

    @property
    def narrow(self) -> bool:
        """Whether products round to 16 bits: two ways to one number then differ by rounding."""
        return (self.autocast or next(body_of(self.model).parameters()).dtype).itemsize < 4

    def layout(self, trees: Sequence[Tree], prefix: Prefix | None = None) -> Layout:
        """The rows that one forward pass over `trees` computes, behind a prefix that is already computed."""
        longest = max((t.longest for t in trees), default=0)
        if longest > self.longest:
            worst = max(trees, key=lambda t: t.longest)
            raise TooLong(
                f"a path of {longest} tokens is longer than the model's {self.longest} positions",
                where=f"group {worst.id}",
                how="shorten it, or choose on_long=drop or on_long=cut_prompt_left",
            )
        multiple = self.multiple
        if self.path == "plain":
            return plain_layout(trees, multiple)
        skip = prefix.length if prefix else 0
        rows = plant(trees, self.pair_cost, skip=skip)
        # rows that were joined make the others longer by padding: what counts is what is computed
        if padded([p.tree for p in rows], skip=skip, multiple=multiple) > padded(trees, skip=skip, multiple=multiple):
            rows = plant(trees, row=0)
        return row_layout(trees, multiple, rows=rows, skip=skip)

    def __call__(self, trees: Sequence[Tree], prefix: Prefix | None = None) -> Scores:
        """One forward pass over all `trees`; differentiable unless the caller switched gradients off.

        prefix   what all trees begin with, computed before by `prefix_of`
        """
        layout = self.layout(trees, prefix)
        device = self.device
        hidden = self.hidden(layout, prefix)
        if self.readout == "scalar_last":
            return self._scalars(layout, hidden, [t.id for t in trees])
        # what the head reads is decided here: a device asked for it would be waited for
        rows, row = np.unique(layout.read, return_inverse=True)
        order = np.argsort(row, kind="stable")
        picked = hidden.reshape(-1, hidden.shape[-1])[torch.as_tensor(rows, device=device)]
        values = self._head(picked, row[order], layout.target[order])
        mask = torch.as_tensor(layout.mask, device=device)
        where = tuple(torch.as_tensor(x[order], device=device) for x in (layout.response, layout.column))
        out = torch.zeros(mask.shape, dtype=values.dtype, device=device).index_put(where, values)
        group = torch.as_tensor(layout.group, device=device)
        return Scores(out, mask.to(values.dtype), group, layout.ids.size, int(layout.real.sum()), len(rows))

    def _scalars(self, layout: Layout, hidden: Tensor, ids: Sequence[str]) -> Scores:
        """One number per response: the scalar head at the last token of its path."""
        if (empty := np.flatnonzero(layout.last < 0)).size:
            raise ValignError("a path without tokens has no last one", where=f"group {ids[int(layout.group[empty[0]])]}")
        device = hidden.device
        picked = hidden.reshape(-1, hidden.shape[-1])[torch.as_tensor(layout.last, device=device)]
        with torch.autocast(device.type, enabled=False):
            values = scalars(picked, scalar_head(causal_lm(self.model)).weight)
        mask = torch.as_tensor(layout.mask, device=device).to(values.dtype)
        group = torch.as_tensor(layout.group, device=device)
        shape = (layout.ids.size, int(layout.real.sum()), len(values))
        return Scores(values.new_zeros(len(values), 0), mask, group, *shape, scalars=values)

    def hidden(self, layout: Layout, prefix: Prefix | None = None) -> Tensor:
        """The last hidden state at every position of a layout, (rows, length, width)."""
        body, device = body_of(self.model), self.device
        dtype = self.autocast or next(body.parameters()).dtype
        skip = prefix.length if prefix else 0
        with self._cast(device), self._blocks(prefix):
            out = body(
                input_ids=torch.as_tensor(layout.ids, device=device),
                position_ids=torch.as_tensor(layout.pos, device=device),
                attention_mask=self._masks(layout, dtype, skip),
                past_key_values=prefix,
                use_cache=prefix is not None,
            )
        return out.last_hidden_state  # type: ignore[no-any-return]

    def _blocks(self, prefix: Prefix | None) -> Any:
        """How blocks run in this pass: with the cache they are given, with rotary factors of each row's own, compiled, or
        computed again for the gradient."""
        if prefix is not None:
            return caches_kept(body_of(self.model))
        how = contextlib.ExitStack()
        how.enter_context(rows_apart(self.rotary, self.attention.switch))
        if self.compiled:
            how.enter_context(run_compiled(self.compiled))
        if self.recompute and torch.is_grad_enabled():
            how.enter_context(blocks_recomputed(causal_lm(self.model)))
        return how

    def _masks(self, layout: Layout, dtype: torch.dtype, skip: int) -> Any:
        found = masks(layout, self.attention, dtype, self.device, skip)
        if not self.grouped or layout.plain or self.device.type != "cpu":
            return found
        if not isinstance(found, dict):
            return in_blocks(found, seen_by_any(layout, self.attention.window, skip), self.grouped)
        windows = {"full_attention": None, "sliding_attention": self.attention.window}
        return {k: in_blocks(m, seen_by_any(layout, windows[k], skip), self.grouped) for k, m in found.items()}

    def keys_met(self, layout: Layout) -> float:
        """Keys that a query of these rows is multiplied with, on average over queries and layers."""
        if layout.plain or not self.grouped:
            return float(layout.ids.shape[1])
        found = self._masks(layout, torch.float32, 0)
        if not isinstance(found, dict):
            return keys_met(found)
        layers = causal_lm(self.model).config.get_text_config().layer_types
        return sum(keys_met(found[kind]) for kind in layers) / len(layers)

    @property
    def budget(self) -> int:
        """Positions of a micro-batch that suit the device, where nobody says how many."""
        return BUDGETS.get(self.device.type, min(BUDGETS.values()))

    @torch.no_grad()
    def prefix_of(self, trees: Sequence[Tree]) -> Prefix | None:
        """What all `trees` begin with, computed once, where that saves a tenth of the tokens; else None."""
        n = common_root(trees) if self.path == "row" and len(trees) > 1 else 0
        if n < SHARED or n * len(trees) < 0.1 * sum(t.tokens for t in trees):
            return None
        layers = int(causal_lm(self.model).config.get_text_config().num_hidden_layers)
        prefix = Prefix(layers, self.autocast)
        self.hidden(row_layout([from_paths("prefix", trees[0].segments[0].ids[:n].tolist(), [])]), prefix)
        prefix.length = n
        return prefix

    def _micro_batches(self, trees: Sequence[Tree], budget: int, prefix: Prefix | None) -> list[list[int]]:
        """Trees that share a row stay together."""
        if self.path == "plain":
            return micro_batches(trees, budget, "plain")
        skip = prefix.length if prefix else 0
        rows = plant(trees, self.pair_cost, skip=skip)
        batches = micro_batches([p.tree for p in rows], budget, skip=skip)
        return [[i for r in batch for i in rows[r].members] for batch in batches]

    def _head(self, hidden: Tensor, row: Int, wanted: Int) -> Tensor:
        head = causal_lm(self.model).get_output_embeddings()
        allowed = None if self.allowed is None else self.allowed.to(hidden.device)
        if self.allowed is not None:
            wanted = _places(self.allowed.numpy(), wanted)
        target = torch.as_tensor(wanted, device=hidden.device)
        if type(head) is not torch.nn.Linear:  # an adapter on it, or quantized: it is more than its weight
            with self._cast(hidden.device):
                return wrapped_log_probs(head, hidden, allowed, row, target, self.spec)
        weight: Tensor = head.weight
        bias: Tensor | None = head.bias
        if allowed is not None:
            weight, bias = weight[allowed], None if bias is None else bias[allowed]
        dtype = self.autocast or weight.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            return token_log_probs(hidden, weight, bias, row, target, self.spec, dtype)

    @torch.no_grad()
    def _check_head(self, family: str) -> None:
        """Refuse a family that nobody has tried and whose logits are not its head on its last hidden state."""
        if family in PROVEN or self.allowed is not None or self.readout != "log_probs":
            return
        ids = list(range(1, 9))
        ours = self([from_paths("probe", ids[:1], [ids[1:]])]).log_probs[0, :7].double()
        logits = causal_lm(self.model)(torch.as_tensor([ids], device=self.device)).logits[0, :7].double()
        theirs = (logits / self.spec.temperature).log_softmax(-1)[range(7), ids[1:]]
        if not torch.allclose(ours, theirs, atol=HEAD_SLACK):
            raise ValignError(
                f"models of kind {family!r} compute more between body and probabilities than a linear head",
                where="scorer",
                how=f"known kinds: {', '.join(sorted(PROVEN))}",
            )

    def _cast(self, device: torch.device) -> Any:
        if self.autocast is None or self.autocast == next(self.model.parameters()).dtype:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=self.autocast)

    @torch.no_grad()
    def score(
        self, trees: Sequence[Tree], *, budget: int | None = None, progress: Callable[[int, int], None] | None = None
    ) -> list[list[Row]]:
        """What every response of every tree is read as, in the order given.

        Trees are sorted by length and cut into micro-batches of at most `budget` positions (a longer tree runs alone),
        None: as many as suit the device.
        Returns one list per tree with one array per response: (tokens,) log-probs, 0 where the loss weight is 0, or (1,)
        its scalar.
        """
        out: list[list[Row]] = [[] for _ in trees]
        done = 0
        for scored in self.batches(trees, budget=budget):
            for i, rows in scored.items():
                out[i] = rows
            done += len(scored)
            if progress is not None:
                progress(done, len(trees))
        return out

    @torch.no_grad()
    def batches(self, trees: Sequence[Tree], *, budget: int | None = None) -> Iterator[dict[int, list[Row]]]:
        """What `score` returns, one micro-batch after the other: index of the tree -> its arrays."""
        prefix = self.prefix_of(trees)
        waiting = self._micro_batches(trees, budget or self.budget, prefix)
        while waiting:
            picked = [trees[i] for i in waiting[0]]
            scores = self._tried(picked, prefix)
            if scores is None:
                waiting = halved(waiting)
                continue
            yield dict(zip(waiting.pop(0), rows_of(scores, picked)))

    def _tried(self, trees: Sequence[Tree], prefix: Prefix | None) -> Scores | None:
        """The scores, or None where memory ran out and fewer trees may fit."""
        try:
            return self(trees, prefix)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(trees) == 1:
                raise ValignError("out of memory on a single group", where=f"group {trees[0].id}", how="shorten it") from error
        return None


def halved(batches: Sequence[Sequence[int]]) -> list[list[int]]:
    """Micro-batches of half as many trees, in the order given; the log says it."""
    cut = [-(-len(b) // 2) for b in batches]
    out = [list(half) for b, n in zip(batches, cut) for half in (b[:n], b[n:]) if half]
    log.warning("out of memory: micro-batches are halved, to at most %d groups", max(map(len, out)))
    return out


def rows_of(scores: Scores, trees: Sequence[Tree]) -> list[list[Row]]:
    """The arrays of each tree's responses: (tokens,) log-probs, or (1,) the scalar."""
    values = scores.values.detach().cpu().numpy()
    lines = iter(values if scores.scalars is None else values[:, None])

    def length(tree: Tree, leaf: Leaf) -> int:
        return len(tree.response_ids(leaf)) if scores.scalars is None else 1

    return [[next(lines)[: length(t, leaf)].copy() for leaf in t.leaves] for t in trees]


def micro_batches(trees: Sequence[Tree], budget: int, path: Path = "row", *, skip: int = 0) -> list[list[int]]:
    """Indices of trees, longest first, cut so that rows x longest <= budget (a tree over the budget runs alone).

    skip   tokens of every tree that are not computed
    """
    shape = [(rows, longest - skip) for rows, longest in (_shape(t, path) for t in trees)]
    order = sorted(range(len(trees)), key=lambda i: (-shape[i][1], i))
    out: list[list[int]] = []
    rows = longest = 0
    for i in order:
        if out and (rows + shape[i][0]) * longest <= budget:
            out[-1].append(i)
            rows += shape[i][0]
        else:
            out.append([i])
            rows, longest = shape[i]
    return out


def positions(tree: Tree, path: Path) -> int:
    """What one tree costs of a token budget."""
    rows, longest = _shape(tree, path)
    return rows * longest


def padded(trees: Sequence[Tree], path: Path = "row", *, skip: int = 0, multiple: int = 1) -> int:
    """Positions of one micro-batch, with the padding to its longest row, whose length is rounded up to `multiple`.

    skip   tokens of every tree that are not computed
    """
    shape = [_shape(t, path) for t in trees]
    longest = max((n for _, n in shape), default=skip) - skip
    return sum(rows for rows, _ in shape) * -(-longest // multiple) * multiple


def _shape(tree: Tree, path: Path) -> tuple[int, int]:
    """(rows, longest row) of a tree: one row with every token once, or one row for each leaf."""
    return (1, tree.tokens) if path == "row" else (len(tree.leaves), tree.longest)


def _pair_cost(model: Any, config: Any) -> float:
    """What one query-key pair of all layers costs, in tokens of the linear layers."""
    text = config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    pair = 4 * text.num_attention_heads * width * text.num_hidden_layers
    weights = sum(p.numel() for p in body_of(model).parameters() if p.ndim == 2)
    embedded = body_of(model).get_input_embeddings().weight.numel()
    return ATTENTION * float(pair) / (2 * max(1, weights - embedded))


def _places(allowed: Int, target: Int) -> Int:
    """Where each target stands in the restricted vocabulary."""
    place = np.searchsorted(allowed, target).clip(max=len(allowed) - 1)
    outside = target[allowed[place] != target]
    if len(outside):
        raise ValignError(
            f"a response holds token {int(outside[0])}, which the policy's vocabulary does not allow",
            where="allowed_tokens",
            how="score only what this policy can say",
        )
    return place


def positions_of(config: Any) -> int:
    """The longest path a model was made for; very large where its config does not say."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 1 << 30)
