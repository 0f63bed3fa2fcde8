"""Steps whose responses the policy itself samples: prompts -> G samples each -> reward -> advantage -> items.

The reward is passed in (goals and rewards live on higher floors), the advantage is the method's pure function. Sampled
ids are kept (token in, token out). A sample that was cut at max_new_tokens has no stop token, so none is trained.

Processes share the prompts of a step: each samples, rewards and scores its own, then all hold the same items. Samples
are addressed by (seed, prompt, index), so it does not matter whose they are.
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
from valign.engine.audit import AuditLine
from valign.engine.items import Item
from valign.engine.local import LocalEngine
from valign.engine.processes import SINGLE, World, deal
from valign.engine.reference import Reference
from valign.engine.sampler import Step, address
from valign.engine.tree import Tree, from_paths
from valign.errors import ValignError
from valign.models.loaded import LoadedModel
from valign.models.policy import Cost, Sample, Sampling

Floats = NDArray[np.float64]
# (rewards (G,), log pi/pi_ref of each response (G,) or zeros) -> advantages (G,)
Advantage = Callable[[Floats, Floats], Floats]
MAX_UNSCORED = 0.01  # share of samples without a finite reward that stops a run


@dataclass(frozen=True)
class _Rollout:
    """What came of one prompt: all samples with their rewards, and of those with a finite one (`kept`) the tree and the
    reference log-probs."""

    samples: Sequence[Sample]
    rewards: Floats
    kept: Sequence[Sample]
    tree: Tree | None
    reference: list[Any] | None


@dataclass
class RolloutSampler:
    """`batch` prompts a step, drawn by a seeded permutation, `group_size` samples each.

    reward      groups with responses -> rewards (G,) of each group; NaN = this sample could not be scored
    reference   scores trees under the policy of step 0; None where the method uses none
    world       the processes that share the sampling
    gathered    inside it this process can pass through the model alone (sharded weights are whole)
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
    budget: int = 4096
    world: World = SINGLE
    gathered: Callable[[], AbstractContextManager[Any]] = nullcontext
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

    def step(self, index: int) -> Step:
        """The items of one optimizer step. What the audit sampled for step 0 is not sampled again."""
        ready, self._audited = self._audited, None
        if ready is not None and index == 0:
            return ready
        chosen = [self.prompts[i] for i in self._order(index)]
        prompts = self.model.template.prompt_ids_many([g.prompt for g in chosen])
        rollouts = self._rollouts(chosen, prompts, index)
        samples, rewards = [r.samples for r in rollouts], [r.rewards for r in rollouts]
        self._check(rewards)
        items, ratios = [], []
        for x in rollouts:
            if x.tree is None:
                continue
            h = np.zeros(len(x.tree.leaves))
            if x.reference is not None:
                h = np.array([float((s.law - ref).sum()) for s, ref in zip(x.kept, x.reference)])
            r = x.rewards[np.isfinite(x.rewards)]
            advantage = self.advantage(r, h) if len(r) > 1 else np.zeros(len(r))
            item = Item(x.tree, values={"advantage": advantage})
            items.append(item if x.reference is None else item.with_tokens(reference=x.reference))
            ratios.append(h)
        return Step(items, self._meters(samples, rewards, items, ratios), _cost(prompts, samples))

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
        groups = [_with_samples(g, s) for g, s in zip(chosen, samples)]
        rewards = [np.asarray(r, np.float64) for r in self.reward(groups)]
        _check_shapes(groups, rewards)
        # a sample without a reward is in no sum: neither in the normalizer nor in the KL
        kept = [[s for s, x in zip(row, r) if np.isfinite(x)] for row, r in zip(samples, rewards)]
        trees = [
            from_paths(f"{g.id}@{index}", p, [s.ids for s in row]) if row else None
            for g, p, row in zip(chosen, prompts, kept)
        ]
        some = [t for t in trees if t is not None]
        references = iter(self.reference(some, budget=self.budget) if self.reference is not None and some else ())
        return [
            _Rollout(row, r, good, tree, next(references, None) if tree is not None else None)
            for row, r, good, tree in zip(samples, rewards, kept, trees)
        ]

    def audit(self) -> list[AuditLine]:
        """Sample once before step 0: rewards that never differ teach nothing; sampler and trainer must agree."""
        step = self.step(0)
        self._audited = step
        spread = step.meters["reward_sd"]
        gap = self._sampler_gap()
        ends = step.meters["truncated"]
        return [
            AuditLine(
                "reward varies", spread > 0, f"standard deviation {spread:.4g} over the first rollouts", fatal=True
            ),
            AuditLine(
                "responses end by themselves", ends < 1, f"{1 - ends:.0%} within {self.sampling.max_new_tokens} tokens"
            ),
            AuditLine("sampler = trainer", gap < 0.1, f"mean token difference {gap:.2g} nats"),
        ]

    def _sampler_gap(self) -> float:
        """Mean absolute difference between the sampler's and the scorer's log-probs of the last samples, in nats."""
        with self.gathered():
            rows = self._last
            scored = self.engine.scorer(self.model, self.sampling.temperature).score(
                [t for t, _ in rows], budget=self.budget
            )
        gaps = [
            float(np.abs(a - s.law).mean())
            for (_, row), group in zip(rows, scored)
            for a, s in zip(group, row)
            if len(s.ids)
        ]
        everywhere = [gap for part in self.world.gather(gaps) for gap in part]
        return float(np.mean(everywhere)) if everywhere else 0.0

    def _order(self, index: int) -> list[int]:
        per_epoch = max(1, len(self.prompts) // self.batch)
        epoch, at = divmod(index, per_epoch)
        order = np.random.default_rng(address(self.seed, "prompts", epoch)).permutation(len(self.prompts))
        return [int(i) for i in order[at * self.batch : (at + 1) * self.batch]]

    def _sample(self, chosen: Sequence[Group], prompts: Sequence[Sequence[int]], index: int) -> list[list[Sample]]:
        sampling = Sampling(**{**vars(self.sampling), "seed": address(self.seed, "rollout", index)})
        with torch.no_grad():
            samples = self.engine.generate(
                self.model, [g.prompt for g in chosen], sampling, keys=[g.id for g in chosen]
            )
        self._last = [(from_paths(g.id, p, [s.ids for s in row]), row) for g, p, row in zip(chosen, prompts, samples)]
        return samples

    def _check(self, rewards: Sequence[Floats]) -> None:
        bad = float(np.mean([not np.isfinite(x) for r in rewards for x in r]))
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
        flat = [s for row in samples for s in row]
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
            "advantage_abs": float(np.mean(np.abs(np.concatenate([i.values["advantage"] for i in items])))),
        }
        if self.reference is not None:
            out["kl"] = float(h.mean())  # k1 over the policy's own samples: unbiased, may be negative
        return out


def _check_shapes(groups: Sequence[Group], rewards: Sequence[Floats]) -> None:
    for g, r in zip(groups, rewards):
        if r.shape != (len(g.responses),):
            raise ValignError(
                f"the reward gave {r.shape} numbers for {len(g.responses)} responses", where=f"group {g.id}"
            )


def _with_samples(group: Group, samples: Sequence[Sample]) -> Group:
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
