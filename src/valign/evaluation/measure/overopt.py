"""Is a proxy worth pushing on this model? Samples scored by proxy and gold, reweighted as pushing would. [F06]

No training: best-of-n by the proxy at every n, and the tilted law π_s ∝ π e^{s·proxy}, from the same samples. The alarm
reads the tilted law; it is the one that watches training runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from valign.data.group import Group
from valign.errors import DataError, require
from valign.evaluation.aggregate import summarize
from valign.evaluation.measure.common import cluster_of, why_unscored
from valign.evaluation.metrics import overoptimization as alarm
from valign.evaluation.metrics import push
from valign.evaluation.result import Item, Result, compare
from valign.evaluation.section import Section
from valign.goals.base import ResponseScorer
from valign.theory.best_of_n import best_of_n_kl_bound

LEAST = 4.0  # effective samples per prompt (median) below which a tilted law is not read any more
STRENGTHS = 41


def overopt_section(
    groups: Sequence[Group],
    proxy: ResponseScorer,
    gold: ResponseScorer,
    *,
    subject: str,
    about: Mapping[str, Any] | None = None,
    missing: Collection[str] = (),
    why: Callable[[ResponseScorer], Mapping[str, str]] = lambda judge: {},
) -> Section:
    """Results and curves of a model's own samples.

    groups   prompts with at least two sampled responses each, of one law
    missing  responses (group#sample) that the model failed to give (`no_answer`)
    why      asked of a judge after it scored: why it has no score for a response (else `judge_error`)
    Responses that either judge cannot score leave the set, counted by reason; prompts with fewer than two are unscored.
    Results: overopt.proxy and overopt.gold at best-of-n for n = 1, 2, 4 ... (unbiased over subsets), overopt.gold_change
    against n = 1 (paired by prompt), overopt.covariance at the start. Figures: both curves against KL.
    Raises `DataError` where fewer than two prompts are left.
    """
    tables, unscored, lost = _tables(groups, proxy, gold, missing, why)
    drawn = sum(len(g.responses) for g in groups)
    said = _said(unscored, drawn, {"model": subject, "proxy": proxy.id, "gold": gold.id})
    if len(tables) < 2:
        raise DataError("fewer than two prompts have two responses that both judges score", where="overopt",
                        how=said or "sample more responses of more prompts")  # fmt: skip
    size = min(len(p) for _, p, _ in tables)
    shape: dict[str, Any] = {"subject": subject, "level": "cost", "unit": "score", "cluster_unit": "prompt",
                             "provenance": about}  # fmt: skip
    results: list[Result] = []
    curve: dict[str, list[Any]] = {k: [] for k in ("n", "kl_bound", "proxy", "gold", "gold_low", "gold_high", "change",
                                                   "change_low", "change_high")}  # fmt: skip
    first: Result | None = None
    for n in _sizes(size):
        at = [(g, push.best_of_n_weights(p, n), p, u) for g, p, u in tables]
        proxied = summarize(
            [*(_item(g, w @ p) for g, w, p, _ in at), *lost], metric="overopt.proxy", variant=f"best_of_{n}", **shape
        )
        golden = summarize(
            [*(_item(g, w @ u) for g, w, _, u in at), *lost], metric="overopt.gold", variant=f"best_of_{n}", **shape
        )
        first = first or golden
        change = _change(golden, first, n)
        results += [proxied, golden, *([change] if n > 1 else [])]
        row = [
            n,
            float(best_of_n_kl_bound(n)),
            proxied.value,
            golden.value,
            *_ends(golden),
            change.value,
            *_ends(change),
        ]
        for name, value in zip(curve, row, strict=True):
            curve[name].append(value)
    tilted, notes = _tilted(tables)
    start = [_item(g, c) for (g, _, _), c in zip(tables, tilted["covariance_items"])]
    results.append(summarize([*start, *lost], metric="overopt.covariance", variant="start", **shape))
    notes += [said] if said else []
    notes += [f"{len(lost)} prompts have fewer than two responses that both judges score"] if lost else []
    data = {"proxy": proxy.id, "gold": gold.id, "subject": subject, "samples": size, "prompts": len(tables),
            "responses": drawn, "unscored": {who: dict(found) for who, found in unscored.items()},
            "best_of_n": curve, "tilted": {k: v for k, v in tilted.items() if k != "covariance_items"}}  # fmt: skip
    return Section("overopt", f"Over-optimization: {proxy.id} pushed, {gold.id} watched", results,
                   [{"id": "overopt", "type": "overopt", "data": data}], notes)  # fmt: skip


Tables = list[tuple[Group, Any, Any]]


def _tables(
    groups: Sequence[Group], proxy: ResponseScorer, gold: ResponseScorer, missing: Collection[str],
    why: Callable[[ResponseScorer], Mapping[str, str]],
) -> tuple[Tables, dict[str, Counter[str]], list[Item]]:  # fmt: skip
    """(prompts with the scores of the responses that have both, the other responses by who failed and why, the prompts that
    are left with fewer than two)."""
    judged = {}
    for who, judge in (("proxy", proxy), ("gold", gold)):  # whoever judges twice is asked after each time
        scores = [np.asarray(row) for row in judge.score(groups)]
        judged[who] = scores, why(judge)
    out: Tables = []
    unscored: dict[str, Counter[str]] = {}
    lost: list[Item] = []
    for i, group in enumerate(groups):
        kept, reasons = [], Counter[str]()
        for k in range(len(group.responses)):
            name = f"{group.id}#{k}"
            told = {"model": "no_answer" if name in missing else None}
            told |= {who: why_unscored(name, scores[i][k], (), said) for who, (scores, said) in judged.items()}
            found = next(((who, reason) for who, reason in told.items() if reason), None)
            if found is None:
                kept.append(k)
            else:  # counted once, for the first who failed
                unscored.setdefault(found[0], Counter())[found[1]] += 1
                reasons[found[1]] += 1
        if len(kept) > 1:
            out.append((group, judged["proxy"][0][i][kept], judged["gold"][0][i][kept]))
        else:
            lost.append(Item(group.id, cluster_of(group), None, reasons.most_common(1)[0][0] if reasons else "skipped"))
    return out, unscored, lost


def _said(unscored: Mapping[str, Mapping[str, int]], drawn: int, names: Mapping[str, str]) -> str:
    """How many responses left the set, by whom and why; "" where none did."""
    count = sum(n for found in unscored.values() for n in found.values())
    if not count:
        return ""
    by = "; ".join(
        f"{who} {names[who]}: " + ", ".join(f"{reason.replace('_', ' ')} {n}" for reason, n in sorted(found.items()))
        for who, found in unscored.items()
    )
    return f"{count} of {drawn} responses are unscored and left out ({by})"


def _tilted(tables: Tables) -> tuple[dict[str, Any], list[str]]:
    """The tilted law at rising strengths until too few samples carry it, and where the alarm rings on it."""
    scale = float(np.mean([p.std() for _, p, _ in tables]))
    require(scale > 0, "proxy", scale, "of more than one value within the prompts: it cannot be pushed")
    out: dict[str, Any] = {
        k: [] for k in ("strength", "kl", "proxy", "gold", "covariance", "high", "slope", "effective")
    }
    start, rang = None, None
    for strength in np.linspace(0, 10 / scale, STRENGTHS):
        at = [(push.gibbs_weights(p, strength), p, u) for _, p, u in tables]
        effective = float(np.median([push.effective(w) for w, _, _ in at]))
        if effective < LEAST and start is not None:  # the model's own law is read at any number
            break
        means = [np.array([float(w @ v[k]) for w, *v in at]) for k in (0, 1)]
        seen = alarm.Audit(
            tuple(g.id for g, _, _ in tables), np.array([push.weighted_covariance(u, p, w) for w, p, u in at]),
            np.array([push.weighted_covariance(p, p, w) for w, p, _ in at]), means[0], means[1], 0.0,
        )  # fmt: skip
        start = start or seen
        verdict = alarm.judge(start, seen)
        if verdict.fires and rang is None:
            rang = {"strength": float(strength), "reasons": list(verdict.reasons), "gold": verdict.gold}
        kl = float(np.mean([push.gibbs_kl(p, strength) for _, p, _ in tables]))
        row = [
            float(strength),
            kl,
            verdict.proxy,
            verdict.gold,
            verdict.covariance,
            verdict.high,
            verdict.slope,
            effective,
        ]
        for name, value in zip(out, row, strict=True):
            out[name].append(value)
    assert start is not None
    too_small = alarm.judge(start, start).too_small
    notes = (
        ["the audit is too small to resolve a quarter of the covariance: the alarm uses its estimate"]
        if too_small
        else []
    )
    return {**out, "alarm": rang, "too_small": too_small, "covariance_items": start.covariance.tolist()}, notes


def _change(golden: Result, first: Result, n: int) -> Result:
    from dataclasses import replace

    one, other = (replace(r, variant="best_of_n", items=tuple(r.scored_items), n_unscored={}) for r in (golden, first))
    return replace(compare(one, other).result, metric="overopt.gold_change", variant=f"best_of_{n}", subject=golden.subject,
                   provenance=golden.provenance, n_unscored=golden.n_unscored)  # fmt: skip


def _sizes(size: int) -> list[int]:
    return [2**k for k in range(size.bit_length()) if 2**k <= size]


def _item(group: Group, value: float) -> Item:
    return Item(group.id, cluster_of(group), float(value))


def _ends(result: Result) -> tuple[float | None, float | None]:
    return (result.interval.low, result.interval.high) if result.interval is not None else (None, None)
