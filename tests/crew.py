"""The program behind the fixture `crew`: processes that meet through gloo on this machine.

It imports torch once. Then it forks the processes of one job for each line it reads: each joins the others as torchrun
would have it, calls `check_NAME(world, shared, folder)` of the test file that the job names, and writes what came of it.
`shared` is the engine's conftest: tiny models, items, the distance of results.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

PATIENCE = 600.0  # seconds for one job, which takes a few: a busy machine is slow, a deadlock is for ever
SHARED = Path(__file__).resolve().parent.parent / "src" / "valign" / "engine" / "conftest.py"


def load(name: str, path: Path) -> ModuleType:
    """A file as a module, once."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def work(rank: int, job: dict[str, Any], checks: ModuleType, shared: ModuleType) -> None:
    """A forked child: join the others, run the check, write what it found."""
    import torch

    from valign.engine.processes import start
    from valign.errors import ValignError

    torch.set_num_threads(1)
    out: dict[str, Any] = {}
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(job["size"]), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(job["port"]))  # fmt: skip
    try:
        with start(job["strategy"], "cpu") as world:
            out["found"] = getattr(checks, f"check_{job['check']}")(world, shared, Path(job["folder"]))
    except ValignError as error:
        out["error"], out["silent"] = str(error), error.silent
    except BaseException:
        out["broken"] = traceback.format_exc()
    out["at"] = time.monotonic()
    Path(job["out"], f"{rank}.json").write_text(json.dumps(out))


def main() -> None:

    import valign.methods.train  # noqa: F401 - all of these once, before the first fork

    shared = load("crew_shared", SHARED)
    shared.build("llama")
    for line in sys.stdin:
        job = json.loads(line)
        checks = load(f"checks_{Path(job['file']).stem}", Path(job["file"]))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            job["port"] = free.getsockname()[1]
        pids = []
        for rank in range(job["size"]):
            pid = os.fork()
            if not pid:
                try:
                    work(rank, job, checks, shared)
                finally:
                    os._exit(0)
            pids.append(pid)
        end(pids)
        print("done", flush=True)


def end(pids: list[int]) -> None:
    """Wait for the processes of a job. Those that wait for each other for ever are killed: they leave no result."""
    until = time.monotonic() + PATIENCE
    while pids and time.monotonic() < until:
        pids = [pid for pid in pids if os.waitpid(pid, os.WNOHANG) == (0, 0)]
        time.sleep(0.02)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
