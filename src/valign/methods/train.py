"""Run a training method: the method's parts put into the engine's one loop."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from valign.data.group import Group
from valign.engine.audit import AuditLine
from valign.engine.backend import EndpointBackend, check_lag
from valign.engine.checkpoint import complete
from valign.engine.hooks import Hook
from valign.engine.items import Item, bind
from valign.engine.local import LocalEngine, product_dtype
from valign.engine.loop import HeldOut, Outcome, train
from valign.engine.memory import Settled, memory_plan, sample_bytes, settle
from valign.engine.processes import SINGLE, World
from valign.engine.reference import Reference, store_folder, with_references
from valign.engine.rollout import RolloutSampler, with_samples
from valign.engine.run import RunFolder
from valign.engine.sampler import DataSampler, address
from valign.engine.scorer import Scorer
from valign.engine.shards import SharedScorer, full, gathered, led, shard
from valign.engine.tree import Tree, from_paths
from valign.errors import ValignError
from valign.methods.feedback import prepare
from valign.methods.guard import LONGEST, Guard, GuardHook
from valign.methods.method import Method
from valign.methods.positions import require_room
from valign.methods.target import Target
from valign.models.endpoint import EndpointPolicy
from valign.models.loaded import LoadedModel
from valign.models.policy import LocalPolicy, Progress, Sampling
from valign.rewards.implicit_reward import ImplicitReward

LARGE = 1_000_000_000  # parameters from which adapter="auto" means LoRA
Listen = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Trained:
    """The aligned policy and what the loop says of the run."""

    policy: LocalPolicy
    outcome: Outcome
    planned: int  # bytes that the memory plan expected this process to take at most


def train_policy(
    method: Method, policy: LocalPolicy, target: Target, config: Any, run: RunFolder, *,
    groups: Sequence[Group], dev: Sequence[Group] = (), on_event: Listen | None = None, world: World = SINGLE,
    guard: Guard | None = None,
) -> Trained:  # fmt: skip
    """Train a copy of `policy` with `method`; `policy` stays as it is.

    groups   feedback for methods that learn from data, prompts for those that sample
    run      the open run folder: continued where it was left
    world    the processes that train together: all call this alike, and each ends with the whole trained policy
    guard    what watches the policy while it trains; None: only the companions of a run that samples
    """
    assert not method.makes_reward, "a reward model is trained by train_reward"
    engine = local_engine(policy)
    world.require_same(policy.model.digest, "weights")
    job = Job(method, policy.model, trainable_copy(policy.model, config), engine, target, config, run, on_event, world,
              guard or Guard())
    outcome, planned = job.on_rollouts(groups) if method.samples else job.on_feedback(groups, dev)
    model = whole(job.model, trainable_copy(policy.model, config)) if world.sharded else job.model
    model.model.requires_grad_(False)
    trained = replace(model, id=f"{method.name}({policy.id})", manifest={"method": method.name, "config": asdict(config)},
                      digest=_digest(model), base=model.base or policy.id, source=None)  # fmt: skip
    return Trained(LocalPolicy(trained, engine), outcome, planned)


@dataclass
class Job:
    """One training run. `start` is the policy as it was, `model` the copy that moves."""

    method: Method
    start: LoadedModel
    model: LoadedModel
    engine: LocalEngine
    target: Target
    config: Any
    run: RunFolder
    tell: Listen | None
    world: World
    guard: Guard = field(default_factory=Guard)

    def on_feedback(self, groups: Sequence[Group], dev: Sequence[Group]) -> tuple[Outcome, int]:
        """Train on items made of a data set."""
        method, config, world, template = self.method, self.config, self.world, self.model.template
        prepared = prepare(method.feedback, groups, template, config)
        held = prepare(method.feedback, dev, template, config, where="dev split").items if dev else []
        items = prepared.items
        if world.size > 1:
            world.require_same(_content([*items, *held]), "feedback")
        scorer = self.engine.scorer(self.model, readout=method.readout, compiled=self._compiled())
        implicit, copied = self._implicit() if self.guard.audits else (None, 0)
        plan = self._plan(scorer, [i.tree for i in items], copies=copied,
                          samples=self._cache(self.guard.prompts, self._audit_law(self.guard.samples)))  # fmt: skip
        scorer.recompute = plan.recompute
        scorer = shared(scorer, world)
        if method.uses_reference:
            # before the loop restores anything: the reference is the policy at step 0
            told = _progress("reference log-probs", self.tell)
            items, held = (self._referenced(x, scorer, plan.token_budget, told) for x in (items, held))
        sampler = DataSampler(
            items, batch=config.batch_size, epochs=config.epochs, max_steps=config.max_steps, seed=config.seed
        )
        held_out = HeldOut(held, config.eval_every, config.patience)
        hook = None
        if implicit is not None:
            hook = GuardHook(self.guard, self._answer, implicit.score, self.run, world, whole_weights(scorer), implicit.beta)
        return self._train(scorer, sampler, plan, prepared.audit, held_out, hook), plan.peak

    def on_rollouts(self, prompts: Sequence[Group]) -> tuple[Outcome, int]:
        """Train on what the policy itself says to the prompts."""
        if not prompts:
            raise ValignError("there are no prompts to sample from", where="data")
        config = self.config
        require_room(self.model, [g.prompt for g in prompts], config.max_new_tokens, what=self.method.name, where="data")
        scorer = self.engine.scorer(self.model, config.temperature, compiled=self._compiled())
        reference = self._reference(scorer) if config.beta > 0 or self.method.uses_reference else None
        longest = self._longest(prompts)
        if longest + config.max_new_tokens > scorer.longest:
            raise ValignError(
                f"a prompt of {longest} tokens and max_new_tokens={config.max_new_tokens} exceed the model's "
                f"{scorer.longest} positions", where="data", how="leave long prompts out, or lower max_new_tokens",
            )  # fmt: skip
        tree = from_paths("longest", [0] * longest, [[i] * config.max_new_tokens for i in range(config.group_size)])
        cache = self._cache(prompts, self._rollout_law(), config.batch_size)
        plan = self._plan(scorer, [tree], copies=reference.copied if reference else 0, samples=cache)
        scorer.recompute = plan.recompute
        sampler = self._sampler(prompts, reference, plan.token_budget)
        scorer = shared(scorer, self.world)
        sampler.gathered = whole_weights(scorer)
        hook = GuardHook(self.guard, self._answer, sampler.reward, self.run, self.world, sampler.gathered)
        return self._train(scorer, sampler, plan, sampler.audit, hook=hook), plan.peak

    def _answer(self, groups: Sequence[Group], samples: int) -> list[Group]:
        """Audit prompts answered by the policy as it is now; always on the same random addresses."""
        sampling = self._audit_law(samples)
        with torch.no_grad():
            drawn = self.engine.generate(self.model, [g.prompt for g in groups], sampling, keys=[g.id for g in groups])
        return [with_samples(g, row) for g, row in zip(groups, drawn)]

    def _rollout_law(self) -> Sampling:
        config = self.config
        return Sampling(n=config.group_size, max_new_tokens=config.max_new_tokens, temperature=config.temperature)

    def _audit_law(self, samples: int) -> Sampling:
        """How audit prompts are answered: as the run's own rollouts are, else by the policy's whole law."""
        law = self._rollout_law() if self.method.samples else Sampling(max_new_tokens=LONGEST)
        longest = self.guard.max_new_tokens or law.max_new_tokens
        return replace(law, n=samples, max_new_tokens=longest, seed=address(self.config.seed, "guard"))

    def _implicit(self) -> tuple[ImplicitReward, int]:
        """What training has made of the policy, as a reward against the policy of step 0; and the bytes of a second model
        where the caller's own computes other numbers. A method without β has 1."""
        start, copied = self.start, 0
        if start.dtype != self.model.dtype:
            start = trainable_copy(start, self.config)
            copied = sum(p.numel() * p.element_size() for p in start.model.parameters())
        now, then = (LocalPolicy(m, self.engine) for m in (self.model, start))
        return ImplicitReward(now, then, getattr(self.config, "beta", 1.0)), copied

    def _longest(self, prompts: Sequence[Group]) -> int:
        """Tokens of the longest prompt."""
        return max(len(ids) for ids in self.model.template.prompt_ids_many([g.prompt for g in prompts]))

    def _cache(self, prompts: Sequence[Group], sampling: Sampling, batch: int | None = None) -> int:
        """Bytes of keys and values while `batch` of the prompts (None: all) are answered side by side."""
        if not prompts:
            return 0
        rows = min(self.engine.rows, (batch or len(prompts)) * sampling.n)
        narrow = torch.finfo(product_dtype(self.model, self.engine.precision) or self.model.dtype).bits // 8
        return sample_bytes(self.model.model, rows, self._longest(prompts) + sampling.max_new_tokens, narrow)

    def _train(self, scorer: Scorer, sampler: Any, plan: Settled, audit: Callable[[], Sequence[AuditLine]],
               dev: HeldOut | None = None, hook: Hook | None = None) -> Outcome:  # fmt: skip
        begun = self.world.from_leader(lambda: bool(complete(self.run.checkpoints)))
        objective = bind(self.method.objective, self.config, self.method.unit, self.method.at_start)  # type: ignore[arg-type]
        return train(scorer, sampler, objective, replace(self.config, token_budget=plan.token_budget), self.run, dev=dev,
                     stop_ids=self.model.template.stop_ids, audit=() if begun else [*audit(), *plan.audit],
                     on_event=self.tell, world=self.world, hook=hook)  # fmt: skip

    def _compiled(self) -> bool:
        if self.config.compile and self.world.sharded:
            raise ValignError("blocks whose weights are shards are not compiled", where="compile", how="leave it off")
        return bool(self.config.compile)

    def _plan(self, scorer: Scorer, trees: Sequence[Tree], *, copies: int = 0, samples: int = 0) -> Settled:
        # with an adapter the caller's model and the one in training are the same memory, until it is cut into shards
        same = self.model.adapter is not None and not self.world.sharded
        kept = 0 if same else sum(p.numel() * p.element_size() for p in self.start.model.parameters())
        return settle(
            lambda: memory_plan(scorer, trees, self.config.token_budget, groups=self.config.batch_size,
                                copies=copies + kept, samples=samples,
                                checkpointing=self.config.activation_checkpointing),
            scorer.device, self.run, self.world,
        )  # fmt: skip

    def _referenced(self, items: Sequence[Item], scorer: Scorer, budget: int, told: Progress | None) -> list[Item]:
        if not items:
            return []
        rows = led(
            scorer,
            lambda shared: [
                item.tokens["reference"]
                for item in with_references(items, shared, self.start.digest, store_folder(), budget=budget, progress=told)
            ],
        )
        return [item.with_tokens(reference=row) for item, row in zip(items, rows)]

    def _reference(self, scorer: Scorer) -> Reference:
        """The policy of step 0: the caller's own model where it computes the same numbers, else the adapter switched
        off, else a frozen copy."""
        if self.model.adapter is None and self.start.dtype == self.model.dtype:
            return Reference(self.engine.scorer(self.start, self.config.temperature), frozen=True)
        return Reference(scorer, self.model.adapter)

    def _sampler(self, prompts: Sequence[Group], reference: Reference | None, budget: int) -> RolloutSampler:
        config, advantage = self.config, self.method.advantage
        assert advantage is not None
        batch = min(config.batch_size, len(prompts))
        steps = max(1, round(len(prompts) / batch * config.epochs))
        steps = min(steps, config.max_steps) if config.max_steps else steps
        backend = None
        if config.rollouts != "own":
            backend = EndpointBackend(EndpointPolicy.named(config.rollouts), self.model.template.stop_ids)
            check_lag(backend, steps, config.max_lag)
        return RolloutSampler(
            model=self.model,
            engine=self.engine,
            prompts=list(prompts),
            reward=self.target.utility(),
            advantage=lambda rewards, log_ratio: advantage(rewards, log_ratio, config),
            sampling=self._rollout_law(),
            batch=batch,
            steps=steps,
            seed=config.seed,
            reference=reference,
            budget=budget,
            backend=backend,
            audit_every=config.audit_every,
            max_sampler_kl=config.max_sampler_kl,
            world=self.world,
        )


def local_engine(policy: LocalPolicy) -> LocalEngine:
    """The engine of a policy that can be trained. Raises `ValignError` for any other."""
    if not isinstance(policy.engine, LocalEngine):
        raise ValignError(
            "only a local model can be trained", where=policy.id, how="use an in-context or decoding method"
        )
    return policy.engine


def shared(scorer: Scorer, world: World) -> Scorer:
    """The scorer as several processes use it; with fsdp2 this is where the model's weights become shards."""
    if not world.sharded:
        return scorer if world.size == 1 else SharedScorer(scorer, world)
    return SharedScorer(scorer, world, shard(scorer.model, world))


def whole_weights(scorer: Scorer) -> Callable[[], AbstractContextManager[Any]]:
    """A context inside which this process can pass through the scorer's model alone."""
    root = scorer.root if isinstance(scorer, SharedScorer) else None
    return nullcontext if root is None else lambda: gathered(root)


def _content(items: Sequence[Item]) -> str:
    """sha256 over the paths and the feedback of items."""
    digest = hashlib.sha256()
    for item in items:
        for leaf in item.tree.leaves:
            digest.update(item.tree.path(leaf).tobytes() + b"|" + item.tree.response_loss(leaf).tobytes())
        for name, array in (*item.rows.items(), *item.values.items()):
            digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()


def whole(model: LoadedModel, out: LoadedModel) -> LoadedModel:
    """`out`, made as `model` was before training, with the trained weights of `model`, which lie in shards."""
    trained = full({n: p for n, p in model.model.named_parameters() if p.requires_grad})
    with torch.no_grad():
        for name, p in out.model.named_parameters():
            if name in trained:
                p.copy_(trained[name])
    return out


def trainable_copy(model: LoadedModel, config: Any) -> LoadedModel:
    """The model with weights that can move: float32 (or wider) copies, or a fresh adapter on the same frozen weights."""
    from valign.models.adapters import attach_lora

    if model.adapter is not None:
        raise ValignError("training on top of an adapter is not supported yet", where=model.id,
                          how="merge it first: valign models merge MODEL --out DIR")  # fmt: skip
    if config.adapter == "lora" or (config.adapter == "auto" and model.n_parameters >= LARGE):
        out = replace(model, model=_same_weights(model.model), manifest=None)
        torch.manual_seed(config.seed)  # the adapter's first weights are drawn here
        out = attach_lora(out, r=config.lora_rank, alpha=2 * config.lora_rank)
    else:
        body = copy.deepcopy(model.model)
        wide = body if model.dtype in (torch.float32, torch.float64) else body.float()
        out = replace(model, model=wide.requires_grad_(True), dtype=next(wide.parameters()).dtype, manifest=None)
    out.model.eval()  # body dropout is off: one trunk would mean one draw for all branches
    return out


def _same_weights(model: Any) -> Any:
    """Modules of their own over the memory of the same weights: what is hung into them does not reach `model`."""
    own = {id(p): torch.nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, memo={**own, **{id(b): b for b in model.buffers()}})


def _progress(what: str, on_event: Listen | None) -> Progress | None:
    if on_event is None:
        return None
    on_event("measuring", {"subject": "", "what": what})
    return lambda done, total: on_event("progress", {"what": what, "done": done, "total": total})


def _digest(model: LoadedModel) -> str:
    from valign.models.adapters import adapter_digest
    from valign.models.loaded import memory_digest

    return memory_digest(model.model) if model.adapter is None else adapter_digest(model, model.adapter)
