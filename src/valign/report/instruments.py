"""The data of the instruments' figures: what they must hold, checked where they enter a report.

A section of one's own is {"id", "title", "text", "results": [Result], "figures": [{"id", "type", "data"}]}; it
is given to `method_report(extra=...)` and drawn before the costs. Types and data:

overoptimisation, efficiency   {"panels": [panel]}
    panel    {"title", "text", "x": {"title", "unit"}, "y": {"title", "unit"}, "log_x": bool, "series": [series],
             "marks": [{"x", "label", "kind": "alarm" | "peak"}], "levels": [{"y", "label"}]}
    series   {"name", "subject": id of a policy or None, "points": [{"x", "value", "low", "high", "n"}],
             "mean_height", "cost_to_target" (None: not reached), "n"}; all but name and points may be absent
generality   {"metric", "unit", "splits": [{"id", "title", "text", "rows": [row]}]}
    row      {"subject" or "name", "value", "interval", "n", "gap", "gap_interval", "p_adjusted", "retained",
             "paired": bool}; gap = i.i.d. minus split
tax          {"policies": [{"subject" or "name", "rows": [row], "total": {"value", "interval"}, "gain", "kl",
             "per_gain", "perplexity_base", "perplexity"}]}
    row      {"benchmark", "value": signed t_b, "interval", "n", "base", "aligned", "lost", "won",
             "left_out": why this benchmark cannot show tax, or None}

nearest      {"rows": [{"name", "prompt", "text", "similarity": what is compared, "n": groups searched, "near": [{"name",
             "value", "prompt", "text"}]}]}
value_risk   {"risks": [name], "rows": [{"name": value, "cells": [cell per risk]}], "level", "checkpoints"}
    cell     {"value": correlation or None, "interval", "n", "p_adjusted", "linked": p_adjusted at or below level}

Beside these every type that a report has itself may be used (scatter, table-free ones: gap, forest, ...).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from valign.errors import require, unknown
from valign.report.subject import Row, as_json

NEEDED = {
    "overoptimisation": ("panels",),
    "efficiency": ("panels",),
    "generality": ("metric", "unit", "splits"),
    "tax": ("policies",),
    "nearest": ("rows",),
    "value_risk": ("risks", "rows", "level", "checkpoints"),
    "scatter": ("x", "y", "points", "zero"),
    "curves": ("runs",),
}
PANEL = ("title", "x", "y", "series")
Z = 1.959963984540054  # of a 95 % interval around a mean whose standard error is given


def section(given: Mapping[str, Any], taken: Sequence[str]) -> Row:
    """A section as the report holds it. Raises `ValignError` for another section's id, a figure of unknown type,
    and data without what its drawing needs."""
    require(bool(given.get("id")) and given["id"] not in taken, "section", given.get("id"), "an id of its own")
    figures = [dict(f) for f in given.get("figures") or ()]
    for f in figures:
        if f.get("type") not in NEEDED:
            raise unknown("figure type", str(f.get("type")), NEEDED, where=f"section {given['id']}")
        missing = [k for k in NEEDED[f["type"]] if k not in f["data"]]
        for panel in f["data"].get("panels") or ():
            missing += [f"panel.{k}" for k in PANEL if k not in panel]
        require(not missing, f"figure {f.get('id')}", missing, "the data that its type needs (valign.report.instruments)")
    return {
        "id": str(given["id"]),
        "title": str(given.get("title") or given["id"]),
        "text": str(given.get("text") or ""),
        "results": [as_json(r) for r in given.get("results") or ()],
        "figures": figures,
    }


def overoptimisation(runs: Sequence[tuple[str | None, str, Sequence[Mapping[str, Any]]]]) -> Row | None:
    """The figure of what the guards of training runs saw; None where no run was audited.

    runs   (id of the policy or None, its name, audits): an audit is {"step", "kl", "proxy", "gold", "gold_se",
           "covariance", "high", "level", "threshold", "fires", "n"}; gold and proxy are means over the audit prompts;
           of two lines of one step (a run that was continued) the last counts
    Each run has two panels: means against KL (steps where KL is unknown), each as gain over the first audit, because
    the two judges have scales of their own; and the covariance with the upper end that the alarm compares.
    """
    panels: list[Row] = []
    for subject, name, audits in runs:
        by_step = {a["step"]: a for a in audits if a.get("gold") is not None and a.get("proxy") is not None}
        seen = [by_step[step] for step in sorted(by_step)]
        if len(seen) < 2:
            continue
        key = "kl" if all(a.get("kl") is not None for a in seen) else "step"
        x = {"title": "KL from the reference, nats" if key == "kl" else "step", "unit": "bare" if key == "kl" else "count"}
        marks = _marks(seen, key)
        panels.append(
            {"title": f"{name}: gain of gold and proxy", "x": x, "log_x": False, "levels": [], "marks": marks,
             "y": {"title": "gain over the start, in each judge's unit", "unit": "score"},
             "text": "Gold is what is wanted, proxy what training pushes. Where gold falls while proxy rises, it is gamed.",
             "series": [_gain(seen, key, "gold", subject), _gain(seen, key, "proxy", None)]}
        )  # fmt: skip
        if all(a.get("covariance") is not None for a in seen):
            panels.append(_covariance(name, seen, key, x, marks))
    return {"id": "overoptimisation", "type": "overoptimisation", "data": {"panels": panels}} if panels else None


def _marks(seen: Sequence[Mapping[str, Any]], key: str) -> list[Row]:
    rung = next((a for a in seen if a.get("fires")), None)
    best = max(seen, key=lambda a: float(a["gold"]))
    out = [{"x": rung[key], "label": "alarm", "kind": "alarm"}] if rung else []
    return [*out, {"x": best[key], "label": "highest gold seen", "kind": "peak"}]


def _gain(seen: Sequence[Mapping[str, Any]], key: str, name: str, subject: str | None) -> Row:
    start = float(seen[0][name])

    def point(a: Mapping[str, Any]) -> Row:
        gain, se = float(a[name]) - start, a.get(f"{name}_se")
        ends = (gain - Z * se, gain + Z * se) if se is not None else (None, None)
        return {"x": a[key], "value": gain, "low": ends[0], "high": ends[1], "n": a.get("n")}

    return {"name": name, "subject": subject, "points": [point(a) for a in seen]}


def _covariance(
    name: str, seen: Sequence[Mapping[str, Any]], key: str, x: Row, marks: Sequence[Row]
) -> Row:
    def points(k: str) -> list[Row]:
        known = [a for a in seen if a.get(k) is not None]
        return [{"x": a[key], "value": a[k], "low": None, "high": None, "n": a.get("n")} for a in known]

    # the last one: a run without a reward has no covariance to compare with at step 0
    threshold = next((a["threshold"] for a in reversed(seen) if a.get("threshold") is not None), None)
    level = f"{100 * float(seen[-1].get('level') or 0.95):g}"
    levels = [{"y": 0.0, "label": "0: gold stops rising"}]
    levels += [{"y": threshold, "label": "the alarm rings below"}] if threshold is not None else []
    return {
        "title": f"{name}: does the proxy still point at gold",
        "text": "Covariance of gold and proxy among answers to one prompt: while it is positive, pushing the proxy raises gold.",
        "x": x, "y": {"title": "covariance", "unit": "score"}, "log_x": False, "levels": levels, "marks": list(marks),
        "series": [{"name": "covariance", "subject": None, "points": points("covariance")},
                   {"name": f"upper end, one-sided {level} %", "subject": None, "points": points("high")}],
    }  # fmt: skip
