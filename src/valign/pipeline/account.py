"""What measuring a policy cost in all, over every time that the run was started: an interrupted comparison that
goes on reports the price of the whole, not of its last part.

The account is stored after every chunk of requests, beside the log of the requests, so that a kill loses one
chunk of it at most. A start that finds everything in the log adds nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from valign.engine.run import write_whole
from valign.models.policy import Cost, Policy, Progress
from valign.pipeline.meter import Spent, spent

Say = Callable[[str], Progress | None]


class Account:
    """The price so far: what earlier starts spent and what this one does.

    used   this start's meter; its peak memory is up to date while it runs
    """

    def __init__(self, path: Path, policy: Policy, used: Spent) -> None:
        self.path, self.policy, self.used = path, policy, used
        self.earlier, self.before, self.began = Spent.read(path), policy.cost, time.perf_counter()
        self.ended: Spent | None = None

    def total(self) -> Spent:
        if self.ended is not None:
            return self.ended
        fresh = self.policy.cost - self.before
        if fresh == Cost() and self.earlier != Spent():
            return self.earlier
        used = self.used
        seconds = time.perf_counter() - self.began
        return self.earlier + Spent(seconds, used.peak_memory_bytes, fresh, used.added_memory_bytes)

    def store(self) -> None:
        write_whole(self.path, json.dumps(self.total().to_json()))

    def storing(self, say: Say) -> Say:
        """`say`, whose progress also stores the account."""

        def told(phase: str) -> Progress:
            inner = say(phase)

            def progress(done: int, total: int) -> None:
                if inner is not None:
                    inner(done, total)
                self.store()

            return progress

        return told


@contextmanager
def account(path: Path, policy: Policy) -> Iterator[Account]:
    """Count the block, and store what it cost however it ends."""
    with spent() as used:
        counting = Account(path, policy, used)
        try:
            yield counting
        finally:
            counting.ended = counting.total()
            counting.store()


def trained_seconds(log: Iterable[Mapping[str, Any]]) -> float:
    """Seconds of all steps in a run's log, over every time that it was started; a repeated step counts once."""
    steps = {x["step"]: float(x.get("seconds") or 0.0) for x in log if x.get("event") == "step" and "step" in x}
    return sum(steps.values())
