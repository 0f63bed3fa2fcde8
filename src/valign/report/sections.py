"""The sections of a report and the data of their figures, in reading order. Numbers are placed here, never
computed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from valign.report import instruments, samples, values
from valign.report.roles import ROLES, Role, cell, gap, place_cell, ticks
from valign.report.subject import Row, curves

if TYPE_CHECKING:
    from valign.report.build import Facts

COSTS = (
    ("seconds", "wall-clock time", "seconds"),
    ("tokens_trained", "tokens trained", "tokens"),
    ("tokens_generated", "tokens generated", "tokens"),
    ("tokens_read", "tokens read", "tokens"),
    ("peak_memory_bytes", "peak memory", "bytes"),
    ("money", "money, at the prices that were given", "plain"),
    ("seconds_per_response", "time per response, in use", "seconds"),
    ("tokens_per_response", "tokens computed per response, in use", "tokens"),
)
PART = re.compile(r"\.(profile|coverage)\.")  # one dimension of something that is shown whole elsewhere
LEVELS = ("value", "principle", "preference", "instruction", "capability", "cost")


def build(
    facts: Facts,
    others: Mapping[str, Sequence[Row]],
    frontier: Mapping[str, Any] | None,
    baselines: Sequence[Row],
) -> list[Row]:
    """All sections; one without figures and Results is left out.

    others   {subject: its Results that have no place in the headline}
    """
    placed: dict[str, list[Row]] = {"values": [], "tax": [], "measured": list(baselines)}
    for r in (r for rows in others.values() for r in rows):
        where = (
            "tax"
            if r.get("level") == "capability"
            else "values"
            if values.PROFILE.search(r["metric"]) or r["metric"].startswith(values.RELIABILITY)
            else "measured"
        )
        placed[where].append(r)
    circle = values.figure(facts.subjects, facts.goal, facts.base, facts.best)
    many = facts.base is not None
    out = [
        _section("methods", "The methods side by side" if many else "The numbers", [_table(facts)]),
        _section("gaps", "How far is still to go", [_gaps(facts)]),
        _section(
            "values",
            "The values it shows" if not many else "Values before and after",
            [circle] if circle else [],
            placed["values"],
        ),
        _section("misalignment", "Did it move, item by item", _forests(facts) if many else []),
        _section(
            "tax",
            "What it cost in ability" if many else "What it can do",
            [_benchmarks(others), _tax_gain(facts)],
            placed["tax"],
        ),
        _section("frontier", "Reward against distance from the base", [_frontier(facts, frontier)]),
        _section("overoptimisation", "Is the reward being gamed", [_alarm(facts)]),
        _section("cost", "What it cost to make and to use", [_cost(facts)]),
        _section("training", "Training curves", [_training(facts)]),
        _section("samples", "Item by item", [_samples(facts)]),
        _section("measured", "How it was measured", [], placed["measured"]),
    ]
    return [s for s in out if s["figures"] or s["results"] or s["id"] == "measured"]


def all_results(report: Mapping[str, Any]) -> dict[str, Row]:
    """{JSON pointer: Result} of a report, headline first."""
    found = {f"/headline/{i}": r for i, r in enumerate(report["headline"])}
    for i, section in enumerate(report["sections"]):
        found |= {f"/sections/{i}/results/{k}": r for k, r in enumerate(section["results"])}
    return found


def index_results(report: Row, owners: Mapping[int, str]) -> None:
    """Give the last section its table: one entry per metric and variant, with pointers to its Results.

    owners   {id(Result): subject}; a Result that belongs to none is a baseline
    """
    groups: dict[tuple[str, str, str], Row] = {}
    found = all_results(report)
    owned = {_said(r) for r in found.values() if id(r) in owners}
    for at, r in found.items():
        if id(r) not in owners and _said(r) in owned:  # an instrument's section repeats what stands for its policy
            continue
        key = (r["level"], r["metric"], r["variant"])
        entry = groups.setdefault(
            key,
            {
                "level": r["level"],
                "metric": r["metric"],
                "variant": r["variant"],
                "unit": r["unit"],
                "direction": r["direction"],
                "anchors": r.get("anchors") or {},
                "results": [],
            },
        )
        entry["results"].append({"at": at, "subject": owners.get(id(r))})
    ordered = sorted(groups.values(), key=lambda g: LEVELS.index(g["level"]) if g["level"] in LEVELS else 99)
    measured = next(s for s in report["sections"] if s["id"] == "measured")
    whole = [g for g in ordered if not PART.search(g["metric"])]
    data = {"groups": whole, "parts": [g for g in ordered if PART.search(g["metric"])]}
    measured["figures"] = [{"id": "metrics", "type": "metrics", "data": data}] if ordered else []


def _said(result: Mapping[str, Any]) -> tuple[Any, ...]:
    return (result["metric"], result["variant"], result["subject"], result.get("value"))


def says_something(table: Mapping[str, Any]) -> bool:
    """Whether the methods' table has a number: of one policy whose headline was not measured it has none."""
    known = ("labels", "tokens", "seconds", "memory", "seeds")
    return bool(table["columns"]) or len(table["rows"]) > 1 or any(row[k] for row in table["rows"] for k in known)


def insert(sections: list[Row], extra: Sequence[Mapping[str, Any]]) -> None:
    """Sections of instruments, before the costs (or at the end, where nothing was recorded)."""
    at = next((i for i, s in enumerate(sections) if s["id"] == "cost"), len(sections) - 1)
    for given in extra:
        sections.insert(at, instruments.section(given, [s["id"] for s in sections]))
        at += 1


def extend(report: Row, extra: Sequence[Mapping[str, Any]]) -> None:
    """Put sections into a finished report; one of the same id takes the place of the old one."""
    found, measured = all_results(report), next(s for s in report["sections"] if s["id"] == "measured")
    tables = [f["data"] for f in measured["figures"] if f["id"] == "metrics"]
    groups = [g for data in tables for g in (*data["groups"], *data["parts"])]
    owners = {id(found[r["at"]]): r["subject"] for g in groups for r in g["results"] if r["subject"] is not None}
    new = {str(x.get("id")) for x in extra}
    report["sections"] = [s for s in report["sections"] if s["id"] not in new]
    insert(report["sections"], extra)
    index_results(report, owners)


def _section(id: str, title: str, figures: Sequence[Row | None], results: Sequence[Row] = ()) -> Row:
    return {
        "id": id,
        "title": title,
        "results": list(results),
        "figures": [f for f in figures if f is not None],
    }


def _table(facts: Facts) -> Row:
    rows = []
    for s, c in zip(facts.subjects, facts.cards, strict=True):
        spent = [s.cost.get(k) for k in ("tokens_read", "tokens_generated", "tokens_trained")]
        known = [x for x in spent if x is not None]
        rows.append(
            {
                "subject": s.id,
                **{k: place_cell(k, facts.roles[s.id].get(k), base=c["base"]) for k in ("M", "V", "T", "KL")},
                "difference": _difference(facts.differences.get(s.id)),
                "labels": s.labels,
                "seeds": s.seeds,
                "tokens": sum(known) if known else None,
                "seconds": s.cost.get("seconds"),
                "memory": s.cost.get("peak_memory_bytes"),
                "dominated_by": c["dominated_by"],
            }
        )
    shown = [k for k in ("M", "V", "T", "KL") if any(k in facts.roles[s.id] for s in facts.subjects)]
    notes = [
        {"subject": s.id, "role": k, "note": note}
        for s in facts.subjects
        for k, r in facts.roles[s.id].items()
        for note in r.get("notes") or ()
    ]
    data = {
        "rows": rows,
        "columns": shown,
        "notes": notes,
        "primary": facts.role.id,
        "better": facts.role.better,
        "axes": list(facts.axes),
    }
    return {"id": "methods", "type": "table", "data": data}


def _difference(row: Row | None) -> Row | None:
    if row is None:
        return None
    names = ("value", "unit", "interval", "n", "p", "p_adjusted", "test", "mde", "flips", "notes", "cluster",
             "margin", "conclusion")  # fmt: skip
    return {k: row.get(k) for k in names}


def _gaps(facts: Facts) -> Row | None:
    columns = []
    for id in ("M", "V", "T"):
        role = facts.role if facts.role.id == id else ROLES[id]
        mine = {s.id: facts.roles[s.id][id] for s in facts.subjects if id in facts.roles[s.id]}
        if mine:
            rows = [
                {
                    "subject": s.id,
                    "measured": s.id in mine,
                    **gap(role, mine.get(s.id, {})),
                    **place_cell(id, mine.get(s.id), base=s.id == facts.base),
                }
                for s in facts.subjects
            ]
            columns.append(
                {
                    "role": id,
                    "title": role.gap_title,
                    "meaning": role.meaning,
                    "ticks": ticks(role, list(mine.values())),
                    "rows": rows,
                }
            )
    return {"id": "gaps", "type": "gap", "data": {"columns": columns}} if columns else None


def _forests(facts: Facts) -> list[Row | None]:
    """The primary's paired differences, then those of the other headline numbers that have items."""
    beside = [_forest(facts, f"changes_{id}", ROLES[id], rows) for id, rows in facts.others.items()]
    return [_forest(facts, "changes", facts.role, facts.differences, facts.methods), *beside]


def _forest(
    facts: Facts, id: str, role: Role, differences: Mapping[str, Row | None], methods: Sequence[Row] = ()
) -> Row | None:
    rows = [
        {"subject": k, **(_difference(d) or {"value": None, "unit": "share", "interval": None, "n": 0})}
        for k, d in differences.items()
    ]
    data = {
        "role": role.id,
        "title": role.title,
        "better": role.better,
        "base": facts.base,
        "rows": rows,
        "methods": list(methods),
    }
    return {"id": id, "type": "forest", "data": data} if rows else None


def _benchmarks(others: Mapping[str, Sequence[Row]]) -> Row | None:
    """Scores of every benchmark of ability, and the signed tax of each where it was measured."""
    groups: dict[tuple[str, str], Row] = {}
    for subject, rows in others.items():
        for r in rows:
            if r.get("level") != "capability":
                continue
            entry = groups.setdefault(
                (r["metric"], r["variant"]),
                {
                    "metric": r["metric"],
                    "variant": r["variant"],
                    "unit": r["unit"],
                    "chance": (r.get("anchors") or {}).get("chance"),
                    "rows": [],
                },
            )
            entry["rows"].append({"subject": subject, **cell(r)})
    return (
        {"id": "benchmarks", "type": "benchmarks", "data": {"groups": list(groups.values())}}
        if groups
        else None
    )


def _gain(facts: Facts, subject: str) -> Row | None:
    """The primary's paired difference with improvement counted upward: {"value", "low", "high"}."""
    row = facts.differences.get(subject)
    if row is None or row.get("value") is None:
        return None
    sign, ends = (-1 if facts.role.better == "down" else 1), row.get("interval")
    span = sorted(sign * ends[k] for k in ("low", "high")) if ends else [None, None]
    return {"value": sign * row["value"], "low": span[0], "high": span[1]}


def _span(result: Mapping[str, Any]) -> Row:
    ends = result.get("interval") or {}
    return {"value": result.get("value"), "low": ends.get("low"), "high": ends.get("high")}


def _tax_gain(facts: Facts) -> Row | None:
    points = [
        {
            "subject": k,
            "x": _gain(facts, k),
            "y": _span(facts.roles[k]["T"]),
            "n": facts.roles[k]["T"].get("n"),
        }
        for k in facts.differences
        if "T" in facts.roles[k] and _gain(facts, k) is not None
    ]
    return _scatter(
        "tax_gain",
        f"gain: improvement of {facts.role.title}",
        "share",
        "alignment tax T",
        "share",
        points,
        None,
        zero=("x", "y"),
    )


def _frontier(facts: Facts, frontier: Mapping[str, Any] | None) -> Row | None:
    with_kl = [s.id for s in facts.subjects if "KL" in facts.roles[s.id]]
    rewarded = [k for k in with_kl if "reward" in facts.roles[k]]
    found = [_stand(facts, k, bool(rewarded)) for k in rewarded or with_kl]
    points = [p for p in found if p is not None and p["x"]["value"] is not None and p["y"]["value"] is not None]
    beaten = {c["id"]: c["dominated_by"] for c in facts.cards}
    for p in points:  # by the rule of the methods' table
        p["dominated"] = bool(beaten[p["subject"]])
    title = "reward" if rewarded else f"improvement of {facts.role.title}"
    unit = facts.roles[rewarded[0]]["reward"]["unit"] if rewarded else "share"
    figure = _scatter("reward_kl", "KL from the base", "nats", title, unit, points, frontier, zero=("x",))
    if figure is not None:
        figure["data"]["axes"] = list(facts.axes)
    return figure


def _stand(facts: Facts, subject: str, rewarded: bool) -> Row | None:
    """Where a policy stands on the reward-KL plane, with its tax."""
    mine = facts.roles[subject]
    y = _span(mine["reward"]) if rewarded else _gain(facts, subject)
    if y is None:
        return None
    tax = _span(mine["T"]) if "T" in mine else None
    return {"subject": subject, "x": _span(mine["KL"]), "y": y, "n": mine["KL"].get("n"), "tax": tax}


def _scatter(
    id: str,
    x: str,
    x_unit: str,
    y: str,
    y_unit: str,
    points: Sequence[Row],
    curve: Mapping[str, Any] | None,
    *,
    zero: Sequence[str],
) -> Row | None:
    """A scatter figure; `zero`: axes that must show 0. None without a point that has both numbers."""
    whole = [p for p in points if p["x"]["value"] is not None and p["y"]["value"] is not None]
    if not whole:
        return None
    data = {
        "x": {"title": x, "unit": x_unit},
        "y": {"title": y, "unit": y_unit},
        "points": whole,
        "curve": dict(curve) if curve else None,
        "zero": list(zero),
    }
    return {"id": id, "type": "scatter", "data": data}


def _cost(facts: Facts) -> Row | None:
    measures = []
    for key, title, unit in COSTS:
        rows = [{"subject": s.id, "value": s.cost.get(key)} for s in facts.subjects]
        if any(r["value"] for r in rows):
            measures.append({"key": key, "title": title, "unit": unit, "rows": rows})
    return {"id": "cost", "type": "cost", "data": {"measures": measures}} if measures else None


def _alarm(facts: Facts) -> Row | None:
    return instruments.overoptimisation([(s.id, s.name, s.audits) for s in facts.subjects])


def _training(facts: Facts) -> Row | None:
    runs = [{"subject": s.id, **curves(s.curve)} for s in facts.subjects if s.curve]
    runs = [r for r in runs if r["series"]]
    return {"id": "curves", "type": "curves", "data": {"runs": runs}} if runs else None


def _samples(facts: Facts) -> Row | None:
    """Responses side by side; where none were judged, the figure is empty and the items of Results fill it."""
    rows = samples.rows(facts.subjects, facts.base)
    known = any(r.get("items") for found in facts.results.values() for r in found)
    data = {"rows": rows, "total": len(rows), "texts": list(facts.texts)}
    return {"id": "samples", "type": "samples", "data": data} if rows or known else None
