"""Principles judged without a language model: by rule checks, by classifiers and other rewards, by planted words.

Always true here: a scorer says which principles it can judge, and asking it for another is an error, not a 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import expit

from valign.data.group import Group
from valign.errors import UsageError, require
from valign.goals.base import Array, ResponseScorer, per_response, sha256
from valign.goals.theory import Theory
from valign.rewards.rules import check, prepared


def columns(id: str, known: Mapping[str, Any], principles: Sequence[Any]) -> list[Any]:
    """What a scorer holds for each principle, in their order. Raises `UsageError` for one it does not judge."""
    if missing := [p.id for p in principles if p.id not in known]:
        raise UsageError(f"it does not judge {', '.join(missing)}", where=f"scorer {id}", how=f"it judges {', '.join(known)}")
    return [known[p.id] for p in principles]


@dataclass(frozen=True)
class RuleVerdicts:
    """Principles as rule checks: 1 where all checks of a principle pass, else -1.

    checks   principle id -> checks, see `rewards.rules.check`
    """

    checks: Mapping[str, Sequence[Mapping[str, Any]]]
    id: str = "rules"

    def __post_init__(self) -> None:
        for own in self.checks.values():
            prepared(own)  # a check that is not valid is found before anything is judged

    def verdicts(self, groups: Sequence[Group], principles: Sequence[Any]) -> list[Array]:
        """See `goals.base.PrincipleScorer`."""
        own = columns(self.id, self.checks, principles)
        return [
            np.array([[1.0 if check(c, r.text).passed else -1.0 for c in own] for r in g.responses]).reshape(-1, len(own))
            for g in groups
        ]

    def fingerprint(self) -> str:
        """sha256 over the checks."""
        return sha256(["rules", {k: [dict(c) for c in v] for k, v in self.checks.items()}])


@dataclass(frozen=True)
class Scaled:
    """A reward on the scale of a verdict: `low` is read as -1 (broken), `high` as 1 (kept); low > high turns it round."""

    reward: ResponseScorer
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        require(self.low != self.high, "high", self.high, "another number than low")


@dataclass(frozen=True)
class RewardVerdicts:
    """Principles judged by classifiers, cost models and other rewards, each mapped to [-1, 1].

    rewards   principle id -> a reward with the numbers that mean broken and kept
    """

    rewards: Mapping[str, Scaled]
    id: str = "classifiers"

    def verdicts(self, groups: Sequence[Group], principles: Sequence[Any]) -> list[Array]:
        """See `goals.base.PrincipleScorer`; NaN where a reward leaves a response unscored."""
        own = columns(self.id, self.rewards, principles)
        scored = [per_response(s.reward.score(groups), groups, s.reward.id) for s in own]
        out = []
        for i, _ in enumerate(groups):
            signed = [2 * (rows[i] - s.low) / (s.high - s.low) - 1 for s, rows in zip(own, scored, strict=True)]
            out.append(np.clip(np.stack(signed, axis=-1), -1, 1))
        return out

    def fingerprint(self) -> str:
        """sha256 over the rewards and their ends."""
        return sha256([[k, s.reward.fingerprint(), s.low, s.high] for k, s in sorted(self.rewards.items())])


@dataclass(frozen=True)
class ViolationOfSet:
    """One cost model or classifier for a set of principles as a whole: P(violation) = σ(cost), above ½ for an unsafe response.

    It does not say which principle is broken, so all of them share it: Σ_k w_k s_k = -P(violation) for weights that sum to
    1 or more.
    """

    cost: ResponseScorer

    @property
    def id(self) -> str:
        return f"violation by {self.cost.id}"

    def verdicts(self, groups: Sequence[Group], principles: Sequence[Any]) -> list[Array]:
        """(n_responses, n_principles) per group in [-1, 0]; NaN where the cost model leaves a response unscored."""
        shared = max(1.0, float(sum(p.weight for p in principles)))
        rows = per_response(self.cost.score(groups), groups, self.cost.id)
        return [np.repeat(-expit(row)[:, None] / shared, len(principles), axis=1) for row in rows]

    def fingerprint(self) -> str:
        """sha256 over the cost model."""
        return sha256(["violation", self.cost.fingerprint()])


# -------------------------------------------------------------------------------------------------------- planted

Cues = Mapping[str, Mapping[str, Sequence[str]]]  # name -> {"for": words, "against": words}


def cue_score(cues: Mapping[str, Sequence[str]], text: str) -> float:
    """(f - a)/(f + a), f and a the words for and against that occur in the text; 0 where none does."""
    words = count_in(text)
    f, a = (sum(words(w) for w in cues.get(side, ())) for side in ("for", "against"))
    return (f - a) / (f + a) if f + a else 0.0


def count_in(text: str) -> Callable[[str], int]:
    """How often a word stands in a text, whole and whatever its case."""
    found = re.findall(r"\w+", text.lower())
    return lambda word: found.count(word.lower())


@dataclass(frozen=True)
class PlantedVerdicts:
    """A scorer whose truth is known: principles, or a theory's dimensions, decided by words that stand in the text.

    cues    principle or dimension id -> words for it and against it
    noise   sd of Gaussian noise on each verdict, fixed by (seed, group, response, principle); the sum is cut to [-1, 1]
    """

    cues: Cues
    noise: float = 0.0
    seed: int = 0
    id: str = "planted"

    def __post_init__(self) -> None:
        require(self.noise >= 0, "noise", self.noise, "0 or more")

    def verdicts(self, groups: Sequence[Group], principles: Sequence[Any]) -> list[Array]:
        """See `goals.base.PrincipleScorer`."""
        columns(self.id, self.cues, principles)
        return [self._rows(g, [p.id for p in principles]) for g in groups]

    def _rows(self, group: Group, names: Sequence[str]) -> Array:
        rows = np.array([[cue_score(self.cues[n], r.text) for n in names] for r in group.responses])
        rows = rows.reshape(len(group.responses), len(names))
        if self.noise:
            address = [int(sha256([self.seed, group.id])[:8], 16)]
            rows = rows + self.noise * np.random.default_rng(address).standard_normal(rows.shape)
        return np.clip(rows, -1.0, 1.0)

    def fingerprint(self) -> str:
        """sha256 over everything that decides a verdict."""
        cues = {k: {s: list(w) for s, w in v.items()} for k, v in self.cues.items()}
        return sha256(["planted", cues, self.noise, self.seed])


@dataclass(frozen=True)
class PlantedValues:
    """Planted words as value evaluator; a dimension without words is 0. Implements `goals.base.ValueScorer`."""

    planted: PlantedVerdicts
    of: Theory = field(repr=False)

    @property
    def id(self) -> str:
        return self.planted.id

    @property
    def theory(self) -> str:
        return self.of.id

    def values(self, groups: Sequence[Group]) -> list[Array]:
        """See `goals.base.ValueScorer`."""
        named = [(self.of.index(name), name) for name in self.planted.cues]
        out = []
        for group in groups:
            rows = np.zeros((len(group.responses), len(self.of.ids)))
            rows[:, [k for k, _ in named]] = self.planted._rows(group, [name for _, name in named])
            out.append(rows)
        return out

    def fingerprint(self) -> str:
        """sha256 over the words and the theory."""
        return sha256([self.planted.fingerprint(), self.of.id])


@dataclass(frozen=True)
class PlantedReward:
    """One set of planted words as a reward in [-1, 1]."""

    planted: PlantedVerdicts
    name: str

    @property
    def id(self) -> str:
        return self.planted.id

    def score(self, groups: Sequence[Group]) -> list[Array]:
        """(n_responses,) per group."""
        return [self.planted._rows(g, [self.name])[:, 0] for g in groups]

    def fingerprint(self) -> str:
        """sha256 over the words."""
        return sha256([self.planted.fingerprint(), self.name])
