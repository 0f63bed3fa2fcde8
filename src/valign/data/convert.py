"""One kind of feedback from another: rankings and scores to pairs, pairs to thumbs, utilities to pairs.

Always true here: a conversion returns a new group, replaces the feedback it converts, keeps every other
feedback, the annotator and the weight, and the number of items that it makes is the one stated in its
docstring.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

from valign.data.group import Comparison, Feedback, Group, Ranking, Score, Verdict
from valign.errors import require

Ties = Literal["skip", "tie"]


def ranking_to_pairs(group: Group, *, ties: Ties = "skip") -> Group:
    """Every ranking becomes its ordered pairs, best place first.

    A ranking of k responses with places of sizes m_1, m_2, ... gives k(k-1)/2 - sum m_i(m_i-1)/2 pairs;
    ties="tie" adds the tied ones as comparisons with tie=True, so that there are k(k-1)/2.
    """
    _check(ties)
    made: list[Feedback] = []
    for r in group.of(Ranking):
        for a, place in enumerate(r.order):
            if ties == "tie":
                made += [_comparison(r, i, j, tie=True) for i, j in combinations(place, 2)]
            lower = [j for later in r.order[a + 1 :] for j in later]
            made += [_comparison(r, i, j) for i in place for j in lower]
    return _replaced(group, Ranking, made)


def scores_to_pairs(
    group: Group, *, aspect: str = "overall", ties: Ties = "skip", min_gap: float = 0.0
) -> Group:
    """The scores of one aspect become one comparison per pair of scored responses, per annotator.

    Two scores that differ by no more than `min_gap` are a tie: left out (ties="skip") or kept as a comparison
    with
    tie=True (ties="tie"). k scored responses give k(k-1)/2 comparisons, less the ties that are left out. The
    gap is
    kept as `strength`. Where an annotator scored a response twice, the mean counts. Scores of other aspects
    stay.
    """
    _check(ties)
    require(min_gap >= 0, "min_gap", min_gap, "0 or more")
    scores = [s for s in group.of(Score) if s.aspect == aspect]
    made: list[Feedback] = []
    for annotator in dict.fromkeys(s.annotator for s in scores):
        mine = [s for s in scores if s.annotator == annotator]
        value = {
            i: _mean([s.value for s in mine if s.response == i]) for i in sorted({s.response for s in mine})
        }
        weight = _mean([s.weight for s in mine])
        template = Score(response=0, value=0.0, annotator=annotator, weight=weight)
        for i, j in combinations(value, 2):
            made += _ordered(template, i, j, value[i] - value[j], ties, min_gap)
    kept = tuple(f for f in group.feedback if not (isinstance(f, Score) and f.aspect == aspect))
    return replace(group, feedback=(*kept, *made))


def pairs_to_unpaired(group: Group) -> Group:
    """Each comparison becomes two thumbs: a verdict on principle "good", 1 for the preferred and -1 for the
    other.

    n comparisons of which m say nothing (ties, or probability 1/2) give 2(n - m) verdicts. A soft label p
    weighs its
    two verdicts by |2p - 1|; below 1/2 the rejected response is the better one.
    """
    made: list[Feedback] = []
    for c in group.of(Comparison):
        lean = 0.0 if c.tie else 2 * c.probability - 1
        if lean == 0:
            continue
        good, bad = (c.chosen, c.rejected) if lean > 0 else (c.rejected, c.chosen)
        for response, value in ((good, 1.0), (bad, -1.0)):
            weight = c.weight * abs(lean)
            made.append(
                Verdict(
                    response=response, principle="good", value=value, annotator=c.annotator, weight=weight
                )
            )
    return _replaced(group, Comparison, made)


def pairs_from_utility(
    group: Group,
    utilities: Sequence[float],
    *,
    which: Literal["all", "best_worst"] = "all",
    ties: Ties = "skip",
    min_gap: float = 0.0,
    temperature: float | None = None,
    annotator: str = "utility",
) -> Group:
    """Comparisons that order the responses by a utility; comparisons already there are replaced.

    utilities    one number per response; NaN marks a response that is not scored and enters no pair
    which        "all": every pair; "best_worst": one pair, the best response against the worst
    min_gap      utilities that differ by no more are a tie (skipped, or kept with tie=True)
    temperature  None: hard labels; T > 0: P(chosen preferred) = 1 / (1 + exp(-gap / T)), Bradley-Terry
    k scored responses give k(k-1)/2 comparisons ("all"), less the ties that are skipped; the gap is the
    `strength`.
    """
    _check(ties)
    values = [float(u) for u in utilities]
    n = len(group.responses)
    require(len(values) == n, "utilities", f"{len(values)} numbers", f"one number per response ({n})")
    require(temperature is None or temperature > 0, "temperature", temperature, "None or more than 0")
    require(min_gap >= 0, "min_gap", min_gap, "0 or more")
    scored = [i for i in range(n) if not math.isnan(values[i])]
    pairs = list(combinations(scored, 2))
    if which == "best_worst" and pairs:
        pairs = [(max(scored, key=lambda i: values[i]), min(reversed(scored), key=lambda i: values[i]))]
    template = Score(response=0, value=0.0, annotator=annotator)
    made: list[Feedback] = []
    for i, j in pairs:
        for c in _ordered(template, i, j, values[i] - values[j], ties, min_gap):
            soft = temperature is not None and not c.tie
            made.append(
                replace(c, probability=_logistic((c.strength or 0.0) / (temperature or 1.0))) if soft else c
            )
    return _replaced(group, Comparison, made)


def _ordered(source: Feedback, i: int, j: int, gap: float, ties: Ties, min_gap: float) -> list[Comparison]:
    """The comparison of i and j whose values differ by gap = value(i) - value(j)."""
    if abs(gap) <= min_gap:
        return [_comparison(source, i, j, tie=True)] if ties == "tie" else []
    better, worse = (i, j) if gap > 0 else (j, i)
    return [_comparison(source, better, worse, strength=abs(gap))]


def _comparison(
    source: Feedback, chosen: int, rejected: int, *, tie: bool = False, strength: float | None = None
) -> Comparison:
    return Comparison(
        chosen=chosen,
        rejected=rejected,
        probability=0.5 if tie else 1.0,
        strength=strength,
        tie=tie,
        annotator=source.annotator,
        weight=source.weight,
    )


def _replaced(group: Group, kind: type[Feedback], made: list[Feedback]) -> Group:
    return replace(group, feedback=(*(f for f in group.feedback if not isinstance(f, kind)), *made))


def _check(ties: str) -> None:
    require(ties in ("skip", "tie"), "ties", ties, "skip or tie")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _logistic(x: float) -> float:
    """1 / (1 + exp(-x)) for x >= 0, where the exponential cannot overflow."""
    return 1 / (1 + math.exp(-x))
