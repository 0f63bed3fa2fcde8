"""`valign choose`: which methods a situation allows, in what order, and why the others are out. [F11]"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valign.errors import DataError, require
from valign.evaluation.metrics import chooser
from valign.methods.method import Method
from valign.methods.table import METHODS

# families by what they usually cost in computation, cheapest first: prompts, samples, one model's training, rollouts
BY_COST = ("in_context", "sft", "sft_ranking", "rl_offline", "decoding", "rl_online")
BYTES = 4  # of a weight in float32, the number format of trained weights


@dataclass(frozen=True)
class Advice:
    """One family: feasible or not and why, its risk, the methods of it that valign has.

    methods  name -> why it is out here; "" where it can run        place  1 is tried first; None for an excluded family
    by       what the order rests on: "measured" or "cost"
    """

    family: str
    failed: tuple[str, ...]
    risk: str
    methods: Mapping[str, str]
    place: int | None
    by: str

    def to_json(self) -> dict[str, Any]:
        return {"family": self.family, "feasible": not self.failed, "failed": list(self.failed), "risk": self.risk,
                "methods": dict(self.methods), "place": self.place, "order_by": self.by}  # fmt: skip


def family_of(method: Method) -> str:
    """The chooser's family of a method (evaluation notes 8.6)."""
    if method.family == "reinforcement":
        return "rl_online"
    if method.family == "context":
        return "in_context"
    if method.family == "decoding":
        return "decoding"
    if method.makes_reward:
        return "rl_online"  # the first half of learning from pairs by rollouts
    return "sft_ranking" if method.feedback in ("pairs", "rankings") else "sft"


def advise(
    situation: chooser.Situation,
    measured: Mapping[str, float] | None = None,
    methods: Iterable[Method] = tuple(METHODS.values()),
) -> list[Advice]:
    """Every family, feasible ones first: by the best gap that one of its methods reached in `measured` (method -> gap on the
    scale of 0 to 1, 0 nothing left to do), families that were not measured after them by cost; without it by cost alone.
    """
    own: dict[str, dict[str, str]] = {f: {} for f in chooser.RISKS}
    for m in methods:
        own[family_of(m)][m.name] = _out(m, situation)
    choices = {c.family: c for c in chooser.choose(situation)}
    reached = {f: min((measured or {})[n] for n in names if n in measured) for f, names in own.items()
               if measured and any(n in measured for n in names)}  # fmt: skip
    ranked = sorted(BY_COST, key=lambda f: (f not in reached, reached.get(f, 0.0), BY_COST.index(f)))
    feasible = [f for f in ranked if choices[f].feasible]
    out = [
        Advice(f, (), choices[f].risk, own[f], i + 1, "measured" if f in reached else "cost")
        for i, f in enumerate(feasible)
    ]
    return out + [
        Advice(f, choices[f].failed, choices[f].risk, own[f], None, "") for f in ranked if not choices[f].feasible
    ]


def _out(method: Method, s: chooser.Situation) -> str:
    """Why this method is out although its family may be in; "" if nothing stands against it."""
    if method.trains and not s.weights:
        return "it changes weights"
    if method.copies > s.model_copies and method.trains:
        return f"it holds {method.copies} copies of the model, {s.model_copies} fit"
    fits: dict[str, tuple[str, ...]] = {
        "demonstrations": ("demonstrations", "critiques", "principles"), "pairs": ("pairs", "rankings"),
        "rankings": ("rankings",),
        "reward": ("reward", "principles", "values", "pairs", "rankings"), "goal text": ("principles", "values"),
        "nothing": chooser.FEEDBACK,
    }  # fmt: skip
    if s.feedback not in fits[method.feedback]:
        return f"it learns from {method.feedback}"
    if method.feedback == "reward" and s.feedback in ("pairs", "rankings"):
        return "" if method.trains else "it needs a reward: train one from the pairs first (reward_model)"
    return ""


def measured_gaps(path: Path) -> dict[str, float]:
    """method -> its misalignment (or what the report's primary is) on the gap scale, from a comparison's report.json.

    Raises `DataError` for another file, and where it compares no methods.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot be read: {error}", where=str(path), how="name the report.json of valign compare"
        ) from error
    report = document if isinstance(document, dict) else {}
    names = {x.get("id"): x.get("method") for x in report.get("subjects", ())}
    figures = [f for x in report.get("sections", ()) for f in x.get("figures", ()) if f.get("type") == "gap"]
    rows = [r for f in figures[:1] for column in f["data"]["columns"][:1] for r in column["rows"]]
    out: dict[str, float] = {}
    for r in rows:
        method, gap = names.get(r.get("subject")), r.get("gap")
        if method and gap is not None:
            out[method] = min(out.get(method, 1.0), float(gap))
    if not out:
        raise DataError("no method stands in it", where=str(path), how="name the report.json of valign compare")
    return out


def copies_that_fit(memory_bytes: float, parameters: float) -> int:
    """Whole copies of a model in float32 that a memory holds; training one takes about four (weights, gradient, two moments)."""
    require(parameters > 0, "parameters", parameters, "a positive number")
    return int(memory_bytes // (parameters * BYTES))


def situation_lines(advice: Sequence[Advice]) -> list[str]:
    """The advice as lines for a terminal."""
    lines = []
    for a in advice:
        head = f"{a.place}. {a.family}" if a.place is not None else f"-  {a.family}: " + "; ".join(a.failed)
        lines.append(head + (f"  (by {a.by}; watch: {a.risk})" if a.place is not None else ""))
        if a.place is not None:
            ready = [n for n, why in a.methods.items() if not why]
            lines.append("     methods: " + (", ".join(ready) or "none of valign's fits yet"))
            lines += [f"     not {n}: {why}" for n, why in a.methods.items() if why]
    return lines
