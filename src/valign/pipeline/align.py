"""Align one policy with one method into one folder. The folder is the aligned policy; `run/` inside it holds the log.

    DIR/policy.json + weights   written last, whole: a folder without policy.json is not finished
    DIR/run/request.json        what was asked for; asking for something else in the same folder is refused
    DIR/run/log.jsonl           every step; DIR/run/checkpoints while training
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from valign.data.group import Group
from valign.engine.run import RunFolder, write_whole
from valign.errors import ValignError
from valign.methods.method import Method
from valign.methods.target import Target
from valign.methods.train import train_policy
from valign.models.policy import Cost, LocalPolicy, Policy
from valign.pipeline.data import with_feedback
from valign.pipeline.meter import Spent, spent

Listen = Callable[[str, Mapping[str, Any]], None]
REQUEST, COST = "request.json", "cost.json"


@dataclass(frozen=True)
class Aligned:
    """What aligning gives: the policy, what it cost, and notes for the reader."""

    policy: Policy
    cost: Spent
    notes: tuple[str, ...] = ()
    continued: bool = False


def align_policy(
    policy: Policy,
    target: Target,
    method: Method,
    settings: Mapping[str, Any],
    out: Path | None,
    *,
    groups: Sequence[Group] = (),
    dev: Sequence[Group] = (),
    force: bool = False,
    on_event: Listen | None = None,
    reload: Callable[[Path], Policy] | None = None,
) -> Aligned:
    """Run `method` on a copy of `policy` and leave the aligned policy in `out` (None: nothing is kept but the result).

    groups   feedback, or prompts, for methods that train        dev  held out for evaluation and early stopping
    force    start again in a folder that holds another run
    reload   how to load a finished folder: an interrupted comparison continues without training twice
    """
    config = method.with_beta(method.configure(settings), target, settings)
    fit, note = with_feedback(groups, method.feedback, target.goal)
    held = with_feedback(dev, method.feedback, target.goal)[0]
    if out is None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            return _run(policy, target, method, config, Path(folder), fit, held, note, on_event, keep=False)
    request = _request(policy, target, method, config, fit, held)
    if _finished(out, request, force) and reload is not None:
        return Aligned(reload(out), _read_cost(out), (note,) if note else (), continued=True)
    return _run(policy, target, method, config, out, fit, held, note, on_event, keep=True, request=request)


def _run(
    policy: Policy, target: Target, method: Method, config: Any, out: Path, groups: Sequence[Group], dev: Sequence[Group],
    note: str, on_event: Listen | None, *, keep: bool, request: Mapping[str, Any] | None = None,
) -> Aligned:  # fmt: skip
    with RunFolder(out / "run") as run:
        if request is not None:
            run.write(REQUEST, json.dumps(request, indent=1, ensure_ascii=False, sort_keys=True))
        with spent() as cost:
            if method.trains:
                if not isinstance(policy, LocalPolicy):
                    raise ValignError(f"{method.name} changes weights: it needs a local model", where=policy.id,
                                      how="use an in-context or decoding method: `valign methods`")  # fmt: skip
                trained = train_policy(method, policy, target, config, run, groups=groups, dev=dev, on_event=on_event)
                aligned: Policy = trained.policy
                cost.cost = Cost(tokens_trained=trained.outcome.tokens_trained)
            else:
                assert method.wrap is not None
                aligned = method.wrap(policy, target, config)
        if keep:
            aligned = _keep(aligned, out, method, config, target)
            _write_cost(out, cost)
    return Aligned(aligned, cost, (note,) if note else ())


def _keep(aligned: Policy, out: Path, method: Method, config: Any, target: Target) -> Policy:
    """Put the policy's files into `out`: policy.json last, so that a folder with one is whole."""
    partial = out / "policy.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if isinstance(aligned, LocalPolicy):
            from valign.models.policy_folder import save_model

            goal = target.goal.to_json() if target.goal is not None else None
            saved = save_model(aligned.model, partial, method=method.name, config=asdict(config), goal=goal)
            aligned = LocalPolicy(replace(saved, id=aligned.id, source=out), aligned.engine, aligned.cost)
        else:
            aligned.save(partial)
        (out / "policy.json").unlink(missing_ok=True)
        files = sorted(partial.iterdir(), key=lambda p: p.name == "policy.json")
        for file in files:
            file.replace(out / file.name)
        partial.rmdir()
        shutil.rmtree(out / "run" / "checkpoints", ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ValignError(f"the policy cannot be written: {error.strerror}", where=str(out),
                          how="the last checkpoint is kept: make room and run the same command again") from error  # fmt: skip
    return aligned


def _request(
    policy: Policy, target: Target, method: Method, config: Any, groups: Sequence[Group], dev: Sequence[Group]
) -> dict[str, Any]:
    """What was asked for, as JSON: equal requests continue each other."""
    import hashlib

    def digest(rows: Sequence[Group]) -> str:
        return hashlib.sha256("".join(g.fingerprint() for g in rows).encode()).hexdigest()[:16]

    card = policy.card()
    return {
        "method": method.name,
        "config": json.loads(json.dumps(asdict(config))),
        "base": policy.id,
        "base_sha256": card.get("sha256"),
        "goal": target.goal.fingerprint() if target.goal is not None else None,
        "data": digest(groups) if method.feedback not in ("goal text", "nothing") else None,
        "dev": digest(dev) if method.trains else None,
    }


def _finished(out: Path, request: Mapping[str, Any], force: bool) -> bool:
    """True if `out` holds the finished result of this very request. Raises if it holds another one's."""
    stored = out / "run" / REQUEST
    if not stored.exists():
        if (out / "policy.json").exists() and not force:
            raise ValignError("the folder holds another policy", where=str(out), how="choose another --out, or --force")
        return False
    before = json.loads(stored.read_text())
    changed = sorted(_changes(before, request))
    if changed and not force:
        raise ValignError(
            f"the folder holds a run with other settings: {', '.join(changed)}", where=str(out),
            how=["choose another --out", "or start again with --force"],
        )  # fmt: skip
    if changed or force:
        for name in ("run", "policy.partial"):
            shutil.rmtree(out / name, ignore_errors=True)
        (out / "policy.json").unlink(missing_ok=True)
        return False
    return (out / "policy.json").exists()


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    out = []
    for key in {*before, *now}:
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if key == "config" and isinstance(old, dict) and isinstance(new, dict):
            out += [f"{k} ({old.get(k)} -> {new.get(k)})" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
        else:
            out.append(key)
    return out


def _write_cost(out: Path, cost: Spent) -> None:
    write_whole(out / "run" / COST, json.dumps(cost.to_json() | {"calls": cost.cost.calls}))


def _read_cost(out: Path) -> Spent:
    try:
        row = json.loads((out / "run" / COST).read_text())
    except (OSError, ValueError):
        return Spent()
    return Spent(row["seconds"], int(row["peak_memory_bytes"]), Cost(tokens_trained=int(row["tokens_trained"])))
