"""A policy whose scoring and sampling many workers share.

Requests go in small bundles through one queue (`engine/work_queue.py`): to actors on Ray, each of which has loaded the
policy once, or to this process. Every answer is logged when it comes, under the content of its request, so a killed
worker costs one bundle's time and a killed driver goes on where it was; the log is that of `CachedPolicy`, whoever
wrote it; so is what a judge answers whom the policy asks in a worker. Results do not depend on the number of workers: a
bundle holds the same requests whoever works it off.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from valign.data.group import Group, Prompt
from valign.engine.work_queue import LEASE, Here, Task, WorkQueue, drain
from valign.errors import ValignError
from valign.evaluation.cached import CachedPolicy
from valign.evaluation.log import RequestLog, content_key
from valign.models.policy import Cost, Kind, Policy, Sample, Sampling, Scored, runtime_of

BUNDLE = 8  # requests of one task: enough to share a forward pass, few enough that a lost worker costs little


class ShardedPolicy(CachedPolicy):
    """The policy that `make()` gives, on `workers` Ray actors; 0: in this process.

    make       runs once in every worker; what it names must be importable there
    log        file of the answers, kept; None: answers are kept as long as this object
    lease      seconds a worker may take for one bundle before another one gets it
    asks       finds what the policy asks in its turn: judges, each with a `policy` of its own. What they cost is the policy's
    asked_log  file of what those answered, kept here and read by the workers when they begin; None: nothing is kept
    A context manager; `close` ends the workers. Raises `ValignError` without Ray, for what `make` raises, and, after all
    other requests were answered and logged, for those that failed three times.
    """

    def __init__(
        self, make: Callable[[], Policy], workers: int, *, log: str | Path | None = None, lease: float = LEASE,
        asks: Callable[[Policy], Sequence[Any]] | None = None, asked_log: str | Path | None = None,
    ) -> None:  # fmt: skip
        from valign.engine.actors import Actors

        self.lease = lease
        self.asked_log = RequestLog(asked_log) if asked_log is not None else None
        self._temporary = tempfile.TemporaryDirectory() if log is None else None
        begin = _Begin(make, asks, tuple(self.asked_log.rows.values()) if self.asked_log is not None else ())
        self.pool: Any = Actors(begin, workers) if workers else Here(begin())
        ((_, about),) = self._work([Task("about", _Call("about"))])
        super().__init__(_Elsewhere(make, **about), log or Path(self._temporary.name, "log.jsonl"))  # type: ignore[union-attr]

    def __enter__(self) -> ShardedPolicy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        self.pool.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _generated(
        self, prompts: Sequence[Prompt], sampling: Sampling, addresses: Sequence[str], names: Sequence[str],
        missing: Sequence[int],
    ) -> Iterator[tuple[Sequence[int], list[list[Sample]], float]]:  # fmt: skip
        return self._asked(
            names,
            missing,
            lambda rows: _Call("generate", rows, ([prompts[i] for i in rows], sampling), [addresses[i] for i in rows]),
        )

    def _scored(
        self, groups: Sequence[Group], names: Sequence[str], missing: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], list[list[Scored]], float]]:
        return self._asked(names, missing, lambda rows: _Call("score", rows, ([groups[i] for i in rows],)))

    def _asked(
        self, names: Sequence[str], missing: Sequence[int], call: Callable[[Sequence[int]], _Call]
    ) -> Iterator[tuple[Sequence[int], Any, float]]:
        """Answers to the missing requests as they come: positions, answers, seconds for each."""

        def task(rows: Sequence[int]) -> Task:
            parts = tuple(task([i]) for i in rows) if len(rows) > 1 else ()
            return Task(content_key([names[i] for i in rows]), call(rows), parts)

        bundles = [task(missing[i : i + BUNDLE]) for i in range(0, len(missing), BUNDLE)]
        for done, (found, cost, heard) in self._work(bundles):
            self.policy.cost += cost  # type: ignore[misc]
            if self.asked_log is not None:  # two workers may have asked the same: the first answer counts
                self.asked_log.append(row for row in heard if row["key"] not in self.asked_log)
            yield done.rows, found, cost.seconds / len(done.rows)

    def _work(self, tasks: Sequence[Task]) -> Iterator[tuple[_Call, Any]]:
        work = WorkQueue(tasks, lease=self.lease)
        for task, result in drain(work, self.pool):
            yield task.call, result
        if work.set_aside:
            raise ValignError(
                f"{len(work.set_aside)} requests failed three times; all others are answered and logged",
                where=self.id if hasattr(self, "policy") else "workers",
                how=sorted(set(work.set_aside.values()))[:5],
            )


@dataclass(frozen=True)
class _Call:
    """One bundle: what is asked, and for which positions of the caller's list."""

    kind: Literal["about", "generate", "score"]
    rows: Sequence[int] = ()
    args: tuple[Any, ...] = ()
    keys: Sequence[str] | None = None


@dataclass(frozen=True)
class _Begin:
    """Makes a worker, where it is to work."""

    make: Callable[[], Policy]
    asks: Callable[[Policy], Sequence[Any]] | None = None
    known: Sequence[Mapping[str, Any]] = ()

    def __call__(self) -> Callable[[_Call], Any]:
        policy = self.make()
        return _Desk(policy, self.asks(policy) if self.asks is not None else (), self.known)


class _Desk:
    """A worker: the policy, loaded, and what it answers. Those whom it asks answer through a log of the worker's own, and
    what is new in it goes home with each answer."""

    def __init__(self, policy: Policy, asked: Sequence[Any] = (), known: Sequence[Mapping[str, Any]] = ()) -> None:
        self.policy = policy
        self._temporary = tempfile.TemporaryDirectory() if asked else None
        self.logged: dict[int, CachedPolicy] = {}
        for one in asked:
            if (key := id(one.policy)) not in self.logged:
                self.logged[key] = CachedPolicy(one.policy, Path(self._temporary.name, str(len(self.logged))))  # type: ignore[union-attr]
                self.logged[key].log.append(known)
            one.policy = self.logged[key]
        self._told = {key: len(cached.log) for key, cached in self.logged.items()}

    def __call__(self, call: _Call) -> Any:
        policy = self.policy
        if call.kind == "about":
            return {"id": policy.id, "kind": policy.kind, "about": policy.card(), "computes": runtime_of(policy)}
        before = self._cost()
        found: Any = policy.score(*call.args) if call.kind == "score" else policy.generate(*call.args, keys=call.keys)
        return found, self._cost() - before, self._heard()

    def _cost(self) -> Cost:
        return sum((cached.cost for cached in self.logged.values()), self.policy.cost)

    def _heard(self) -> list[dict[str, Any]]:
        """The answers that were not told yet."""
        fresh = []
        for key, cached in self.logged.items():
            fresh += list(cached.log.rows.values())[self._told[key] :]
            self._told[key] = len(cached.log)
        return fresh


@dataclass
class _Elsewhere:
    """What is known here of a policy that the workers hold."""

    make: Callable[[], Policy]
    id: str
    kind: Kind
    about: dict[str, Any]
    computes: dict[str, Any]
    cost: Cost = field(default_factory=Cost)

    def card(self) -> dict[str, Any]:
        return dict(self.about)

    def runtime(self) -> dict[str, Any]:
        return dict(self.computes)

    def save(self, folder: Path) -> None:
        self.make().save(folder)

    def generate(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("the queue asks")

    score = generate
