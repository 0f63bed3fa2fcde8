"""The data of the value circle: where each dimension stands, and the profile of each policy before and after.

Ten Schwartz values stand in nine wedges (conformity and tradition share one, conformity nearer the centre); other
theories get a radar in their own order. Values lie in [-1, 1].
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from valign.evaluation.metrics.circle import POSITIONS, STEPS, sinusoid
from valign.report.subject import Row, SubjectReport, as_json

PROFILE = re.compile(r"(?:^|\.)(?:value_)?profile\.([\w-]+)$")
SHARED_WEDGE = 8.0  # degrees between the two spokes of a shared wedge and its middle
SCHWARTZ10 = {
    "SD": "self-direction", "ST": "stimulation", "HE": "hedonism", "AC": "achievement", "PO": "power", "SE": "security",
    "TR": "tradition", "CO": "conformity", "BE": "benevolence", "UN": "universalism",
}  # fmt: skip
# degrees from the first value; hedonism belongs to both of its neighbours
BANDS10 = (("openness to change", -20, 80), ("self-enhancement", 80, 180),
           ("conservation", 180, 260), ("self-transcendence", 260, 340))  # fmt: skip


def figure(subjects: Sequence[SubjectReport], goal: Mapping[str, Any], base: str | None, best: str | None) -> Row | None:
    """The figure's {"id", "type", "data"}; None where no policy has a profile."""
    profiles = [_policy(s) for s in subjects]
    shown = [p for p in profiles if p is not None]
    if not shown:
        return None
    target = {str(k): v for k, v in (goal.get("target") or {}).items()}
    names = _names(goal, [*target, *(k for p in shown for k in p["values"])])
    spokes, bands = _spokes(goal, names)
    for policy in shown:
        policy["circle"] = _fit(policy["values"]) if bands is BANDS10 else None
    data = {
        "theory": goal.get("theory"), "range": [-1, 1], "spokes": spokes, "target": target, "base": base,
        "chosen": best or next((p["subject"] for p in reversed(shown) if p["subject"] != base), base),
        "bands": [{"name": name, "from": a, "to": b} for name, a, b in bands], "policies": shown,
    }  # fmt: skip
    return {"id": "values", "type": "circle" if bands else "radar", "data": data}


def _policy(subject: SubjectReport) -> Row | None:
    """{"subject", "values", "low", "high", "n"} from the profile given, else from Results named profile.<dimension>."""
    if subject.profile is not None:
        p = subject.profile
        return {"subject": subject.id, "values": dict(p.get("values") or {}), "low": dict(p.get("low") or {}),
                "high": dict(p.get("high") or {}), "n": p.get("n")}  # fmt: skip
    out: Row = {"subject": subject.id, "values": {}, "low": {}, "high": {}, "n": None}
    for row in map(as_json, subject.results):
        if found := PROFILE.search(row["metric"]):
            name, ends = found.group(1), row.get("interval")
            out["values"][name], out["n"] = row["value"], row.get("n")
            if ends:
                out["low"][name], out["high"][name] = ends["low"], ends["high"]
    return out if out["values"] else None


def _names(goal: Mapping[str, Any], used: Sequence[str]) -> dict[str, Row]:
    """{dimension: {"name", "group", "definition"}} in the theory's order."""
    given = {str(d["id"]): d for d in goal.get("dimensions") or ()}
    fallback = SCHWARTZ10 if set(used) <= set(SCHWARTZ10) else {}
    order = list(given) or list(fallback) or list(dict.fromkeys(used))
    return {
        k: {"name": given.get(k, {}).get("name") or fallback.get(k, k), "group": given.get(k, {}).get("group"),
            "definition": given.get(k, {}).get("definition")}
        for k in [*order, *(k for k in dict.fromkeys(used) if k not in order)]
    }  # fmt: skip


def _spokes(goal: Mapping[str, Any], names: Mapping[str, Row]) -> tuple[list[Row], Sequence[tuple[str, float, float]]]:
    """Spokes by angle (degrees clockwise from the top) and the bands of the higher-order groups around them."""
    if set(names) <= set(POSITIONS):
        lanes = {"TR": -SHARED_WEDGE, "CO": SHARED_WEDGE}
        spokes = [_spoke(k, v, 360 * POSITIONS[k] / STEPS + lanes.get(k, 0.0)) for k, v in names.items()]
        return sorted(spokes, key=lambda s: s["angle"]), BANDS10
    step = 360 / len(names)
    spokes = [_spoke(k, v, i * step) for i, (k, v) in enumerate(names.items())]
    return spokes, _runs(spokes, step) if goal.get("structure") == "circle" else ()


def _spoke(id: str, about: Row, angle: float) -> Row:
    return {"id": id, **about, "angle": angle}


def _runs(spokes: Sequence[Row], step: float) -> list[tuple[str, float, float]]:
    """Neighbours of one group as one band."""
    bands: list[tuple[str, float, float]] = []
    for s in spokes:
        group, low, high = str(s["group"] or ""), s["angle"] - step / 2, s["angle"] + step / 2
        if bands and bands[-1][0] == group:
            bands[-1] = (group, bands[-1][1], high)
        else:
            bands.append((group, low, high))
    return [b for b in bands if b[0]]


def _fit(values: Mapping[str, float | None]) -> Row | None:
    """R², amplitude and peak of the circle fit, with the R² that exchangeable values give (5.6)."""
    known = {k: float(v) for k, v in values.items() if v is not None}
    if set(known) != set(POSITIONS) or len(set(known.values())) == 1:
        return None
    fit = sinusoid(known)
    return {"r2": fit.r2, "amplitude": fit.amplitude, "peak_degrees": fit.peak_degrees, "null_r2": fit.null_r2}
