"""Trackers hear every step, start late, end always, and never cost a run its result."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from valign.errors import UsageError
from valign.pipeline.trackers import MODULES, TRACKERS, trackers


class Spy:
    """Stands in for every tool's module: notes what it was told."""

    def __init__(self, broken: str = "") -> None:
        self.calls: list[tuple[str, object]] = []
        self.broken = broken

    def __getattr__(self, name: str):
        def call(*args: object, **options: object) -> object:
            self.calls.append((name, args or options))
            if name == self.broken:
                raise ConnectionError("no route")
            return self  # a SummaryWriter too

        return call


@pytest.fixture
def heard():
    return []


def run(name, module, monkeypatch, tmp_path, heard, fail=False):
    monkeypatch.setitem(sys.modules, MODULES[name], module)
    with trackers([name], tmp_path, lambda event, fields: heard.append((event, fields))) as tell:
        tell("audit", {"name": "x"})
        tell("step", {"step": 1, "loss": 0.5, "note": "text is not a number"})
        tell("eval", {"step": 1, "loss": 0.4})
        if fail:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", TRACKERS)
def test_every_tracker_gets_the_numbers_and_is_closed(name, monkeypatch, tmp_path, heard):
    spy = Spy()
    run(name, spy, monkeypatch, tmp_path, heard)
    said = repr(spy.calls)
    assert "step/loss" in said
    assert "eval/loss" in said
    assert "note" not in said
    assert spy.calls[-1][0] in ("close", "finish", "end_run")
    assert [e for e, _ in heard] == ["audit", "step", "eval"]


def test_a_tracker_is_closed_when_the_run_is_interrupted(monkeypatch, tmp_path, heard):
    spy = Spy()
    with pytest.raises(KeyboardInterrupt):
        run("wandb", spy, monkeypatch, tmp_path, heard, fail=True)
    assert spy.calls[-1][0] == "finish"


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_left_out_with_one_warning(broken, monkeypatch, tmp_path, heard):
    run("wandb", Spy(broken), monkeypatch, tmp_path, heard)
    warnings = [f["text"] for e, f in heard if e == "warning"]
    assert warnings == ["tracker wandb failed and is left out: no route"]


def test_a_run_that_ends_before_its_first_step_leaves_nothing_with_the_tracker(monkeypatch, tmp_path):
    spy = Spy()
    monkeypatch.setitem(sys.modules, "wandb", spy)
    with trackers(["wandb"], tmp_path, lambda e, f: None) as tell:
        tell("audit", {"name": "x"})
    assert spy.calls == []


def test_without_a_name_nothing_is_imported_and_the_listener_is_the_same(tmp_path):
    listen = SimpleNamespace(__call__=lambda e, f: None)
    with trackers([], tmp_path, listen) as tell:
        assert tell is listen


def test_absent_and_unknown_trackers_are_usage_errors(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with (
        pytest.raises(UsageError, match="pip install 'valign\\[mlflow\\]'"),
        trackers(["mlflow"], tmp_path, print),
    ):
        pass
    with pytest.raises(UsageError, match="did you mean: mlflow"), trackers(["mlfow"], tmp_path, print):
        pass
