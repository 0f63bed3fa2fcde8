"""Steps whose responses the policy itself samples: prompts -> G samples each -> reward -> advantage -> items.

The reward is passed in (goals and rewards live on higher floors), the advantage is the method's pure function. Sampled
ids are kept (token in, token out). A sample that was cut at max_new_tokens has no stop token, so none is trained.

Processes share the prompts of a step: each samples, rewards and scores its own, then all hold the same items. Samples
are addressed by (seed, prompt, index), so it does not matter whose they are.

The samples may come from a backend elsewhere (engine/backend.py). The trainer then scores every one of them: the log-ratios
to the reference are the trainer's own, and each token's gradient is weighted by its truncated importance ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from valign.data.group import Group, Response
from valign.engine.agreement import AUDITED, Agreement, agreement, weights
from valign.engine.audit import TOKEN_BF16, TOKEN_F32, AuditLine
from valign.engine.backend import Backend
from valign.engine.items import Item
from valign.engine.local import LocalEngine
from valign.engine.processes import SINGLE, World, deal
from valign.engine.reference import Reference
from valign.engine.sampler import Step, address
from valign.engine.tree import Tree, from_paths
from valign.errors import ValignError, require
from valign.models.loaded import LoadedModel
from valign.models.policy import Cost, Sample, Sampling

Floats = NDArray[np.float64]
# (rewards (G,), log pi/pi_ref of each response (G,) or zeros) -> advantages (G,)
Advantage = Callable[[Floats, Floats], Floats]
MAX_UNSCORED = 0.01  # share of samples without a finite reward that stops a run


@dataclass(frozen=True)
class _Rollout:
    """What came of one prompt: all samples with their rewards, and of those with a finite one (`kept`) the tree, the
    reference log-probs and, where somebody else sampled, the trainer's."""

    samples: Sequence[Sample]
    rewards: Floats
    kept: Sequence[Sample]
    tree: Tree | None
    reference: list[Any] | None
    trainer: list[Any] | None = None

    @property
    def law(self) -> list[Any]:
        """Log-probs of the kept samples under the policy that is trained."""
        return self.trainer if self.trainer is not None else [s.law for s in self.kept]


@dataclass
class RolloutSampler:
    """`batch` prompts a step, drawn by a seeded permutation, `group_size` samples each.

    reward      groups with responses -> rewards (G,) of each group; NaN = this sample could not be scored
    reference   scores trees under the policy of step 0; None where the method uses none
    world       the processes that share the sampling
    gathered    inside it this process can pass through the model alone (sharded weights are whole)
    backend     who samples; None: the policy itself        audit_every  steps between looks at the sampler; 0: before step 0
    max_sampler_kl  KL(sampler || trainer), nats per token, above which the run is refused
    """

    model: LoadedModel
    engine: LocalEngine
    prompts: Sequence[Group]
    reward: Callable[[Sequence[Group]], Sequence[Floats]]
    advantage: Advantage
    sampling: Sampling
    batch: int
    steps: int
    seed: int
    reference: Reference | None = None
    budget: int | None = None
    world: World = SINGLE
    gathered: Callable[[], AbstractContextManager[Any]] = nullcontext
    backend: Backend | None = None
    audit_every: int = 0
    max_sampler_kl: float = 0.01
    _audited: Step | None = field(default=None, init=False, repr=False)
    _last: list[tuple[Tree, Sequence[Sample]]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        s = self.sampling
        # under a truncated law the ratios would not be those of the law that sampled
        if s.top_p < 1 or s.top_k or s.min_p or not s.temperature:
            raise ValignError(
                "training samples from the whole law of the policy",
                where="sampling",
                how="temperature > 0, top_p=1, top_k=0, min_p=0",
            )
        if self.backend is not None:
            require(s.temperature == 1, "temperature", s.temperature, "1 for an endpoint: its log-probs are of that law")

    def step(self, index: int) -> Step:
        """The items of one optimizer step. What the audit sampled for step 0 is not sampled again."""
        ready, self._audited = self._audited, None
        if ready is not None and index == 0:
            return ready
        chosen = [self.prompts[i] for i in self._order(index)]
        prompts = self.model.template.prompt_ids_many([g.prompt for g in chosen])
        rollouts = self._rollouts(chosen, prompts, index)
        samples, rewards = [r.samples for r in rollouts], [r.rewards for r in rollouts]
        self._check(rewards, samples)
        items, ratios = [], []
        for x in rollouts:
            if x.tree is None:
                continue
            h = np.zeros(len(x.tree.leaves))
            if x.reference is not None:
                h = np.array([float((law - ref).sum()) for law, ref in zip(x.law, x.reference)])
            r = x.rewards[np.isfinite(x.rewards)]
            advantage = self.advantage(r, h) if len(r) > 1 else np.zeros(len(r))
            item = Item(x.tree, values={"advantage": advantage})
            if x.trainer is not None:
                item = item.with_tokens(sampler_weight=weights([s.law for s in x.kept], x.trainer)[0])
            items.append(item if x.reference is None else item.with_tokens(reference=x.reference))
            ratios.append(h)
        meters = self._meters(samples, rewards, items, ratios) | self._sampler_meters(rollouts, index)
        return Step(items, meters, _cost(prompts, samples))

    def _rollouts(self, chosen: Sequence[Group], prompts: Sequence[Sequence[int]], index: int) -> list[_Rollout]:
        """One rollout for each prompt: this process's share, then everybody's."""
        mine = deal([float(len(p)) for p in prompts], self.world.size)[self.world.rank]
        found: dict[int, _Rollout] = {}
        with self.gathered():
            if mine:
                found = dict(zip(mine, self._share([chosen[i] for i in mine], [prompts[i] for i in mine], index)))
        everywhere = {i: r for part in self.world.gather(found) for i, r in part.items()}
        return [everywhere[i] for i in range(len(chosen))]

    def _share(self, chosen: Sequence[Group], prompts: Sequence[Sequence[int]], index: int) -> list[_Rollout]:
        samples = self._sample(chosen, prompts, index)
        groups = [with_samples(g, s) for g, s in zip(chosen, samples)]
        rewards = [np.asarray(r, np.float64) for r in self.reward(groups)]
        _check_shapes(groups, rewards)
        rewards = [np.where([bool(s.failure) for s in row], np.nan, r) for row, r in zip(samples, rewards)]
        # a sample without a reward is in no sum: neither in the normalizer nor in the KL
        kept = [[s for s, x in zip(row, r) if np.isfinite(x)] for row, r in zip(samples, rewards)]
        trees = [
            from_paths(f"{g.id}@{index}", p, [s.ids for s in row]) if row else None
            for g, p, row in zip(chosen, prompts, kept)
        ]
        some = [t for t in trees if t is not None]
        references = iter(self.reference(some, budget=self.budget) if self.reference is not None and some else ())
        own = iter(self._scored(some) if self.backend is not None and some else ())
        return [
            _Rollout(row, r, good, tree, *((next(references, None), next(own, None)) if tree is not None else (None,)))
            for row, r, good, tree in zip(samples, rewards, kept, trees)
        ]

    def audit(self) -> list[AuditLine]:
        """Sample once before step 0: rewards that never differ teach nothing; sampler and trainer must agree."""
        step = self.step(0)
        self._audited = step
        spread = step.meters["reward_sd"]
        found = self._agreement()
        ends = step.meters["truncated"]
        return [
            AuditLine(
                "reward varies", spread > 0, f"standard deviation {spread:.4g} over the first rollouts", fatal=True
            ),
            AuditLine(
                "responses end by themselves", ends < 1, f"{1 - ends:.0%} within {self.sampling.max_new_tokens} tokens"
            ),
            self._sampler_line(found),
        ]

    def _sampler_line(self, found: Agreement) -> AuditLine:
        """The policy's own samples agree to rounding; those of a backend within what ratios can correct."""
        if found.kl > self.max_sampler_kl:
            text = f"{found.text}; at most {self.max_sampler_kl:g} (max_sampler_kl)"
            return AuditLine("sampler = trainer", False, text, fatal=True)
        narrow = self.engine.scorer(self.model).narrow
        noise = TOKEN_BF16 if narrow else TOKEN_F32
        return AuditLine("sampler = trainer", self.backend is not None or found.largest <= noise, found.text)

    def _agreement(self) -> Agreement:
        """Sampler and trainer on up to `AUDITED` of the last samples, teacher-forced by the scorer."""
        rows, taken = [], 0
        for tree, row in self._last:
            if taken * self.world.size < AUDITED:
                rows.append((tree, row))
                taken += len(row)
        with self.gathered():
            scored = self._scored([t for t, _ in rows]) if rows else []
        pairs = [(s.law, log_probs) for (_, row), group in zip(rows, scored) for s, log_probs in zip(row, group)]
        everywhere = [pair for part in self.world.gather(pairs) for pair in part][:AUDITED]
        return agreement([a for a, _ in everywhere], [b for _, b in everywhere])

    def _scored(self, trees: Sequence[Tree]) -> list[list[Any]]:
        """The trainer's log-probs of every sample."""
        return self.engine.scorer(self.model, self.sampling.temperature).score(trees, budget=self.budget)

    def _sampler_meters(self, rollouts: Sequence[_Rollout], index: int) -> dict[str, float]:
        """How far the sampler is from the trainer: with a backend at every step, else every `audit_every` steps.

        Raises `ValignError` above `max_sampler_kl`; before step 0 the audit does, with its own line.
        """
        extra: dict[str, float] = {}
        if self.backend is not None:
            drawn = [s.law for x in rollouts for s in x.kept]
            trainer = [row for x in rollouts for row in x.trainer or ()]
            found = agreement(drawn, trainer)
            extra = {"sampler_capped": weights(drawn, trainer)[1], "lag": float(index - self.backend.version)}
        elif index and self.audit_every and index % self.audit_every == 0:
            found = self._agreement()
        else:
            return {}
        if index and found.kl > self.max_sampler_kl:
            raise ValignError(
                f"sampler and trainer are too far apart: {found.text}; at most {self.max_sampler_kl:g}",
                where=f"step {index}" + (f", {self.backend.name}" if self.backend is not None else ""),
                how=["serve newer weights, or lower learning_rate or max_steps" if self.backend is not None
                     else "the same model must sample and train: please report this", "or raise max_sampler_kl"],
            )  # fmt: skip
        return {**found.meters(), **extra}

    def _order(self, index: int) -> list[int]:
        per_epoch = max(1, len(self.prompts) // self.batch)
        epoch, at = divmod(index, per_epoch)
        order = np.random.default_rng(address(self.seed, "prompts", epoch)).permutation(len(self.prompts))
        return [int(i) for i in order[at * self.batch : (at + 1) * self.batch]]

    def _sample(self, chosen: Sequence[Group], prompts: Sequence[Sequence[int]], index: int) -> list[list[Sample]]:
        sampling = Sampling(**{**vars(self.sampling), "seed": address(self.seed, "rollout", index)})
        keys = [g.id for g in chosen]
        if self.backend is not None:
            samples = self.backend.sample(prompts, sampling, keys)
        else:
            with torch.no_grad():
                samples = self.engine.generate(self.model, [g.prompt for g in chosen], sampling, keys=keys)
        answered = [[s for s in row if s.ids] for row in samples]
        self._last = [
            (from_paths(g.id, p, [s.ids for s in row]), row) for g, p, row in zip(chosen, prompts, answered) if row
        ]
        return samples

    def _check(self, rewards: Sequence[Floats], samples: Sequence[Sequence[Sample]]) -> None:
        bad = float(np.mean([not np.isfinite(x) for r in rewards for x in r]))
        failures = [s.failure for row in samples for s in row if s.failure]
        if bad > MAX_UNSCORED and failures:
            raise ValignError(f"{len(failures)} samples have no answer, the first: {failures[0]}", where="rollouts",
                              how="run the same command again: it continues; up to 1 % are left out and counted")  # fmt: skip
        if bad > MAX_UNSCORED:
            raise ValignError(f"the reward is not finite on {bad:.1%} of the samples", where="reward",
                              how="look at the reward's inputs; up to 1 % are left out and counted")  # fmt: skip

    def _meters(
        self,
        samples: Sequence[Sequence[Sample]],
        rewards: Sequence[Floats],
        items: Sequence[Item],
        ratios: Sequence[Floats],
    ) -> dict[str, float]:
        flat = [s for row in samples for s in row if not s.failure]
        every = np.concatenate(rewards)
        finite = every[np.isfinite(every)]
        h = np.concatenate(ratios)
        flat_groups = [bool(np.ptp(r[np.isfinite(r)]) == 0) for r in rewards if np.isfinite(r).any()]
        out = {
            "reward": float(finite.mean()) if len(finite) else 0.0,
            "reward_sd": float(np.mean([r[np.isfinite(r)].std() for r in rewards if np.isfinite(r).any()] or [0.0])),
            "unscored": float((~np.isfinite(every)).mean()),
            "length": float(np.mean([len(s.ids) for s in flat])),
            "truncated": float(np.mean([s.finish == "length" for s in flat])),
            "equal_groups": float(np.mean(flat_groups)) if flat_groups else 0.0,
            "at_maximum": float((finite >= finite.max() - 1e-9).mean()) if len(finite) else 0.0,
            "repeated": float(np.mean([repetition(s.ids) for s in flat] or [0.0])),
            "rollout_tokens": float(sum(len(s.ids) for s in flat)),
            "advantage_abs": float(np.mean(np.abs(np.concatenate([i.values["advantage"] for i in items])))),
        }
        if self.reference is not None:
            out["kl"] = float(h.mean())  # k1 over the policy's own samples: unbiased, may be negative
        return out


def repetition(tokens: Sequence[object], n: int = 3) -> float:
    """Share of a response's n-grams that occurred before in it; 0 for fewer than two of them."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if len(grams) > 1 else 0.0


def _check_shapes(groups: Sequence[Group], rewards: Sequence[Floats]) -> None:
    for g, r in zip(groups, rewards):
        if r.shape != (len(g.responses),):
            raise ValignError(
                f"the reward gave {r.shape} numbers for {len(g.responses)} responses", where=f"group {g.id}"
            )


def with_samples(group: Group, samples: Sequence[Sample]) -> Group:
    """The prompt with sampled responses: token in, token out."""
    responses = tuple(
        Response(text=s.text, id=str(i), source="policy", ids=s.ids, finish=s.finish) for i, s in enumerate(samples)
    )
    return Group(id=group.id, prompt=group.prompt, responses=responses, cluster=group.cluster, meta=group.meta)


def _cost(prompts: Sequence[Sequence[int]], samples: Sequence[Sequence[Sample]]) -> Cost:
    return Cost(
        calls=sum(map(len, samples)),
        tokens_read=sum(map(len, prompts)),
        tokens_generated=sum(len(s.ids) for row in samples for s in row),
    )
