"""The meter: added memory does not depend on what ran before; CUDA is waited for, and its peaks are those of the block."""

from __future__ import annotations

import multiprocessing
import time

import numpy as np
import pytest

from valign.pipeline import meter
from valign.pipeline.meter import Spent, spent

MB = 2**20


def work(megabytes, left):
    """Hold so many megabytes in blocks of 64 KB long enough to be seen; small ones between them stay, as results do, and keep
    the freed blocks in the process."""
    held = []
    for _ in range(16 * megabytes):
        held.append(np.ones(MB // 16 // 8))
        left.append(np.ones(16))
    time.sleep(3 * meter.INTERVAL)


def points(sizes):
    """Added megabytes of one point after the other."""
    left, added = [], []
    for size in sizes:
        with spent() as used:
            work(size, left)
        added.append(used.added_memory_bytes / MB)
        assert used.peak_memory_bytes > used.added_memory_bytes
    return added


@pytest.mark.parametrize("sizes", [(40, 160, 40), (160, 40, 160)])
def test_equal_points_in_any_order_agree(sizes):
    """Small, large, small and the other way round: each is what it holds, to a few megabytes. In a process of their own:
    other tests leave room that would be used first."""
    with multiprocessing.get_context("spawn").Pool(1) as alone:
        first, other, again = found = alone.apply(points, (sizes,))
    assert found == pytest.approx(sizes, abs=12)
    assert first == pytest.approx(again, abs=12) and (first > other) == (sizes[0] > sizes[1])


def peaks():
    """Peaks in megabytes: a block that frees what it held, and a small one after it, where the process keeps freed memory."""
    import torch

    from valign.engine.allocator import keep_freed_memory

    kept, out = keep_freed_memory(), []
    for megabytes in (400, 10):
        with spent() as used:
            held = [torch.ones(MB) for _ in range(megabytes // 4)]
            time.sleep(3 * meter.INTERVAL)
            del held
        out.append(used.peak_memory_bytes / MB)
    return kept, *out


def test_what_an_earlier_block_left_is_not_a_later_ones_peak():
    with multiprocessing.get_context("spawn").Pool(1) as alone:
        kept, large, small = alone.apply(peaks)
    if not kept:
        pytest.skip("this C library keeps no freed memory")
    assert large - small > 350


def test_two_prices_together_have_the_higher_peaks():
    both = Spent(1.0, 5, added_memory_bytes=3) + Spent(2.0, 4, added_memory_bytes=4)
    assert (both.seconds, both.peak_memory_bytes, both.added_memory_bytes) == (3.0, 5, 4)
    assert both.to_json()["added_memory_bytes"] == 4


class Cuda:
    """What the meter asks of torch.cuda, on two devices of which the second is never touched."""

    def __init__(self):
        self.now, self.peak, self.calls = {0: 0, 1: 0}, {0: 0, 1: 0}, []

    def hold(self, size):
        self.now[0] += size
        self.peak[0] = max(self.peak[0], self.now[0])

    def is_initialized(self):
        return True

    def device_count(self):
        return 2

    def memory_allocated(self, d):
        return self.now[d]

    def max_memory_allocated(self, d):
        return self.peak[d]

    def reset_peak_memory_stats(self, d):
        self.calls.append(("reset", d))
        self.peak[d] = self.now[d]

    def synchronize(self, d):
        self.calls.append(("wait", d))


@pytest.fixture
def cuda(monkeypatch):
    import torch

    fake = Cuda()
    for name in ("is_initialized", "device_count", "memory_allocated", "max_memory_allocated", "reset_peak_memory_stats",
                 "synchronize"):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    monkeypatch.setattr(meter, "INTERVAL", 60.0)  # the peaks are counted by the device: nothing has to look
    return fake


def test_on_a_gpu_the_peak_is_the_blocks_own(cuda):
    """1000 stood there; an earlier block reached 9000; this one adds 300 and gives 200 back."""
    cuda.hold(9000)
    cuda.hold(-8000)
    with spent() as used:
        cuda.hold(300)
        cuda.hold(-200)
    assert (used.peak_memory_bytes, used.added_memory_bytes) == (1300, 300)
    assert cuda.calls == [("wait", 0), ("reset", 0), ("wait", 0)], "waited for at both ends; an idle device is not started"


def test_a_block_within_a_block_does_not_take_its_peak(cuda):
    """The inner one begins anew after the outer one's peak; the outer one knows both."""
    cuda.hold(100)
    with spent() as outer:
        cuda.hold(500)
        cuda.hold(-450)
        with spent() as inner:
            cuda.hold(30)
            cuda.hold(-30)
        with spent() as second:
            cuda.hold(700)
            cuda.hold(-700)
    assert (inner.peak_memory_bytes, inner.added_memory_bytes) == (180, 30)
    assert (second.peak_memory_bytes, second.added_memory_bytes) == (850, 700)
    assert (outer.peak_memory_bytes, outer.added_memory_bytes) == (850, 750)
    assert meter._open == []


def test_a_model_that_is_loaded_within_the_block_counts(cuda):
    with spent() as used:
        cuda.hold(400)
        cuda.hold(-400)
    assert (used.peak_memory_bytes, used.added_memory_bytes) == (400, 400)


def test_a_block_that_fails_ends_its_meter(cuda):
    cuda.hold(10)
    with pytest.raises(RuntimeError), spent():
        raise RuntimeError
    assert meter._open == [] and cuda.calls[-1] == ("reset", 0), "a device that may have failed is not waited for"
