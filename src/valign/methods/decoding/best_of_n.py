"""Best of n: draw n responses, keep the one with the highest reward (2009.01325, 2112.09332; row T01).

The law of the winner is F^n - (F^-)^n over the levels of the reward; its KL to the base is at most log n - (n-1)/n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Group, Prompt, Response
from valign.errors import require
from valign.methods.target import Reward, Target
from valign.methods.wrapped import Wrapped
from valign.models.policy import Policy, Progress, Sample, Sampling, Scored
from valign.theory.best_of_n import best_of_n_kl, best_of_n_kl_bound, best_of_n_value, estimate_best_of_n
from valign.theory.divergence import kl
from valign.theory.target import at_strength

Floats = NDArray[np.float64]
POOL_TOKENS = 40  # longest candidate from which the law of the winner is estimated


@dataclass(frozen=True, kw_only=True)
class BestOfNConfig:
    """How many candidates, and how they are drawn."""

    n: int = 4  # candidates of each response
    temperature: float = 1.0  # of the candidates, where the caller asks for greedy responses

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least 1")
        require(self.temperature > 0, "temperature", self.temperature, "positive: greedy candidates are all equal")


@dataclass(eq=False)
class BestOfN(Wrapped):
    """The policy whose responses are the best of n of its base's."""

    reward: Reward | None = None
    pools: dict[str, Floats] = field(default_factory=dict)  # prompt -> rewards of the candidates that scores rest on

    @property
    def drawn_to_score(self) -> int:
        """See `Wrapped.drawn_to_score`."""
        return POOL_TOKENS if self.config.n > 1 else 0

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, keys: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[list[Sample]]:  # fmt: skip
        """See `Policy.generate`; each returned sample is the best of its own n candidates."""
        n = self.config.n
        if n == 1:  # nothing to choose from: greedy stays greedy, and no reward is asked
            return self.base.generate(prompts, sampling, keys=keys, progress=progress)
        wide = replace(sampling, n=n * sampling.n, temperature=sampling.temperature or self.config.temperature)
        drawn = self.base.generate(prompts, wide, keys=keys, progress=progress)
        rewards = self._rewards(prompts, drawn, list(keys) if keys is not None else list(map(str, range(len(prompts)))))
        out = []
        for row, r in zip(drawn, rewards):
            # a candidate that could not be scored is never chosen over one that could
            ranked = np.where(np.isfinite(r), r, -np.inf).reshape(sampling.n, n)
            best = ranked.argmax(1) + n * np.arange(sampling.n)
            out.append([row[i] for i in best])
        return out

    def score(self, groups: Sequence[Group], *, progress: Progress | None = None) -> list[list[Scored]]:
        """log pi_base(y) + log n + (n-1) log F(r(y)): the density of the winner for a continuous reward.

        F, the base's probability of a lower reward, is estimated from n candidates of the prompt, drawn for this alone:
        what was generated before changes no score. Ranks are smoothed by one half, so F is never 0. The gain stands on
        the response's last token.
        """
        assert self.reward is not None
        if self.config.n == 1:
            return self.base.score(groups, progress=progress)
        self._draw_pools([g.prompt for g in groups if g.responses])
        scored = self.base.score(groups, progress=progress)
        rewards = self.reward(groups)
        return [
            [self._gain(s, float(r), g) for s, r in zip(row, np.asarray(rs))]
            for g, row, rs in zip(groups, scored, rewards)
        ]

    def _draw_pools(self, prompts: Sequence[Prompt]) -> None:
        """Rewards of n candidates of each prompt that has none yet."""
        missing = {repr(p): p for p in prompts if repr(p) not in self.pools}
        if not missing:
            return
        drawn = self.base.generate(
            list(missing.values()),
            Sampling(n=self.config.n, max_new_tokens=POOL_TOKENS),
            keys=[f"pool {key}" for key in missing],
        )
        for key, r in zip(missing, self._rewards(list(missing.values()), drawn, list(missing))):
            self.pools[key] = r[np.isfinite(r)]

    def _gain(self, scored: Scored, reward: float, group: Group) -> Scored:
        pool = self.pools[repr(group.prompt)]
        if not len(scored.log_probs) or not np.isfinite(reward):
            return scored
        below = float((pool < reward).sum() + 0.5 * (pool == reward).sum() + 0.5) / (len(pool) + 1)
        gain = np.log(self.config.n) + (self.config.n - 1) * np.log(below)
        return Scored(np.append(scored.log_probs[:-1], scored.log_probs[-1] + gain).astype(scored.log_probs.dtype))

    def _rewards(self, prompts: Sequence[Prompt], drawn: Sequence[Sequence[Sample]], keys: Sequence[str]) -> list[Floats]:
        """Of the candidates of each prompt. keys: what a judge's question is named by, whatever is asked beside it."""
        assert self.reward is not None
        groups = [
            Group(
                id=f"candidates {key}",
                prompt=p,
                responses=tuple(Response(text=s.text, ids=s.ids or None, finish=s.finish) for s in row),
            )
            for key, p, row in zip(keys, prompts, drawn, strict=True)
        ]
        failed = [[bool(s.failure) for s in row] for row in drawn]
        return [np.where(f, np.nan, np.asarray(r, np.float64)) for f, r in zip(failed, self.reward(groups))]


def best_of_n(policy: Policy, target: Target, config: BestOfNConfig) -> Policy:
    """`policy` that answers with the best of n of its responses by the target's reward."""
    return BestOfN(policy, "best_of_n", config, target.goal, family="decoding", reward=target.utility())


def curve(rewards: Sequence[Floats], sizes: Sequence[int]) -> list[Mapping[str, float]]:
    """For each n, averaged over prompts: KL bound, E[max of n], and best-of-n beside Gibbs at equal KL (I6).

    rewards  one pool of N >= max(sizes) rewards per prompt, drawn from the base policy
    reward   E[max of n]: exact over all subsets of size n of the pool, unbiased for the base policy (I40)
    pool_kl, pool_reward, pool_gibbs   the pool itself as base law: KL and reward of best-of-n (with replacement), and
             the reward of pool e^{s r} / Z at that same KL, which is never below
    """
    out: list[Mapping[str, float]] = []
    for n in sizes:
        rows = []
        for r in rewards:
            base = np.full(len(r), 1 / len(r))
            spent = float(best_of_n_kl(base, r, n))
            value = float(best_of_n_value(base, r, n))
            rows.append((estimate_best_of_n(r, n), spent, value, gibbs_value(base, r, spent)))
        reward, spent_mean, value_mean, gibbs_mean = np.mean(rows, axis=0)
        out.append({"n": float(n), "kl_bound": float(best_of_n_kl_bound(n)), "reward": float(reward),
                    "pool_kl": float(spent_mean), "pool_reward": float(value_mean), "pool_gibbs": float(gibbs_mean)})  # fmt: skip
    return out


def gibbs_value(base: Floats, rewards: Floats, spent: float) -> float:
    """E[r] under base * e^{s r} / Z with the strength s >= 0 at which KL(Gibbs || base) = `spent` nats.

    Where even the law on the best responses alone has a smaller KL, that law's reward.
    """
    from scipy.optimize import brentq

    def excess(s: float) -> float:
        return float(kl(at_strength(base, rewards, s), base)) - spent

    if np.ptp(rewards) == 0 or spent <= 0:
        return float(base @ rewards)
    top = 1.0 / float(np.ptp(rewards))
    while excess(top) < 0 and top < 1e8:
        top *= 2
    s = brentq(excess, 0.0, top, xtol=1e-12) if excess(top) > 0 else top
    return float(at_strength(base, rewards, s) @ rewards)
