"""CompositeGoal: several goals as one, with weights, priorities and a rule for their conflicts.

Always true here: parts are standardized (mean 0, sd 1 on samples of the reference; the numbers are stored
with the goal), so weights and priorities mean something; a response that one part leaves unscored is
unscored. The rules themselves live in `joining`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import numpy as np

from valign.data.group import Group
from valign.errors import DataError, UsageError, require, unknown
from valign.goals import joining
from valign.goals.base import LEVELS, Array, Goal, Level, Style, check_style, sha256
from valign.goals.causal import check_relation, measured_relation
from valign.goals.constraints import Constraint, Fitted, fit_multipliers
from valign.goals.context import ContextReader, active
from valign.goals.joining import EPSILON, lexicographic
from valign.goals.welfare import RANKING, WELFARES, Welfare
from valign.goals.words import listed, sentence

log = logging.getLogger(__name__)
Rule = Literal["weighted", "lexicographic", "constrained", "contextual", "causal", "social"]
By = Literal["utility", "labels"]
RULES: tuple[str, ...] = get_args(Rule)


@dataclass(frozen=True)
class Part:
    """A goal in a composite.

    weight      its part in the sum, within its priority class (lexicographic, contextual), or as a person (social); > 0
    priority    1 goes before 2 (lexicographic, contextual)
    conditions  when it counts (empty: always), exceptions: when it does not (contextual); see `context`
    """

    goal: Goal
    weight: float = 1.0
    priority: int = 1
    conditions: tuple[str, ...] = ()
    exceptions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(0 < self.weight < float("inf"), f"{self.goal.id}.weight", self.weight, "above 0")
        require(self.priority >= 1, f"{self.goal.id}.priority", self.priority, "1 (first) or more")

    @property
    def name(self) -> str:
        return self.goal.id


@dataclass(frozen=True)
class CompositeGoal:
    """One utility from several goals, z_k their standardized scores.

    weighted       r = Σ w_k z_k
    lexicographic  priority classes; the first decides unless it is (almost) even
    constrained    as weighted, minus λ_k (cost_k - limit_k) for every constraint: most utility with E cost_k <= limit_k;
                   any other rule but weighted takes constraints in the same way
    contextual     the parts whose conditions hold for the prompt and whose exceptions do not; among them as lexicographic
    causal         r = Σ u_k z_k, u the pushes whose total effect through `relation` is the weights
    social         parts are people; `social` names the rule

    standard     (mean, sd) of each part on reference samples, by the part's goal id; "raw" takes the parts as
                 they are; None = not measured yet, so no utility: see `standardized`
    epsilon      lexicographic, contextual: width of "even" in sd of the class score
    constraints  costs with their limits                        beta  KL strength their multipliers were fitted for
    relation     causal: (K, K) how pushing part k moves part j; None: measured by `standardized`
    reader       says which conditions hold (contextual); None: those that `context` can decide
    """

    parts: tuple[Part, ...]
    conflict: Rule = "weighted"
    standard: Mapping[str, tuple[float, float]] | Literal["raw"] | None = None
    epsilon: float = EPSILON
    id: str = "composite"
    version: int = 1
    notes: str = ""
    social: Welfare = "mean"
    constraints: tuple[Constraint, ...] = ()
    beta: float = 0.1
    relation: tuple[tuple[float, ...], ...] | None = None
    reader: ContextReader | None = None

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
        self._check_rule(where)
        if isinstance(self.standard, Mapping):
            if missing := set(ids) ^ set(self.standard):
                raise UsageError(f"standard must name each part once; see {sorted(missing)}", where=where)
            for name, (_, sd) in self.standard.items():
                require(sd > 0, f"standard.{name}", sd, "a mean and an sd above 0")

    def _check_rule(self, where: str) -> None:
        """Raise for what another rule would read, and for what this one lacks."""
        if self.conflict not in ("contextual",) and (found := [p.name for p in self.parts if p.conditions or p.exceptions]):
            raise UsageError(f"part {found[0]!r} has conditions, which {self.conflict} does not read", where=where,
                             how="conflict: contextual")  # fmt: skip
        if (self.conflict == "constrained" and not self.constraints) or (self.conflict == "weighted" and self.constraints):
            what = "needs constraints" if not self.constraints else "does not read constraints"
            raise UsageError(f"{self.conflict} {what}", where=where, how="conflict: constrained, constraints: [...]")
        if self.social not in WELFARES:
            raise unknown("social rule", self.social, WELFARES, where=where)
        if self.social != "mean" and self.conflict != "social":
            raise UsageError(f"{self.conflict} does not read social", where=where, how="conflict: social")
        if self.epsilon != EPSILON and self.conflict not in ("lexicographic", "contextual"):
            raise UsageError(f"{self.conflict} does not read epsilon", where=where, how="conflict: lexicographic")
        if self.relation is not None:
            if self.conflict != "causal":
                raise UsageError(f"{self.conflict} does not read relation", where=where, how="conflict: causal")
            check_relation(np.array(self.relation), len(self.parts), f"{where}: relation")

    @property
    def level(self) -> Level:
        """The highest level among the parts."""
        return cast(Level, LEVELS[max(LEVELS.index(p.goal.level) for p in self.parts)])

    def standardized(self, groups: Sequence[Group], *, by: By = "utility") -> CompositeGoal:
        """The same goal with what has to be measured on samples of the reference: mean and sd of every part, the
        multipliers of constraints, and the relation of a causal goal that has none.

        A part that does not vary there keeps sd 1 (it cannot be put on a scale) and is named in a warning.
        """
        scores = {p.name: [*getattr(p.goal, by)(groups)] for p in self.parts}
        standard = {name: _mean_and_sd(rows, name, self.id) for name, rows in scores.items()}
        goal = replace(self, standard=standard)
        if self.conflict == "causal" and self.relation is None:
            rows = np.stack([np.concatenate(scores[p.name]) for p in self.parts], axis=1)
            goal = replace(goal, relation=tuple(map(tuple, measured_relation(rows).tolist())))
        return goal.with_multipliers(groups, by=by) if self.constraints else goal

    def with_multipliers(self, groups: Sequence[Group], *, by: By = "utility") -> CompositeGoal:
        """The same goal with multipliers fitted on several samples of the reference per prompt; see `fitted`."""
        found = self.fitted(groups, by=by).multipliers
        return replace(self, constraints=tuple(
            replace(c, multiplier=float(m)) for c, m in zip(self.constraints, found, strict=True)))  # fmt: skip

    def fitted(self, groups: Sequence[Group], *, by: By = "utility") -> Fitted:
        """The multipliers that meet the limits under the target of `beta`, with the costs that they give."""
        rows = [np.asarray(sum(parts.values())) for parts in self._main(groups, by)]
        costs = [np.stack([c.sign * x for c, x in zip(self.constraints, row)], axis=1)
                 for row in zip(*(getattr(c.goal, by)(groups) for c in self.constraints))]  # fmt: skip
        known = [~(np.isnan(r) | np.isnan(c).any(1)) for r, c in zip(rows, costs, strict=True)]
        limits = np.array([c.limit for c in self.constraints])
        return fit_multipliers([r[k] for r, k in zip(rows, known)], [c[k] for c, k in zip(costs, known)], limits, self.beta)

    def with_reader(self, reader: ContextReader) -> CompositeGoal:
        """The same goal with someone who says which conditions hold."""
        return replace(self, reader=reader)

    # ------------------------------------------------------------------------------------------------ numbers

    def utility(self, groups: Sequence[Group]) -> list[Array]:
        """See `Goal.utility`. Raises `UsageError` before the parts are standardized."""
        return [np.asarray(sum(parts.values())) for parts in self.explain(groups)]

    def labels(self, groups: Sequence[Group]) -> list[Array]:
        """See `Goal.labels`."""
        return [np.asarray(sum(p.values())) for p in self._joined(groups, "labels")]

    def explain(self, groups: Sequence[Group]) -> list[dict[str, Array]]:
        """See `Goal.explain`: one part per goal, or per priority class, "1: a + b" (lexicographic, contextual);
        "cost a" for a constraint.
        """
        return self._joined(groups, "utility")

    def standard_scores(self, groups: Sequence[Group]) -> list[dict[str, Array]]:
        """z of every part by its goal id, each (n_responses,)."""
        return self._z(groups, "utility")

    def decided_by(self, group: Group, a: int, b: int) -> str:
        """Which part puts one response above the other: the first class that differs (lexicographic, contextual, where no
        cost takes part), else the part with the largest difference in that direction; "" when nothing does.
        """
        if self.conflict in ("lexicographic", "contextual") and not self.constraints:
            (z,) = self.standard_scores([group])
            parts = self.active_parts([group])[0]
            return joining.deciding_class(joining.classes(parts, z), self.epsilon, a, b) if parts else ""
        (row,) = self.explain([group])
        gaps = {name: float(x[a] - x[b]) for name, x in row.items()}
        sign = np.sign(sum(gaps.values()))
        agreeing = [name for name, gap in gaps.items() if sign and np.sign(gap) == sign]
        return max(agreeing, key=lambda name: abs(gaps[name]), default="")

    def active_parts(self, groups: Sequence[Group]) -> list[tuple[Part, ...]]:
        """The parts that count for each group's prompt: all of them but for a contextual goal."""
        if self.conflict != "contextual":
            return [self.parts for _ in groups]
        flags = [active(groups, p.conditions, p.exceptions, self.reader) for p in self.parts]
        return [tuple(p for p, f in zip(self.parts, flags, strict=True) if f[i]) for i in range(len(groups))]

    def _z(self, groups: Sequence[Group], by: By) -> list[dict[str, Array]]:
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
            mean, sd = (0.0, 1.0) if isinstance(self.standard, str) else self.standard[part.name]
            columns.append([(x - mean) / sd for x in getattr(part.goal, by)(groups)])
        return [dict(zip((p.name for p in self.parts), row, strict=True)) for row in zip(*columns, strict=True)]

    def _main(self, groups: Sequence[Group], by: By) -> list[dict[str, Array]]:
        """Parts of the utility by the rule alone, before any cost."""
        rows = self._z(groups, by)
        match self.conflict:
            case "lexicographic" | "contextual":
                return [self._lexical(parts, z) for parts, z in zip(self.active_parts(groups), rows, strict=True)]
            case "causal":
                return [joining.causal(self.parts, z, self._relation()) for z in rows]
            case "social":
                return [joining.social(self.parts, z, self.social) for z in rows]
        return [joining.weighted(self.parts, z) for z in rows]

    def _joined(self, groups: Sequence[Group], by: By) -> list[dict[str, Array]]:
        out = self._main(groups, by)
        for c in self.constraints:
            for row, x in zip(out, getattr(c.goal, by)(groups), strict=True):
                row[f"cost {c.id}"] = -self._multiplier(c) * (c.sign * x - c.limit)
        for parts in out:  # what one part cannot score, the whole cannot
            gone = np.isnan(sum(parts.values()))
            for x in parts.values():
                x[gone] = np.nan
        return out

    def _lexical(self, parts: tuple[Part, ...], z: Mapping[str, Array]) -> dict[str, Array]:
        if not parts:  # nothing is asked of this prompt: every response is as good
            return {"no part holds here": np.zeros_like(next(iter(z.values())))}
        return lexicographic(joining.classes(parts, z), self.epsilon)

    def _relation(self) -> Array:
        if self.relation is None:
            raise UsageError("the relation of the parts is not measured", where=f"goal {self.id}",
                             how=["goal.standardized(groups) measures it on samples of the reference",
                                  "or relation: rows of numbers, or circle"])  # fmt: skip
        return np.array(self.relation)

    def _multiplier(self, constraint: Constraint) -> float:
        if constraint.multiplier is None:
            raise UsageError(f"the multiplier of {constraint.id!r} is not fitted", where=f"goal {self.id}",
                             how=["goal.standardized(groups) fits it on samples of the reference",
                                  "or multiplier: NUMBER beside its limit"])  # fmt: skip
        return constraint.multiplier

    # -------------------------------------------------------------------------------------------------- words

    def describe(self, style: Style = "instruction") -> str:
        """See `Goal.describe`: the parts in the order in which they count."""
        check_style(style)
        lexical = self.conflict in ("lexicographic", "contextual")
        ranked = sorted(self.parts, key=lambda p: (p.priority if lexical else 0, -p.weight))
        if style == "short":
            return "; ".join(p.goal.describe("short") for p in ranked)
        texts = [sentence(p.goal.describe("instruction") + _when(p)) for p in ranked]
        texts += [f"{sentence(c.goal.describe('instruction'))} Only rarely may an answer fail in this." for c in self.constraints]
        opening = "You are an assistant who follows these guidelines.\n\n" if style == "system" else ""
        return f"{opening}{chr(10).join(texts)}\n{WORDS[self.conflict]}"

    def fingerprint(self) -> str:
        """See `Goal.fingerprint`: the parts' own ones, and everything that joins them."""
        own = {k: v for k, v in self.to_json().items() if k not in ("parts", "constraints")}
        parts = [[p.goal.fingerprint(), *_part_json(p).values()] for p in self.parts]
        costs = [[c.goal.fingerprint(), *_constraint_json(c).values()] for c in self.constraints]
        return sha256([own, parts, *([costs] if costs else []), *([self.reader.id] if self.reader else [])])

    def to_json(self) -> dict[str, Any]:
        """See `Goal.to_json`."""
        out: dict[str, Any] = {
            "id": self.id,
            "version": self.version,
            "level": "composite",
            "conflict": self.conflict,
        }
        out["parts"] = [{"goal": p.goal.to_json(), **_part_json(p)} for p in self.parts]
        if self.constraints:
            out["constraints"] = [{"goal": c.goal.to_json(), **_constraint_json(c)} for c in self.constraints]
            out["beta"] = self.beta
        out |= {"social": self.social} if self.conflict == "social" else {}
        out |= {"relation": [list(row) for row in self.relation]} if self.relation is not None else {}
        if isinstance(self.standard, Mapping):
            out["standard"] = {name: list(numbers) for name, numbers in self.standard.items()}
        elif self.standard is not None:
            out["standard"] = self.standard
        out |= {"epsilon": self.epsilon} if self.conflict in ("lexicographic", "contextual") else {}
        return out | ({"notes": self.notes} if self.notes else {})


def ranks(goal: Goal) -> bool:
    """Whether the goal's utility of a response is, in whole or in a part, its rank among the responses to the same prompt."""
    if not isinstance(goal, CompositeGoal):
        return False
    inner = [*(p.goal for p in goal.parts), *(c.goal for c in goal.constraints)]
    return (goal.conflict == "social" and goal.social in RANKING) or any(map(ranks, inner))


WORDS = {
    "weighted": "Weigh these against each other.",
    "lexicographic": "Where these conflict, what stands first goes first.",
    "constrained": "Within these limits, weigh the rest against each other.",
    "contextual": "Keep to those that hold for the case; where these conflict, what stands first goes first.",
    "causal": "These hang together: weigh what serving one does to the others.",
    "social": "These are the wishes of different people: find what is fair to all of them.",
}


def _when(part: Part) -> str:
    """The conditions of a part in words."""
    conditions, exceptions = ([c.removeprefix("mentions:").strip() for c in side] for side in (part.conditions, part.exceptions))
    when = f" This holds when it is about {listed(conditions)}." if conditions else ""
    return when + (f" It does not hold when it is about {listed(exceptions)}." if exceptions else "")


def _part_json(part: Part) -> dict[str, Any]:
    out: dict[str, Any] = {"weight": part.weight, "priority": part.priority}
    out |= {"conditions": list(part.conditions)} if part.conditions else {}
    return out | ({"exceptions": list(part.exceptions)} if part.exceptions else {})


def _constraint_json(constraint: Constraint) -> dict[str, Any]:
    out: dict[str, Any] = {"limit": constraint.limit, "sign": constraint.sign}
    return out | ({"multiplier": constraint.multiplier} if constraint.multiplier is not None else {})


def _mean_and_sd(rows: Sequence[Array], name: str, goal: str) -> tuple[float, float]:
    scores = np.concatenate([np.zeros(0), *rows])
    scores = scores[~np.isnan(scores)]
    if scores.size < 2:
        raise DataError(f"part {name!r} scores {scores.size} response(s)", where=f"goal {goal}")
    sd = float(scores.std())
    if sd < 1e-12:
        log.warning("part %r is constant on the reference samples: it stays on its own scale", name)
        sd = 1.0
    return float(scores.mean()), sd
