"""The decoder of the proven architectures: keys and values of running samples in preallocated slots.

A slot's column is the token's position, so one comparison (column <= position, within the window where a layer has one)
is the whole mask, a sample that ended gives its slot to the next one at once, and nothing is padded or shifted. Memory
grows in steps with the longest running sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import proxy

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from valign.engine.allocator import keep_freed_memory
from valign.engine.attention import Attention, additive, attention_of
from valign.engine.grouped import attend_grouped, in_blocks
from valign.engine.head import head_spec, last_logits
from valign.engine.prefix import SHARED
from valign.engine.scorer import BUDGETS, body_of, causal_lm

_STEP = 64  # columns by which the slots grow


class _Layer(DynamicLayer):
    """One layer's keys and values, (rows, heads, columns, width). `Slots` says where the next ones go."""

    keys: Any
    values: Any

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self.slots: Slots = proxy(slots)  # a cycle would hold every key and value until the next garbage collection

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep what a forward pass computed; return all that its queries may look at."""
        slots = self.slots
        # attention multiplies in this dtype anyway: kept wider, every step would cast the whole cache
        dtype = slots.dtype or key_states.dtype
        keys, values = key_states.to(dtype), value_states.to(dtype)
        if self.keys is None:
            shape = (slots.rows, keys.shape[1], slots.columns)
            self.keys = keys.new_zeros(*shape, keys.shape[3])
            self.values = values.new_zeros(*shape, values.shape[3])
            self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        n, q = keys.shape[0], keys.shape[2]
        if q == 1:
            where = (slots.order[:n], slice(None), slots.position[:n])
            self.keys[where], self.values[where] = keys[:, :, 0], values[:, :, 0]
        else:
            self.keys[:n, :, slots.begin : slots.begin + q] = keys
            self.values[:n, :, slots.begin : slots.begin + q] = values
        return self.keys[:n, :, : slots.used], self.values[:n, :, : slots.used]

    def grow(self, columns: int) -> None:
        """More columns, their contents kept."""
        if self.keys is not None:
            more = columns - self.keys.shape[2]
            self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, more))
            self.values = torch.nn.functional.pad(self.values, (0, 0, 0, more))


class Slots(Cache):
    """A cache of `rows` samples.

    position  (rows,) column that the next token of a row is written to
    begin     first column of a forward pass over several tokens (rows then begin together)
    used      columns that the queries of the next pass may look at
    """

    layers: Any

    def __init__(self, layers: int, rows: int, columns: int, dtype: torch.dtype | None, device: Any) -> None:
        super().__init__(layers=[_Layer(self) for _ in range(layers)])
        self.rows, self.columns, self.dtype = rows, columns, dtype
        self.order = torch.arange(rows, device=device)
        self.position = torch.zeros(rows, dtype=torch.long, device=device)
        self.begin = self.used = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns before those of this pass; positions and masks are always given, so nothing is derived from it."""
        return self.begin

    def reserve(self, columns: int) -> None:
        """Make room for `columns`."""
        if columns > self.columns:
            self.columns = -(-columns // _STEP) * _STEP
            for layer in self.layers:
                layer.grow(self.columns)

    def take(self, other: Slots, rows: Tensor, lines: Tensor) -> None:
        """Copy `lines` of another cache, as far as it is used, into `rows`."""
        self.reserve(other.used)
        for mine, theirs in zip(self.layers, other.layers):
            if mine.keys is None:
                mine.keys = theirs.keys.new_zeros(self.rows, theirs.keys.shape[1], self.columns, theirs.keys.shape[3])
                mine.values = theirs.values.new_zeros(*mine.keys.shape[:3], theirs.values.shape[3])
                mine.dtype, mine.device, mine.is_initialized = theirs.dtype, theirs.device, True
            mine.keys[rows, :, : other.used] = theirs.keys[lines, :, : other.used]
            mine.values[rows, :, : other.used] = theirs.values[lines, :, : other.used]

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy rows over other rows."""
        for layer in self.layers:
            layer.keys[target, :, : self.used] = layer.keys[source, :, : self.used]
            layer.values[target, :, : self.used] = layer.values[source, :, : self.used]


@dataclass(frozen=True, eq=False)
class _Start:
    """A prompt that was computed: its line in a cache, and the logits after it."""

    cache: Slots
    line: int
    logits: Tensor


class SlotDecoder:
    """Running samples of one model. Rows are 0 .. n-1; they join at the end, and leave by `select`."""

    refills = True

    def __init__(self, model: Any, rows: int) -> None:
        self.model, self.body, self.rows = model, body_of(model), rows
        config = causal_lm(model).config
        self.attention: Attention = attention_of(config)
        self.spec = head_spec(config)
        self.layers = int(config.get_text_config().num_hidden_layers)
        self.device = next(model.parameters()).device
        self.slots = self._cache(rows, _STEP)
        # prompt positions of one forward pass, padding included
        self.prefill = BUDGETS.get(self.device.type, min(BUDGETS.values()))
        self.grouped = attend_grouped(causal_lm(model))
        if self.device.type == "cpu":
            keep_freed_memory()
        self.n = 0
        self.parked: dict[tuple[int, ...], _Start] = {}
        self.prefix: tuple[tuple[int, ...], Slots] | None = None  # what many prompts begin with, and its keys

    def share(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Compute the prefix that all `prompts` have in common once, where that saves enough."""
        n = common_prefix(prompts)
        self.prefix = None
        if n >= SHARED and len(prompts) > 1:
            ids = prompts[0][:n]
            cache = self._cache(1, n)
            self._forward(cache, torch.tensor([ids], device=self.device))
            self.prefix = (ids, cache)

    def admit(self, prompts: Sequence[tuple[int, ...]], waiting: Mapping[tuple[int, ...], int]) -> Tensor:
        """Add a row for each of `prompts`; equal ones are computed once and forked. Returns their logits, (m, V).

        waiting   how many more rows will start from a prompt later: until then what was computed of it is kept
        """
        logits = self._fork(prompts, {p: self.parked[p] for p in prompts if p in self.parked})
        self.parked = {p: s for p, s in self.parked.items() if waiting.get(p, 0) > 0}
        fresh = [p for p in dict.fromkeys(prompts) if p not in logits]
        for cut in _cuts([len(p) for p in fresh], self.prefill):
            starts = self._computed([fresh[i] for i in cut])
            logits |= self._fork(prompts, starts)
            self.parked |= {p: s for p, s in starts.items() if waiting.get(p, 0) > 0}
            del starts  # before the next ones are computed: keys of one forward pass are held beside the slots
        lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        self.slots.position[self.n : self.n + len(prompts)] = lengths
        self.n += len(prompts)
        return torch.stack([logits[p] for p in prompts])

    def _computed(self, prompts: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], _Start]:
        cache, logits = self._prefill(prompts)
        return {p: _Start(cache, line, logits[line]) for line, p in enumerate(prompts)}

    def _fork(
        self, prompts: Sequence[tuple[int, ...]], starts: Mapping[tuple[int, ...], _Start]
    ) -> dict[tuple[int, ...], Tensor]:
        """Copy what was computed into the new rows of those of `prompts` that have a start; their logits."""
        for cache in dict.fromkeys(s.cache for s in starts.values()):
            mine = [k for k, p in enumerate(prompts) if p in starts and starts[p].cache is cache]
            rows = torch.tensor([self.n + k for k in mine], device=self.device)
            lines = torch.tensor([starts[prompts[k]].line for k in mine], device=self.device)
            self.slots.take(cache, rows, lines)
        return {p: s.logits for p, s in starts.items()}

    def step(self, tokens: Tensor) -> Tensor:
        """One more token for every row, (n,); returns the logits after it, (n, V)."""
        slots, n = self.slots, self.n
        slots.used = int(slots.position[:n].max()) + 1
        slots.reserve(slots.used)
        slots.begin = slots.used - 1
        hidden = self._hidden(slots, tokens[:, None], slots.position[:n, None])
        slots.position[:n] += 1
        return last_logits(causal_lm(self.model), hidden[:, 0], self.spec)

    def select(self, order: Sequence[int]) -> None:
        """Rows become those of `order`; a row that keeps its number costs nothing."""
        moved = [(old, new) for new, old in enumerate(order) if old != new]
        if moved:
            source, target = (torch.tensor(x, device=self.device) for x in zip(*moved))
            self.slots.used = int(self.slots.position[: self.n].max())
            self.slots.move(source, target)
            self.slots.position[target] = self.slots.position[source]
        self.n = len(order)

    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[Slots, Tensor]:
        """Keys and values of some prompts in a cache of their own, and their last logits."""
        before = (
            self.prefix if self.prefix and all(p[: len(self.prefix[0])] == self.prefix[0] for p in prompts) else None
        )
        start = len(before[0]) if before else 0
        rests = [p[start:] for p in prompts]
        longest = max(map(len, rests))
        ids = torch.zeros(len(rests), longest, dtype=torch.long)
        for row, rest in zip(ids, rests):
            row[: len(rest)] = torch.tensor(rest)
        cache = self._cache(len(prompts), start + longest)
        if before:
            cache.take(before[1], cache.order, torch.zeros_like(cache.order))
        hidden = self._forward(cache, ids.to(self.device), start)
        last = torch.tensor([len(r) - 1 for r in rests], device=self.device)
        return cache, last_logits(causal_lm(self.model), hidden[cache.order, last], self.spec)

    def _forward(self, cache: Slots, ids: Tensor, start: int = 0) -> Tensor:
        cache.begin, cache.used = start, start + ids.shape[1]
        pos = torch.arange(start, cache.used, device=self.device).expand(ids.shape)
        cache.position[: len(ids)] = start
        return self._hidden(cache, ids, pos)

    def _hidden(self, cache: Slots, ids: Tensor, pos: Tensor) -> Tensor:
        out = self.body(
            input_ids=ids,
            position_ids=pos,
            attention_mask=self._mask(pos, cache.used),
            past_key_values=cache,
            use_cache=True,
        )
        return out.last_hidden_state  # type: ignore[no-any-return]

    def _mask(self, pos: Tensor, used: int) -> Any:
        """(rows, 1, queries, columns): a column is seen when it is not later, within the window where there is one."""
        window = self.attention.window
        if not self.attention.kinds:
            return self._mask_of(pos, used, window)
        return {"full_attention": self._mask_of(pos, used, None), "sliding_attention": self._mask_of(pos, used, window)}

    def _mask_of(self, pos: Tensor, used: int, window: int | None) -> Tensor:
        behind = pos[:, None, :, None] - torch.arange(used, device=self.device)
        dtype = self.slots.dtype or next(self.body.parameters()).dtype
        mask = additive(_seen(behind, window), dtype)
        queries = pos.shape[1]
        if not self.grouped or queries == 1:
            return mask
        # rows of several tokens begin together: what they see is known without asking the device
        host = np.arange(used - queries, used)[:, None] - np.arange(used)
        return in_blocks(mask, _seen(host, window))

    def _cache(self, rows: int, columns: int) -> Slots:
        narrow = None
        if torch.is_autocast_enabled(self.device.type):
            narrow = torch.get_autocast_dtype(self.device.type)
        return Slots(self.layers, rows, columns, narrow, self.device)


def _seen(behind: Any, window: int | None) -> Any:
    """Whether a column so many positions behind a query is seen, of a tensor or an array."""
    return behind >= 0 if window is None else (behind >= 0) & (behind < window)


def common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Tokens that all prompts begin with; each keeps at least one of its own, whose logits are needed."""
    if not prompts:
        return 0
    first, last = min(prompts), max(prompts)  # in lexicographic order these two differ first
    n = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    return min(n, min(map(len, prompts)) - 1)


def _cuts(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in their order, cut so that rows x longest stays within the budget."""
    out: list[list[int]] = []
    longest = 0
    for i, n in enumerate(lengths):
        longest = max(longest, n)
        if out and (len(out[-1]) + 1) * longest <= budget:
            out[-1].append(i)
        else:
            out.append([i])
            longest = n
    return out
