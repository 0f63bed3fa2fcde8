"""A comparison that was interrupted reports the price of the whole."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from valign.models.policy import Cost
from valign.pipeline.account import account, trained_seconds
from valign.pipeline.meter import Spent
from valign.pipeline.policy_files import read_cost, write_cost


class Meter:
    """A policy that only has a price."""

    def __init__(self) -> None:
        self.cost = Cost()

    def work(self, read_: int, generated: int) -> None:
        self.cost = self.cost + Cost(1, read_, generated, 0, 0.0)


def run(path: Path, work: list[tuple[int, int]], stop_after: int | None = None) -> Any:
    policy: Any = Meter()
    with account(path, policy) as counting:
        say = counting.storing(lambda phase: None)("responses")
        assert say is not None
        for done, (a, b) in enumerate(work, 1):
            policy.work(a, b)
            say(done, len(work))
            if done == stop_after:
                raise KeyboardInterrupt
    return counting.total()


def test_two_starts_cost_their_sum(tmp_path: Path):
    path = tmp_path / "base.cost.json"
    with pytest.raises(KeyboardInterrupt):
        run(path, [(10, 3), (20, 4), (30, 5)], stop_after=2)
    whole = run(path, [(30, 5)])
    assert (whole.cost.tokens_read, whole.cost.tokens_generated) == (60, 12)
    assert whole.seconds > 0 and whole.peak_memory_bytes > 0
    assert Spent.read(path).cost.tokens_read == 60


def test_a_kill_loses_one_chunk_at_most(tmp_path: Path):
    """What stands on the disk after every chunk is the price so far: nothing waits for the end of the block."""
    path, policy = tmp_path / "p.cost.json", Meter()
    with account(path, policy) as counting:  # type: ignore[arg-type]
        told = counting.storing(lambda phase: None)("order")
        assert told is not None
        for done in (1, 2, 3):
            policy.work(100, 0)
            told(done, 3)
            assert Spent.read(path).cost.tokens_read == 100 * done


def test_a_start_that_finds_everything_adds_nothing(tmp_path: Path):
    path = tmp_path / "p.cost.json"
    first = run(path, [(10, 3)])
    assert run(path, []).to_json() == first.to_json() == json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("content", ['{"seconds": 3', "[1]", '{"seconds": "long"}'])
def test_a_broken_account_begins_again(tmp_path: Path, content: str):
    path = tmp_path / "p.cost.json"
    path.write_text(content)
    assert run(path, [(10, 3)]).cost.tokens_read == 10


def test_what_only_endpoints_cost_is_remembered(tmp_path: Path):
    """Requests sent again, requests without an answer and money, of an account and of a policy's folder."""
    spent = Spent(2.0, 5, Cost(0, 10, 3, 0, 0.0, 4, 1, 0.25), 2)
    (tmp_path / "run").mkdir()
    write_cost(tmp_path, spent)
    assert read_cost(tmp_path) == Spent.read(tmp_path / "run" / "cost.json") == spent


def test_training_counts_every_start_and_no_step_twice():
    steps = [SimpleNamespace(step=1, seconds=2.0), SimpleNamespace(step=2, seconds=3.0), SimpleNamespace(step=2, seconds=4.0)]
    log = [{"event": "audit"}, *({"event": "step", **vars(s)} for s in steps)]
    assert trained_seconds(log) == 6.0
