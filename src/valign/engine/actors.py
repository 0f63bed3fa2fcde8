"""Workers on Ray: long-lived actors that load what they work with once, on this machine or on a cluster.

What holds here: a worker that dies is replaced and says nothing about its task; nothing is sent to anyone outside (Ray's
usage reports are off). Ray is an extra; everything that it does here, `work_queue.Here` does in one process.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from valign.engine.work_queue import TRIES, Answer, Task, described
from valign.errors import ValignError

STORE = 100 * 2**20  # bytes of Ray's shared memory: tasks and answers are small
PATIENCE = 60.0  # seconds without a worker that is ready, after which the reader is told what is waited for
log = logging.getLogger(__name__)


class Actors:
    """`count` workers on Ray, each of which calls `make()` once and then what that gave with every task's `call`.

    make   runs in the worker: it and what it names must be importable there
    A cluster named by RAY_ADDRESS is used; without one, Ray is started on this machine and stopped by `close`.
    Raises `ValignError` where Ray is not installed, and what the first worker's `make` raises.
    """

    def __init__(self, make: Callable[[], Callable[[Any], Any]], count: int) -> None:
        self._ray = _ray()
        self._owns = not self._ray.is_initialized()
        if self._owns:
            local = {} if os.environ.get("RAY_ADDRESS") else {
                "num_cpus": max(count, os.cpu_count() or 1), "object_store_memory": STORE, "include_dashboard": False,
            }  # fmt: skip
            try:
                self._ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
            except Exception as error:  # no cluster at the address, no room for the shared memory
                raise ValignError(f"Ray does not start: {_short(error)}", where=os.environ.get("RAY_ADDRESS") or "workers",
                                  how="look at RAY_ADDRESS, or leave the workers out") from error  # fmt: skip
            # it would tell a worker's death on standard output, where a command's JSON goes
            with contextlib.suppress(AttributeError):
                self._ray._private.worker._worker_logs_enabled = False
        have = self._ray.cluster_resources()
        share = {
            "num_cpus": max(1, int(have.get("CPU", count)) // count),
            "num_gpus": min(1.0, have.get("GPU", 0) / count),
        }
        self._actor = self._ray.remote(_Worker).options(scheduling_strategy="SPREAD", **share)
        self._make, self._numbers = make, itertools.count()
        self._failed = 0  # workers in a row that could not load
        self._workers: dict[str, Any] = {}
        self._coming: dict[Any, str] = {}  # "ready" that was asked for -> worker
        self._busy: dict[Any, tuple[str, str]] = {}  # answer that was asked for -> worker and task
        for _ in range(count):
            self._begin()
        try:
            first = next(iter(self._coming))
            self._patiently([first])
            self._ray.get(first)
        except Exception as error:
            self.close()
            raise _cannot_begin(error) from error

    def idle(self) -> Sequence[str]:
        busy = {worker for worker, _ in self._busy.values()} | set(self._coming.values())
        return [w for w in self._workers if w not in busy]

    def send(self, worker: str, task: Task) -> None:
        self._busy[self._workers[worker].work.remote(task.call)] = (worker, task.key)

    def answers(self, timeout: float) -> Sequence[Answer]:
        waiting = [*self._busy, *self._coming]
        # nobody works yet: wait for a worker to be ready, however long it loads
        ready = self._ray.wait(waiting, num_returns=1, timeout=timeout)[0] if self._busy else self._patiently(waiting)
        return [a for a in map(self._answer, ready) if a is not None]

    def replace(self, worker: str) -> None:
        actor = self._workers.pop(worker, None)
        if actor is None:
            return
        self._busy = {f: x for f, x in self._busy.items() if x[0] != worker}
        self._coming = {f: w for f, w in self._coming.items() if w != worker}
        self._ray.kill(actor)
        self._begin()

    def close(self) -> None:
        """End the workers, and Ray if it was started here."""
        for actor in self._workers.values():
            self._ray.kill(actor)
        self._workers, self._busy, self._coming = {}, {}, {}
        if self._owns:
            self._ray.shutdown()

    def _patiently(self, waiting: Sequence[Any]) -> Sequence[Any]:
        """The first of `waiting` that is there. A cluster may be full and a model large: that has no limit, but is told."""
        while True:
            ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=PATIENCE)
            if ready:
                return list(ready)
            free = self._ray.available_resources().get("CPU", 0)
            log.warning("no worker is ready yet: they load, or the cluster has no room (%g processors are free)", free)

    def _begin(self) -> None:
        name = f"worker {next(self._numbers)}"
        self._workers[name] = self._actor.remote(self._make)
        self._coming[self._workers[name].ready.remote()] = name

    def _answer(self, future: Any) -> Answer | None:
        if future in self._coming:
            name = self._coming.pop(future)
            try:
                self._ray.get(future)
                self._failed = 0
            except Exception as error:
                self._failed += 1
                if self._failed >= TRIES * len(self._workers):
                    raise _cannot_begin(error) from error
                self.replace(name)
            return None
        worker, key = self._busy.pop(future)
        try:
            return Answer(worker, key, self._ray.get(future))
        except self._ray.exceptions.RayTaskError as error:
            return Answer(worker, key, error=_short(error))
        except self._ray.exceptions.RayError as error:
            self.replace(worker)
            return Answer(worker, key, error=f"the worker is gone: {_short(error)}", lost=True)


class _Worker:
    """What lives on Ray."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._make = make

    def ready(self) -> None:
        """Load; what that raises is an answer like any other."""
        self._work = self._make()

    def work(self, call: Any) -> Any:
        return self._work(call)


def _cannot_begin(error: Exception) -> ValignError:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, ValignError) else ValignError(
        f"a worker cannot begin: {_short(error)}", where="workers")  # fmt: skip


def _short(error: BaseException) -> str:
    """What an error says, without Ray's copy of the worker's traceback."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return described(cause)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if "Traceback" in str(error) else " ".join(lines)[:300]


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported: nothing is told to anyone
    try:
        import ray
    except ImportError as error:
        raise ValignError("workers need Ray", where="workers", how="pip install 'valign[ray]'") from error
    return ray
