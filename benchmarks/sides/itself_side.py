"""valign beside itself: ranked lists on shared trunks and on the plain path, and one process beside two.

Both columns are the same program in the same environment; the variant says which path, or how many processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.worker import Job, Timeline, counted_positions, peak_bytes, run

Row = Mapping[str, Any]


# ------------------------------------------------------------------------------------------------------ ranked lists


def check_lists(job: Job) -> dict[str, Any]:
    """In float32: the log-prob of every answer, and losses along some steps."""
    from benchmarks.sides.valign_side import _policy, _sums

    policy, lists = _policy(job, "float32"), job.inputs["check"]
    _, items = _prepared(policy, lists)
    scorer = _scorer(job, policy, policy.model)
    config = {"learning_rate": job.settings["loss_rate"], "batch_size": job.settings["loss_batch"]}
    line = _fitted(job, policy, lists, job.folder / "losses", config)
    return {"log_probs": _sums([i.tree.id for i in items], scorer.score([i.tree for i in items])), "losses": line.losses}


def time_lists(job: Job) -> dict[str, Any]:
    """One epoch over the lists."""
    from benchmarks.sides.valign_side import _policy

    policy, lists = _policy(job, "auto"), job.inputs["lists"]
    config = {"learning_rate": job.settings["learning_rate"], "batch_size": job.settings["batch"]}
    _fitted(job, policy, job.inputs["warm"], job.folder / "warm", config)
    with counted_positions() as positions:
        line = _fitted(job, policy, lists, job.folder / "run", config)
    return {**line.to_json(), "units": len(lists), "positions": positions.count}


def _fitted(job: Job, policy: Any, lists: Sequence[Row], folder: Path, told: Mapping[str, Any]) -> Timeline:
    """Train a copy of the policy on ranked lists by their mean log-probs; times and losses of its steps."""
    from benchmarks.sides.valign_side import _listener
    from valign.engine.config import TrainConfig
    from valign.engine.items import Objective
    from valign.engine.loop import train
    from valign.engine.run import RunFolder
    from valign.engine.sampler import DataSampler
    from valign.methods.train import trainable_copy

    config = TrainConfig(schedule="constant", warmup=0.0, token_budget=job.settings["token_budget"], **told)
    line = Timeline()
    model, (_, items) = trainable_copy(policy.model, config), _prepared(policy, lists)
    sampler = DataSampler(items, batch=config.batch_size, seed=0)
    objective = Objective(by_mean_log_prob, {}, "group")
    with RunFolder(folder) as run_folder:
        train(_scorer(job, policy, model), sampler, objective, config, run_folder, on_event=_listener(line),
              stop_ids=policy.model.template.stop_ids)  # fmt: skip
    return line


def by_mean_log_prob(policy: Any, mask: Any, ranked: Any, left: Any) -> Any:
    """The Plackett-Luce likelihood of each list, an answer's utility being its mean log-prob (the quantity that RRHF
    and PRO rank by)."""
    from valign.methods.supervised.reward_model import reward_plackett_luce

    return reward_plackett_luce((policy * mask).sum(1) / mask.sum(1).clamp_min(1), ranked, left)


def _prepared(policy: Any, lists: Sequence[Row]) -> tuple[list[Any], list[Any]]:
    """(groups, items) of lists that are ranked in the order given."""
    from valign.data.group import Group, Ranking, Response, user
    from valign.methods.feedback import prepare
    from valign.methods.table import METHODS

    groups = [
        Group(x["id"], user(x["prompt"]), tuple(map(Response, x["answers"])),
              (Ranking(order=tuple((i,) for i in range(len(x["answers"])))),))
        for x in lists
    ]  # fmt: skip
    config = METHODS["reward_plackett_luce"].configure({"on_long": "error"})
    return groups, prepare("rankings", groups, policy.model.template, config).items


def _scorer(job: Job, policy: Any, model: Any) -> Any:
    from valign.engine.local import product_dtype
    from valign.engine.scorer import Scorer

    dtype = None if job.task == "check" else product_dtype(model, "auto")
    return Scorer(model.model, path=job.variant.get("path"), autocast=dtype)


# --------------------------------------------------------------------------------------------------- two processes


def check_processes(job: Job) -> dict[str, Any]:
    """Losses along some steps, as the leading process reports them."""
    return {"losses": _launched(job)["losses"]}


def time_processes(job: Job) -> dict[str, Any]:
    return _launched(job)


def _launched(job: Job) -> dict[str, Any]:
    """What the leading one of the variant's processes writes. Each has one thread, so two have twice the cores."""
    count = int(job.variant.get("processes", 2))
    told = {k: getattr(job, k) for k in ("task", "kind", "workload", "model", "threads")}
    told |= {"settings": dict(job.settings), "variant": dict(job.variant), "inputs": dict(job.inputs)}
    file, out = job.folder / "rank.json", job.folder / "answer.json"
    file.write_text(json.dumps({**told, "folder": str(job.folder), "out": str(out)}), encoding="utf-8")
    module = ["benchmarks.sides.itself_side", str(file), "--rank"]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "-m"] if count > 1 else ["-m"]
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *launch, *module], env={**os.environ, **one}, check=True)
    return dict(json.loads(out.read_text(encoding="utf-8")))


def _rank() -> int:
    """One of the processes: train on its share; the leading one writes the answer."""
    import torch

    from benchmarks.sides.valign_side import _groups, _listener, _method, _policy
    from valign.engine.processes import start
    from valign.engine.run import FollowedRun, RunFolder
    from valign.methods.target import Target
    from valign.methods.train import train_policy

    raw = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out, folder = Path(raw.pop("out")), Path(raw.pop("folder"))
    job = Job(**raw, folder=folder)
    torch.set_num_threads(1)
    checked = job.task == "check"
    method, policy = _method(job), _policy(job, "float32" if checked else "auto")
    kind = "loss_" if checked else ""
    told = {
        "warmup": 0, "max_length": job.settings["max_length"], "on_long": "error", "epochs": 1, "seed": 0, "schedule": "constant",
        "learning_rate": job.settings["loss_rate" if checked else "learning_rate"], "beta": job.settings["beta"],
        "batch_size": job.settings[f"{kind}batch"],
    }  # fmt: skip
    with start("auto", "cpu") as world:

        def fitted(pairs: Sequence[Row], name: str, **more: Any) -> Timeline:
            line = Timeline()
            with RunFolder(folder / name) if world.leads else FollowedRun(folder / name) as run_folder:
                train_policy(method, policy, Target(), method.configure({**told, **more}), run_folder, world=world,
                             groups=_groups(pairs, method), on_event=_listener(line))  # fmt: skip
            return line

        if not checked:
            fitted(job.inputs["warm"], "warm", max_steps=1)
        line = fitted(job.inputs[f"{kind}pairs"], "run")
        peaks = world.gather(peak_bytes())
        if world.leads:
            answer = {**line.to_json(), "losses": line.losses, "units": len(job.inputs["pairs"]), "peak_bytes": sum(peaks)}
            out.write_text(json.dumps(answer), encoding="utf-8")
    return 0


TASKS = {
    "lists.check": check_lists,
    "lists.time": time_lists,
    "processes.check": check_processes,
    "processes.time": time_processes,
}

if __name__ == "__main__":
    sys.exit(_rank() if "--rank" in sys.argv else run(TASKS))
