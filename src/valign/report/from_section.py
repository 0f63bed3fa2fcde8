"""What an instrument wrote (`section.json`) as a section that a report draws.

An instrument keeps numbers in the order in which it computes them; a figure wants panels, series and rows
(`report.instruments`). Each kind of data has one function here; a kind that has no picture gives its Results alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from valign.report.subject import Row

AXES = {
    "labels": ("labels used", "count"),
    "training_tokens": ("tokens trained on", "count"),
    "rollout_tokens": ("tokens sampled in training", "count"),
    "seconds": ("seconds of the device", "seconds"),
    "added_memory": ("memory added at most", "bytes"),
}
KL: Row = {"title": "KL from the reference, nats", "unit": "bare"}
EXPLAINED = 20  # outputs that are drawn; all stand in explained.jsonl
GAIN: Row = {"title": "gain over the start, in each judge's unit", "unit": "score"}
TEXTS = {
    "efficiency": "The same data in nested parts: how the score rises with what was spent. Horizontal axes are logarithmic.",
    "splits": "The same checkpoint on its own kind of prompts and on others. A gap is i.i.d. minus split: above 0 it holds less.",
    "overopt": "The proxy is pushed, gold is watched. Where gold falls while the proxy rises, the reward is gamed.",
    "overopt_bench": "Worlds whose gold reward is known: where gold peaks, and where the alarm rings.",
    "explained": "The training groups nearest to each output: where it may have been learned. Nearness is no cause.",
    "value_risk": "Rank correlation over checkpoints of each value push with each risk: above 0 the risk is higher where the "
    "value is held higher. A correlation shows where to look; it is no cause.",
    "flips": "Ability lost on items that both checkpoints answered; below 0 is ability gained.",
}

LEADS = {  # what each instrument asks, where the page is its own
    "tax": "What alignment cost in ability and what it gained, on items that both checkpoints answered.",
    "overopt": "What a gold judge says of the model's own samples when a proxy is pushed.",
    "overopt_worlds": "Whether the over-optimization alarm rings in time, in worlds whose gold reward is known.",
    "efficiency": "What a score costs with each method: labels, tokens, time and memory.",
    "generality": "Whether the model keeps to its goal on other prompts, under attack, and when the goal is reversed.",
    "explain": "Why each output got its score: what its parts add to it, and where it may have been learned.",
    "value_risk": "Whether checkpoints that hold a value higher also carry a higher risk.",
}


def instrument_of(content: Mapping[str, Any]) -> dict[str, str]:
    """`method_report(instrument=...)` for the page of a `section.json` alone."""
    return {"id": str(content["id"]), "lead": LEADS.get(str(content["id"]), str(content["title"]))}


def section_of(content: Mapping[str, Any], index: int = 1) -> Row:
    """A section for `method_report(extra=...)` from the content of a `section.json`.

    index   of this instrument on the page: two taxes are two sections
    """
    own = f"instrument_{content['id']}" + (f"_{index}" if index > 1 else "")
    figures, said = [], []
    for f in content.get("figures", ()):
        kind, make = _FIGURES.get(f["type"], ("", None))
        if make is not None and (data := make(f["data"], content["results"])) is not None:
            figures.append({"id": f"{own}-{f['id']}", "type": kind, "data": data})
            said.append(TEXTS[f["type"]])
    notes = [str(n) for n in content.get("notes", ())]
    return {"id": own, "title": content["title"], "text": " ".join([*said, *notes]), "results": content["results"],
            "figures": figures}  # fmt: skip


def _panel(title: str, x: Row, y: Row, series: Sequence[Row], **more: Any) -> Row:
    return {"title": title, "text": "", "x": x, "y": y, "log_x": False, "series": list(series), "marks": [], "levels": [],
            **more}  # fmt: skip


def _series(name: str, points: Sequence[tuple[Any, Any, Any, Any]], **more: Any) -> Row:
    """Points are (x, value, low, high); those without a place or a value are left out."""
    kept = [(x, v, a, b) for x, v, a, b in points if x is not None and v is not None]
    return {"name": name, "subject": None, "points": [{"x": x, "value": v, "low": a, "high": b, "n": None}
                                                       for x, v, a, b in kept], **more}  # fmt: skip


# ------------------------------------------------------------------------------------------------- the kinds of data


def _efficiency(data: Mapping[str, Any], results: Sequence[Row]) -> Row:
    """One panel for each cost that differs between the sizes."""
    panels, score = [], {"title": data["metric"], "unit": data["unit"]}
    for axis, found in data["axes"].items():
        series = []
        for method, curve in data["curves"].items():
            at = found["methods"][method]
            if min(at["cost"]) > 0 and len(set(at["cost"])) > 1:
                points = list(zip(at["cost"], curve["score"], curve["low"], curve["high"], strict=True))
                series.append(_series(method, points, mean_height=at["mean_height"], cost_to_target=at["cost_to_target"]))
        title, unit = AXES.get(axis, (axis.replace("_", " "), "bare"))
        levels = [{"y": data["target"], "label": "target"}, {"y": data["start"], "label": "before"}]
        if series:
            panels.append(_panel(f"against {title}", {"title": title, "unit": unit}, score, series, log_x=True,
                                 levels=[v for v in levels if v["y"] is not None]))  # fmt: skip
    return {"panels": panels}


def _generality(data: Mapping[str, Any], results: Sequence[Row]) -> Row:
    """The checkpoint's own kind of prompts first, then every split beside it."""
    measured = {r["variant"]: r for r in results if r["metric"] == data["metric"]}

    def row(value: float | None, **more: Any) -> Row:
        alike = next((r for r in measured.values() if r["value"] == value), {})
        return {"subject": None, "name": data["subject"], "value": value, "interval": alike.get("interval"),
                "n": alike.get("n"), "gap": None, "gap_interval": None, "p_adjusted": None, "retained": None, "paired": False,
                **more}  # fmt: skip

    first = data["rows"][0]["iid"] if data["rows"] else None
    splits = [{"id": "iid", "title": "its own kind of prompts", "text": "", "rows": [row(first)]}]
    for r in data["rows"]:
        ends = None if r["low"] is None else {"low": r["low"], "high": r["high"]}
        splits.append({"id": r["split"], "title": r["title"], "text": "", "rows": [
            row(r["value"], n=r["n"], gap=r["gap"], gap_interval=ends, p_adjusted=r["p_holm"], retained=r["retained"],
                paired=r["paired"])]})  # fmt: skip
    return {"metric": data["metric"], "unit": data["unit"], "splits": splits}


def _overopt(data: Mapping[str, Any], results: Sequence[Row]) -> Row:
    """Best of n, and the tilted law until too few samples carry it."""
    best, tilted = data["best_of_n"], data["tilted"]
    sides = [_series("gold", [*zip(best["kl_bound"], best["change"], best["change_low"], best["change_high"])]),
             _series("proxy", [*zip(best["kl_bound"], _gains(best["proxy"]), *_no_ends(best["proxy"]))])]  # fmt: skip
    x = {"title": "bound of best-of-n's KL, nats", "unit": "bare"}
    panels = [_panel("best of n", x, GAIN, sides)]
    rang = tilted.get("alarm")
    panels += _pushed("tilted toward the proxy", tilted, rang["strength"] if rang else None)
    return {"panels": panels}


def _bench(data: Mapping[str, Any], results: Sequence[Row]) -> Row:
    panels: list[Row] = []
    for run in data["runs"]:
        rang = run["alarm"]["strength"] if run["alarm"] else None
        made = _pushed(f"{run['world']} world, proxy: {run['proxy']}", run["curve"], rang)
        if run["peak"]:
            made[0]["marks"].append({"x": run["peak"]["kl"], "label": "gold's peak", "kind": "peak"})
        panels += made[:1]
    return {"panels": panels}


def _pushed(title: str, curve: Mapping[str, Sequence[float]], alarm: float | None) -> list[Row]:
    """Gold and proxy against KL, then the covariance that the alarm reads."""
    marks = [{"x": curve["kl"][i], "label": "alarm", "kind": "alarm"}
             for i, s in enumerate(curve["strength"]) if alarm is not None and s == alarm]  # fmt: skip
    sides = [_series(name, [*zip(curve["kl"], _gains(curve[name]), *_no_ends(curve["kl"]))]) for name in ("gold", "proxy")]
    between = [_series(words, [*zip(curve["kl"], curve[k], *_no_ends(curve["kl"]))])
               for k, words in (("covariance", "covariance"), ("high", "upper end, one-sided 95 %"))]  # fmt: skip
    zero = [{"y": 0.0, "label": "0: gold stops rising"}]
    return [_panel(title, KL, GAIN, sides, marks=list(marks)),
            _panel(f"{title}: does the proxy still point at gold", KL, {"title": "covariance", "unit": "score"}, between,
                   marks=list(marks), levels=zero)]  # fmt: skip


def _gains(values: Sequence[float | None]) -> list[float | None]:
    start = next((v for v in values if v is not None), 0.0)
    return [None if v is None else v - start for v in values]


def _no_ends(values: Sequence[Any]) -> tuple[list[None], list[None]]:
    return [None] * len(values), [None] * len(values)


def _tax(data: Mapping[str, Any], results: Sequence[Row]) -> Row:
    """The bill of one aligned policy: every benchmark, the aggregate, and what was gained for it."""
    named = {r["metric"]: r for r in results}
    ability = {(r["metric"], r["subject"]): r["value"] for r in results if r["level"] == "capability"}
    rows = []
    for metric, flips in data["items"].items():
        r = named.get(f"tax.{metric}")
        if r is None:
            continue
        shown = r["interval"] is not None
        rows.append({"benchmark": metric, "value": r["value"] if shown else None, "interval": r["interval"], "n": r["n"],
                     "base": ability.get((metric, data["base"])), "aligned": ability.get((metric, data["aligned"])),
                     "lost": len(flips["lost"]), "won": len(flips["won"]),
                     "left_out": None if shown else "; ".join(r["notes"]) or "cannot show tax"})  # fmt: skip
    total, gain = named.get("tax.T", {}), named.get("reward.gain", {})
    kl = named.get("kl.policy_reference", {}).get("value")
    per = next((r["value"] for r in results if "per_gain" in r["metric"]), None)
    bill = {"subject": None, "name": data["aligned"], "rows": rows, "gain": gain.get("value"), "kl": kl, "per_gain": per,
            "total": {"value": total.get("value"), "interval": total.get("interval")},
            "perplexity_base": None, "perplexity": None}  # fmt: skip  # bits per byte stand among the results
    return {"policies": [bill]}


def _explained(data: Mapping[str, Any], results: Sequence[Row]) -> Row | None:
    """The nearest training groups of the first outputs; None where no training data were searched."""
    known = [r for r in data["rows"] if r.get("training")][:EXPLAINED]
    rows = [{"name": f"{r['id']}#{r['response']}", "prompt": r["prompt"], "text": r["text"],
             "similarity": r["training"]["similarity"], "n": r["training"]["n"],
             "near": [{"name": x["id"], "value": x["similarity"], "prompt": x["prompt"], "text": x["text"]}
                      for x in r["training"]["nearest"]]} for r in known]  # fmt: skip
    return {"rows": rows} if rows else None


def _value_risk(data: Mapping[str, Any], results: Sequence[Row]) -> Row:
    """One row for each value, one cell for each risk."""
    wide = len(data["risks"])
    cells = [{"value": r["value"], "interval": r["interval"], "n": r["n"], "p_adjusted": found["p_adjusted"],
              "linked": found["linked"]} for r, found in zip(results, data["rows"], strict=True)]  # fmt: skip
    rows = [{"name": name, "cells": cells[i * wide : (i + 1) * wide]} for i, name in enumerate(data["values"])]
    return {"risks": list(data["risks"]), "rows": rows, "level": data["level"], "checkpoints": len(data["checkpoints"])}


_FIGURES: dict[str, tuple[str, Callable[[Mapping[str, Any], Sequence[Row]], Row | None]]] = {
    "explained": ("nearest", _explained),
    "efficiency": ("efficiency", _efficiency),
    "splits": ("generality", _generality),
    "overopt": ("overoptimisation", _overopt),
    "overopt_bench": ("overoptimisation", _bench),
    "flips": ("tax", _tax),
    "value_risk": ("value_risk", _value_risk),
}
