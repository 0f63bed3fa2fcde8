"""The head, only where a number is needed.

Hidden rows at scored positions become log-probs of given targets in chunks; what is kept for the backward pass is the
hidden rows and one log-sum-exp each, never a row of the vocabulary. One row may score many targets (the first tokens of
all branches): it is computed once and gathered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Int = NDArray[np.int64]
SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # names of it in configs
CHUNK_BYTES = 64 * 2**20  # vocabulary rows held at once, values and gradients, float32


@dataclass(frozen=True)
class HeadSpec:
    """What a model does between its last hidden state and its probabilities.

    scale        logits are multiplied by it          softcap   c in c * tanh(z / c), None without
    temperature  logits are divided by it             chunk     rows at once, None: from the memory budget
    """

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0
    chunk: int | None = None


def head_spec(config: Any, temperature: float = 1.0) -> HeadSpec:
    """Read the head's extras from a transformers config (Gemma soft-cap, Cohere scale, Granite divisor)."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale = float(getattr(text, "logit_scale", None) or 1.0)
    if getattr(text, "logits_scaling", None):
        scale /= float(text.logits_scaling)
    softcap = next((c for name in SOFTCAPS if (c := getattr(text, name, None))), None)
    return HeadSpec(scale, softcap, temperature)


def token_log_probs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    row: Int | Tensor,
    target: Tensor,
    spec: HeadSpec,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """log softmax(f(hidden W^T + bias) / temperature)[target] for pairs (row, target).

    hidden  (n, d) hidden rows        weight  (V, d)     bias  (V,) or None
    dtype   of the matrix products, None: the weight's. The gradient of the weight is summed in, and returned as, the
            weight's own
    row     (m,) which hidden row a pair reads, sorted upward; target  (m,) token id. A row on a device is read back
            once, to count the pairs of each chunk; an array costs no such wait
    Returns (m,) log-probs in nats, float32 (float64 for float64 input).
    """
    chunk = spec.chunk or max(1, CHUNK_BYTES // (8 * weight.shape[0]))
    starts, on_device = _starts(row, len(hidden), chunk), torch.as_tensor(row, device=hidden.device)
    given = (hidden, weight, bias, on_device, target, spec, chunk, starts, dtype or weight.dtype)
    return _LogProbs.apply(*given)  # type: ignore[no-any-return]


def wrapped_log_probs(
    head: torch.nn.Module, hidden: Tensor, allowed: Tensor | None, row: Int | Tensor, target: Tensor, spec: HeadSpec
) -> Tensor:
    """`token_log_probs` for a head that is more than its weight (an adapter on it, a quantized one): the module
    itself is called, chunk by chunk, and called again for the gradient. Slower, same numbers.

    allowed  ids of the restricted vocabulary, which `target` counts in; None for all
    """

    def part(h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        z = head(h)
        z, _ = _finished(z if allowed is None else z[:, allowed], spec)
        return z[r, t] - z.logsumexp(-1)[r]

    n, chunk = len(hidden), spec.chunk or 1024
    starts, row = _starts(row, n, chunk), torch.as_tensor(row, device=hidden.device)
    cuts = [(at, a, b) for at, a, b in zip(range(0, n, chunk), starts, starts[1:])]
    parts = [
        checkpoint(part, hidden[at : at + chunk], row[a:b] - at, target[a:b], use_reentrant=False) for at, a, b in cuts
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=_wide(hidden))


def _starts(row: Int | Tensor, n: int, chunk: int) -> list[int]:
    """The first pair of each chunk of `chunk` of `n` hidden rows, and the end."""
    host = row.cpu().numpy() if isinstance(row, Tensor) else row
    return np.searchsorted(host, np.arange(0, n + chunk, chunk)).tolist()  # type: ignore[no-any-return]


def scalars(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden W^T for a head of width 1: (n,) float32 (float64 for float64 input), products included.

    hidden  (n, d) hidden rows        weight  (1, d)
    """
    wide = _wide(hidden)
    return (hidden.to(wide) @ weight.to(wide).T).squeeze(-1)


def last_logits(model: Any, hidden: Tensor, spec: HeadSpec) -> Tensor:
    """(rows, V) finished logits of a causal LM at given hidden rows, float32 (float64 for float64 models)."""
    return _finished(model.get_output_embeddings()(hidden), spec)[0]


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _logits(h: Tensor, weight: Tensor, bias: Tensor | None, spec: HeadSpec) -> tuple[Tensor, Tensor | None]:
    """(logits in float32, d logits / d z where it is not constant)."""
    z = (h @ weight.T).to(_wide(h))
    return _finished(z if bias is None else z + bias.to(z.dtype), spec)


def _finished(z: Tensor, spec: HeadSpec) -> tuple[Tensor, Tensor | None]:
    """Scale, soft-cap and temperature on what the head gave. A pass over the vocabulary that changes nothing is left
    out: it costs as much as half of the product."""
    z = z.to(_wide(z))
    if spec.scale != 1.0:
        z = z * spec.scale
    slope = None
    if spec.softcap is not None:
        t = torch.tanh(z / spec.softcap)
        z, slope = spec.softcap * t, 1 - t * t
    return z if spec.temperature == 1.0 else z / spec.temperature, slope


class _LogProbs(torch.autograd.Function):
    """Chunked log-softmax at targets; the backward pass recomputes each chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, row: Tensor, target: Tensor,
                spec: HeadSpec, chunk: int, starts: list[int], dtype: torch.dtype) -> Tensor:  # fmt: skip
        n, narrow, ctx.dtypes = hidden.shape[0], weight.to(dtype), (hidden.dtype, weight.dtype)
        hidden = hidden.to(dtype)
        out = torch.empty(row.shape[0], dtype=_wide(hidden), device=hidden.device)
        lse = torch.empty(n, dtype=out.dtype, device=hidden.device)
        for i, at in enumerate(range(0, n, chunk)):
            z, _ = _logits(hidden[at : at + chunk], narrow, bias, spec)
            lse[at : at + chunk] = z.logsumexp(-1)
            a, b = starts[i], starts[i + 1]
            out[a:b] = z[row[a:b] - at, target[a:b]] - lse[row[a:b]]
        ctx.save_for_backward(hidden, narrow, bias, row, target, lse)
        ctx.spec, ctx.chunk, ctx.starts = spec, chunk, starts
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        hidden, weight, bias, row, target, lse = ctx.saved_tensors
        spec, chunk = ctx.spec, ctx.chunk
        total = torch.zeros_like(lse).index_add_(0, row, grad.to(lse.dtype))
        dh = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        dw: Tensor | None = None
        db = torch.zeros(bias.shape, dtype=lse.dtype, device=bias.device) if ctx.needs_input_grad[2] else None
        for i, at in enumerate(range(0, hidden.shape[0], chunk)):
            h = hidden[at : at + chunk]
            z, slope = _logits(h, weight, bias, spec)
            a, b = ctx.starts[i], ctx.starts[i + 1]
            # in place: a tensor as large as the logits is what this chunk may hold, not three
            dz = z.sub_(lse[at : at + chunk, None]).exp_().mul_(-total[at : at + chunk, None])
            dz.index_put_((row[a:b] - at, target[a:b]), grad[a:b].to(dz.dtype), accumulate=True)
            if slope is not None:
                dz *= slope
            if spec.scale != spec.temperature:
                dz *= spec.scale / spec.temperature
            if db is not None:
                db += dz.sum(0)
            dz = dz.to(weight.dtype)
            if dh is not None:
                dh[at : at + chunk] = dz @ weight
            if ctx.needs_input_grad[1]:
                part = dz.T @ h
                # sums over chunks stay wide: a bf16 accumulator would round away the late chunks
                dw = part.to(_wide(part)) if dw is None else dw.add_(part)
        if dw is None and ctx.needs_input_grad[1]:
            dw = torch.zeros_like(weight)
        of_hidden, of_weight = ctx.dtypes
        dh = dh if dh is None else dh.to(of_hidden)
        db = db.to(bias.dtype) if db is not None else None
        return dh, dw if dw is None else dw.to(of_weight), db, None, None, None, None, None, None
