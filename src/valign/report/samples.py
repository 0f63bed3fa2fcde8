"""What the policies said: responses side by side per prompt, with what changed against the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from valign.report.subject import Row, SubjectReport

SAME = 1e-9  # scores nearer than this are equal
RESPONSES = 4  # per prompt and policy; more are counted, not carried


def rows(subjects: Sequence[SubjectReport], base: str | None) -> list[Row]:
    """One row per prompt: {"id", "prompt", "flags", "change", "answers": [one per policy that answered it]}.

    answer   {"subject", "texts": [...], "of": how many there were, "score", "values", "delta", "outcome"}
    outcome  won, lost or same against the base's score of the same prompt, unscored where one has none, base
             (the base itself, or the only policy)
    change   largest |delta|; rows are sorted by it, then by id
    judged   False where a sample says so: its score is an answer (a rating), and more of it is neither better nor worse
    """
    table: dict[str, Row] = {}
    for subject in subjects:
        for sample in subject.samples:
            row = table.setdefault(
                str(sample["id"]),
                {"id": str(sample["id"]), "prompt": _prompt(sample), "flags": [], "answers": []},
            )
            row["flags"] += [f for f in sample.get("flags") or () if f not in row["flags"]]
            row["answers"].append(_answer(subject.id, sample))
            if not sample.get("judged", True):
                row["judged"] = False
    for row in table.values():
        reference = next((a["score"] for a in row["answers"] if a["subject"] == base), None)
        for answer in row["answers"]:
            answer |= _outcome(answer, reference, base)
            if not row.get("judged", True) and answer["delta"] is not None:
                answer["outcome"] = "base"
        row["change"] = max((abs(a["delta"]) for a in row["answers"] if a["delta"] is not None), default=0.0)
    return sorted(table.values(), key=lambda r: (-r["change"], r["id"]))


def _prompt(sample: Mapping[str, Any]) -> list[Row]:
    """Turns as {"role", "content"}; a plain text is one user turn."""
    prompt = sample.get("prompt", "")
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": _get(m, "role"), "content": _get(m, "content")} for m in prompt]


def _get(message: Any, name: str) -> Any:
    return message[name] if isinstance(message, Mapping) else getattr(message, name)


def _answer(subject: str, sample: Mapping[str, Any]) -> Row:
    given = [{"text": r} if isinstance(r, str) else dict(r) for r in sample.get("responses") or ()]
    scores = [float(r["score"]) for r in given if r.get("score") is not None]
    score = sample.get("score")
    return {
        "subject": subject,
        "texts": given[:RESPONSES],
        "of": len(given),
        "values": sample.get("values") or (given[0].get("values") if len(given) == 1 else None),
        "score": score if score is not None else fmean(scores) if scores else None,
    }


def _outcome(answer: Row, reference: float | None, base: str | None) -> Row:
    if base is None or answer["subject"] == base:
        return {"delta": None, "outcome": "base"}
    if answer["score"] is None or reference is None:
        return {"delta": None, "outcome": "unscored"}
    delta = answer["score"] - reference
    return {"delta": delta, "outcome": "same" if abs(delta) < SAME else "won" if delta > 0 else "lost"}
