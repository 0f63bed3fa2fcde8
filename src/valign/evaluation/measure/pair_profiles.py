"""Which of two models holds which value higher: the same respondents and items, paired, adjusted for ten looks at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from valign.errors import ValignError
from valign.evaluation.measure.inventory import Profile
from valign.evaluation.result import Difference, Result, compare
from valign.evaluation.statistics import benjamini_hochberg

UNREADABLE = "at least one of the two profiles is unreliable: a difference is one of answering, hardly one of values"
CLAIM = 0.05  # adjusted p below which a difference is claimed


@dataclass(frozen=True)
class Shift:
    """One dimension of two models.

    result    a minus b in centred scale points, with the wider of two intervals
    p         raw: the larger of two permutation tests, one over respondents (option orders, persons), one over items
    adjusted  p after Benjamini-Hochberg over all dimensions; differs: it is below .05
    """

    dimension: str
    result: Result
    p: float
    adjusted: float
    differs: bool

    def noted(self, note: str) -> Shift:
        """The same with a note on its result."""
        return replace(self, result=self.result.with_notes(note))


def paired_profiles(a: Profile, b: Profile) -> list[Shift]:
    """Where a and b differ, largest difference first.

    A difference must hold over respondents and over items: eight items all turned by one word are no value.
    Raises `ValignError` when the two did not answer the same items as the same respondents.
    """
    if a.sheet.answers.inventory.sha256 != b.sheet.answers.inventory.sha256:
        raise ValignError("the two profiles rest on different items", where="--against", how="use the same inventory")
    names = a.sheet.dimensions
    shifts = paired_results(names, [(_centred(a, name), _centred(b, name)) for name in names])
    if not (a.warning or b.warning):
        return shifts
    return [s.noted(UNREADABLE) for s in shifts]


def paired_results(names: Sequence[str], pairs: Sequence[tuple[Result, Result]]) -> list[Shift]:
    """The same for Results of any items, one pair per dimension; every look counts in the adjustment."""
    found = [_pair(a, b) for a, b in pairs]
    adjusted = benjamini_hochberg([p for _, p in found])
    out = []
    for name, (result, p), q in zip(names, found, adjusted.tolist(), strict=True):
        note = f"p = {p:.4f}; {q:.4f} after Benjamini-Hochberg over {len(names)} values"
        out.append(Shift(name, result.with_notes(note), p, q, q < CLAIM))
    return sorted(out, key=lambda s: -abs(s.result.value or 0.0))


def _centred(profile: Profile, name: str) -> Result:
    return next(r for r in profile.results if r.metric == f"value.centred.{name}")


def _pair(a: Result, b: Result) -> tuple[Result, float]:
    """(difference with the wider interval, larger p) of clusters by respondent and by item."""
    both = [compare(a, b)]
    if a.cluster.unit == "respondent":
        both.append(compare(_by_item(a), _by_item(b)))
    widest = max(both, key=_width)
    ps = [1.0 if d.p is None else d.p for d in both]
    note = f"the interval is over {widest.result.cluster.unit}s, the wider of the two"
    return widest.result.with_notes(note), max(ps)


def _width(d: Difference) -> float:
    return d.result.interval.high - d.result.interval.low if d.result.interval else -1.0


def _by_item(r: Result) -> Result:
    """The same Result with the question as its cluster."""
    items = tuple(replace(i, cluster=i.id.partition("@")[0]) for i in r.items)
    return replace(r, items=items, cluster=replace(r.cluster, unit="item"))

