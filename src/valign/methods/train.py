"""Run a training method: the method's parts put into the engine's one loop."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from valign.data.group import Group
from valign.engine.items import Item, bind
from valign.engine.local import LocalEngine
from valign.engine.loop import HeldOut, Outcome, train
from valign.engine.processes import SINGLE, World
from valign.engine.reference import Reference, with_references
from valign.engine.rollout import RolloutSampler
from valign.engine.run import RunFolder
from valign.engine.sampler import DataSampler
from valign.engine.scorer import Scorer
from valign.engine.shards import SharedScorer, full, gathered, led, shard
from valign.errors import ValignError
from valign.methods.feedback import prepare
from valign.methods.method import Method
from valign.methods.target import Target
from valign.models.loaded import LoadedModel
from valign.models.policy import LocalPolicy, Progress, Sampling

LARGE = 1_000_000_000  # parameters from which adapter="auto" means LoRA
Listen = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Trained:
    """The aligned policy and what the loop says of the run."""

    policy: LocalPolicy
    outcome: Outcome


def train_policy(
    method: Method, policy: LocalPolicy, target: Target, config: Any, run: RunFolder, *,
    groups: Sequence[Group], dev: Sequence[Group] = (), on_event: Listen | None = None, world: World = SINGLE,
) -> Trained:  # fmt: skip
    """Train a copy of `policy` with `method`; `policy` stays as it is.

    groups   feedback for methods that learn from data, prompts for those that sample
    run      the open run folder: continued where it was left
    world    the processes that train together: all call this alike, and each ends with the whole trained policy
    """
    assert not method.makes_reward, "a reward model is trained by train_reward"
    engine = local_engine(policy)
    world.require_same(policy.model.digest, "weights")
    model = trainable_copy(policy.model, config)
    stop_ids = model.template.stop_ids
    if method.samples:
        objective = bind(method.objective, config, method.unit, method.at_start)  # type: ignore[arg-type]
        sampler = _rollouts(method, model, engine, target, config, groups, world)
        scorer = shared(engine.scorer(model, config.temperature), world, sampler)
        begun = world.from_leader(lambda: _begun(run))
        outcome = train(scorer, sampler, objective, config, run, stop_ids=stop_ids,
                        audit=() if begun else sampler.audit(), on_event=on_event, world=world)  # fmt: skip
    else:
        outcome = train_on_data(method, policy.model, shared(engine.scorer(model), world), config, run, groups=groups,
                                dev=dev, on_event=on_event, world=world)  # fmt: skip
    if world.sharded:
        model = whole(model, trainable_copy(policy.model, config))
    model.model.requires_grad_(False)
    trained = replace(model, id=f"{method.name}({policy.id})", manifest={"method": method.name, "config": asdict(config)},
                      digest=_digest(model), base=model.base or policy.id, source=None)  # fmt: skip
    return Trained(LocalPolicy(trained, engine), outcome)


def train_on_data(
    method: Method, start: LoadedModel, scorer: Scorer, config: Any, run: RunFolder, *,
    groups: Sequence[Group], dev: Sequence[Group], on_event: Listen | None, world: World,
) -> Outcome:  # fmt: skip
    """Train the scorer's model on the feedback in `groups`; `start` is the model as it was, the reference."""
    objective = bind(method.objective, config, method.unit, method.at_start)  # type: ignore[arg-type]
    template = start.template
    prepared, held = prepare(method.feedback, groups, template, config), []
    items = prepared.items
    if dev:
        held = prepare(method.feedback, dev, template, config, where="dev split").items
    if world.size > 1:
        world.require_same(_content([*items, *held]), "feedback")
    if method.uses_reference:
        # before the loop restores anything: the reference is the policy at step 0
        told = _progress("reference log-probs", on_event)
        items, held = (_referenced(x, scorer, start.digest, run, config, told) for x in (items, held))
    sampler = DataSampler(
        items, batch=config.batch_size, epochs=config.epochs, max_steps=config.max_steps, seed=config.seed
    )
    return train(scorer, sampler, objective, config, run, dev=HeldOut(held, config.eval_every, config.patience),
                 stop_ids=template.stop_ids, audit=prepared.audit(), on_event=on_event, world=world)  # fmt: skip


def local_engine(policy: LocalPolicy) -> LocalEngine:
    """The engine of a policy that can be trained. Raises `ValignError` for any other."""
    if not isinstance(policy.engine, LocalEngine):
        raise ValignError(
            "only a local model can be trained", where=policy.id, how="use an in-context or decoding method"
        )
    return policy.engine


def shared(scorer: Scorer, world: World, sampler: RolloutSampler | None = None) -> Scorer:
    """The scorer as several processes use it; with fsdp2 this is where the model's weights become shards."""
    if not world.sharded:
        return scorer if world.size == 1 else SharedScorer(scorer, world)
    root = shard(scorer.model, world)
    if sampler is not None:
        sampler.gathered = lambda: gathered(root)
    return SharedScorer(scorer, world, root)


def _content(items: Sequence[Item]) -> str:
    """sha256 over the paths and the feedback of items."""
    digest = hashlib.sha256()
    for item in items:
        for leaf in item.tree.leaves:
            digest.update(item.tree.path(leaf).tobytes() + b"|" + item.tree.response_loss(leaf).tobytes())
        for name, array in (*item.rows.items(), *item.values.items()):
            digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()


def _referenced(
    items: Sequence[Item], scorer: Scorer, digest: str, run: RunFolder, config: Any, progress: Progress | None
) -> list[Item]:
    if not items:
        return []
    rows = led(
        scorer,
        lambda shared: [
            item.tokens["reference"]
            for item in with_references(items, shared, digest, run.path, budget=config.token_budget, progress=progress)
        ],
    )
    return [item.with_tokens(reference=row) for item, row in zip(items, rows)]


def whole(model: LoadedModel, out: LoadedModel) -> LoadedModel:
    """`out`, made as `model` was before training, with the trained weights of `model`, which lie in shards."""
    import torch

    trained = full({n: p for n, p in model.model.named_parameters() if p.requires_grad})
    with torch.no_grad():
        for name, p in out.model.named_parameters():
            if name in trained:
                p.copy_(trained[name])
    return out


def trainable_copy(model: LoadedModel, config: Any) -> LoadedModel:
    """The model with weights that can move: float32 (or wider) copies, or a fresh adapter on a frozen copy."""
    import torch

    from valign.models.adapters import attach_lora

    if model.adapter is not None:
        raise ValignError("training on top of an adapter is not supported yet", where=model.id,
                          how="merge it first: valign models merge MODEL --out DIR")  # fmt: skip
    body = copy.deepcopy(model.model)
    wide = body if model.dtype in (torch.float32, torch.float64) else body.float()
    out = replace(model, model=wide, dtype=next(wide.parameters()).dtype, manifest=None)
    lora = config.adapter == "lora" or (config.adapter == "auto" and model.n_parameters >= LARGE)
    if lora:
        torch.manual_seed(config.seed)  # the adapter's first weights are drawn here
        out = attach_lora(out, r=config.lora_rank, alpha=2 * config.lora_rank)
    else:
        wide.requires_grad_(True)
    wide.eval()  # body dropout is off: one trunk would mean one draw for all branches
    return out


def _rollouts(
    method: Method, model: LoadedModel, engine: LocalEngine, target: Target, config: Any, groups: Sequence[Group],
    world: World,
) -> RolloutSampler:  # fmt: skip
    if not groups:
        raise ValignError("there are no prompts to sample from", where="data")
    batch = min(config.batch_size, len(groups))
    steps = max(1, round(len(groups) / batch * config.epochs))
    sampling = Sampling(n=config.group_size, max_new_tokens=config.max_new_tokens, temperature=config.temperature)
    scorer = engine.scorer(model, config.temperature)
    assert method.advantage is not None
    advantage = method.advantage
    return RolloutSampler(
        model=model,
        engine=engine,
        prompts=list(groups),
        reward=target.utility(),
        advantage=lambda rewards, log_ratio: advantage(rewards, log_ratio, config),
        sampling=sampling,
        batch=batch,
        steps=min(steps, config.max_steps) if config.max_steps else steps,
        seed=config.seed,
        reference=Reference(scorer, model.adapter) if config.beta > 0 or method.uses_reference else None,
        budget=config.token_budget,
        world=world,
    )


def _progress(what: str, on_event: Listen | None) -> Progress | None:
    if on_event is None:
        return None
    on_event("measuring", {"subject": "", "what": what})
    return lambda done, total: on_event("progress", {"what": what, "done": done, "total": total})


def _begun(run: RunFolder) -> bool:
    from valign.engine.checkpoint import complete

    return bool(complete(run.checkpoints))


def _digest(model: LoadedModel) -> str:
    from valign.models.adapters import adapter_digest
    from valign.models.loaded import memory_digest

    return memory_digest(model.model) if model.adapter is None else adapter_digest(model, model.adapter)
