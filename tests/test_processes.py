"""More than one process from the command line: torchrun for training, workers for evaluation."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer
from safetensors.torch import load_file

SETTINGS = ("--set", "batch_size=4", "--set", "learning_rate=1e-3", "--dtype", "float64", "--dev", "0.2")


def torchrun(*args: object) -> subprocess.CompletedProcess[str]:
    """`torchrun --nproc-per-node 2 -m valign ARGS` as its own process."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "valign", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_two_processes_leave_the_folder_of_one(valign, model, pairs, tmp_path, whole):
    """`align` under torchrun with sharded weights: the policy of one process, whole, and one voice."""
    command = ("align", model, "--method", "dpo", "--data", pairs, *SETTINGS, "--out")
    done = torchrun(*command, tmp_path / "two", "--strategy", "fsdp2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("aligned policy:") == 1 and done.stderr.count("step 1/") == 1
    valign(*command, tmp_path / "one")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert max(float((one[n] - two[n]).abs().max()) for n in one) < 1e-12
    whole(tmp_path / "two")
    assert not (tmp_path / "two" / "run" / "checkpoints").exists()
    again = valign(*command, tmp_path / "two")
    assert "this run was finished before" in again.stdout


def test_who_stops_because_of_another_process_is_silent(capsys):
    """The one that failed has said why."""
    from valign.cli.shared import errors
    from valign.engine.processes import Lost

    with pytest.raises(typer.Exit) as stopped, errors(False):
        raise Lost(1, "no such file", exit_code=2)
    assert stopped.value.exit_code == 2
    assert capsys.readouterr() == ("", "")


def test_what_needs_one_process_says_so(valign, model, pairs, tmp_path, monkeypatch):
    assert "ddp needs processes" in valign.error(
        "align", model, "--method", "dpo", "--data", pairs, "--out", tmp_path / "a", "--strategy", "ddp", status=2
    )
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = valign.error("evaluate", model, "--data", pairs, "--out", tmp_path / "b", status=2)
    assert "torchrun is for valign align" in message and "--workers" in message


def test_workers_measure_what_one_process_measures(valign, model, pairs, tmp_path):
    """`evaluate --workers 1`: the same results; and without workers the log is read, nothing is computed."""
    pytest.importorskip("ray", reason="needs the extra valign[ray]")
    command = ("evaluate", model, "--data", pairs, "--out")
    here = valign.json(*command, tmp_path / "here")["results"]
    there = valign.json(*command, tmp_path / "there", "--workers", 1)["results"]
    values = [[(r["metric"], r["variant"], r["value"], r["n"]) for r in found] for found in (here, there)]
    assert [v[:2] for v in values[0]] == [v[:2] for v in values[1]]
    assert all(a[2] == pytest.approx(b[2], abs=1e-5) and a[3] == b[3] for a, b in zip(*values))
    log = (tmp_path / "there" / "requests.jsonl").read_text()
    (tmp_path / "there" / "result.json").unlink()
    valign.json(*command, tmp_path / "there")
    assert (tmp_path / "there" / "requests.jsonl").read_text() == log
