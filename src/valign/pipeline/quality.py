"""How good a set of principles is: judges are asked about a bank of situations, and the numbers are put together (G04)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from valign.data.group import Group
from valign.errors import DataError, UsageError
from valign.evaluation.metrics.agreement import krippendorff
from valign.evaluation.metrics.principle_set import (
    by_priority,
    compatibility,
    comprehensiveness,
    covered,
    precision,
    verdict_classes,
)
from valign.evaluation.statistics import wilson
from valign.goals.base import Array
from valign.goals.context import active
from valign.goals.principle import Principle, load_principles
from valign.goals.situations import SituationBank, load_situations

Listen = Callable[[str, Mapping[str, Any]], None]
GAP = 0.5  # a theme of which less than this share is covered is reported as a gap
VAGUE = 0.667  # α below this supports no conclusion (Krippendorff, Content Analysis, 2004, 11.3)
JUDGES = 3  # precision needs at least so many judges or paraphrases
DRAWS, BATCH = 200, 10
RULES = "mentions:"


class SituationJudge(Protocol):
    """Says which principles concern a situation, and whether they speak for the act in it."""

    @property
    def id(self) -> str: ...

    def applies(self, groups: Sequence[Group], principles: Sequence[Any]) -> list[Array]: ...

    def verdicts(self, groups: Sequence[Group], principles: Sequence[Any]) -> list[Array]: ...


@dataclass(frozen=True)
class Quality:
    """What was found about a set of principles.

    comprehensiveness  share of situations that some principle covers, {name: (value, low, high)} for "all" and each theme
    precision          α of the judges by principle id, (value, low, high) or None where nothing varies
    compatibility      1 - share of clashes, over `meetings` (situation, pair) that both principles concern
    clashes            [{one, other, share, n, examples}], most frequent first
    gaps, vague, unused   themes hardly covered; principles with α below .667; principles that never applied
    """

    set: str
    judges: tuple[str, ...]
    n: int
    comprehensiveness: Mapping[str, tuple[float, float, float]]
    precision: Mapping[str, tuple[float, float, float] | None]
    compatibility: tuple[float, float, float]
    meetings: int
    clashes: tuple[Mapping[str, Any], ...]
    gaps: tuple[str, ...]
    vague: tuple[str, ...]
    unused: tuple[str, ...]
    unscored: Mapping[str, int] = field(default_factory=dict)

    @property
    def mean_precision(self) -> float | None:
        """Mean α over the principles that have one."""
        known = [p[0] for p in self.precision.values() if p is not None]
        return float(np.mean(known)) if known else None

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        names = ("value", "low", "high")

        def full(x: Any) -> Any:
            return None if x is None else dict(zip(names, x, strict=True))

        return {
            "set": self.set, "judges": list(self.judges), "situations": self.n,
            "comprehensiveness": {k: full(v) for k, v in self.comprehensiveness.items()},
            "precision": {"mean": self.mean_precision, "by_principle": {k: full(v) for k, v in self.precision.items()}},
            "compatibility": {**full(self.compatibility), "meetings": self.meetings, "clashes": list(map(dict, self.clashes))},
            "gaps": list(self.gaps), "vague": list(self.vague), "unused": list(self.unused),
            "unscored": dict(self.unscored),
        }  # fmt: skip


def principle_quality(
    principles: str | Path | Sequence[Principle],
    judges: Sequence[SituationJudge],
    bank: SituationBank | None = None,
    *,
    on_event: Listen | None = None,
) -> Quality:
    """Comprehensiveness, precision and compatibility of a set, by at least three judges or paraphrases of one.

    principles  a set's name, a file, or principles          bank  None: the built-in 300 situations
    """
    name, chosen = _chosen(principles)
    if len(judges) < JUDGES:
        raise UsageError(f"{len(judges)} judge(s): agreement needs at least {JUDGES}", where="judges",
                         how="name more judges, or one with its three wordings")  # fmt: skip
    bank = bank or load_situations()
    applies, verdicts = _asked(chosen, judges, [s.group() for s in bank.situations], on_event)
    return _found(name, chosen, judges, bank, applies, verdicts)


def quality_from_names(
    principles: str | Sequence[Principle], models: Sequence[str], *, situations: int | None = None, bank: str = "assistant",
    orders: int = 2, seed: int = 0, on_event: Listen | None = None,
) -> Quality:  # fmt: skip
    """What `valign goal quality` and `valign goal check --judge` do: each model judges; fewer than three are asked in all
    three wordings.
    """
    from valign.rewards.judge import KEPT
    from valign.rewards.scorers import judge

    names = list(models) or ["default"]
    wordings = range(len(KEPT)) if len(names) < JUDGES else range(1)
    _chosen(principles)  # a wrong name is found before anything is loaded
    chosen = load_situations(bank)
    if situations is not None:
        chosen = chosen.sample(situations, seed)
    judges = [judge(model, orders, wording, seed) for model in names for wording in wordings]
    return principle_quality(principles, judges, chosen, on_event=on_event)


def _chosen(principles: str | Path | Sequence[Principle]) -> tuple[str, Sequence[Principle]]:
    if isinstance(principles, str | Path):
        found = load_principles(principles)
        return found.id, found.principles
    return "principles", principles


def _asked(
    principles: Sequence[Principle], judges: Sequence[SituationJudge], groups: Sequence[Group], on_event: Listen | None
) -> tuple[Array, Array]:
    """(judges, situations, principles) of both questions, asked in batches so that progress shows."""
    rows: list[list[Array]] = []
    for judge in judges:
        if on_event:
            on_event("measuring", {"subject": judge.id, "what": judge.id})
        found: list[Array] = []
        for first in range(0, len(groups), BATCH):
            part = groups[first : first + BATCH]
            said = [v[0] for v in judge.verdicts(part, principles)]
            found += [np.stack(pair) for pair in zip(judge.applies(part, principles), said, strict=True)]
            if on_event:
                on_event("progress", {"what": judge.id, "done": min(first + BATCH, len(groups)), "total": len(groups)})
        rows.append(found)
    both = np.array(rows, dtype=np.float64)  # (judges, situations, 2, principles)
    return both[:, :, 0], both[:, :, 1]


def _found(
    name: str, principles: Sequence[Principle], judges: Sequence[SituationJudge], bank: SituationBank,
    applies: Array, verdicts: Array,
) -> Quality:  # fmt: skip
    themes = [s.theme for s in bank.situations]
    ids = [p.id for p in principles]
    hit, shares = covered(applies), comprehensiveness(applies, themes)
    where = {"all": np.ones(len(themes), bool), **{t: np.array(themes) == t for t in bank.themes}}
    if shares["all"] is None:
        raise DataError("no judge gave an answer that could be read", where=", ".join(j.id for j in judges),
                        how="try one prompt: valign generate MODEL 'Is water wet? Answer yes or no.'")  # fmt: skip
    coverage = {k: _share(hit[where[k]]) for k, v in shares.items() if v is not None}
    alphas = precision(applies, verdicts)
    precise = {i: _alpha(applies, verdicts, k) if alphas[k] is not None else None for k, i in enumerate(ids)}
    value, meetings, clashes = compatibility(applies, verdicts, _decided(principles, bank))
    low, high = wilson(value * meetings, meetings) if meetings else (0.0, 1.0)
    used = (np.nanmax(np.where(np.isnan(applies), -np.inf, applies), axis=(0, 1)) >= 0.5).tolist()
    missing = {"applies": int(np.isnan(applies).sum()), "verdicts": int(np.isnan(verdicts).sum())}
    return Quality(
        name, tuple(j.id for j in judges), len(bank), coverage, precise, (value, low, high), meetings,
        tuple({"one": ids[c.one], "other": ids[c.other], "share": c.share, "n": c.n,
               "examples": [bank.situations[i].request for i in c.examples]} for c in clashes),
        gaps=tuple(t for t in bank.themes if t in coverage and coverage[t][0] < GAP),
        vague=tuple(i for i, p in precise.items() if p is not None and p[0] < VAGUE),
        unused=tuple(i for i, u in zip(ids, used, strict=True) if not u),
        unscored={k: v for k, v in missing.items() if v},
    )  # fmt: skip


def _decided(principles: Sequence[Principle], bank: SituationBank) -> Any:
    """(situations, K, K): priorities that differ; exceptions written as rules (`mentions: ...`) where they hold."""
    groups = [s.group() for s in bank.situations]
    exceptions = {}
    for k, p in enumerate(principles):
        if rules := [e for e in p.exceptions if e.startswith(RULES)]:
            exceptions[k] = np.any([active(groups, [rule], []) for rule in rules], axis=0)
    return by_priority([p.priority for p in principles], exceptions, len(groups))


def _share(hits: Array) -> tuple[float, float, float]:
    known = hits[~np.isnan(hits)]
    return (float(known.mean()), *wilson(float(known.sum()), len(known)))


def _alpha(applies: Array, verdicts: Array, k: int) -> tuple[float, float, float]:
    """α of one principle with percentiles over resampled situations."""
    units = verdict_classes(applies, verdicts)[:, :, k].T
    rng = np.random.default_rng(k)
    draws = [krippendorff(units[rng.integers(len(units), size=len(units))], "interval") for _ in range(DRAWS)]
    known = [d for d in draws if d is not None]
    value = krippendorff(units, "interval")
    assert value is not None
    low, high = np.quantile(known, [0.025, 0.975]) if known else (value, value)
    return value, float(low), float(high)
