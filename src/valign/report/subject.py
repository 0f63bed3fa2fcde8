"""SubjectReport: everything one policy brings to a report, and its place in the report's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from valign.errors import require
from valign.evaluation.result import Result

Row = dict[str, Any]
CURVE_POINTS = 240  # per series; more than a screen can show
# keys of log lines that say where a step stands, not how it went
FIRST = ("loss", "reward", "kl", "margin", "correct", "chosen", "rejected")  # what a reader looks for first
MACHINE = ("learning_rate", "grad_norm", "tokens", "pad_share", "tokens_per_second")  # and last
NOT_A_SERIES = {"event", "time", "step", "steps", "seconds", "left"}


@dataclass(frozen=True, kw_only=True)
class SubjectReport:
    """One policy of a report.

    policy       its card (`Policy.card()`); `id` is required
    results      Results, or their JSON
    samples      {"id", "prompt", "responses": [text | {"text", "score", "values", "verdict", "flags",
                 "finish"}], "score": number of the prompt or None, "flags": [text], "values": {dimension:
                 number}}
    cost         seconds, tokens_read, tokens_generated, tokens_trained, peak_memory_bytes, and where they are
                 known seconds_per_response, tokens_per_response; None or absent = not recorded
    method       name in the method table, "" for the base     family, feedback   in words
    curve        the step lines of its log.jsonl
    audits       the guard lines of its log.jsonl: what the over-optimization alarm saw
    differences  Results "this vs base" measured elsewhere (JSON may carry "p"); metrics that are means of
                 items are compared here when they are missing
    profile      {"values": {dimension: v}, "low": {...}, "high": {...}, "n": count}, each v in [-1, 1], and "reliability"
                 as `report.values.reliability_of` gives it
    seeds        training seeds the results rest on; 0 = nothing was trained     labels   human or judge
                 labels used
    group        name that the runs of one method share when only their training seed differs; "" = a method of its own
    base         whether this is the policy that the others started from
    """

    policy: Mapping[str, Any]
    results: Sequence[Result | Mapping[str, Any]] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    cost: Mapping[str, Any] = field(default_factory=dict)
    method: str = ""
    family: str = ""
    feedback: str = ""
    label: str = ""
    curve: Sequence[Mapping[str, Any]] = ()
    audits: Sequence[Mapping[str, Any]] = ()
    differences: Sequence[Result | Mapping[str, Any]] = ()
    profile: Mapping[str, Any] | None = None
    seeds: int = 0
    group: str = ""
    labels: int | None = None
    base: bool = False
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        require(bool(self.policy.get("id")), "policy", dict(self.policy), "a card with an id")
        require(self.seeds >= 0, "seeds", self.seeds, "a count")

    @property
    def id(self) -> str:
        return str(self.policy["id"])

    @property
    def name(self) -> str:
        """What people read: the label, else the method, else the id."""
        return self.label or self.method or self.id


def as_json(result: Result | Mapping[str, Any]) -> Row:
    """The JSON of a Result, which may be JSON already."""
    return result.to_json() if isinstance(result, Result) else dict(result)


def card(subject: SubjectReport, index: int) -> Row:
    """The subject's entry in "subjects". `mark` is the number it carries in every figure."""
    return {
        "id": subject.id,
        "label": subject.name,
        "mark": index,
        "base": subject.base,
        "method": subject.method,
        "family": subject.family,
        "feedback": subject.feedback,
        "seeds": subject.seeds,
        "group": subject.group,
        "labels": subject.labels,
        "policy": dict(subject.policy),
        "notes": list(subject.notes),
        "verdict": None,
        "dominated_by": [],
    }


def curves(lines: Sequence[Mapping[str, Any]]) -> Row:
    """{"steps": [...], "of": count, "series": {name: [value or None]}} from step lines, thinned to
    CURVE_POINTS.

    The first and the last step are always kept. A series holds None where a line lacks it; a series without
    two numbers is left out.
    """
    rows = [x for x in lines if x.get("event", "step") == "step" and "step" in x]
    kept = [rows[i] for i in _thin(len(rows))]
    names = [k for k in dict.fromkeys(k for x in kept for k in x) if k not in NOT_A_SERIES]
    names.sort(key=lambda k: FIRST.index(k) if k in FIRST else len(FIRST) + (k in MACHINE))
    series = {name: [_number(x.get(name)) for x in kept] for name in names}
    return {
        "steps": [x["step"] for x in kept],
        "of": len(rows),
        "series": {k: v for k, v in series.items() if sum(x is not None for x in v) > 1},
    }


def _thin(n: int) -> list[int]:
    if n <= CURVE_POINTS:
        return list(range(n))
    return sorted({round(i * (n - 1) / (CURVE_POINTS - 1)) for i in range(CURVE_POINTS)})


def _number(x: Any) -> float | None:
    return (
        float(x)
        if isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) < float("inf")
        else None
    )
