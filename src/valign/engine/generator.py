"""The generator: samples for many prompts from one model.

Each distinct prompt is computed once and its cache is forked to its samples; a row that ends gives its place to the next
sample at once. Every token carries two log-probs: `raw` (temperature 1, full support), equal to what the scorer would
say, and `law` (what it was drawn from). A sample depends on its address (seed, key, index) and on nothing else in the
batch; so where memory runs out, fewer samples begin again side by side, and come out the same.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from valign.engine.allocator import is_out_of_memory
from valign.engine.attention import Attention, attention_of
from valign.engine.prefix import caches_kept
from valign.engine.sampling import draw, sampling_law, uniforms
from valign.engine.scorer import causal_lm, positions_of
from valign.engine.slots import SlotDecoder
from valign.engine.stock import StockDecoder
from valign.errors import ValignError
from valign.models.policy import Sample, Sampling

log = logging.getLogger(__name__)
ROWS = 32  # samples decoded side by side; a unit of memory, never of meaning


@dataclass
class _Row:
    """One sample on its way."""

    prompt: int
    index: int
    uniform: np.ndarray[Any, Any]
    ids: list[int] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)
    law: list[float] = field(default_factory=list)
    finish: str = ""


class Generator:
    """Samples from one model.

    model           a transformers causal LM, with or without adapters
    stop_ids        tokens that end a response (kept as its last token)
    decode          ids -> text, for stop texts and for people
    allowed_tokens  the policy's own restriction of the vocabulary, None for all
    rows            samples decoded side by side
    """

    def __init__(
        self,
        model: Any,
        *,
        stop_ids: Sequence[int],
        decode: Callable[[Sequence[int]], str],
        allowed_tokens: Sequence[int] | None = None,
        rows: int = ROWS,
    ) -> None:
        self.model, self.stop_ids, self.decode, self.rows = model, frozenset(stop_ids), decode, rows
        self.allowed = None if allowed_tokens is None else torch.as_tensor(list(allowed_tokens))
        config = causal_lm(model).config
        self.attention: Attention = attention_of(config)
        self.longest = positions_of(config)

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        keys: Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Sample]]:
        """`sampling.n` samples for each prompt (a list of token ids), in the order given."""
        keys = [str(i) for i in range(len(prompts))] if keys is None else list(keys)
        for key, prompt in zip(keys, prompts):
            self._check(key, prompt, sampling)
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))  # like lengths are computed together
        rows = [
            _Row(p, i, uniforms(sampling.seed, keys[p], i, sampling.max_new_tokens))
            for p in order
            for i in range(sampling.n)
        ]
        out: list[list[Sample]] = [[None] * sampling.n for _ in prompts]  # type: ignore[list-item]
        with caches_kept(self.model):
            for done, row in enumerate(self._run([tuple(p) for p in prompts], rows, sampling, keys), 1):
                out[row.prompt][row.index] = self._sample(row, sampling)
                if progress is not None:
                    progress(done, len(rows))
        return out

    def _run(
        self, prompts: Sequence[tuple[int, ...]], rows: Sequence[_Row], sampling: Sampling, keys: Sequence[str]
    ) -> Iterator[_Row]:
        """Decode all rows; each is given back when it ends. Where memory runs out, those that run begin again, half as
        many side by side."""
        queue, live, most = deque(rows), list[_Row](), min(self.rows, len(rows))
        while queue:
            try:
                yield from self._decode(prompts, queue, live, most, sampling)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if most == 1:
                    raise ValignError(
                        "out of memory on a single sample",
                        where=f"prompt {keys[[*live, *queue][0].prompt]}",
                        how="shorten the prompt, lower max_new_tokens, or use a smaller model",
                    ) from error
                most = max(1, len(live) // 2)
                log.warning("out of memory: rows are halved, to at most %d samples side by side", most)
                queue.extendleft(_Row(row.prompt, row.index, row.uniform) for row in reversed(live))
                live.clear()

    def _decode(
        self, prompts: Sequence[tuple[int, ...]], queue: deque[_Row], live: list[_Row], most: int, sampling: Sampling
    ) -> Iterator[_Row]:
        """Decode the rows of `queue` until it is empty, at most `most` at a time. live: here, those that run."""
        decoder: Any = SlotDecoder(self.model, most) if self.attention.path == "row" else StockDecoder(self.model)
        decoder.share(list(dict.fromkeys(prompts[row.prompt] for row in queue)))
        waiting = Counter(prompts[row.prompt] for row in queue)
        while queue or live:
            if queue and (len(live) < most if decoder.refills else not live):
                fresh = [queue.popleft() for _ in range(min(len(queue), most - len(live)))]
                live += fresh
                starts = [prompts[row.prompt] for row in fresh]
                waiting.subtract(starts)
                self._pick(decoder.admit(starts, waiting), fresh, sampling)
            else:
                logits = decoder.step(torch.tensor([row.ids[-1] for row in live], device=decoder.device))
                self._pick(logits, live, sampling)
            if any(row.finish for row in live):
                ended = [row for row in live if row.finish]
                order = _closed_up([not row.finish for row in live])
                live[:] = [live[i] for i in order]
                yield from ended
                decoder.select(order)

    def _check(self, key: str, prompt: Sequence[int], sampling: Sampling) -> None:
        if not len(prompt):
            raise ValignError("the prompt has no tokens", where=f"prompt {key}", how="give it text or a start token")
        if len(prompt) + sampling.max_new_tokens > self.longest:
            raise ValignError(
                f"{len(prompt)} prompt tokens and max_new_tokens={sampling.max_new_tokens} exceed the model's "
                f"{self.longest} positions",
                where=f"prompt {key}",
                how="shorten the prompt or lower max_new_tokens",
            )
        switch = self.attention.switch
        if switch and len(prompt) <= switch < len(prompt) + sampling.max_new_tokens:
            raise ValignError(
                f"{len(prompt)} prompt tokens and max_new_tokens={sampling.max_new_tokens} cross {switch} tokens, where this "
                f"model's rotary factors change (long-rope): the cache of a sample would hold those of a shorter text",
                where=f"prompt {key}",
                how=f"lower max_new_tokens to {switch - len(prompt)}" if len(prompt) < switch else "shorten the prompt",
            )

    def _pick(self, logits: Tensor, rows: Sequence[_Row], sampling: Sampling) -> None:
        """Draw the next token of every row, note both log-probs, mark the rows that end."""
        z = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
        if self.allowed is not None:
            closed = torch.ones(z.shape[1], dtype=torch.bool, device=z.device)
            closed[self.allowed.to(z.device)] = False
            z = z.masked_fill(closed, float("-inf"))
        log_p = z - z.logsumexp(-1, keepdim=True)
        law = log_p if sampling.is_plain else sampling_law(z, sampling)
        if sampling.temperature == 0:
            token = z.argmax(-1)
        else:
            token = draw(law, torch.as_tensor([row.uniform[len(row.ids)] for row in rows], device=z.device))
        pick = token[:, None]
        noted = torch.cat([log_p.gather(1, pick), law.gather(1, pick)], 1).tolist()
        for row, t, (raw, drawn) in zip(rows, token.tolist(), noted):
            row.ids.append(t)
            row.raw.append(raw)
            row.law.append(drawn)
            if t in self.stop_ids or (sampling.stop and self._stopped(row, sampling.stop)):
                row.finish = "stop"
            elif len(row.ids) == sampling.max_new_tokens:
                row.finish = "length"

    def _stopped(self, row: _Row, stop: Sequence[str]) -> bool:
        text = self.decode(row.ids)
        return any(s in text for s in stop)

    def _sample(self, row: _Row, sampling: Sampling) -> Sample:
        text = self.decode(row.ids)
        cuts = [text.index(s) for s in sampling.stop if s in text]
        wide = np.float64 if next(self.model.parameters()).dtype == torch.float64 else np.float32
        return Sample(
            text=text[: min(cuts)] if cuts else text,
            ids=tuple(row.ids),
            raw=np.asarray(row.raw, wide),  # type: ignore[arg-type]
            law=np.asarray(row.law, wide),  # type: ignore[arg-type]
            finish="stop" if row.finish == "stop" else "length",
        )


def _closed_up(stays: Sequence[bool]) -> list[int]:
    """The rows that stay, in an order that moves as few as possible: those behind fill the gaps before them."""
    n = sum(stays)
    behind = [i for i in range(n, len(stays)) if stays[i]]
    return [i if stays[i] else behind.pop() for i in range(n)]
