"""The over-optimization bench: planted proxies pushed in the oracle worlds, and the alarm listening to rollouts. [F06, N17]

Here the truth is known: gold is U_H, and the policy after k steps of exact natural policy gradient on the proxy is
π_s ∝ π_ref e^{s·proxy} with s = k·step. The alarm sees only audits: sampled responses with their two scores, as it would
in a real run. `proxy = gold` is the A/A run, in which it must be silent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from valign.evaluation.metrics import overoptimization as alarm
from valign.theory.divergence import kl
from valign.theory.goodhart import GoldPoint, alarm_point, gold_peak
from valign.theory.laws import Array, expectation
from valign.theory.target import at_strength
from valign.theory.worlds import variants
from valign.theory.worlds.draws import sample
from valign.theory.worlds.sequence import SequenceWorld
from valign.theory.worlds.tabular import TabularWorld
from valign.theory.worlds.world import World

WORLDS: Mapping[str, Callable[[], World]] = {"tabular": TabularWorld, "sequence": SequenceWorld}
HONEST = "gold"  # the proxy that is no proxy: A/A
PROXIES = (*variants.PROXIES, HONEST)


@dataclass(frozen=True)
class Step:
    """One audited step: strength s, exact means and KL in nats, what the alarm saw, and whether it rings."""

    strength: float
    proxy: float
    gold: float
    kl: float
    covariance: float
    high: float
    fires: bool


@dataclass(frozen=True)
class BenchRun:
    """A proxy pushed to the end, and where the alarm would have stopped it.

    peak        where exact gold is highest over all strengths; None: it never falls
    exact       where an alarm that knows the exact covariance rings
    alarm       index of the first step at which the sampled alarm rings; None: it is silent
    """

    world: str
    proxy: str
    steps: tuple[Step, ...]
    peak: GoldPoint | None
    exact: GoldPoint | None
    alarm: int | None

    @property
    def optimum(self) -> float:
        """The highest exact gold of the run and the peak."""
        seen = max(s.gold for s in self.steps)
        return max(seen, self.peak.gold) if self.peak is not None else seen

    @property
    def stopped(self) -> Step:
        """The step at which a run that obeys the alarm ends."""
        return self.steps[self.alarm if self.alarm is not None else -1]

    @property
    def kept(self) -> float:
        """Share of the gain to the gold optimum that the stopped run has."""
        start = self.steps[0].gold
        return (self.stopped.gold - start) / (self.optimum - start)

    @property
    def fires_before(self) -> bool | None:
        """Whether it rings before the peak; None without a peak."""
        if self.peak is None:
            return None
        return self.alarm is not None and self.steps[self.alarm].strength <= self.peak.strength

    def to_json(self) -> dict[str, Any]:
        return {
            "world": self.world, "proxy": self.proxy, "peak": asdict(self.peak) if self.peak else None,
            "exact_alarm": asdict(self.exact) if self.exact else None,
            "alarm": asdict(self.steps[self.alarm]) if self.alarm is not None else None, "kept": self.kept,
            "fires_before": self.fires_before, "end": asdict(self.steps[-1]),
            "curve": {k: [getattr(s, k) for s in self.steps] for k in ("strength", "kl", "proxy", "gold", "covariance", "high")},
        }  # fmt: skip


def proxy_table(world: World, name: str) -> Array:
    """The (P, N) scores of a planted proxy, or U_H itself for `HONEST`."""
    return world.utilities if name == HONEST else variants.PROXIES[name](world)


def bench(
    world: str,
    proxy: str,
    *,
    end: float = 14.0,
    step: float = 0.1,
    prompts: int = 512,
    samples: int = 16,
    seed: int = 0,
) -> BenchRun:
    """Push `proxy` to strength `end` and audit after every step.

    prompts   audit prompts, drawn evenly from the world's own       samples   rollouts of each
    """
    made = WORLDS[world]()
    reference, gold, table = made.reference_table(), made.utilities, proxy_table(made, proxy)
    rng = np.random.default_rng(seed)
    asked = np.repeat(np.resize(np.arange(made.shape[0]), prompts), samples)
    steps: list[Step] = []
    start, rang = None, None
    for strength in np.arange(0.0, end + step / 2, step):
        law = at_strength(reference, table, float(strength))
        drawn = sample(law, asked, rng)
        scores = [t[asked, drawn].reshape(prompts, samples) for t in (gold, table)]
        seen = alarm.audit(list(scores[0]), list(scores[1]))
        start = start or seen
        verdict = alarm.judge(start, seen)
        if verdict.fires and rang is None:
            rang = len(steps)
        pushed, true, moved = (float(np.mean(x)) for x in (expectation(law, table), expectation(law, gold), kl(law, reference)))
        steps.append(Step(float(strength), pushed, true, moved, verdict.covariance, verdict.high, verdict.fires))
    honest = proxy == HONEST
    peak = None if honest else gold_peak(reference, table, gold, maximum=end, grid=round(end / step))
    exact = alarm_point(reference, table, gold, alarm.RATIO, alarm.SLOPE_RATIO, maximum=end, grid=round(end / step))
    return BenchRun(world, proxy, tuple(steps), peak, exact, rang)
