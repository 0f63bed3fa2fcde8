"""CompositeGoal: several goals as one, with weights, priorities and a rule for their conflicts.

Always true here: parts are standardized (mean 0, sd 1 on samples of the reference; the numbers are stored
with the goal), so weights and priorities mean something; a response that one part leaves unscored is
unscored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import numpy as np

from valign.data.group import Group
from valign.errors import DataError, UsageError, require, unknown
from valign.goals.base import LEVELS, Array, Goal, Level, Style, check_style, sha256
from valign.goals.words import sentence

log = logging.getLogger(__name__)
Rule = Literal["weighted", "lexicographic"]
RULES: tuple[str, ...] = get_args(Rule)
EPSILON = (
    0.1  # sd: below this difference a higher class leaves the choice to the next; goals notes section 5
)


@dataclass(frozen=True)
class Part:
    """A goal in a composite.

    weight     its part in the sum (weighted), or within its priority class (lexicographic); > 0
    priority   1 goes before 2 (lexicographic)
    """

    goal: Goal
    weight: float = 1.0
    priority: int = 1

    def __post_init__(self) -> None:
        require(0 < self.weight < float("inf"), f"{self.goal.id}.weight", self.weight, "above 0")
        require(self.priority >= 1, f"{self.goal.id}.priority", self.priority, "1 (first) or more")


@dataclass(frozen=True)
class CompositeGoal:
    """weighted: r = Σ w_k z_k. lexicographic: priority classes, the first decides unless it is (almost) even.

    conflict   how the parts are joined
    standard   (mean, sd) of each part on reference samples, by the part's goal id; "raw" takes the parts as
               they are;
               None = not measured yet, so no utility: see `standardized`
    epsilon    lexicographic: width of "even" in sd of the class score
    """

    parts: tuple[Part, ...]
    conflict: Rule = "weighted"
    standard: Mapping[str, tuple[float, float]] | Literal["raw"] | None = None
    epsilon: float = EPSILON
    id: str = "composite"
    version: int = 1
    notes: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        where = f"goal {self.id}"
        if self.conflict not in RULES:
            raise unknown("conflict rule", self.conflict, RULES, where=where)
        if len(self.parts) < 2:
            raise UsageError("a composite goal needs at least two parts", where=where)
        ids = [p.goal.id for p in self.parts]
        if double := {i for i in ids if ids.count(i) > 1}:
            raise UsageError(
                f"two parts have the id {sorted(double)[0]!r}", where=where, how="give each part an id"
            )
        require(0 < self.epsilon < float("inf"), "epsilon", self.epsilon, "above 0")
        if isinstance(self.standard, Mapping):
            if missing := set(ids) ^ set(self.standard):
                raise UsageError(f"standard must name each part once; see {sorted(missing)}", where=where)
            for name, (_, sd) in self.standard.items():
                require(sd > 0, f"standard.{name}", sd, "a mean and an sd above 0")

    @property
    def level(self) -> Level:
        """The highest level among the parts."""
        return cast(Level, LEVELS[max(LEVELS.index(p.goal.level) for p in self.parts)])

    def standardized(
        self, groups: Sequence[Group], *, by: Literal["utility", "labels"] = "utility"
    ) -> CompositeGoal:
        """The same goal with mean and sd of every part measured on samples of the reference.

        A part that does not vary there keeps sd 1 (it cannot be put on a scale) and is named in a warning.
        """
        standard = {}
        for part in self.parts:
            scores = np.concatenate([np.zeros(0), *getattr(part.goal, by)(groups)])
            scores = scores[~np.isnan(scores)]
            if scores.size < 2:
                raise DataError(
                    f"part {part.goal.id!r} scores {scores.size} response(s)", where=f"goal {self.id}"
                )
            sd = float(scores.std())
            if sd < 1e-12:
                log.warning(
                    "part %r is constant on the reference samples: it stays on its own scale", part.goal.id
                )
                sd = 1.0
            standard[part.goal.id] = (float(scores.mean()), sd)
        return replace(self, standard=standard)

    # ------------------------------------------------------------------------------------------------ numbers

    def utility(self, groups: Sequence[Group]) -> list[Array]:
        """See `Goal.utility`. Raises `UsageError` before the parts are standardized."""
        return [np.asarray(sum(parts.values())) for parts in self.explain(groups)]

    def labels(self, groups: Sequence[Group]) -> list[Array]:
        """See `Goal.labels`."""
        return [np.asarray(sum(p.values())) for p in self._joined(lambda goal: goal.labels(groups))]

    def explain(self, groups: Sequence[Group]) -> list[dict[str, Array]]:
        """See `Goal.explain`: one part per goal (weighted), or per priority class, "1: a + b"."""
        return self._joined(lambda goal: goal.utility(groups))

    def standard_scores(self, groups: Sequence[Group]) -> list[dict[str, Array]]:
        """z of every part by its goal id, each (n_responses,)."""
        return self._z(lambda goal: goal.utility(groups))

    def decided_by(self, group: Group, a: int, b: int) -> str:
        """Which part puts one response above the other: the largest difference (weighted), the first class
        that differs
        (lexicographic), "" when nothing does."""
        (z,) = self.standard_scores([group])
        if self.conflict == "lexicographic":
            classes = self._classes(z)
            for name, s in classes.items():
                x, y = (s[a], s[b]) if name == list(classes)[-1] else np.floor(s[[a, b]] / self.epsilon)
                if x != y:
                    return name
            return ""
        gaps = {p.goal.id: p.weight * float(z[p.goal.id][a] - z[p.goal.id][b]) for p in self.parts}
        sign = np.sign(sum(gaps.values()))
        agreeing = [name for name, gap in gaps.items() if sign and np.sign(gap) == sign]
        return max(agreeing, key=lambda name: abs(gaps[name]), default="")

    def _z(self, score: Callable[[Goal], list[Array]]) -> list[dict[str, Array]]:
        if self.standard is None:
            raise UsageError(
                "the parts are not standardized, so their weights have no meaning yet",
                where=f"goal {self.id}",
                how=[
                    "goal.standardized(groups) with samples of the reference policy",
                    "or standard: raw to take them as they are",
                ],
            )
        columns = []
        for part in self.parts:
            mean, sd = (0.0, 1.0) if isinstance(self.standard, str) else self.standard[part.goal.id]
            columns.append([(x - mean) / sd for x in score(part.goal)])
        return [
            dict(zip((p.goal.id for p in self.parts), row, strict=True)) for row in zip(*columns, strict=True)
        ]

    def _joined(self, score: Callable[[Goal], list[Array]]) -> list[dict[str, Array]]:
        weights = {p.goal.id: p.weight for p in self.parts}
        rows = self._z(score)
        if self.conflict == "weighted":
            out = [{name: weights[name] * z for name, z in row.items()} for row in rows]
        else:
            out = [lexicographic(self._classes(row), self.epsilon) for row in rows]
        for parts in out:  # what one part cannot score, the whole cannot
            gone = np.isnan(sum(parts.values()))
            for x in parts.values():
                x[gone] = np.nan
        return out

    def _classes(self, z: Mapping[str, Array]) -> dict[str, Array]:
        """Class scores Σ w z / Σ w by name, first priority first."""
        out = {}
        for priority in sorted({p.priority for p in self.parts}):
            members = [p for p in self.parts if p.priority == priority]
            total = sum(p.weight for p in members)
            name = f"{priority}: {' + '.join(p.goal.id for p in members)}"
            out[name] = np.asarray(sum(p.weight / total * z[p.goal.id] for p in members))
        return out

    # -------------------------------------------------------------------------------------------------- words

    def describe(self, style: Style = "instruction") -> str:
        """See `Goal.describe`: the parts in the order in which they count."""
        check_style(style)
        lexical = self.conflict == "lexicographic"
        ranked = sorted(self.parts, key=lambda p: (p.priority if lexical else 0, -p.weight))
        if style == "short":
            return "; ".join(p.goal.describe("short") for p in ranked)
        texts = [p.goal.describe("instruction") for p in ranked]
        rule = (
            "Where these conflict, what stands first goes first."
            if lexical
            else "Weigh these against each other."
        )
        opening = "You are an assistant who follows these guidelines.\n\n" if style == "system" else ""
        return f"{opening}{chr(10).join(sentence(t) for t in texts)}\n{rule}"

    def fingerprint(self) -> str:
        """See `Goal.fingerprint`: the parts' own ones, and everything that joins them."""
        own = {k: v for k, v in self.to_json().items() if k != "parts"}
        return sha256([own, [[p.goal.fingerprint(), p.weight, p.priority] for p in self.parts]])

    def to_json(self) -> dict[str, Any]:
        """See `Goal.to_json`."""
        out: dict[str, Any] = {
            "id": self.id,
            "version": self.version,
            "level": "composite",
            "conflict": self.conflict,
        }
        out["parts"] = [
            {"goal": p.goal.to_json(), "weight": p.weight, "priority": p.priority} for p in self.parts
        ]
        if isinstance(self.standard, Mapping):
            out["standard"] = {name: list(numbers) for name, numbers in self.standard.items()}
        elif self.standard is not None:
            out["standard"] = self.standard
        out |= {"epsilon": self.epsilon} if self.conflict == "lexicographic" else {}
        return out | ({"notes": self.notes} if self.notes else {})


def lexicographic(classes: Mapping[str, Array], epsilon: float) -> dict[str, Array]:
    """Additive form of "the first class decides, the next only where it is even": a part per class.

    A class score is cut down to steps of ε, and what the lower classes give is squeezed into one step:
    u_c = ε·(⌊s_c/ε⌋ + σ(u_{c+1})), u of the last class = its score. So a lower class never outweighs a
    difference of ε or more in a higher one, and u is one number per response that does not depend on the
    others. classes: scores by class name, first class first.
    """
    names = list(classes)
    below = np.array(classes[names[-1]], dtype=np.float64)
    values = {names[-1]: below}
    for name in reversed(names[:-1]):
        step = epsilon * (np.floor(classes[name] / epsilon) + 0.5)
        inside = epsilon * np.tanh(below / 2) / 2  # ε·(σ - ½)
        limit = np.full_like(below, epsilon / 4)  # σ'(0) = 1/4
        slope = np.divide(inside, below, out=limit, where=below != 0)
        values = {name: step, **{lower: x * slope for lower, x in values.items()}}
        below = step + inside
    return values
