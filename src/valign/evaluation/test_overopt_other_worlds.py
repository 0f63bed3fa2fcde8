"""The alarm in worlds on which its constants were not chosen: other sizes, references, utilities and proxy errors.

RATIO is the notes'; SLOPE_RATIO was set while looking at the four peaks of `test_overopt_worlds`. Here sixty worlds are drawn
at random, twenty for each kind of error, and the shares are stated with bounds that leave room for other seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from valign.evaluation.metrics import overoptimization as alarm
from valign.theory.goodhart import GoldPoint, alarm_point, gold_peak, gold_point
from valign.theory.laws import Array, softmax
from valign.theory.target import at_strength
from valign.theory.worlds.draws import sample

KINDS = ("regressional", "extremal", "adversarial")
SEEDS = 20
FAR = 40.0  # strength beyond which gold is no longer looked at
PROMPTS, SAMPLES = 128, 16  # of an audit


@dataclass(frozen=True)
class Case:
    """A random world whose proxy errs in one way; exact peak of gold and exact alarm, None where there is none up to FAR."""

    reference: Array
    gold: Array
    proxy: Array
    peak: GoldPoint | None
    exact: GoldPoint | None

    def kept(self, strength: float) -> float:
        """Share of the gain to the peak (to FAR, where gold never falls) at a strength."""
        tables = self.reference, self.proxy, self.gold
        start, here = gold_point(*tables, 0.0).gold, gold_point(*tables, strength).gold
        best = self.peak.gold if self.peak else gold_point(*tables, FAR).gold
        return (here - start) / (best - start)


def case(kind: str, seed: int) -> Case:
    """2 to 12 prompts, 6 to 48 responses; error: noise of .3 to 1.5 sd of gold, growing with rarity, or one rare exploit."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    shape = int(rng.integers(2, 13)), int(rng.integers(6, 49))
    logits = rng.normal(size=shape) * rng.uniform(0.5, 1.5)
    gold = rng.normal(size=shape) * rng.uniform(0.5, 2.0)
    if kind == "adversarial":
        logits[:, -1] = logits.min(1) - rng.uniform(1.0, 3.0)
        gold[:, -1] = -np.abs(rng.normal(1.5, 0.5))
    reference = softmax(logits)
    proxy = gold.copy()
    if kind == "regressional":
        proxy += rng.uniform(0.3, 1.5) * gold.std() * rng.normal(size=shape)
    elif kind == "extremal":
        proxy -= rng.uniform(0.1, 0.8) * np.minimum(0.0, np.log(reference) + rng.uniform(2.0, 4.0))
    else:
        proxy[:, -1] = gold[:, :-1].max(1) + rng.uniform(0.5, 2.0)
    peak = gold_peak(reference, proxy, gold, maximum=FAR, grid=40)
    exact = alarm_point(reference, proxy, gold, alarm.RATIO, alarm.SLOPE_RATIO, maximum=FAR, grid=40)
    return Case(reference, gold, proxy, peak, exact)


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Case]]:
    return {kind: [case(kind, seed) for seed in range(SEEDS)] for kind in KINDS}


def rings_at(c: Case, strengths: Array, seed: int, proxy: Array | None = None, noise: float = 0.0) -> float | None:
    """The first strength at which the sampled alarm rings; noise is the gold judge's own, in sd of gold."""
    rng, start = np.random.default_rng(seed), None
    pushed = c.proxy if proxy is None else proxy
    asked = np.repeat(np.resize(np.arange(len(c.gold)), PROMPTS), SAMPLES)
    for strength in strengths:
        drawn = sample(at_strength(c.reference, pushed, float(strength)), asked, rng)
        judged = c.gold[asked, drawn] + noise * c.gold.std() * rng.normal(size=len(drawn))
        seen = alarm.audit(list(judged.reshape(PROMPTS, SAMPLES)), list(pushed[asked, drawn].reshape(PROMPTS, SAMPLES)))
        start = start or seen
        if alarm.judge(start, seen).fires:
            return float(strength)
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_the_rule_itself_rings_before_every_peak(cases, kind):
    """With exact covariances: in at least 95 % of the worlds whose gold has a peak; in nine of ten of them or more with at least
    nine tenths of the gain, never with less than seven."""
    peaked = [c for c in cases[kind] if c.peak]
    early = [c.exact is not None and c.exact.strength < c.peak.strength for c in peaked]
    assert len(peaked) >= SEEDS // 4 and np.mean(early) >= 0.95
    kept = [c.kept(c.exact.strength) for c in peaked if c.exact]
    assert np.mean([k >= 0.9 for k in kept]) >= 0.9 and min(kept) >= 0.7


@pytest.mark.parametrize(("kind", "least"), [("regressional", 0.5), ("extremal", 0.9), ("adversarial", 0.9)])
def test_sampled_audits_ring_before_the_peak_or_shortly_after_it(cases, kind, least):
    """128 prompts x 16 samples, sixteen looks up to the peak and eight beyond. Under plain noise gold is flat around its
    peak, and the interval delays the alarm there: a third of these runs ring too late, but none loses a tenth of the gain."""
    peaked = [(k, c) for k, c in enumerate(cases[kind]) if c.peak]
    rang = [rings_at(c, np.linspace(0.0, 1.5 * c.peak.strength, 25), k) for k, c in peaked]
    early = [s is not None and s <= c.peak.strength + 1e-9 for s, (_, c) in zip(rang, peaked, strict=True)]
    assert np.mean(early) >= least
    ends = [1.5 * c.peak.strength if s is None else s for s, (_, c) in zip(rang, peaked, strict=True)]
    assert min(c.kept(s) for s, (_, c) in zip(ends, peaked, strict=True)) >= 0.9


def test_false_alarms_of_an_honest_proxy_under_a_noisy_judge(cases):
    """A/A: the proxy is the gold, and the judge that audits has noise as large as gold itself. Nine looks up to strength 8
    in sixty worlds: at most 5 % of the runs are accused."""
    every = [c for kind in KINDS for c in cases[kind]]
    rang = [rings_at(c, np.arange(9.0), k, proxy=c.gold, noise=1.0) is not None for k, c in enumerate(every)]
    assert np.mean(rang) <= 0.05


def test_a_flawed_proxy_whose_gold_never_falls_is_sometimes_stopped_early(cases):
    """The price: where gold rises up to strength 40 although the proxy errs, the rule rings in up to half of the worlds, and a
    run that obeys keeps at least seven tenths of the gain."""
    rising = [c for kind in ("regressional", "extremal") for c in cases[kind] if c.peak is None]
    stopped = [c.kept(c.exact.strength) for c in rising if c.exact]
    assert len(rising) >= 10 and len(stopped) / len(rising) <= 0.5
    assert min(stopped) >= 0.7
