"""Number formats: decided by timing, never for trained weights, and said when they do not exist."""

from __future__ import annotations

import pytest
import torch

from valign.errors import ModelError, UsageError
from valign.models import precision

CPU = torch.device("cpu")


@pytest.fixture
def timing(monkeypatch):
    """Set what a float32 and a bfloat16 product take."""

    def settle(slow: float, fast: float) -> None:
        monkeypatch.setattr(
            precision, "product_seconds", {torch.float32: slow, torch.bfloat16: fast}.__getitem__
        )
        precision.bfloat16_is_fast.cache_clear()

    yield settle
    precision.bfloat16_is_fast.cache_clear()


def test_auto_follows_the_clock(timing):
    timing(2.0, 1.0)
    assert precision.pick_dtype("auto", CPU, trained=False) == torch.bfloat16
    assert precision.pick_dtype("auto", CPU, trained=True) == torch.float32
    timing(1.0, 1.0)
    assert precision.pick_dtype("auto", CPU, trained=False) == torch.float32


def test_names_and_devices():
    assert precision.pick_dtype(torch.float64, CPU, trained=True) == torch.float64
    with pytest.raises(UsageError, match="bfloat16"):
        precision.pick_dtype("bf16", CPU, trained=False)
    assert precision.pick_device("cpu") == CPU and precision.pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ModelError, match="device 'warp' is not usable"):
        precision.pick_device("warp")


def test_the_timing_is_short():
    import time

    start = time.perf_counter()
    assert precision.product_seconds(torch.float32) > 0
    assert time.perf_counter() - start < 2  # half of BUDGET, on a busy machine
