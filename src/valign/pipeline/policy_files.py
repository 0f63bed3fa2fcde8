"""The files of an aligned policy: moved into its folder whole, policy.json last; removed by a new start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from valign.engine.run import write_whole
from valign.errors import ValignError
from valign.models.policy import LocalPolicy, Policy
from valign.pipeline.meter import Spent
from valign.rewards.reward_model import RewardModel

MANIFEST, COST, PARTIAL = "policy.json", "cost.json", "policy.partial"
# everything that saving a model or an adapter writes: a leftover adapter beside full weights would be loaded
# on top
OURS = (
    MANIFEST,
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.*",
    "merges.txt",
)
WEIGHTS = (MANIFEST, "*.safetensors", "config.json", "adapter_config.json", "*.gguf")


def keep(
    policy: Policy | RewardModel,
    out: Path,
    *,
    method: str,
    config: Mapping[str, Any],
    goal: Mapping[str, Any] | None,
    reward: str = "",
) -> Policy | RewardModel:
    """Put the policy's files into `out`; policy.json comes last, so that a folder with one is whole.

    Returns the policy with the digest of those files. Raises `ValignError` where the disk refuses.
    """
    from safetensors import SafetensorError

    partial = out / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    try:
        policy = _save(policy, partial, out, method, config, goal, reward)
        (out / MANIFEST).unlink(missing_ok=True)
        for file in sorted(partial.iterdir(), key=lambda p: p.name == MANIFEST):
            file.replace(out / file.name)
        partial.rmdir()
        shutil.rmtree(out / "run" / "checkpoints", ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValignError(
            f"the policy cannot be written: {reason}",
            where=str(out),
            how="the last checkpoint is kept: make room and run the same command again",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return policy


def _save(
    policy: Policy | RewardModel,
    partial: Path,
    out: Path,
    method: str,
    config: Mapping[str, Any],
    goal: Mapping[str, Any] | None,
    reward: str,
) -> Policy | RewardModel:
    if isinstance(policy, RewardModel):
        kept = policy.save(partial, method=method, config=config, goal=goal)
        return replace(kept, model=replace(kept.model, id=policy.id, source=out))
    if isinstance(policy, LocalPolicy):
        from valign.models.gguf import quiet
        from valign.models.policy_folder import save_model

        with quiet():
            saved = save_model(policy.model, partial, method=method, config=config, goal=goal)
        return LocalPolicy(replace(saved, id=policy.id, source=out), policy.engine, policy.cost)
    policy.save(partial)
    if reward:
        manifest = json.loads((partial / MANIFEST).read_text(encoding="utf-8"))
        (partial / MANIFEST).write_text(
            json.dumps({**manifest, "reward": reward}, indent=1, ensure_ascii=False), "utf-8"
        )
    return policy


def clear(out: Path, *, policy: bool, run: bool) -> None:
    """Remove the policy from `out`, and what its run left (but the lock, which is ours); other files stay."""
    if policy:
        (out / MANIFEST).unlink(missing_ok=True)
        for file in (f for pattern in OURS for f in out.glob(pattern) if f.is_file()):
            file.unlink(missing_ok=True)
    for place in (out / "run").iterdir() if run else ():
        if place.is_dir():
            shutil.rmtree(place)
        elif place.name != "lock":
            place.unlink()


def holds_a_model(out: Path) -> bool:
    """Whether there are files of a model in the folder."""
    return any(True for pattern in WEIGHTS for _ in out.glob(pattern))


def write_cost(out: Path, cost: Spent) -> None:
    """What the policy cost, for whoever continues."""
    write_whole(out / "run" / COST, json.dumps(cost.to_json()))


def read_cost(out: Path) -> Spent:
    """What `write_cost` wrote; nothing where that is not there."""
    return Spent.read(out / "run" / COST)
