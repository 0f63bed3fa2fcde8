"""The data of the value circle: where each dimension stands, and the profile of each policy before and after.

A theory with angles is drawn as its circle (dimensions that share a wedge stand side by side in it), any
other as a radar in its own order. Values lie in [-1, 1].
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from valign.errors import ValignError
from valign.evaluation.metrics.circle import POSITIONS, sinusoid
from valign.evaluation.metrics.reliability import FREE, SPLIT_HALF, UNRELIABLE
from valign.evaluation.result import Result
from valign.report.subject import Row, SubjectReport, as_json

PROFILE = re.compile(r"(?:^|\.)profile\.([\w-]+)$")  # metric of one dimension of a profile
RELIABILITY = "value.reliability."  # how the metrics begin that say how far a profile can be trusted
RETEST = f"{RELIABILITY}retest"
SHARED_WEDGE = 8.0  # degrees between two spokes of one wedge and its middle


def figure(
    subjects: Sequence[SubjectReport], goal: Mapping[str, Any], base: str | None, best: str | None
) -> Row | None:
    """The figure's {"id", "type", "data"}; None where no policy has a profile."""
    profiles = [_policy(s) for s in subjects]
    shown = [p for p in profiles if p is not None]
    if not shown:
        return None
    wanted = target(goal)
    spokes, bands = _spokes(goal, [*wanted, *(k for p in shown for k in p["values"])])
    for policy in shown:
        policy["circle"] = _fit(policy["values"])
    theory = goal.get("theory")
    data = {
        "theory": theory.get("id") if isinstance(theory, Mapping) else theory,
        "range": [-1, 1],
        "spokes": spokes,
        "target": _whole(wanted, goal, spokes),
        "base": base,
        "bands": bands,
        "policies": shown,
        "chosen": best or next((p["subject"] for p in reversed(shown) if p["subject"] != base), base),
    }
    return {"id": "values", "type": "circle" if bands else "radar", "data": data}


def _policy(subject: SubjectReport) -> Row | None:
    """{"subject", "values", "low", "high", "n"} from the profile given, else from Results named
    profile.<dimension>."""
    if subject.profile is not None:
        p = subject.profile
        return {
            "subject": subject.id,
            "values": dict(p.get("values") or {}),
            "low": dict(p.get("low") or {}),
            "high": dict(p.get("high") or {}),
            "n": p.get("n"),
            "reliability": p.get("reliability"),
        }
    rows = [as_json(r) for r in subject.results]
    trust = reliability_of([r for r in rows if r["variant"] == FREE])
    out: Row = {"subject": subject.id, "values": {}, "low": {}, "high": {}, "n": None, "reliability": trust}
    for row in rows:
        if (found := PROFILE.search(row["metric"])) and row["variant"] == "mean":
            name, ends = found.group(1), row.get("interval")
            out["values"][name], out["n"] = row["value"], row.get("n")
            if ends:
                out["low"][name], out["high"][name] = ends["low"], ends["high"]
    return out if out["values"] else None


def reliability_of(results: Sequence[Result | Mapping[str, Any]]) -> Row | None:
    """{"value", "interval", "retest", "warning"} of a profile, from the Results of one way of asking; None where it was not
    measured. retest: None where nothing was asked in other words; warning: "" for a profile that can be read.
    """
    found = {r["metric"]: r for r in map(as_json, results)}
    half, again = found.get(SPLIT_HALF), found.get(RETEST)
    if half is None:
        return None
    retest = {k: again[k] for k in ("value", "interval")} if again is not None else None
    return {"value": half["value"], "interval": half["interval"], "retest": retest, "warning": warning_in(half)}


def warning_in(result: Mapping[str, Any]) -> str:
    """The warning that a reliability carries; "" where it has none."""
    return next((n for n in result.get("notes") or () if n.startswith(UNRELIABLE)), "")


def target(goal: Mapping[str, Any]) -> dict[str, float]:
    """{dimension: t} of a goal's JSON; a built-in target is looked up by its name; {} for goals without
    one."""
    given = goal.get("target")
    if isinstance(given, str):
        from valign.goals.targets import named_target

        try:
            given = named_target(given).values
        except ValignError:
            return {}  # the name of a target of someone else's; the goal's text still says it
    return {str(k): float(v) for k, v in given.items()} if isinstance(given, Mapping) else {}


def _whole(wanted: dict[str, float], goal: Mapping[str, Any], spokes: Sequence[Row]) -> dict[str, float]:
    """The target over all dimensions where the goal weighs them all: an unnamed one is then a target of 0."""
    weights = goal.get("weights")
    listed = list(weights.values()) if isinstance(weights, Mapping) else weights
    every = weights == "ones" or (
        isinstance(listed, Sequence)
        and not isinstance(listed, str)
        and len(listed) == len(spokes)
        and all(listed)
    )
    return {s["id"]: wanted.get(s["id"], 0.0) for s in spokes} if wanted and every else wanted


def _dimensions(goal: Mapping[str, Any], used: Sequence[str]) -> tuple[list[Row], str]:
    """([{"id", "name", "definition", "groups", "angle"}], structure) of the goal's theory, else of the names
    used."""
    theory: Mapping[str, Any] = {}
    if isinstance(goal.get("theory"), (str, Mapping)):
        from valign.goals.theory import load_theory

        try:
            theory = load_theory(goal["theory"]).to_json()
        except ValignError:
            theory = {}  # not a theory of ours: names and order come from the goal or from the profile
    angles = theory.get("angles") or {}
    groups = {d["id"]: d.get("groups") or () for d in theory.get("dimensions") or ()}
    rows = [
        {
            "id": str(d["id"]),
            "name": d.get("name") or str(d["id"]),
            "definition": d.get("definition"),
            "groups": list(d.get("groups") or ([d["group"]] if d.get("group") else groups.get(d["id"], ()))),
            "angle": angles.get(d["id"]),
        }
        for d in goal.get("dimensions") or theory.get("dimensions") or ()
    ]
    order = {k: i for i, k in enumerate(theory.get("order") or ())}
    rows.sort(key=lambda r: order.get(r["id"], len(order)))
    known = {r["id"] for r in rows}
    rows += [
        {"id": k, "name": k, "definition": None, "groups": [], "angle": None}
        for k in dict.fromkeys(used)
        if k not in known
    ]
    return rows, "circle" if rows and all(r["angle"] is not None for r in rows) else "radar"


def _spokes(goal: Mapping[str, Any], used: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """Spokes by angle (degrees clockwise from the top) and the bands of the higher-order groups around
    them."""
    rows, structure = _dimensions(goal, used)
    if structure == "radar":
        return [{**r, "angle": i * 360 / len(rows)} for i, r in enumerate(rows)], []
    wedges: dict[float, list[Row]] = {}
    for r in rows:
        wedges.setdefault(float(r["angle"]), []).append(r)
    spokes = [
        {**r, "angle": angle + SHARED_WEDGE * (2 * i - len(shared) + 1)}
        for angle, shared in sorted(wedges.items())
        for i, r in enumerate(shared)
    ]
    return spokes, _bands(wedges)


def _bands(wedges: Mapping[float, Sequence[Row]]) -> list[Row]:
    """Runs of one group around the circle; a wedge of two groups is cut between its neighbours."""
    angles, width = sorted(wedges), 360 / len(wedges)
    groups = [list(dict.fromkeys(g for r in wedges[a] for g in r["groups"])) for a in angles]
    parts: list[tuple[str, float, float]] = []
    for i, (angle, mine) in enumerate(zip(angles, groups, strict=True)):
        before = groups[i - 1]
        mine = sorted(mine, key=lambda g: g not in before)[:2]
        for k, name in enumerate(mine):
            low = angle - width / 2 + k * width / len(mine)
            parts.append((name, low, low + width / len(mine)))
    bands: list[Row] = []
    for name, low, high in parts:
        if bands and bands[-1]["name"] == name:
            bands[-1]["to"] = high
        else:
            bands.append({"name": name, "from": low, "to": high})
    if len(bands) > 2 and bands[0]["name"] == bands[-1]["name"]:
        bands[0]["from"] = bands.pop()["from"] - 360
    return bands


def _fit(values: Mapping[str, float | None]) -> Row | None:
    """R², amplitude and peak of the circle fit, with the R² that exchangeable values give (5.6)."""
    known = {k: float(v) for k, v in values.items() if v is not None}
    if set(known) != set(POSITIONS) or len(set(known.values())) == 1:
        return None
    fit = sinusoid(known)
    return {
        "r2": fit.r2,
        "amplitude": fit.amplitude,
        "peak_degrees": fit.peak_degrees,
        "null_r2": fit.null_r2,
    }
