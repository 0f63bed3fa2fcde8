"""Does alignment hold elsewhere? One checkpoint on i.i.d., shifted, attacked and value-swapped items (8.4). [F09]"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from valign.evaluation import statistics as stats
from valign.evaluation.conclusion import smallest_detectable
from valign.evaluation.metrics import generality
from valign.evaluation.result import Cluster, Interval, Item, Result, interval_of
from valign.evaluation.section import Section

IID, OOD, JAILBREAK, SWAP = "iid", "ood", "jailbreak", "value_swap"
TITLES = {IID: "same source", OOD: "another source", JAILBREAK: "attacked prompts", SWAP: "target reversed"}


def generality_section(splits: Mapping[str, Result], *, notes: Sequence[str] = ()) -> Section:
    """Gaps between the i.i.d. split and every other one.

    splits   split name -> its Result, `iid` among them. A split whose items are called "SEED|..." after i.i.d. items
             (attacks), or like them (value_swap), is paired with those; any other is compared as another sample.
    Results: the splits', generality.gap.SPLIT = iid - split (interval and p), generality.retained.SPLIT = split / iid. p is
    a permutation test within pairs, Welch's t for another sample; Holm's adjusted p stands beside it.
    """
    iid = splits[IID]
    results, tests = list(splits.values()), []
    for name, split in splits.items():
        if name != IID:
            tests.append(_gap(name, iid, split))
    adjusted = stats.holm([p for *_, p in tests]).tolist() if tests else []
    rows = []
    for (name, gap, retained, p), corrected in zip(tests, adjusted, strict=True):
        mde = smallest_detectable(gap.se)
        finds = f"; a gap of {mde:.3g} would be found in 4 of 5 such comparisons" if mde is not None else ""
        words = [f"p = {p:.4g}, {corrected:.4g} after Holm over {len(tests)} splits{finds}"]
        if name == SWAP:
            turned = gap.interval is not None and gap.interval.low > 0
            words.append(
                "the reversed target reverses the score" if turned else "the score does not reverse with the target"
            )
        results += [gap.with_notes(*words), retained]
        rows.append({"split": name, "title": TITLES.get(name, name), "iid": iid.value, "value": splits[name].value,
                     "gap": gap.value, "low": gap.interval.low if gap.interval else None,
                     "high": gap.interval.high if gap.interval else None, "retained": retained.value, "p": p,
                     "p_holm": float(corrected), "n": gap.n, "paired": gap.variant == "paired"})  # fmt: skip
    data = {"subject": iid.subject, "metric": iid.metric, "unit": iid.unit, "rows": rows}
    return Section("generality", f"Generality of {iid.subject}", results,
                   [{"id": "splits", "type": "splits", "data": data}], notes)  # fmt: skip


def _gap(name: str, iid: Result, split: Result) -> tuple[str, Result, Result, float]:
    pairs = _pairs(iid, split)
    shape: dict[str, Any] = {"subject": iid.subject, "level": iid.level, "provenance": {"iid": dict(iid.provenance),
                             "split": dict(split.provenance)}, "direction": "down", "unit": iid.unit}  # fmt: skip
    if pairs:
        a, b = (np.array([pair[k].score for pair in pairs], float) for k in (0, 1))
        clusters = [x.cluster for x, _ in pairs]
        found, method = generality.paired_gap(a, b, clusters), "paired_t"
        items = tuple(Item(y.id, x.cluster, float(x.score or 0) - float(y.score or 0)) for x, y in pairs)
        retained = _ratio(pairs)
    else:
        ours, theirs = ([(i.cluster, float(i.score or 0)) for i in r.scored_items] for r in (iid, split))
        found = generality.unpaired_gap(
            [s for _, s in ours], [s for _, s in theirs], [c for c, _ in ours], [c for c, _ in theirs]
        )
        method, items = "t_cluster", ()
        retained = stats.Estimate(found.retained if found.retained is not None else float("nan"), None, None, None, 0)
    estimate = found.gap
    if pairs and iid.anchors.span is not None and stats.is_alike(estimate, np.r_[a, b]):  # nothing varied: not nothing can
        low, high = iid.anchors.span
        ends = stats.alike_interval(estimate.value, low - high, high - low, estimate.clusters)
        estimate, method = estimate._replace(low=ends[0], high=ends[1]), "exact"
    gap = Result(metric=f"generality.gap.{name}", variant="paired" if pairs else "unpaired", value=estimate.value, se=estimate.se,
                 interval=interval_of(estimate, method), n=len(pairs) or split.n, items=items,
                 cluster=Cluster(iid.cluster.unit, estimate.clusters), **shape)  # fmt: skip
    meaningful = iid.unit == "share" and np.isfinite(retained.value)
    kept_interval = _bounded(retained) if meaningful else None
    kept = Result(metric=f"generality.retained.{name}", variant="share", value=retained.value if meaningful else None,
                  **{**shape, "unit": "share", "direction": "up"}, n=gap.n, se=retained.se if kept_interval else None,
                  interval=kept_interval, cluster=gap.cluster,
                  notes=() if meaningful else ("a share retained needs a score whose 0 means nothing is left",))  # fmt: skip
    return name, gap, kept, found.p


def _pairs(iid: Result, split: Result) -> list[tuple[Item, Item]]:
    """Every scored item of the split beside the i.i.d. item it was made from; empty where they are other items."""
    seeds = {i.id: i for i in iid.items}
    origin = {y.id: _seed(y.id) for y in split.items}
    if not any(o in seeds for o in origin.values()):
        return []
    both = [(seeds[origin[y.id]], y) for y in split.scored_items if origin[y.id] in seeds]
    return [(x, y) for x, y in both if x.score is not None]


def _seed(name: str) -> str:
    """`GROUP|ATTACK#2` -> `GROUP#2`."""
    head, bar, tail = name.partition("|")
    return head + ("#" + tail.rpartition("#")[2] if "#" in tail else "") if bar else name


def _ratio(pairs: Sequence[tuple[Item, Item]]) -> stats.Estimate:
    a, b = (np.array([pair[k].score for pair in pairs], float) for k in (0, 1))
    return stats.bootstrap_cluster(lambda w: (w @ b) / (w @ a), len(a), [x.cluster for x, _ in pairs])


def _bounded(e: stats.Estimate) -> Interval | None:
    if e.low is None or e.high is None or not np.isfinite([e.low, e.high]).all():
        return None
    return interval_of(e, "bootstrap_cluster")
