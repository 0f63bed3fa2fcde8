"""The queue: every task once, whoever fails, dies or is slow; and the same in this process and on Ray."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from valign.engine.work_queue import Answer, Here, Task, WorkQueue, drain


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def tasks(n, call=lambda i: i):
    return [Task(f"k{i}", call(i)) for i in range(n)]


def worked(queue, pool):
    """key -> result of all that came."""
    answers = [(task.key, result) for task, result in drain(queue, pool)]
    assert not queue.open and len(answers) == len(dict(answers)), "each once"
    return dict(answers)


def test_equal_tasks_are_one():
    queue = WorkQueue([Task("a", 1), Task("b", 2), Task("a", 1)])
    assert worked(queue, Here(lambda x: 10 * x)) == {"a": 10, "b": 20}


def test_a_task_that_fails_is_tried_three_times_and_set_aside_with_its_error():
    seen = Counter()

    def work(i):
        seen[i] += 1
        if i == 3 or (i == 5 and seen[i] < 3):
            raise ValueError(f"no {i}")
        return i

    queue = WorkQueue(tasks(7))
    assert set(worked(queue, Here(work))) == {f"k{i}" for i in (0, 1, 2, 4, 5, 6)}
    assert queue.set_aside == {"k3": "ValueError: no 3"} and seen[3] == 3 and seen[5] == 3


def test_a_bundle_that_fails_is_taken_apart():
    """Only the part that breaks it is set aside."""

    def work(xs):
        if 2 in xs:
            raise ValueError("two")
        return sum(xs)

    parts = tuple(Task(f"p{i}", [i]) for i in range(4))
    queue = WorkQueue([Task("all", [0, 1, 2, 3], parts), Task("other", [7, 8], (Task("p7", [7]), Task("p8", [8])))])
    assert worked(queue, Here(work)) == {"p0": 0, "p1": 1, "p3": 3, "other": 15}
    assert list(queue.set_aside) == ["p2"]


def test_a_lease_that_runs_out_gives_the_task_to_another_worker():
    """The first answer counts; the late one is nobody's."""
    clock = Clock()
    queue = WorkQueue(tasks(1), lease=10, clock=clock)
    assert queue.take("slow") is not None and queue.take("b") is None and queue.patience() == 10
    clock.now = 10.5
    assert queue.overdue() == [("slow", "k0")] and queue.patience() == 0
    queue.fail("k0", "no answer")
    assert queue.take("b") == Task("k0", 0)
    assert queue.finish("k0") is not None and queue.finish("k0") is None and not queue.open


class Scripted:
    """Two workers; the first keeps its first task for ever, the second is lost with its first one."""

    def __init__(self, clock):
        self.clock, self.held, self.fresh, self.gone = clock, {}, ["a", "b"], []

    def idle(self):
        return [w for w in self.fresh if w not in self.held]

    def send(self, worker, task):
        self.held[worker] = task

    def answers(self, timeout):
        if set(self.held) == {"a"}:
            self.clock.now += timeout
            return []
        worker = next(w for w in self.held if w != "a")
        task = self.held.pop(worker)
        if worker == "b":
            self.fresh = ["a", "c"]
            return [Answer(worker, task.key, error="gone", lost=True)]
        return [Answer(worker, task.key, task.call)]

    def replace(self, worker):
        self.gone.append(worker)
        self.held.pop(worker)
        self.fresh = [f"{w}'" if w == worker else w for w in self.fresh]


def test_a_hanging_worker_is_replaced():
    clock = Clock()
    queue, pool = WorkQueue(tasks(6), lease=30, clock=clock), Scripted(clock)
    assert worked(queue, pool) == {f"k{i}": i for i in range(6)}
    assert pool.gone == ["a"] and clock.now >= 30 and not queue.set_aside


# ------------------------------------------------------------------------------------------------------------- Ray


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, once for all tests: pools find it and leave it."""
    pytest.importorskip("ray", reason="needs the extra valign[ray]")
    from valign.engine.actors import _ray

    ray = _ray()
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20,
             logging_level="ERROR")  # fmt: skip
    yield ray
    ray.shutdown()


def worker_of(folder):
    """A worker that squares numbers, kills itself on its first 3 of all, and is broken by 13."""
    path = str(folder)

    def make():
        Path(path, f"made-{os.getpid()}").touch()

        def work(i):
            mark = Path(path, "killed")
            if i == 3 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if i == 13:
                raise ValueError("thirteen")
            return i * i

        return work

    return make


@pytest.mark.proof("E24")
@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_results_though_one_is_killed(cluster, tmp_path, count):
    """E24: 1, 2 and 4 workers, of which one dies on the way: the results of one process, each once."""
    from valign.engine.actors import Actors

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "killed").touch()
    alone = WorkQueue(tasks(20))
    expected = worked(alone, Here(worker_of(tmp_path / "here")()))
    assert alone.set_aside == {"k13": "ValueError: thirteen"} and len(expected) == 19
    pool = Actors(worker_of(tmp_path), count)
    try:
        queue = WorkQueue(tasks(20))
        assert worked(queue, pool) == expected
        assert list(queue.set_aside) == ["k13"] and "thirteen" in queue.set_aside["k13"]
        assert (tmp_path / "killed").exists()
        assert len(list(tmp_path.glob("made-*"))) >= 2, "another worker took the place of the one that died"
    finally:
        pool.close()


def test_a_worker_that_hangs_loses_its_task(cluster, tmp_path):
    from valign.engine.actors import Actors

    path = str(tmp_path / "hung")

    def make():
        def work(i):
            if i == 1 and not Path(path).exists():
                Path(path).touch()
                time.sleep(600)
            return -i

        return work

    pool = Actors(make, 1)
    try:
        began = time.monotonic()
        assert worked(WorkQueue(tasks(3), lease=2.0), pool) == {"k0": 0, "k1": -1, "k2": -2}
        assert time.monotonic() - began < 300
    finally:
        pool.close()


def test_a_worker_that_loads_long_is_waited_for_and_told(cluster, monkeypatch, caplog):
    from valign.engine import actors

    def make():
        time.sleep(3)
        return lambda i: -i

    monkeypatch.setattr(actors, "PATIENCE", 1.0)
    with caplog.at_level("WARNING", "valign"):
        pool = actors.Actors(make, 1)
    try:
        assert "no worker is ready yet" in caplog.text
        assert worked(WorkQueue(tasks(2)), pool) == {"k0": 0, "k1": -1}
    finally:
        pool.close()


def test_what_a_worker_cannot_load_is_said(cluster):
    from valign.engine.actors import Actors
    from valign.errors import ValignError

    def make():
        raise ValignError("no such model", where="nowhere")

    with pytest.raises(ValignError, match="no such model"):
        Actors(make, 2)


def test_without_ray_the_line_that_installs_it_is_given(monkeypatch):
    import sys

    from valign.engine.actors import Actors
    from valign.errors import ValignError

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValignError, match=r"pip install 'valign\[ray\]'"):
        Actors(lambda: abs, 1)


def test_a_cluster_that_is_not_there_is_one_error(monkeypatch):
    from types import SimpleNamespace

    from valign.engine import actors
    from valign.errors import ValignError

    def init(**_):
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    monkeypatch.setattr(actors, "_ray", lambda: SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(ValignError, match=r"10.0.0.9:6379: Ray does not start.*running Ray instance[\s\S]*RAY_ADDRESS"):
        actors.Actors(lambda: abs, 1)
