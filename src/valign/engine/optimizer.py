"""The update: AdamW, learning-rate schedules, global-norm clipping.

Weights that are updated are float32 (float64 in tests): bf16 weights do not move at alignment step sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from valign.engine.shards import is_shard

Schedule = Literal["constant", "linear", "cosine"]
FLOOR = 0.1  # cosine ends at this share of the peak


def learning_rate(step: int, steps: int, *, peak: float, warmup: float, schedule: Schedule) -> float:
    """The rate of 0-based `step`: linear from 0 over `warmup` (a share of `steps`), then the schedule.

    cosine falls to 10 % of the peak, linear to 0, constant stays.
    """
    warm = math.ceil(warmup * steps)
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    if schedule == "constant":
        return peak
    done = (step - warm) / max(1, steps - warm)
    if schedule == "linear":
        return peak * (1 - done)
    return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))


def adamw(model: nn.Module, *, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable weights; norms, biases and embeddings are not decayed."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for p in trainable(model).values():
        (plain if p.ndim < 2 or id(p) in embeddings else decayed).append(p)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=True)


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes, by name."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def clip(parameters: Iterable[Tensor], limit: float) -> float:
    """Scale all gradients so that their global norm is at most `limit`; returns the norm before."""
    grads = [p.grad for p in parameters if p.grad is not None]
    total = torch.nn.utils.get_total_norm(grads) if grads else torch.zeros(())
    norm = float(total.full_tensor() if is_shard(total) else total)  # type: ignore[attr-defined]
    if math.isfinite(norm) and limit > 0 and norm > limit:
        torch._foreach_mul_(grads, limit / (norm + 1e-6))  # type: ignore[arg-type]
    return norm


def state_tensors(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> dict[str, Tensor]:
    """The optimizer's state as named tensors. `names`: id of a parameter -> its name."""
    out: dict[str, Tensor] = {}
    for p, state in optimizer.state.items():
        for key, value in state.items():
            out[f"{names[id(p)]}/{key}"] = torch.as_tensor(value)
    return out


def load_state(optimizer: torch.optim.Optimizer, names: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """The inverse of `state_tensors`. `names`: name -> parameter."""
    for name, value in tensors.items():
        parameter, key = name.rsplit("/", 1)
        state: dict[str, Any] = optimizer.state[names[parameter]]
        state[key] = value.to(names[parameter].device).clone()
