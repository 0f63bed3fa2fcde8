"""PreferenceGoal: level 2, what people like, carried by their comparisons, rankings, scores and thumbs.

Always true here: labels lie in [0, 1] where the scale of the feedback is known. A reward model that
generalizes beyond the data is passed in; fitting one is a method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np

from valign.data.group import Comparison, Edit, Group, Ranking, Score, Verdict
from valign.errors import unknown
from valign.goals.base import (
    Array,
    Level,
    ResponseScorer,
    Style,
    check_style,
    missing_scorer,
    per_response,
    scorer_identity,
    sha256,
    weighted_mean,
    without_scoring,
)
from valign.goals.principle import THUMB

Feedback = Literal["auto", "comparisons", "scores", "thumbs"]
FEEDBACK: tuple[str, ...] = get_args(Feedback)
WORDS = "helpful, clear, correct and pleasant to read"


@dataclass(frozen=True)
class PreferenceGoal:
    """r(x, y) = R(x, y) of a reward model; labels = how far people liked y among the responses to x.

    reward     a ResponseScorer; None leaves `labels` only
    feedback   which labels to read: "comparisons" (rankings and edits included), "scores", "thumbs" (verdicts
               on
               "good"), or "auto": the first of these that a group has
    split      which part of the data the preferences stand in (`group.split`), such as "helpful"; "" = all of them
    aspect     of scores: which one; "" = "overall" if present, else the mean of all
    text       what people like, in words, for `describe`
    scoring    how the goal's file describes the reward, None where it does not
    reward_model   the folder of the reward model that `reward` was made from, "" for another reward
    """

    reward: ResponseScorer | None = None
    feedback: Feedback = "auto"
    aspect: str = ""
    split: str = ""
    text: str = ""
    reward_model: str = ""
    id: str = "preference"
    version: int = 1
    notes: str = ""
    scoring: Mapping[str, Any] | None = None
    level: Level = field(default="preference", init=False)

    def __post_init__(self) -> None:
        if self.feedback not in FEEDBACK:
            raise unknown("feedback", self.feedback, FEEDBACK, where=f"goal {self.id}")

    def utility(self, groups: Sequence[Group]) -> list[Array]:
        """See `Goal.utility`."""
        if self.reward is None:
            raise missing_scorer(self.id, "preference", "reward", "a reward model or another ResponseScorer")
        return per_response(self.reward.score(groups), groups, self.reward.id)

    def labels(self, groups: Sequence[Group]) -> list[Array]:
        """See `Goal.labels`: win rate, mean score (scaled where it has ends), share of thumbs up."""
        return [self._labelled(group) for group in groups]

    def explain(self, groups: Sequence[Group]) -> list[dict[str, Array]]:
        """See `Goal.explain`: one part, a preference gives no reasons."""
        return [{"preference": u} for u in self.utility(groups)]

    def _labelled(self, group: Group) -> Array:
        if self.split and group.split != self.split:
            return np.full(len(group.responses), np.nan)
        readers = {
            "comparisons": win_rates,
            "scores": lambda g: mean_scores(g, self.aspect),
            "thumbs": thumbs,
        }
        chosen = list(readers) if self.feedback == "auto" else [self.feedback]
        for name in chosen:
            found = readers[name](group)
            if not np.isnan(found).all():
                return found
        return np.full(len(group.responses), np.nan)

    def describe(self, style: Style = "instruction") -> str:
        """See `Goal.describe`."""
        check_style(style)
        if style == "short":
            return self.text or "what people prefer"
        wish = self.text or f"an answer that most people would find {WORDS}"
        opening = "You are an assistant who gives" if style == "system" else "Give"
        return f"{opening} {wish}." if not self.text else f"{self.text.rstrip('.')}."

    def fingerprint(self) -> str:
        """See `Goal.fingerprint`."""
        content = {k: v for k, v in self.to_json().items() if k != "reward_model" or self.reward is None}
        content = without_scoring(content, "reward", self.reward)
        return sha256([content, scorer_identity(self.reward)])  # a reward model is the same in any folder

    def to_json(self) -> dict[str, Any]:
        """See `Goal.to_json`."""
        out: dict[str, Any] = {
            "id": self.id,
            "version": self.version,
            "level": "preference",
            "feedback": self.feedback,
        }
        for name in ("aspect", "split", "text", "reward_model", "notes"):
            out |= {name: value} if (value := getattr(self, name)) else {}
        return out | ({"reward": dict(self.scoring)} if self.scoring else {})


def win_rates(group: Group) -> Array:
    """(n_responses,) mean probability of being preferred, over the comparisons a response takes part in; NaN
    without any.

    A ranking counts as all its pairs (ties as one half), an edit as the revision preferred to the original.
    """
    n = len(group.responses)
    won, met = np.zeros(n), np.zeros(n)

    def add(winner: int, loser: int, probability: float, weight: float) -> None:
        won[winner] += weight * probability
        won[loser] += weight * (1 - probability)
        met[[winner, loser]] += weight

    for c in group.of(Comparison):
        add(c.chosen, c.rejected, 0.5 if c.tie else c.probability, c.weight)
    for e in group.of(Edit):
        add(e.revised, e.response, 1.0, e.weight)
    for ranking in group.of(Ranking):
        place = {r: i for i, tied in enumerate(ranking.order) for r in tied}
        for a, b in combinations(sorted(place, key=lambda r: place[r]), 2):
            add(a, b, 0.5 if place[a] == place[b] else 1.0, ranking.weight)
    return np.asarray(np.divide(won, met, out=np.full(n, np.nan), where=met > 0))


def mean_scores(group: Group, aspect: str = "") -> Array:
    """(n_responses,) weighted mean of the scores of an aspect, mapped to [0, 1] where their scale has both
    ends.
    """
    scores = list(group.of(Score))
    if not aspect and any(s.aspect == "overall" for s in scores):
        aspect = "overall"
    out = np.full(len(group.responses), np.nan)
    chosen = [s for s in scores if not aspect or s.aspect == aspect]
    for r in {s.response for s in chosen}:
        own = [s for s in chosen if s.response == r]
        out[r] = weighted_mean([_scaled(s) for s in own], [s.weight for s in own])
    return out


def thumbs(group: Group) -> Array:
    """(n_responses,) share of thumbs up: the mean of verdicts on "good", mapped from [-1, 1] to [0, 1]."""
    verdicts = [v for v in group.of(Verdict) if v.principle == THUMB]
    out = np.full(len(group.responses), np.nan)
    for r in {v.response for v in verdicts}:
        own = [v for v in verdicts if v.response == r]
        out[r] = (weighted_mean([v.value for v in own], [v.weight for v in own]) + 1) / 2
    return out


def _scaled(score: Score) -> float:
    if score.low is None or score.high is None or score.high <= score.low:
        return score.value
    return (score.value - score.low) / (score.high - score.low)
