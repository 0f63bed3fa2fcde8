"""Methods trained by several processes: the policy that one process would have made, whole on each of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def vowels(groups: Any) -> list[Any]:
    """A reward that any text has."""
    return [np.array([sum(c in "aeiou" for c in r.text) + 0.1 * len(r.text) for r in g.responses]) for g in groups]


def aligned(world: Any, shared: Any, folder: Path, name: str, adapter: str) -> dict[str, Any]:
    """Three steps of a method: its weights, its digest, the last meters."""
    from valign.data.group import Comparison, Group, Response, user
    from valign.engine.run import FollowedRun, RunFolder
    from valign.methods.table import METHODS
    from valign.methods.target import Target
    from valign.methods.train import train_policy
    from valign.models.policy import LocalPolicy

    method, policy = METHODS[name], LocalPolicy(shared.build("llama_tied"), shared.local_engine())
    small: dict[str, Any] = {"group_size": 3, "max_new_tokens": 5} if method.samples else {}
    if name == "dpo":  # several processes compute their blocks again, one does not: the same numbers
        small["activation_checkpointing"] = "on" if world.size > 1 else "off"
    config = method.configure({"learning_rate": 1e-2, "batch_size": 3, "max_steps": 3, "epochs": 2, "adapter": adapter,
                               "token_budget": 40, **small})  # fmt: skip
    groups = [
        Group(id=f"g{i}", prompt=user(f"Why {i}?"), responses=() if method.samples else (Response(f"yes {i}"), Response("no")),
              feedback=() if method.samples else (Comparison(chosen=0, rejected=1),))
        for i in range(6)
    ]  # fmt: skip
    target = Target(reward=vowels) if method.samples else Target()
    folder = folder / f"{name}-{adapter}-{world.strategy}"
    with RunFolder(folder) if world.leads else FollowedRun(folder) as run:
        made = train_policy(method, policy, target, config, run, groups=groups, world=world)
    weights = {n: p.detach().tolist() for n, p in made.policy.model.model.named_parameters()}
    meters = {k: v for k, v in made.outcome.meters.items() if k not in ("tokens_per_second", "pad_share")}
    return {"weights": weights, "digest": made.policy.model.digest, "meters": meters}


def rewarded(world: Any, shared: Any, folder: Path) -> dict[str, Any]:
    """Three steps of a reward model: its weights, fingerprint and last meters."""
    from valign.data.group import Comparison, Group, Response, user
    from valign.engine.run import FollowedRun, RunFolder
    from valign.methods.table import METHODS
    from valign.methods.train_reward import train_reward
    from valign.models.policy import LocalPolicy

    method, policy = METHODS["reward_model"], LocalPolicy(shared.build("llama"), shared.local_engine())
    config = method.configure({"learning_rate": 1e-2, "batch_size": 3, "max_steps": 3, "epochs": 2, "token_budget": 40})
    answers = (Response("yes"), Response("no"))
    groups = [Group(f"g{i}", user(f"Why {i}?"), answers, (Comparison(chosen=0, rejected=1),)) for i in range(6)]
    folder = folder / f"reward-{world.strategy}"
    with RunFolder(folder) if world.leads else FollowedRun(folder) as run:
        made = train_reward(method, policy, config, run, groups=groups, world=world)
    weights = {n: p.detach().tolist() for n, p in made.reward.model.model.named_parameters()}
    meters = {k: v for k, v in made.outcome.meters.items() if k not in ("tokens_per_second", "pad_share")}
    meters |= {"mean": made.reward.mean, "sd": made.reward.sd}
    return {"weights": weights, "digest": made.reward.fingerprint(), "meters": meters}


def check_methods(world: Any, shared: Any, folder: Path) -> Any:
    found = {
        f"{n} {a}": aligned(world, shared, folder, n, a)
        for n, a in (("dpo", "none"), ("grpo", "none"), ("grpo", "lora"))
    }
    return {**found, "reward_model": rewarded(world, shared, folder)}


def gap(a: Any, b: Any) -> float:
    """The largest difference over nested lists of numbers."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return max(gap(a[k], b[k]) for k in a)
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


@pytest.fixture(scope="module")
def together(crew):
    return partial(crew, __file__)


@pytest.mark.proof("E23")
def test_every_process_ends_with_the_policy_of_one(together, tmp_path):
    """E10, E23 for methods: from data, and from their own samples with full weights and with an adapter: 1e-11."""
    alone = together("methods", 1, "single", tmp_path)[0]
    for strategy in ("ddp", "fsdp2"):
        lead, other = together("methods", 2, strategy, tmp_path)
        for name, expected in alone.items():
            assert lead[name]["digest"] == other[name]["digest"], "bit for bit on all processes"
            assert gap(lead[name]["weights"], expected["weights"]) < 1e-11
            assert gap(lead[name]["meters"], expected["meters"]) < 1e-11
