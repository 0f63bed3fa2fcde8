"""Runs can be stopped at any moment, by Ctrl-C or by a kill, and continue to the same result."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

INTERRUPTED = 130
SETTINGS = ("batch_size=3", "checkpoint_every=2", "learning_rate=1e-3")


def align(model: Path, pairs: Path, out: Path) -> tuple[object, ...]:
    return (
        "align",
        model,
        "--method",
        "dpo",
        "--data",
        pairs,
        "--out",
        out,
        *(x for s in SETTINGS for x in ("--set", s)),
    )


def evaluate(model: Path, data: Path, out: Path, goal: str) -> tuple[object, ...]:
    return ("evaluate", model, "--data", data, "--goal", goal, "--reference", model, "--out", out,
            "--max-new-tokens", 4, "--kl-prompts", 2)  # fmt: skip


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def results(folder: Path) -> Any:
    """The Results of an evaluation, but for the commit of the source tree, which may move between two runs, and for
    what they cost, which is never twice the same to the microsecond.
    """
    return costless(json.loads((folder / "result.json").read_text())["results"])


def costless(found: Any) -> Any:
    return [{**r, "provenance": {**r["provenance"], "commit": None, "cost": None}} for r in found]


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def nth(n: int, act: Callable[..., Any], then: Callable[..., None] = stop) -> Callable[..., Any]:
    """`act`, but at its nth call `then` first."""
    calls = iter(range(n + 1))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) == n - 1:
            then()
        return act(*args, **kwargs)

    return call


@pytest.fixture(scope="module")
def straight(valign, model, tmp_path_factory) -> tuple[Path, bytes]:
    """(the data, the weights of a run that nobody stopped)."""
    folder = tmp_path_factory.mktemp("straight")
    data = folder / "pairs.jsonl"
    rows = [{"prompt": f"Question {i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(12)]
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    valign(*align(model, data, folder / "out"))
    return data, weights(folder / "out")


PHASES = {
    "loading": "valign.pipeline.door.load_policy",
    "preparing": "valign.methods.train.prepare",
    "reference": "valign.engine.scorer.Scorer.batches",
    "audit": "valign.engine.loop.audit_start",
    "writing": "valign.models.policy_folder.save_model",
}


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_while_aligning_leaves_nothing_half_and_the_next_run_finishes(
    valign, model, straight, tmp_path, monkeypatch, whole, phase
):
    data, expected = straight
    out = tmp_path / "out"
    with monkeypatch.context() as m:
        m.setattr(PHASES[phase], stop)
        done = valign(*align(model, data, out), status=INTERRUPTED)
    assert "interrupted" in done.stderr
    assert "run the same command again" in done.stderr
    assert not (out / "policy.json").exists()
    if out.exists():
        whole(out)
    valign(*align(model, data, out))
    assert weights(out) == expected


def test_ctrl_c_while_training_finishes_the_step_and_saves(valign, model, straight, tmp_path, monkeypatch, whole):
    from valign.engine.sampler import DataSampler

    data, expected = straight
    out = tmp_path / "out"
    with monkeypatch.context() as m:
        interrupt = nth(3, DataSampler.step, lambda: signal.raise_signal(signal.SIGINT))
        m.setattr(DataSampler, "step", lambda self, index: interrupt(self, index))
        done = valign(*align(model, data, out))
    assert "stopped after step 3 of 4; everything is saved" in done.stderr
    assert not (out / "policy.json").exists()
    whole(out)
    assert "continuing after step 3" in valign(*align(model, data, out)).stderr
    assert weights(out) == expected


def test_a_second_ctrl_c_stops_at_once(valign, model, straight, tmp_path, monkeypatch, whole):
    from valign.engine.sampler import DataSampler

    data, expected = straight
    out = tmp_path / "out"

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as m:
        interrupt = nth(4, DataSampler.step, twice)
        m.setattr(DataSampler, "step", lambda self, index: interrupt(self, index))
        valign(*align(model, data, out), status=INTERRUPTED)
    whole(out)
    assert "continuing after step 2" in valign(*align(model, data, out)).stderr  # the last checkpoint
    assert weights(out) == expected


@pytest.mark.parametrize("phase", ["loading", "scoring", "generation", "judging", "writing"])
def test_ctrl_c_while_evaluating_loses_nothing_that_was_answered(
    valign, model, situations, goal, vowels, tmp_path, monkeypatch, whole, phase
):
    from valign.evaluation.cached import CachedPolicy
    from valign.models.policy import LocalPolicy

    monkeypatch.setitem(CachedPolicy.__init__.__kwdefaults__, "chunk", 2)  # several chunks in six situations
    out = tmp_path / "e"
    valign(*evaluate(model, situations, tmp_path / "straight", goal))
    places = {
        "loading": ("valign.pipeline.door.load_policy", stop),
        "scoring": (LocalPolicy, "score", nth(2, LocalPolicy.score)),
        "generation": (LocalPolicy, "generate", nth(2, LocalPolicy.generate)),
        "judging": (type(vowels), "values", stop),
        "writing": ("valign.pipeline.evaluate.write_results", stop),
    }
    with monkeypatch.context() as m:
        *place, value = places[phase]
        m.setattr(
            *place,
            value if phase in ("loading", "judging", "writing") else lambda self, *a, **k: value(self, *a, **k),
        )
        valign(*evaluate(model, situations, out, goal), status=INTERRUPTED)
    assert not (out / "result.json").exists()
    whole(out)
    valign(*evaluate(model, situations, out, goal))
    assert results(out) == results(tmp_path / "straight")
    logged = [json.loads(x)["key"] for x in (out / "requests.jsonl").read_text().splitlines()]
    assert len(logged) == len(set(logged))  # nothing was asked twice


def test_ctrl_c_while_a_recipe_reports_keeps_what_was_aligned(valign, model, straight, tmp_path, monkeypatch, whole):
    data, expected = straight
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    settings = ", ".join(s.replace("=", ": ").replace("1e-3", "0.001") for s in SETTINGS)
    recipe.write_text(
        f"name: x\nmodel: {model}\ndata: {data}\nmethod: {{name: dpo, {settings}}}\n"
        f"evaluate: {{data: {data}, kl_prompts: 2, max_new_tokens: 4}}\n"
    )
    with monkeypatch.context() as m:
        m.setattr("valign.report.write_report", stop)
        valign("run", recipe, "--out", out, status=INTERRUPTED)
    whole(out)
    monkeypatch.setattr("valign.pipeline.align.train_policy", None)
    report = valign.json("run", recipe, "--out", out)
    assert [s["label"] for s in report["subjects"]] == ["base", "dpo"]
    assert weights(out / "methods" / "dpo") == expected
    assert costless(valign.json("run", recipe, "--out", out)["headline"]) == costless(report["headline"])


# The parent computes nothing itself: every child starts from a fresh fork, after the imports are paid for
# once.
KILLS = """
import json, os, signal, sys
from pathlib import Path
import torch, transformers
from typer.testing import CliRunner
import datasets, scipy.stats, valign.engine.local, valign.pipeline.compare, valign.models.policy_folder
from transformers.models.llama import modeling_llama
from valign.cli import app
from valign.engine import checkpoint
from valign.engine.sampler import DataSampler
from valign.evaluation.log import RequestLog
import valign.pipeline.evaluate as evaluating

model, data, folder = sys.argv[1:4]
settings = json.loads(sys.argv[4])
changed = [x for s in settings for x in ("--set", s)]
ALIGN = ["align", model, "--method", "dpo", "--data", data, *changed, "--out"]
short = ["--kl-prompts", "2", "--max-new-tokens", "4"]
EVALUATE = ["evaluate", model, "--data", data, "--reference", model, *short, "--out"]

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def at(owner, name, n, after=False):
    real, calls = getattr(owner, name), [0]
    def call(*args, **kwargs):
        calls[0] += 1
        if calls[0] == n and not after:
            kill()
        out = real(*args, **kwargs)
        if calls[0] == n:
            kill()
        return out
    setattr(owner, name, call)

def half_a_line(self, rows):
    with self.path.open("a") as f:
        f.write('{"key": "half')
        f.flush()
    kill()

PHASES = {
    "step": (ALIGN, lambda: at(DataSampler, "step", 4)),
    "checkpoint": (ALIGN, lambda: at(checkpoint, "_sha256", 5)),
    "moving": (ALIGN, lambda: at(Path, "replace", 3, after=True)),
    "answers": (EVALUATE, lambda: setattr(RequestLog, "append", half_a_line)),
    "results": (EVALUATE, lambda: setattr(evaluating, "write_results", kill)),
}

def child(command, out, patch):
    pid = os.fork()
    if pid == 0:
        if patch:
            patch()
        done = CliRunner().invoke(app, [*command, out])
        if done.exit_code:
            sys.stderr.write(done.output)
        os._exit(done.exit_code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

ended = {}
for phase, (command, patch) in PHASES.items():
    out = f"{folder}/{phase}"
    killed = child(command, out, patch)
    finished = os.path.exists(f"{out}/policy.json") or os.path.exists(f"{out}/result.json")
    ended[phase] = [killed, finished, child(command, out, None)]
print(json.dumps(ended))
"""


def test_a_run_that_was_killed_continues_to_the_same_result(valign, model, straight, tmp_path, whole):
    """kill -9 at five places; the same command again gives what an undisturbed run gives."""
    data, expected = straight
    valign("evaluate", model, "--data", data, "--reference", model, "--kl-prompts", 2, "--max-new-tokens", 4,
           "--out", tmp_path / "evaluate")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(model), str(data), str(tmp_path), json.dumps(SETTINGS)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout)
    assert {phase: end for phase, end in ended.items() if end != [-9, False, 0]} == {}, done.stderr
    for phase in ("step", "checkpoint", "moving"):
        assert weights(tmp_path / phase) == expected, phase
        whole(tmp_path / phase)
    for phase in ("answers", "results"):
        assert results(tmp_path / phase) == results(tmp_path / "evaluate"), phase
        whole(tmp_path / phase)
