"""Training seeds as a cluster level: a method is as sure as its seeds agree, not as its items are many.

The items are averaged within a seed first; the seeds are then the sample. An interval over the items of one run says how
sure that run's difference is, and nothing about the next training of the same method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from valign.errors import require
from valign.evaluation import statistics as stats
from valign.evaluation.conclusion import conclude, smallest_detectable
from valign.evaluation.record import Cluster, Item, ItemStatistic, Result, interval_of, plain
from valign.evaluation.result import Difference, compare

ALIKE = "all trainings gave the same number: the seed changes nothing here, so they are one training"
MIN_SEEDS = 3  # fewer say nothing about the spread between trainings (evaluation notes 11.3)


def compare_seeds(
    runs: Sequence[Result],
    base: Result | Sequence[Result],
    *,
    name: str = "",
    subset: bool = False,
    statistic: ItemStatistic | None = None,
    margin: float | None = None,
) -> Difference:
    """One method, trained with several seeds, against a base: mean over the seeds of (run - base).

    runs   one Result per training seed, same metric and items      base  one for all, or one per run (paired by place)
    name   of the method in the result's subject; default: the first run's subject
    Interval: Student t with S - 1 degrees of freedom over the S seed differences; p of the same t. It holds for these
    items; what other items would give is in the intervals of the single runs. One seed: no interval.
    """
    require(len(runs) > 0, "runs", 0, "one Result per training seed")
    bases = [base] * len(runs) if isinstance(base, Result) else list(base)
    require(len(bases) == len(runs), "base", len(bases), f"one Result, or one per run ({len(runs)})")
    found = [compare(a, b, subset, statistic, margin) for a, b in zip(runs, bases, strict=True)]
    values = [d.result.value for d in found if d.result.value is not None]
    first = found[0].result
    if not values:
        return found[0]
    names = [f"seed {i + 1}: {d.result.subject}" for i, d in enumerate(found)]
    items = tuple(
        Item(n, n, d.result.value, None if d.result.value is not None else "skipped")
        for n, d in zip(names, found, strict=True)
    )
    estimate = stats.t_cluster(values)
    alike = stats.is_alike(estimate, values)
    if alike:  # bit for bit: the seed decides nothing, so there was one training
        estimate = estimate._replace(se=None, low=None, high=None)
    interval = interval_of(estimate, "paired_t")
    mde = smallest_detectable(estimate.se)
    result = Result(
        metric=first.metric, variant=first.variant, level=first.level, unit=first.unit, direction=first.direction,
        subject=f"{name or runs[0].subject} vs {bases[0].subject}", value=estimate.value, n=len(values),
        n_unscored={"skipped": len(found) - len(values)} if len(values) < len(found) else {},
        se=estimate.se, interval=interval, cluster=Cluster("training seed", len(values)), items=items,
        provenance={"runs": [plain(d.result.provenance, "run") for d in found]},
        notes=tuple([*([ALIKE] if alike else []), *_notes(found, len(values))]),
    )  # fmt: skip
    p = stats.t_p(estimate.value, estimate.se, len(values) - 1) if estimate.se is not None else None
    return Difference(
        result, p, "t" if p is not None else "none", sum(d.left_out for d in found), sum(d.unpaired for d in found),
        mde=mde, margin=margin, conclusion=conclude(interval, first.direction, margin),
    )  # fmt: skip


def _notes(found: Sequence[Difference], seeds: int) -> list[str]:
    out = [] if seeds >= MIN_SEEDS else [f"only {seeds} training seed{'s' * (seeds != 1)}: the spread between trainings is "
                                         "hardly known"]  # fmt: skip
    errors = [d.result.se for d in found if d.result.se is not None]
    if errors:
        typical = math.sqrt(sum(e * e for e in errors) / len(errors))
        out.append(f"n is the number of trainings; each run's own standard error over {found[0].result.n} items is about "
                   f"{typical:.3g}")  # fmt: skip
    return list(dict.fromkeys([*out, *(note for d in found for note in d.result.notes if "left" in note)]))
