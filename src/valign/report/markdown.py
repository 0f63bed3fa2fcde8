"""A model card in Markdown from a report's JSON: what the policy is, what it was aligned with, and every
number said whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from valign.errors import unknown
from valign.report.sections import all_results, says_something
from valign.report.subject import Row
from valign.report.units import REFERENCE, interval, number
from valign.report.visible import markdown as md
from valign.report.words import goal_name, is_no_goal

NAMES = {
    "M": "misalignment M ↓",
    "V": "value alignment V ↑",
    "T": "alignment tax T ↓",
    "KL": "KL from base",
}


def model_card(report: Mapping[str, Any], subject: str | None = None) -> str:
    """The card of one policy of the report: the named one, else the best, else the last.

    Raises `UsageError` for a policy that the report does not hold.
    """
    cards = {s["id"]: s for s in report["subjects"]}
    id = subject or report["sentences"].get("best") or report["subjects"][-1]["id"]
    if id not in cards:
        raise unknown("policy", id, cards)
    return "\n".join(x for part in _parts(report, cards[id]) for x in part) + "\n"


def _parts(report: Mapping[str, Any], own: Row) -> Iterable[Sequence[str]]:
    goal = report["goal"]
    yield _front_matter(own)
    yield [f"# {md(own['label'])}", "", md(report["sentences"]["lead"]), ""]
    yield [f"- {md(line)}" for line in report["sentences"]["more"]] + [""]
    if report["warnings"]:
        yield ["## Read this first", "", *(f"- {md(w)}" for w in report["warnings"]), ""]
    if not is_no_goal(goal):
        yield from _goal(report)
    data = next(f["data"] for s in report["sections"] for f in s["figures"] if f["id"] == "methods")
    if says_something(data):
        yield ["## Results", "", *_methods(report), ""]
        rule = (f" Dominated: another policy is at least as good on {', '.join(data['axes'])} and better on one."
                if data["axes"] else "")  # fmt: skip
        yield [f"Intervals are 95 %. Differences are paired, item by item.{rule} There is no total score.", ""]
    yield ["## How it was measured", "", *_measured(report, own["id"]), ""]
    yield ["## How it was made", "", *_policy(own, report["cost"].get(own["id"]) or {}), ""]
    yield ["## Data", "", *_ledger(report["ledger"]), ""]
    yield ["## Provenance", "", *(f"- {md(k)}: {_short(v)}" for k, v in report["provenance"].items()), ""]


def _goal(report: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    goal = report["goal"]
    yield ["## Goal", "", md(goal.get("text") or goal_name(goal)), ""]
    target = goal.get("target")
    if isinstance(target, Mapping) and target:
        yield [
            "Target: "
            + ", ".join(f"{md(k)} {number(v, 'plain', signed=True)}" for k, v in target.items())
            + ".",
            "",
        ]
    fixed = ", fixed before the run" if report["provenance"].get("recipe") else ""  # a page of stored results chose it after
    yield [f"Primary measure: {md(report['primary'])}{fixed}.", ""]


def _front_matter(own: Row) -> list[str]:
    """What model hubs read. JSON strings are valid YAML, so nothing in a name can leave its line."""
    tags = ["valign", "alignment", *([own["method"]] if own["method"] else [])]
    base = own["policy"].get("base")
    lines = ["---", "library_name: transformers", f"tags: {json.dumps(tags)}"]
    return [*lines, *([f"base_model: {json.dumps(base)}"] if base else []), "---", ""]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *(f"| {' | '.join(r)} |" for r in rows)]


def _methods(report: Mapping[str, Any]) -> list[str]:
    labels = {s["id"]: s["label"] for s in report["subjects"]}
    data = next(f["data"] for s in report["sections"] for f in s["figures"] if f["id"] == "methods")
    many = len(labels) > 1
    head = [
        "policy",
        *(NAMES[k] for k in data["columns"]),
        *([f"Δ{data['primary']} vs base"] if many else []),
        "tokens",
        "time",
        "memory",
        "seeds",
    ]
    rows = []
    for r in data["rows"]:
        cells = [_with_interval(r[k]) for k in data["columns"]]
        difference = (
            [_with_interval(r["difference"], signed=True) if r["difference"] else "–"] if many else []
        )
        spent = [
            _known(r[k], unit)
            for k, unit in (
                ("tokens", "count"),
                ("seconds", "seconds"),
                ("memory", "bytes"),
                ("seeds", "count"),
            )
        ]
        beaten = (
            f" (dominated by {', '.join(md(labels[d]) for d in r['dominated_by'])})"
            if r["dominated_by"]
            else ""
        )
        rows.append([md(labels[r["subject"]]) + beaten, *cells, *difference, *spent])
    return _table(head, rows)


def _with_interval(cell: Mapping[str, Any], *, signed: bool = False) -> str:
    if cell.get("reference"):
        return REFERENCE
    text = number(cell["value"], cell["unit"], signed=signed)
    return (
        f"{text} [{interval(cell['interval'], cell['unit'], signed=signed)}]"
        if cell.get("interval")
        else text
    )


def _known(value: Any, unit: str) -> str:
    return "–" if value is None else number(value, unit)


def _measured(report: Mapping[str, Any], id: str) -> list[str]:
    """One row per metric of this policy; results of single dimensions are left to the JSON."""
    data: dict[str, Any] = next(
        (f["data"] for s in report["sections"] for f in s["figures"] if f["id"] == "metrics"), {"groups": []}
    )
    results = all_results(report)
    rows = []
    for g in data["groups"]:
        for entry in g["results"]:
            r = results[entry["at"]]
            if entry["subject"] == id:
                rows.append(
                    [
                        f"`{md(g['metric'])}`",
                        md(g["variant"]),
                        md(g["level"]),
                        number(r["value"], r["unit"]),
                        interval(r["interval"], r["unit"]),
                        str(r["n"]),
                        _reasons(r["n_unscored"]),
                        f"{r['cluster']['count']} × {md(r['cluster']['unit'])}",
                    ]
                )
    return _table(["metric", "variant", "level", "value", "95 % interval", "n", "unscored", "clusters"], rows)


def _reasons(unscored: Mapping[str, int]) -> str:
    return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in unscored.items()) or "none"


def _policy(own: Row, cost: Mapping[str, Any]) -> list[str]:
    lines = [
        f"- method: {md(own['method'] or 'none')}" + (f" ({md(own['family'])})" if own["family"] else "")
    ]
    if own["feedback"]:
        lines.append(f"- feedback: {md(own['feedback'])}")
    lines += [f"- {md(k)}: {_short(v)}" for k, v in own["policy"].items() if v not in (None, "", {}, [])]
    return [*lines, *(f"- {md(k)}: {_short(v)}" for k, v in cost.items() if v is not None)]


def _ledger(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return ["No data were listed."]
    return _table(
        ["file", "used for", "rows", "licence", "sha256"],
        [
            [
                md(r.get("file", "")),
                md(r.get("use", "")),
                str(r.get("n", "")),
                md(r.get("licence") or "none stated"),
                f"`{md(r.get('sha256', ''))}`",
            ]
            for r in rows
        ],
    )


def _short(value: Any) -> str:
    """A value on one line; names with plain values as "name value", so that versions are read and not decoded."""
    if isinstance(value, Mapping) and value and all(v is None or isinstance(v, (str, int, float)) for v in value.values()):
        return ", ".join(f"{md(k)} {md('none' if v in (None, '') else v)}" for k, v in value.items())
    return md(value if isinstance(value, (str, int, float)) else json.dumps(value, ensure_ascii=False))
