"""The generator: samples for many prompts from one model.

Each distinct prompt is prefilled once and its cache is forked to its samples; rows that finish leave the batch. Every
token carries two log-probs: `raw` (temperature 1, full support), equal to what the scorer would say, and `law` (what it
was drawn from). A sample depends on its address (seed, key, index) and on nothing else in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from valign.engine.attention import NO_TREE, attention_of
from valign.engine.sampling import draw, sampling_law, uniforms
from valign.engine.scorer import causal_lm, positions_of
from valign.errors import ValignError
from valign.models.policy import Sample, Sampling

ROWS = 32  # samples decoded side by side; a unit of memory, never of meaning
SHARED = 32  # a common prefix shorter than this is not worth a forward pass of its own
_COMPACT = 0.75  # rows are dropped from the cache once fewer than this share is still running


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
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        self.forkable = str(getattr(text, "model_type", "")) not in NO_TREE or text.model_type in ("bloom", "falcon")
        self.windowed = attention_of(config).window is not None
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
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))  # like lengths prefill together
        todo = [(p, i) for p in order for i in range(sampling.n)]
        out: list[list[Sample]] = [[None] * sampling.n for _ in prompts]  # type: ignore[list-item]
        for at in range(0, len(todo), self.rows):
            rows = [
                _Row(p, i, uniforms(sampling.seed, keys[p], i, sampling.max_new_tokens))
                for p, i in todo[at : at + self.rows]
            ]
            self._decode(prompts, rows, sampling)
            for row in rows:
                out[row.prompt][row.index] = self._sample(row, sampling)
            if progress is not None:
                progress(min(at + self.rows, len(todo)), len(todo))
        return out

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

    def _decode(self, prompts: Sequence[Sequence[int]], rows: list[_Row], sampling: Sampling) -> None:
        logits, cache, mask = self._prefill(prompts, rows)
        live = list(rows)
        slot = list(range(len(rows)))  # where each live row stands in the cache
        for step in range(sampling.max_new_tokens):
            token = self._pick(logits[torch.as_tensor(slot, device=logits.device)], live, sampling, step)
            keep = [i for i, row in enumerate(live) if not row.finish]
            if not keep or step + 1 == sampling.max_new_tokens:
                break
            feed = torch.zeros(mask.shape[0], dtype=torch.long, device=mask.device)
            feed[torch.as_tensor(slot, device=mask.device)] = token
            live, slot = [live[i] for i in keep], [slot[i] for i in keep]
            if len(live) < _COMPACT * mask.shape[0] and hasattr(cache, "batch_select_indices"):
                index = torch.as_tensor(slot, device=mask.device)
                cache.batch_select_indices(index)
                mask, feed, slot = mask[index], feed[index], list(range(len(live)))
            mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], 1)
            out = causal_lm(self.model)(
                input_ids=feed[:, None],
                attention_mask=mask,
                position_ids=(mask.sum(1) - 1)[:, None],
                past_key_values=cache,
                use_cache=True,
            )
            logits, cache = out.logits[:, -1], out.past_key_values
        for row in rows:
            row.finish = row.finish or "length"

    def _prefill(self, prompts: Sequence[Sequence[int]], rows: list[_Row]) -> tuple[Tensor, Any, Tensor]:
        """(last logits, cache, mask) with one line per row; each distinct prompt is computed once."""
        distinct: dict[tuple[int, ...], int] = {}
        which = [distinct.setdefault(tuple(prompts[r.prompt]), len(distinct)) for r in rows]
        lines = list(distinct) if self.forkable else [tuple(prompts[r.prompt]) for r in rows]
        device = next(self.model.parameters()).device
        shared = self._shared_prefix(lines)
        rests = [p[shared:] for p in lines]
        longest = max(len(p) for p in rests)
        ids = torch.zeros(len(lines), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, p in enumerate(rests):  # left padding: window arithmetic counts cache slots, not positions
            ids[i, longest - len(p) :], mask[i, longest - len(p) :] = torch.as_tensor(p), 1
        ids, mask = ids.to(device), mask.to(device)
        before = None
        if shared:
            prefix = torch.as_tensor(lines[0][:shared], device=device)[None]
            before = causal_lm(self.model)(input_ids=prefix, use_cache=True, logits_to_keep=1).past_key_values
            before.batch_repeat_interleave(len(lines))
            mask = torch.cat([mask.new_ones(len(lines), shared), mask], 1)
        out = causal_lm(self.model)(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, shared:],
            past_key_values=before,
            use_cache=True,
            logits_to_keep=1,
        )
        if getattr(out, "past_key_values", None) is None:
            kind = causal_lm(self.model).config.model_type
            raise ValignError(
                f"models of kind {kind!r} have no key-value cache to sample from",
                where="generator",
                how="they can be scored; sample from an attention model",
            )
        logits, cache = out.logits[:, -1], out.past_key_values
        if self.forkable and which != list(range(len(lines))):
            index = torch.as_tensor(which, device=device)
            cache.batch_select_indices(index)
            logits, mask = logits[index], mask[index]
        return logits, cache, mask

    def _shared_prefix(self, lines: Sequence[tuple[int, ...]]) -> int:
        """Tokens that all prompts begin with and that are computed once (few-shot examples, a long system turn).

        0 where that would save little, and for windowed attention: padding then stands between the prefix and the
        rest, and a window counts slots.
        """
        if not self.forkable or self.windowed or len(lines) < 2:
            return 0
        first, last = min(lines), max(lines)  # in lexicographic order these two differ first
        n = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
        n = min(n, min(len(p) for p in lines) - 1)  # every prompt keeps a token of its own: its logits are needed
        return n if n >= SHARED else 0

    def _pick(self, logits: Tensor, live: list[_Row], sampling: Sampling, step: int) -> Tensor:
        """Draw the next token of every live row, note both log-probs, mark the rows that end."""
        z = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
        if self.allowed is not None:
            closed = torch.ones(z.shape[1], dtype=torch.bool, device=z.device)
            closed[self.allowed.to(z.device)] = False
            z = z.masked_fill(closed, float("-inf"))
        law = sampling_law(z, sampling)
        if sampling.temperature == 0:
            token = z.argmax(-1)
        else:
            token = draw(law, torch.as_tensor([row.uniform[step] for row in live], device=z.device))
        pick = token[:, None]
        raw = (z.gather(1, pick).squeeze(1) - z.logsumexp(-1)).tolist()
        drawn = law.gather(1, pick).squeeze(1).tolist()
        for row, t, r, w in zip(live, token.tolist(), raw, drawn):
            row.ids.append(t)
            row.raw.append(r)
            row.law.append(w)
            if t in self.stop_ids or (sampling.stop and self._stopped(row, sampling.stop)):
                row.finish = "stop"
        return token

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
