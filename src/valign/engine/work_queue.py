"""One queue of small tasks, worked off in this process or by many workers.

What holds here: a task is named by its content, so equal tasks are one; a worker gets a task on lease and the task comes
back when the worker fails, dies or keeps it too long; three tries, then the task is set aside with its error and the
rest goes on; the first answer to a task is its only one. Where answers are kept is the caller's affair: `drain` gives
each as it comes, so that a kill loses only what was not given. Results do not depend on the number of workers or on
their order, for a task does not.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

LEASE = 900.0  # seconds a worker may keep a task: far above what a small task takes, below a lost night
TRIES = 3
HERE = "this process"


@dataclass(frozen=True)
class Task:
    """key names the content; `call` is what the worker gets; `parts` take the task's place once it has failed, so that
    what breaks it is found and its neighbours are not set aside with it."""

    key: str
    call: Any
    parts: tuple[Task, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What came of one try: a result, or an error. `lost`: the worker is gone, and with it the try."""

    worker: str
    key: str
    result: Any = None
    error: str = ""
    lost: bool = False


class Pool(Protocol):
    """Workers that take one task each at a time."""

    def idle(self) -> Sequence[str]:
        """Names of workers that wait for a task."""
        ...

    def send(self, worker: str, task: Task) -> None: ...

    def answers(self, timeout: float) -> Sequence[Answer]:
        """Answers that have come; waits for one, at most `timeout` seconds."""
        ...

    def replace(self, worker: str) -> None:
        """End a worker, whatever it does, and begin another one in its place."""
        ...


@dataclass
class _Lease:
    task: Task
    worker: str
    until: float


class WorkQueue:
    """Tasks that wait, are on lease, are done, or were set aside.

    lease  seconds after which a task is taken back from its worker      tries  before a task is set aside
    clock  seconds, as `time.monotonic`
    """

    def __init__(
        self, tasks: Iterable[Task], *, lease: float = LEASE, tries: int = TRIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.lease, self.tries, self.clock = lease, tries, clock
        self._waiting = deque({t.key: t for t in tasks}.values())
        self._leases: dict[str, _Lease] = {}
        self._tried: dict[str, int] = {}
        self._done: set[str] = set()
        self.set_aside: dict[str, str] = {}  # key -> the last error

    @property
    def open(self) -> bool:
        """Whether anything waits or is on lease."""
        return bool(self._waiting or self._leases)

    def take(self, worker: str) -> Task | None:
        """The next task, on lease to `worker`; None where nothing waits."""
        if not self._waiting:
            return None
        task = self._waiting.popleft()
        self._tried[task.key] = self._tried.get(task.key, 0) + 1
        self._leases[task.key] = _Lease(task, worker, self.clock() + self.lease)
        return task

    def finish(self, key: str) -> Task | None:
        """The task, if this is its first answer; an answer that comes late or twice is nobody's (None)."""
        lease = self._leases.pop(key, None)
        if lease is None or key in self._done:
            return None
        self._done.add(key)
        return lease.task

    def fail(self, key: str, error: str) -> None:
        """A try came to nothing: the task waits again, in parts if it has any, or is set aside."""
        lease = self._leases.pop(key, None)
        if lease is None:
            return
        task, tried = lease.task, self._tried[key]
        if len(task.parts) > 1:
            self._tried.update({part.key: tried for part in task.parts})
            self._waiting.extend(task.parts)
        elif tried < self.tries:
            self._waiting.append(task)
        else:
            self.set_aside[key] = error

    def overdue(self) -> list[tuple[str, str]]:
        """(worker, key) of every lease that ran out."""
        now = self.clock()
        return [(x.worker, key) for key, x in self._leases.items() if x.until <= now]

    def patience(self) -> float:
        """Seconds until the next lease runs out."""
        return max(0.0, min((x.until for x in self._leases.values()), default=self.clock()) - self.clock())


def drain(queue: WorkQueue, pool: Pool) -> Iterator[tuple[Task, Any]]:
    """Work until nothing waits. Gives every task with its answer once, in the order they come."""
    while queue.open:
        for worker in pool.idle():
            task = queue.take(worker)
            if task is None:
                break
            pool.send(worker, task)
        for answer in pool.answers(queue.patience()):
            if answer.lost or answer.error:
                queue.fail(answer.key, answer.error)
            elif (done := queue.finish(answer.key)) is not None:
                yield done, answer.result
        for worker, key in queue.overdue():
            queue.fail(key, f"no answer within {queue.lease:.0f} s")
            pool.replace(worker)


class Here:
    """The pool without workers: this process does the work, one task after the other. Its leases never run out."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work
        self._task: Task | None = None

    def idle(self) -> Sequence[str]:
        return [HERE] if self._task is None else []

    def send(self, worker: str, task: Task) -> None:
        self._task = task

    def answers(self, timeout: float) -> Sequence[Answer]:
        task, self._task = self._task, None
        if task is None:
            return []
        try:
            return [Answer(HERE, task.key, self.work(task.call))]
        except Exception as error:
            return [Answer(HERE, task.key, error=described(error))]

    def replace(self, worker: str) -> None:
        pass

    def close(self) -> None:
        pass


def described(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
