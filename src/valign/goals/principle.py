"""PrincipleGoal: level 3, explicit rules with reasons, and the sets of them that ship as data.

Always true here: s_k lies in [-1, 1]: 1 kept, -1 broken, 0 not touched; r = Σ_k w_k s_k, unless the goal settles conflicts
by priority or by context; the words of a goal claim an order only where its numbers have one. Verdicts come from a scorer
that is passed in (classifier, judge, rule), or from the `Verdict`s in the data. A response of a judged group that carries
no verdict on a principle does not touch it; in a group without any verdict nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from valign.data.group import Group, Verdict
from valign.errors import DataError, UsageError, require, unknown
from valign.goals.base import (
    Array,
    Level,
    PrincipleScorer,
    Style,
    check_style,
    missing_scorer,
    per_response,
    scorer_identity,
    sha256,
    weighted_mean,
    without_scoring,
)
from valign.goals.context import ContextReader, active
from valign.goals.files import DATA, Reader, builtin_names, read_yaml
from valign.goals.joining import EPSILON, classes, lexicographic
from valign.goals.words import listed, sentence

Kind = Literal["do", "dont", "prefer"]
KINDS: tuple[str, ...] = get_args(Kind)
PrincipleRule = Literal["weighted", "lexicographic", "contextual"]
PRINCIPLE_RULES: tuple[str, ...] = get_args(PrincipleRule)
OPO = "opo:"
THUMB = "good"  # the principle name of a plain thumb up or down: a preference, not a principle


@dataclass(frozen=True)
class Principle:
    """One rule in words.

    kind        do, dont, or prefer (a taste rather than a duty)
    conditions  when it applies (empty: always); exceptions: when it does not
    priority    1 goes before 2
    weight      its part in the sum
    critique    what a critic is asked about an answer, and revision: what is done about it ("" = none written)
    """

    id: str
    text: str
    negation: str = ""
    kind: Kind = "do"
    theme: str = ""
    conditions: tuple[str, ...] = ()
    exceptions: tuple[str, ...] = ()
    priority: int = 1
    weight: float = 1.0
    source: str = ""
    license: str = ""
    language: str = "en"
    critique: str = ""
    revision: str = ""

    def __post_init__(self) -> None:
        require(bool(self.id.strip()), "id", self.id, "a name")
        require(bool(self.text.strip()), "text", self.text, f"the words of principle {self.id}")
        require(self.priority >= 1, f"{self.id}.priority", self.priority, "1 (first) or more")
        require(0 <= self.weight < float("inf"), f"{self.id}.weight", self.weight, "0 or more")

    @property
    def name(self) -> str:
        return self.id

    def words(self) -> str:
        """Text with conditions and exceptions."""
        when = f" when {listed(self.conditions)}" if self.conditions else ""
        unless = f", unless {listed(self.exceptions)}" if self.exceptions else ""
        return self.text + when + unless

    def to_json(self) -> dict[str, Any]:
        """JSON values; fields at their default are left out."""
        out: dict[str, Any] = {"id": self.id, "kind": self.kind, "text": self.text}
        for name in ("negation", "theme", "source", "license", "critique", "revision"):
            out |= {name: value} if (value := getattr(self, name)) else {}
        for name in ("conditions", "exceptions"):
            out |= {name: list(value)} if (value := getattr(self, name)) else {}
        out |= {"priority": self.priority, "weight": self.weight}
        return out | ({"language": self.language} if self.language != "en" else {})


@dataclass(frozen=True)
class PrincipleSet:
    """Principles from one source.

    wording     "own" words of this project, or "quoted" as the licence allows
    questions   (id, text): what a judge is asked to choose an answer by, where the source has such questions
    note        what is to be known about the set, what could not be checked included
    """

    id: str
    principles: tuple[Principle, ...]
    version: int = 1
    source: str = ""
    license_of_source: str = ""
    wording: str = "own"
    title: str = ""
    note: str = ""
    questions: tuple[tuple[str, str], ...] = ()

    def select(self, only: Sequence[str]) -> tuple[Principle, ...]:
        """The named principles in the order of the set. Raises `UsageError` for a name that is not in it."""
        ids = [p.id for p in self.principles]
        for name in only:
            if name not in ids:
                raise unknown("principle", name, ids, where=f"principle set {self.id}")
        return tuple(p for p in self.principles if p.id in only)


def principle_sets() -> tuple[str, ...]:
    """Names of the built-in sets."""
    return builtin_names("principles")


def load_principles(spec: str | Path) -> PrincipleSet:
    """A built-in set by name, a set from a YAML file, or "opo:FILE": the user's own texts of law and morals."""
    if str(spec) in principle_sets():
        return _builtin(str(spec))
    if str(spec).startswith(OPO):
        from valign.goals.opo import read_rules

        return read_rules(Path(str(spec).removeprefix(OPO)))
    path = Path(spec)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return _set(Reader(read_yaml(path), str(path)))
    raise unknown("principle set", str(spec), principle_sets())


@cache
def _builtin(name: str) -> PrincipleSet:
    path = DATA / "principles" / f"{name}.yaml"
    return _set(Reader(read_yaml(path), path.name))


def _set(r: Reader) -> PrincipleSet:
    source, license = r.text("source", default=""), r.text("license_of_source", default="")
    defaults = {"source": source, "license": license}
    out = PrincipleSet(
        id=r.text("id"),
        principles=tuple(_placed(part, defaults) for part in r.parts("principles")),
        version=r.integer("version", default=1),
        source=source,
        license_of_source=license,
        wording=r.choice("wording", ("own", "quoted"), default="own"),
        title=r.text("title", default=""),
        note=r.text("note", default=""),
        questions=tuple((q.text("id"), q.text("text")) for q in r.parts("questions", default=[])),
    )
    r.done()
    _check_ids(out.principles, r.where)
    return out


def _placed(r: Reader, defaults: Mapping[str, str]) -> Principle:
    with r.placed():
        return read_principle(r, defaults)


def read_principle(r: Reader, defaults: Mapping[str, str] | None = None) -> Principle:
    """One principle of a file; source and licence come from its set when it has none of its own."""
    from_set = defaults or {}
    return Principle(
        id=r.text("id"),
        text=r.text("text"),
        negation=r.text("negation", default=""),
        kind=cast(Kind, r.choice("kind", KINDS, default="do")),
        theme=r.text("theme", default=""),
        conditions=tuple(r.texts("conditions", default=[])),
        exceptions=tuple(r.texts("exceptions", default=[])),
        priority=r.integer("priority", default=1),
        weight=r.number("weight", default=1.0),
        source=r.text("source", default=from_set.get("source", "")),
        license=r.text("license", default=from_set.get("license", "")),
        language=r.text("language", default="en"),
        critique=r.text("critique", default=""),
        revision=r.text("revision", default=""),
    )


@dataclass(frozen=True)
class PrincipleGoal:
    """r(x, y) from the verdicts s_k(x, y) on K principles, by one of three rules.

    weighted       r = Σ_k w_k s_k
    lexicographic  priority classes, s = Σ w_k s_k / Σ w_k in each; the first decides unless it is even within epsilon
    contextual     as lexicographic, among the principles whose conditions hold for the prompt and whose exceptions do not

    principles   at least one, each id once
    scorer       gives s_k; None leaves `labels` only
    scoring      how the goal's file describes the scorer, None where it does not
    epsilon      lexicographic, contextual: width of "even", on the scale of a verdict
    reader       says which conditions hold (contextual); None: those that `context` can decide
    """

    principles: tuple[Principle, ...]
    scorer: PrincipleScorer | None = None
    id: str = "principles"
    version: int = 1
    notes: str = ""
    scoring: Mapping[str, Any] | None = None
    conflict: PrincipleRule = "weighted"
    epsilon: float = EPSILON
    reader: ContextReader | None = None
    level: Level = field(default="principle", init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "principles", tuple(self.principles))
        if self.conflict not in PRINCIPLE_RULES:
            raise unknown("conflict rule", self.conflict, PRINCIPLE_RULES, where=f"goal {self.id}")
        require(0 < self.epsilon < float("inf"), f"{self.id}.epsilon", self.epsilon, "above 0")
        if self.conflict == "weighted" and (self.epsilon != EPSILON or self.reader is not None):
            what = "epsilon" if self.reader is None else "a reader of conditions"
            raise UsageError(f"weighted does not read {what}", where=f"goal {self.id}", how="conflict: contextual")
        if not self.principles:
            raise UsageError("a principle goal needs at least one principle", where=f"goal {self.id}")
        _check_ids(self.principles, f"goal {self.id}")
        require(bool(self.w.any()), "weight", 0, "above 0 for at least one principle")

    @cached_property
    def w(self) -> Array:
        """(K,) weights."""
        return np.array([p.weight for p in self.principles])

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(p.id for p in self.principles)

    def verdicts(self, groups: Sequence[Group]) -> list[Array]:
        """(n_responses, K) per group in [-1, 1], by the scorer. Raises `ValignError` when there is none."""
        if self.scorer is None:
            raise missing_scorer(
                self.id, "principle", "scorer", "a PrincipleScorer: a classifier, judge or rule"
            )
        rows = self.scorer.verdicts(groups, self.principles)
        rows = per_response(rows, groups, self.scorer.id, width=len(self.principles))
        for row, group in zip(rows, groups, strict=True):
            if (np.abs(row) > 1 + 1e-6).any():
                raise DataError(
                    "gave a verdict outside [-1, 1]", where=f"scorer {self.scorer.id}, group {group.id}"
                )
        return rows

    def label_verdicts(self, groups: Sequence[Group]) -> list[Array]:
        """(n_responses, K) from the `Verdict`s in the data, averaged by weight; NaN in groups without any."""
        return [self._labelled(group) for group in groups]

    def with_reader(self, reader: ContextReader) -> PrincipleGoal:
        """The same goal with someone who says which conditions hold."""
        return replace(self, reader=reader)

    def utility(self, groups: Sequence[Group]) -> list[Array]:
        """See `Goal.utility`: weighted in [-Σw, Σw], else in about [-1, 1]."""
        return self._totals(groups, self.verdicts(groups))

    def labels(self, groups: Sequence[Group]) -> list[Array]:
        """See `Goal.labels`."""
        return self._totals(groups, self.label_verdicts(groups))

    def explain(self, groups: Sequence[Group]) -> list[dict[str, Array]]:
        """See `Goal.explain`: w_k s_k per principle id, or a part per priority class, "1: harm + law"."""
        return self._parts(groups, self.verdicts(groups))

    def active_principles(self, groups: Sequence[Group]) -> list[tuple[Principle, ...]]:
        """The principles that count for each group's prompt: all of weight above 0 but for a contextual goal."""
        counted = [p for p in self.principles if p.weight > 0]
        if self.conflict != "contextual":
            return [tuple(counted) for _ in groups]
        flags = [active(groups, p.conditions, p.exceptions, self.reader) for p in counted]
        return [tuple(p for p, f in zip(counted, flags, strict=True) if f[i]) for i in range(len(groups))]

    def _totals(self, groups: Sequence[Group], verdicts: Sequence[Array]) -> list[Array]:
        if self.conflict == "weighted":
            return [np.asarray((v * self.w).sum(-1)) for v in verdicts]
        return [np.asarray(sum(parts.values())) for parts in self._parts(groups, verdicts)]

    def _parts(self, groups: Sequence[Group], verdicts: Sequence[Array]) -> list[dict[str, Array]]:
        if self.conflict == "weighted":
            return [dict(zip(self.ids, (v * self.w).T, strict=True)) for v in verdicts]
        rows = zip(self.active_principles(groups), verdicts, strict=True)
        return [self._ordered(counted, dict(zip(self.ids, v.T, strict=True)), len(v)) for counted, v in rows]

    def _ordered(self, counted: Sequence[Principle], by_id: Mapping[str, Array], n: int) -> dict[str, Array]:
        if not counted:  # nothing is asked of this prompt: every response is as good
            return {"no principle holds here": np.zeros(n)}
        return lexicographic(classes(counted, by_id), self.epsilon)

    def _labelled(self, group: Group) -> Array:
        verdicts = [f for f in group.of(Verdict) if f.principle != THUMB]
        shape = (len(group.responses), len(self.principles))
        if not verdicts:
            return np.full(shape, np.nan)
        out = np.zeros(shape)
        for k, id in enumerate(self.ids):
            for r in {f.response for f in verdicts if f.principle == id}:
                own = [f for f in verdicts if f.principle == id and f.response == r]
                if wrong := [f.value for f in own if not -1 <= f.value <= 1]:
                    raise DataError(
                        f"verdict {wrong[0]} is outside [-1, 1]", where=f"group {group.id}, principle {id}"
                    )
                out[r, k] = weighted_mean([f.value for f in own], [f.weight for f in own])
        return out

    def describe(self, style: Style = "instruction") -> str:
        """See `Goal.describe`: the principles by priority, then weight."""
        check_style(style)
        ranked = sorted(self.principles, key=lambda p: (p.priority, -p.weight))
        if style == "short":
            return f"principles: {', '.join(p.id for p in ranked)}"
        lines = "\n".join(f"- {sentence(p.words())}." for p in ranked)
        ordered = self.conflict != "weighted" and len({p.priority for p in ranked}) > 1
        order = " The earlier ones go first where two conflict." if ordered else ""
        opening = "You are an assistant who keeps to" if style == "system" else "When you answer, keep to"
        return f"{opening} these principles.{order}\n{lines}"

    def fingerprint(self) -> str:
        """See `Goal.fingerprint`."""
        content = without_scoring(self.to_json(), "scorer", self.scorer)
        return sha256([content, scorer_identity(self.scorer), *([self.reader.id] if self.reader else [])])

    def to_json(self) -> dict[str, Any]:
        """See `Goal.to_json`: the texts themselves, so that a stored goal does not change with the set it
        came from.
        """
        out: dict[str, Any] = {"id": self.id, "version": self.version, "level": "principle"}
        out["principles"] = [p.to_json() for p in self.principles]
        out |= {"conflict": self.conflict, "epsilon": self.epsilon} if self.conflict != "weighted" else {}
        out |= {"scorer": dict(self.scoring)} if self.scoring else {}
        return out | ({"notes": self.notes} if self.notes else {})


def _check_ids(principles: Sequence[Principle], where: str) -> None:
    """Raise for an id used twice and for the same words under two ids."""
    for name in ("id", "text"):
        seen: set[str] = set()
        for p in principles:
            value = " ".join(getattr(p, name).lower().split())
            if value in seen:
                raise DataError(
                    f"{name} {getattr(p, name)!r} stands twice", where=f"{where}: principle {p.id}"
                )
            seen.add(value)
