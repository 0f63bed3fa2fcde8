"""What a piece of work cost: wall-clock seconds and the highest memory of this process meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from valign.models.policy import Cost

INTERVAL = 0.1  # seconds between two looks at the memory


@dataclass
class Spent:
    """Filled when the block ends. Memory is this process's resident size (on a GPU: its allocated peak)."""

    seconds: float = 0.0
    peak_memory_bytes: int = 0
    cost: Cost = Cost()  # noqa: RUF009 - frozen

    def to_json(self) -> dict[str, float]:
        """JSON; what only endpoints have (requests sent again, given up, money) stands there where it is not 0."""
        return {
            "seconds": round(self.seconds, 3),
            "tokens_read": self.cost.tokens_read,
            "tokens_generated": self.cost.tokens_generated,
            "tokens_trained": self.cost.tokens_trained,
            "peak_memory_bytes": self.peak_memory_bytes,
            **{k: v for k in ("retries", "unanswered", "money") if (v := round(getattr(self.cost, k), 9))},
        }

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.seconds + other.seconds,
            max(self.peak_memory_bytes, other.peak_memory_bytes),
            self.cost + other.cost,
        )


@contextmanager
def spent() -> Iterator[Spent]:
    """Measure the block."""
    import psutil

    out, process, done = Spent(), psutil.Process(), threading.Event()

    def watch() -> None:
        while True:
            out.peak_memory_bytes = max(out.peak_memory_bytes, process.memory_info().rss)
            if done.wait(INTERVAL):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    began = time.perf_counter()
    watcher.start()
    try:
        yield out
    finally:
        done.set()
        watcher.join()
        out.seconds = time.perf_counter() - began
