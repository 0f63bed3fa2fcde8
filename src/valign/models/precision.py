"""Which number format a model is loaded in.

Always true here: "auto" is float32 unless bfloat16 is both wanted (a model that is not being trained further)
and fast on this device, decided by timing and not by a processor's name (engine notes section 15).
"""

from __future__ import annotations

import os
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from valign.errors import ModelError, unknown

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
GAIN = 1.3  # bfloat16 must be this much faster: it costs accuracy, and shared machines time unevenly
TIMED_SHAPE = (128, 768, 2048)  # tokens, width, hidden: a layer of a small model
BUDGET = 0.2  # seconds for both formats together


def pick_device(device: str | torch.device) -> torch.device:
    """The device by name; "auto" is the first GPU (under torchrun each process's own), else the CPU.

    Raises `ModelError` for others.
    """
    import torch

    if str(device) in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if str(device) == "auto":
        return torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {str(device)!r} is not usable: {reason}", where="device") from error
    return chosen


def pick_dtype(dtype: str | torch.dtype, device: torch.device, *, trained: bool) -> torch.dtype:
    """The number format by name.

    trained   the weights were trained by valign: "auto" keeps their float32, since bfloat16 flips small
              margins
    Raises `UsageError` for an unknown name.
    """
    import torch

    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise unknown("dtype", name, DTYPES)
    if name != "auto":
        chosen = getattr(torch, name)
        assert isinstance(chosen, torch.dtype)
        return chosen
    if trained or not bfloat16_is_fast(device.type):
        return torch.float32
    return torch.bfloat16


@lru_cache(maxsize=8)
def bfloat16_is_fast(device_type: str) -> bool:
    """Whether this device multiplies bfloat16 natively: by what a GPU says, by a short timing on a CPU."""
    import torch

    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device_type != "cpu":
        return False
    slow, fast = product_seconds(torch.float32), product_seconds(torch.bfloat16)
    return slow > GAIN * fast


def product_seconds(dtype: torch.dtype) -> float:
    """Seconds of a matrix product of a layer's size: the best of many, lest a busy machine decide."""
    import torch

    rows, width, hidden = TIMED_SHAPE
    inputs, weight = torch.ones(rows, width, dtype=dtype), torch.ones(hidden, width, dtype=dtype)
    best, end = float("inf"), time.perf_counter() + BUDGET / 2
    with torch.inference_mode():
        torch.nn.functional.linear(inputs, weight)  # the first call builds the kernel
        while time.perf_counter() < end:
            start = time.perf_counter()
            torch.nn.functional.linear(inputs, weight)
            best = min(best, time.perf_counter() - start)
    return best
