"""A run that is killed at any moment continues bit for bit.

This file is also a program: it imports torch once, then forks one training process for each line it reads,
tells its process id, waits for its end and tells how it ended. The test kills these processes with SIGKILL
at random moments.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).resolve()
KINDS = ("sft", "dpo", "reward", "rollout")
STEPS = 12


# --------------------------------------------------------------------------------------------------- in
# the child


def train_one(kind: str, folder: Path, shared: Any) -> None:
    """Train a tiny model to its end in `folder`, continuing what stands there; then write `end.json`."""
    from valign.engine.config import TrainConfig
    from valign.engine.items import Objective
    from valign.engine.loop import HeldOut, train
    from valign.engine.reference import Reference, with_references
    from valign.engine.rollout import RolloutSampler
    from valign.engine.run import RunFolder
    from valign.engine.sampler import DataSampler
    from valign.models.loaded import weights_digest
    from valign.models.policy import Sampling
    from valign.models.scalar_head import attach_head, first_head

    policy = shared.build("llama")
    config = TrainConfig(
        learning_rate=5e-3,
        batch_size=4,
        epochs=4,
        checkpoint_every=2,
        token_budget=60,
        seed=3,
    )
    engine = shared.local_engine()
    if kind == "reward":
        attach_head(policy.model, first_head(32, 3))
    scorer, dev = engine.scorer(policy, readout="scalar_last" if kind == "reward" else "log_probs"), []
    with RunFolder(folder) as run:
        if kind == "rollout":
            sampler: Any = RolloutSampler(
                policy,
                engine,
                shared.toy_prompts(8),
                reward=lambda gs: [np.array([float(len(set(r.text))) for r in g.responses]) for g in gs],
                advantage=lambda r, _: (r - r.mean()) / (r.std() + 1e-4),
                sampling=Sampling(n=3, max_new_tokens=6),
                batch=4,
                steps=STEPS,
                seed=3,
                reference=Reference(scorer),
            )
            objective = Objective(shared.rollout_loss, {"beta": 0.1}, "response")
        else:
            items, dev = shared.pair_items(12), shared.pair_items(4, seed=8)
            if kind == "dpo":
                items, dev = (with_references(x, scorer, "start", folder, budget=60) for x in (items, dev))
            objective = {
                "dpo": Objective(shared.preference, {"beta": 0.3}, "pair"),
                "reward": Objective(shared.reward_order, {}, "pair"),
                "sft": Objective(shared.nll, {}, "token"),
            }[kind]
            sampler = DataSampler(items, batch=4, epochs=4, seed=3)
        out = train(scorer, sampler, objective, config, run, dev=HeldOut(dev, every=3, patience=9), stop_ids=[2])
        meters = {k: v for k, v in out.meters.items() if k != "tokens_per_second"}
        end = {
            "weights": weights_digest(dict(policy.model.state_dict())),
            "meters": meters,
            "best": out.best,
            "steps": out.steps,
            "tokens": out.tokens_trained,
        }
        run.write("end.json", json.dumps(end, sort_keys=True))


def serve() -> None:
    """For each line "kind folder": fork, train, tell "pid N" and then "end STATUS"."""
    sys.path.pop(0)  # this folder: its modules are imported by their full names only
    spec = importlib.util.spec_from_file_location("shared", HERE.with_name("conftest.py"))
    assert spec and spec.loader
    shared = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shared)
    import torch

    torch.set_num_threads(1)
    shared.build("llama")  # whatever loads late is loaded now
    print("ready", flush=True)
    for line in sys.stdin:
        kind, folder = line.split(maxsplit=1)
        pid = os.fork()
        if pid == 0:
            try:
                train_one(kind, Path(folder.strip()), shared)
            except BaseException as error:
                Path(folder.strip(), "error.txt").write_text(repr(error))
                os._exit(1)
            os._exit(0)
        print("pid", pid, flush=True)
        print("end", os.waitpid(pid, 0)[1], flush=True)


# --------------------------------------------------------------------------------------------------- in
# the test


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(HERE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def start(server: subprocess.Popen[str], kind: str, folder: Path) -> int:
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(f"{kind} {folder}\n")
    server.stdin.flush()
    return int(server.stdout.readline().split()[1])


def wait(server: subprocess.Popen[str]) -> int:
    assert server.stdout is not None
    return int(server.stdout.readline().split()[1])


def last_lines(folder: Path) -> dict[int, Any]:
    """What the log says last of each step: a killed run may tell a step twice."""
    from valign.engine.run import read_log

    timed = ("time", "seconds", "left", "tokens_per_second", "memory")
    return {e["step"]: {k: v for k, v in e.items() if k not in timed} for e in read_log(folder) if e["event"] == "step"}


def kill_later(pid: int, folder: Path, rng: random.Random) -> None:
    """SIGKILL after one to five more lines of the log and up to 20 ms: by progress, so a slow machine
    kills as often.
    """
    log = folder / "log.jsonl"
    lines = rng.randint(1, 5) + (log.read_bytes().count(b"\n") if log.exists() else 0)
    with contextlib.suppress(ProcessLookupError):  # it ended by itself
        while not log.exists() or log.read_bytes().count(b"\n") < lines:
            if (folder / "end.json").exists() or (folder / "error.txt").exists():
                return
            os.kill(pid, 0)
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)


@pytest.mark.proof("E20")
@pytest.mark.parametrize("method", KINDS)
def test_a_run_killed_at_random_moments_ends_bitwise_the_same(server, tmp_path, method):
    """E20: SIGKILL up to five times; weights, optimizer, meters and log equal those of the uninterrupted
    run.
    """
    from safetensors.torch import load_file

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    start(server, method, straight)
    assert wait(server) == 0, (straight / "error.txt").read_text()
    rng, kills = random.Random(method), 0
    for _ in range(40):
        pid = start(server, method, killed)
        if kills < 5:
            kill_later(pid, killed, rng)
        status = wait(server)
        if status == 0:
            break
        assert status == signal.SIGKILL, (killed / "error.txt").read_text()
        kills += 1
    assert kills >= 2 and (killed / "end.json").exists()
    a, b = (json.loads((f / "end.json").read_text()) for f in (straight, killed))
    assert a == b and a["steps"] == STEPS
    assert last_lines(straight) == last_lines(killed) and set(last_lines(straight)) == set(range(1, STEPS + 1))
    states = [load_file(f / "checkpoints" / f"step-{STEPS:06d}" / "optimizer.safetensors") for f in (straight, killed)]
    assert states[0] and all((states[0][n] == states[1][n]).all() for n in states[0])


if __name__ == "__main__":
    serve()
