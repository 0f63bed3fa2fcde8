"""What alignment cost in ability: accuracy by checks, and the tax from paired items (8.1). [F07]"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from valign.data.group import Group
from valign.errors import require
from valign.evaluation import statistics as stats
from valign.evaluation.aggregate import summarize
from valign.evaluation.conclusion import smallest_detectable
from valign.evaluation.measure.common import cluster_of, data_of, require_ids, sample_groups
from valign.evaluation.metrics import tax
from valign.evaluation.provenance import provenance
from valign.evaluation.result import (
    Anchors,
    Cluster,
    Interval,
    Item,
    Result,
    cluster_notes,
    compare,
    interval_of,
)
from valign.goals.base import Checker
from valign.models.policy import Policy, Progress, Sampling

TAX = Anchors(best=0.0, worst=1.0, chance=0.0)


def measure_instructions(
    policy: Policy,
    groups: Sequence[Group],
    check: Checker,
    sampling: Sampling = Sampling(temperature=0.0, max_new_tokens=96),  # noqa: B008
    *,
    data: Any = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Answer every prompt and run the checks of its `meta["checks"]`.

    Returns instruction.accuracy twice: `prompt` (all checks of an item pass; the headline) and `check` (mean
    over all checks, cluster = prompt). Items without checks are unscored (`no_target`), and so are
    those without a response (`no_answer`). Several samples per prompt are averaged.
    """
    require_ids(groups)
    samples, _ = sample_groups(policy, groups, sampling, progress)
    whole, single = [], []
    for group, found in zip(groups, samples, strict=True):
        checks, cluster = list(group.meta.get("checks", ())), cluster_of(group)
        if not checks:
            whole.append(Item(group.id, cluster, None, "no_target"))
            continue
        found = [s for s in found if not s.failure]
        if not found:
            whole.append(Item(group.id, cluster, None, "no_answer"))
            single += [Item(f"{group.id}#{k}", cluster, None, "no_answer") for k in range(len(checks))]
            continue
        outcomes = [check(checks, s.text) for s in found]
        table = np.array([[float(passed) for _, passed in o.outcomes] for o in outcomes])  # (samples, checks)
        detail = {"text": found[0].text, "cut": sum(s.finish == "length" for s in found)}
        whole.append(Item(group.id, cluster, float(np.mean([o.passed for o in outcomes])), detail=detail))
        single += [Item(f"{group.id}#{k}", cluster, float(x)) for k, x in enumerate(table.mean(0))]
    about = provenance(
        policy, data=data or data_of(groups), sampling=sampling, check=getattr(check, "__qualname__", "check")
    )
    common: dict[str, Any] = {
        "metric": "instruction.accuracy",
        "subject": policy.id,
        "level": "capability",
        "cluster_unit": "prompt",
        "provenance": about,
        "anchors": Anchors(best=1.0, worst=0.0, chance=0.0),
    }
    cut = sum(int(i.detail.get("cut", 0)) for i in whole)
    notes = [f"{cut} responses were cut at {sampling.max_new_tokens} tokens"] if cut else []
    return [
        summarize(whole, variant="prompt", notes=notes, **common),
        summarize(single, variant="check", notes=notes, **common),
    ]


def measure_tax(
    base: Sequence[Result], aligned: Sequence[Result], weights: Mapping[str, float] | None = None
) -> list[Result]:
    """Alignment tax from capability Results of two checkpoints,
    paired by metric and variant, then by item id.

    weights   metric -> weight in the aggregate, 1 by default
    Returns the aggregate T (`clip_last`) first, then the signed tax of every benchmark. A benchmark whose
    base is less than 2 SE above chance cannot show tax: it is listed and left out of the aggregate, and so is
    one without chance.
    Raises `ValignError` when a benchmark is missing on one side or the items differ.
    """
    keys = [(r.metric, r.variant) for r in base]
    other = {(r.metric, r.variant): r for r in aligned}
    require(len(base) > 0, "base", 0, "at least one capability Result")
    require(
        set(keys) == set(other) and len(keys) == len(other),
        "aligned",
        sorted(other),
        f"the same as base: {sorted(keys)}",
    )
    foreign = sorted(set(weights or {}) - {r.metric for r in base})
    require(not foreign, "weights", foreign, f"of benchmarks that were measured: {sorted({r.metric for r in base})}")
    parts = [_benchmark(r, other[r.metric, r.variant]) for r in base]
    used = [p for p in parts if p[1] is not None]
    left_out = [f"left out: {p[0].metric} ({p[0].notes[-1]})" for p in parts if p[1] is None]
    total = _aggregate(
        [p[1] for p in used if p[1] is not None], [p[0].metric for p in used], weights or {}, base, aligned
    )
    return [_with_mde(total).with_notes(*left_out), *(_with_mde(p[0]) for p in parts)]


def _with_mde(tax: Result) -> Result:
    mde = smallest_detectable(tax.se)
    return tax if mde is None else tax.with_notes(f"a tax of {mde:.3g} would be found in 4 of 5 such comparisons")


class Paired(NamedTuple):
    """One benchmark's paired items: chance, [(cluster, base, aligned)], and how far two scores can lie apart (None: open)."""

    chance: float
    rows: list[tuple[str, float, float]]
    largest: float | None


def _benchmark(base: Result, aligned: Result) -> tuple[Result, Paired | None]:
    """The signed tax of one benchmark, and its paired scores if it can show tax at all."""
    difference = compare(base, aligned)
    mine = {i.id: i for i in base.scored_items}
    pairs = [(mine[i.id], i) for i in sorted(aligned.scored_items, key=lambda i: i.id) if i.id in mine]
    rows = [(a.cluster, float(a.score or 0), float(b.score or 0)) for a, b in pairs]
    shape: dict[str, Any] = {
        "metric": f"tax.{base.metric}",
        "variant": f"signed.{base.variant}",
        "subject": f"{aligned.subject} vs {base.subject}",
        "level": "capability",
        "unit": "share",
        "direction": "down",
        "n": len(rows),
        "n_unscored": difference.result.n_unscored,
        "anchors": TAX,
        "provenance": difference.result.provenance,
        "notes": difference.result.notes,
    }
    chance = base.anchors.chance
    if chance is None or not rows:
        return Result(**shape, value=None).with_notes(
            "no chance level, or nothing scored on both sides"
        ), None
    clusters, b, a = [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]
    found = tax.item_tax(b, a, chance, clusters)
    if not found.identifiable:
        return Result(**shape, value=found.signed).with_notes("the base is less than 2 SE above chance"), None
    span = base.anchors.span
    paired = Paired(chance, rows, span[1] - span[0] if span is not None else None)
    estimate, method, note = _bootstrap([paired], [1.0])
    result = Result(
        **shape, value=estimate.value, se=estimate.se, interval=interval_of(estimate, method),
        scaled=min(1.0, max(0.0, estimate.value)), cluster=Cluster(base.cluster.unit, estimate.clusters),
        items=tuple(Item(x.id, x.cluster, float(x.score or 0) - float(y.score or 0)) for x, y in pairs),
    )  # fmt: skip
    return result.with_notes(*filter(None, [note, *cluster_notes(estimate.clusters)])), paired


def _aggregate(
    benchmarks: Sequence[Paired], names: Sequence[str], weights: Mapping[str, float], base: Sequence[Result],
    aligned: Sequence[Result],
) -> Result:  # fmt: skip
    shape: dict[str, Any] = {
        "metric": "tax.T",
        "variant": "clip_last",
        "subject": f"{aligned[0].subject} vs {base[0].subject}",
        "level": "capability",
        "unit": "share",
        "direction": "down",
        "anchors": TAX,
        "provenance": {
            "base": [dict(r.provenance) for r in base],
            "aligned": [dict(r.provenance) for r in aligned],
        },
    }
    if not benchmarks:
        return Result(**shape, value=None, notes=("no benchmark can show tax",))
    chosen = [float(weights.get(name.removeprefix("tax."), 1.0)) for name in names]
    units = {r.cluster.unit for r in base}
    estimate, method, note = _bootstrap(benchmarks, chosen)
    clipped = min(1.0, max(0.0, estimate.value))
    interval = interval_of(estimate, method)
    if interval is not None:  # the clip comes last, for the interval as for the value
        low, high = (min(1.0, max(0.0, x)) for x in (interval.low, interval.high))
        interval = Interval(low, high, interval.level, interval.method)
    return Result(
        **shape, value=clipped, scaled=clipped, n=sum(len(b.rows) for b in benchmarks), se=estimate.se,
        interval=interval, cluster=Cluster(base[0].cluster.unit if len(units) == 1 else "item", estimate.clusters),
        notes=(f"signed mean {estimate.value:+.6f} before the clip", f"{len(benchmarks)} benchmarks", *filter(None, [note])),
    )  # fmt: skip


def _bootstrap(benchmarks: Sequence[Paired], weights: Sequence[float]) -> tuple[stats.Estimate, str, str]:
    """(signed mean tax under a paired cluster bootstrap, the interval's method, what a reader should know of it): a resampled
    item takes both checkpoints along.

    Resampling shows no width where all items differ alike; then the exact ends for clusters that were not seen hold. It shows
    no loss where no item was lost, and no gain where none was won: that end then lies as far from the value as the exact end and
    the bootstrap's own distance together, the root of the sum of their squares (MOVER, Zou and Donner 2008).
    """
    signed, clusters = signed_mean_tax(benchmarks, weights)
    estimate = stats.bootstrap_cluster(signed, len(clusters), clusters)
    gaps = np.array([base - aligned for b in benchmarks for _, base, aligned in b.rows])
    open_ended = any(b.largest is None for b in benchmarks)
    if estimate.se is None or estimate.low is None or estimate.high is None or open_ended:
        return estimate, "bootstrap_cluster", ""
    if estimate.se <= 1e-12:
        low, high = _unseen(benchmarks, weights, alike=True)
        return estimate._replace(low=low, high=high), "exact", ""
    low, high, ends = estimate.low, estimate.high, _unseen(benchmarks, weights, alike=False)
    if not (gaps > 0).any():
        high, missing = estimate.value + math.hypot(ends[1], high - estimate.value), "lost"
    elif not (gaps < 0).any():
        low, missing = estimate.value - math.hypot(ends[0], estimate.value - low), "won"
    else:
        return estimate, "bootstrap_cluster", ""
    note = f"no item was {missing}: the interval reaches as far as so few items allow"
    return estimate._replace(low=low, high=high), "bootstrap_cluster", note


def _unseen(benchmarks: Sequence[Paired], weights: Sequence[float], *, alike: bool) -> tuple[float, float]:
    """(low, high): the mean of the exact ends of each benchmark's tax for clusters that were not seen.

    alike   around the tax that all items show; else around 0, of the side (loss or gain) that no item shows
    """
    low = high = 0.0
    for b, share in zip(benchmarks, weights, strict=True):
        base, aligned = (float(np.mean([r[k] for r in b.rows])) for k in (1, 2))
        reach = b.largest or 0.0
        ends = stats.alike_interval(base - aligned if alike else 0.0, -reach, reach, len({c for c, _, _ in b.rows}))
        low, high = low + share * ends[0] / (base - b.chance), high + share * ends[1] / (base - b.chance)
    return low / sum(weights), high / sum(weights)


def signed_mean_tax(benchmarks: Sequence[Paired], weights: Sequence[float]) -> tuple[stats.Statistic, list[str]]:
    """The signed mean tax as a function of item weights, and each item's cluster."""
    clusters = [f"{k}:{c}" for k, b in enumerate(benchmarks) for c, _, _ in b.rows]
    pieces = [(b.chance, np.array([r[1:] for r in b.rows], float)) for b in benchmarks]
    edges = np.cumsum([0, *(len(b.rows) for b in benchmarks)])

    def signed(w: stats.Array) -> stats.Array:
        total = np.zeros(len(w))
        for (chance, table), share, start, end in zip(pieces, weights, edges[:-1], edges[1:], strict=True):
            part = w[:, start:end]
            base, aligned = (part @ table / part.sum(1, keepdims=True)).T
            total += share * (base - aligned) / (base - chance)
        return total / sum(weights)

    return signed, clusters


def measure_tax_per_gain(base: Sequence[Result], aligned: Sequence[Result], gain: Result) -> Result:
    """Signed tax per unit of reward gained, from two sets of paired items that are resampled side by side.

    gain   the paired difference of rewards, aligned minus base, with its items
    None where the gain cannot be told from 0: a price per unit of nothing is no number.
    """
    other = {(r.metric, r.variant): r for r in aligned}
    parts = [_benchmark(r, other[r.metric, r.variant])[1] for r in base]
    used = [p for p in parts if p is not None]
    shape: dict[str, Any] = {
        "metric": "tax.per_gain", "variant": "signed", "subject": gain.subject, "level": "cost", "unit": "share",
        "direction": "down", "n": gain.n,
        "provenance": {"gain": dict(gain.provenance), "base": [dict(r.provenance) for r in base]},
    }  # fmt: skip
    if not used or gain.value is None or gain.interval is None or gain.interval.low <= 0:
        why = "no benchmark can show tax" if not used else "the gain in reward cannot be told from 0"
        return Result(**shape, value=None, notes=(why,))
    signed, clusters = signed_mean_tax(used, [1.0] * len(used))
    scored = gain.scored_items
    rows = [float(i.score or 0) for i in scored]
    paid = stats.bootstrap_replicates(signed, len(clusters), clusters)
    gained = stats.bootstrap_replicates(stats.mean_statistic(rows), len(rows), [i.cluster for i in scored], seed=1)
    ratios = paid / gained
    ratios = ratios[np.isfinite(ratios)]
    low, high = (float(x) for x in np.quantile(ratios, [0.025, 0.975]))
    value = float(signed(np.ones((1, len(clusters))))[0]) / gain.value
    return Result(**shape, value=value, se=float(ratios.std(ddof=1)),
                  interval=Interval(low, high, 0.95, "bootstrap_cluster"), cluster=gain.cluster)  # fmt: skip
