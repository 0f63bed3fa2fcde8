"""What a piece of work cost: wall-clock seconds and the highest memory meanwhile.

Memory is what this process allocated on its GPUs where it uses CUDA, as torch counts it; else the resident size of the
process, looked at every `INTERVAL` seconds.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valign.models.policy import Cost

INTERVAL = 0.05  # seconds between two looks at the memory


@dataclass
class Spent:
    """Up to date while the block runs, final when it ends.

    peak_memory_bytes    the highest meanwhile, with all that stood in memory before
    added_memory_bytes   by how much that exceeds what was held when the block began
    """

    seconds: float = 0.0
    peak_memory_bytes: int = 0
    cost: Cost = Cost()  # noqa: RUF009 - frozen
    added_memory_bytes: int = 0

    def to_json(self) -> dict[str, float]:
        """JSON; what only endpoints have (requests sent again, given up, money) stands there where it is not 0."""
        return {
            "seconds": round(self.seconds, 3),
            "tokens_read": self.cost.tokens_read,
            "tokens_generated": self.cost.tokens_generated,
            "tokens_trained": self.cost.tokens_trained,
            "peak_memory_bytes": self.peak_memory_bytes,
            "added_memory_bytes": self.added_memory_bytes,
            **{k: v for k in ("retries", "unanswered", "money") if (v := round(getattr(self.cost, k), 9))},
        }

    @classmethod
    def read(cls, path: Path) -> Spent:
        """What a file holds of `to_json`; nothing where there is none, or where it is not whole."""
        try:
            row = dict(json.loads(path.read_text(encoding="utf-8")))
            cost = Cost(
                tokens_read=int(row["tokens_read"]), tokens_generated=int(row["tokens_generated"]),
                tokens_trained=int(row["tokens_trained"]), retries=int(row.get("retries", 0)),
                unanswered=int(row.get("unanswered", 0)), money=float(row.get("money", 0.0)),
            )  # fmt: skip
            added = int(row.get("added_memory_bytes", 0))
            return cls(float(row["seconds"]), int(row["peak_memory_bytes"]), cost, added)
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.seconds + other.seconds,
            max(self.peak_memory_bytes, other.peak_memory_bytes),
            self.cost + other.cost,
            max(self.added_memory_bytes, other.added_memory_bytes),
        )


@contextmanager
def spent() -> Iterator[Spent]:
    """Measure the block; blocks may stand in each other. An outermost one begins without what earlier ones left to the process:
    else its peak would be theirs. CUDA is waited for at both ends: it works behind the program's back."""
    out, done = Spent(), threading.Event()
    memory = _Memory(out)

    def watch() -> None:
        while not done.wait(INTERVAL):
            memory.look()

    watcher = threading.Thread(target=watch, daemon=True)
    began = time.perf_counter()
    watcher.start()
    try:
        yield out
        _wait()
    finally:
        done.set()
        watcher.join()
        out.seconds = time.perf_counter() - began
        memory.close()


def _release() -> None:
    """Give what nothing uses any more back to the system: freed memory is kept for the next tensors (`engine.allocator`), and
    would count for whatever runs next."""
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)  # glibc's; other libraries keep no such reserve


_open: list[_Memory] = []  # a device has one peak counter: a block that sets it back tells the blocks around it first
_turn = threading.RLock()


class _Memory:
    """The memory of one block, from its beginning to `close`."""

    def __init__(self, out: Spent) -> None:
        import psutil

        self.out, self.process = out, psutil.Process()
        _wait()
        with _turn:
            if not _open:
                _release()
            _tell_device_peak()
            if (cuda := _cuda()) is not None:
                for d in _devices(cuda):
                    cuda.reset_peak_memory_stats(d)
            self.device = self.device_before = _allocated()
            self.host = self.host_before = int(self.process.memory_info().rss)
            _open.append(self)
        self.look()

    def look(self) -> None:
        """Bring `out` up to date."""
        with _turn:
            _tell_device_peak()
            self.host = max(self.host, int(self.process.memory_info().rss))
            on_device = self.device > 0
            self.out.peak_memory_bytes = self.device if on_device else self.host
            self.out.added_memory_bytes = (
                self.device - self.device_before if on_device else self.host - self.host_before
            )

    def close(self) -> None:
        self.look()
        with _turn:
            _open.remove(self)


def _cuda() -> Any:
    """torch.cuda where this process uses it, else None. Asking imports nothing and starts nothing."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _devices(cuda: Any) -> list[int]:
    """Those that hold or held tensors of this process: to ask another one would start it."""
    return [d for d in range(cuda.device_count()) if cuda.max_memory_allocated(d)]


def _wait() -> None:
    if (cuda := _cuda()) is not None:
        for d in _devices(cuda):
            cuda.synchronize(d)


def _allocated() -> int:
    """Bytes of tensors on all devices now."""
    cuda = _cuda()
    return sum(cuda.memory_allocated(d) for d in _devices(cuda)) if cuda is not None else 0


def _tell_device_peak() -> None:
    """The peak of all devices since it was last set back, to every open block."""
    if _open and (cuda := _cuda()) is not None:
        peak = sum(cuda.max_memory_allocated(d) for d in _devices(cuda))
        for memory in _open:
            memory.device = max(memory.device, peak)
