"""Figures of instruments: every number is the JSON's, marks stand where the data say, wrong data are refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from valign.errors import ValignError
from valign.report import SubjectReport
from valign.report.html import render
from valign.report.instruments import overoptimisation
from valign.report.lines import _decades, _scale
from valign.report.node import Node, resolve, value

AUDITS = [
    {"step": 10 * i, "kl": 1.5 * i, "proxy": 0.2 + 0.05 * i, "gold": gold, "gold_se": 0.01, "covariance": 0.08 - 0.03 * i,
     "high": 0.1 - 0.03 * i, "threshold": 0.02, "fires": i >= 3, "n": 64}
    for i, gold in enumerate((0.10, 0.16, 0.20, 0.22, 0.19))
]  # fmt: skip


def point(x: float, y: float) -> dict[str, Any]:
    return {"x": x, "value": y, "low": y - 0.03, "high": y + 0.03, "n": 120}


def extra() -> list[dict[str, Any]]:
    curve = {
        "title": "against labels", "x": {"title": "labels", "unit": "count"}, "y": {"title": "agreement", "unit": "share"},
        "log_x": True, "marks": [], "levels": [{"y": 0.6, "label": "target"}],
        "series": [{"name": "DPO", "subject": "dpo", "points": [point(60, 0.52), point(240, 0.58), point(480, 0.63)],
                    "mean_height": 0.574, "cost_to_target": 312.5},
                   {"name": "not in the table", "subject": None, "points": [point(60, 0.5), point(480, 0.55)],
                    "mean_height": 0.52, "cost_to_target": None}],
    }  # fmt: skip
    row = {"subject": "dpo", "value": 0.4, "interval": {"low": 0.36, "high": 0.44}, "n": 90, "gap": -0.06,
           "gap_interval": {"low": -0.1, "high": -0.02}, "p_adjusted": 0.03, "retained": 0.91, "paired": True}  # fmt: skip
    tax = {"benchmark": "arc", "value": 0.04, "interval": {"low": -0.01, "high": 0.09}, "n": 300, "base": 0.58, "aligned": 0.56,
           "lost": 14, "won": 9, "left_out": None}  # fmt: skip
    weak = {**tax, "benchmark": "hard", "value": None, "interval": None, "left_out": "the base is at chance"}
    split = {"id": "jailbreak", "title": "attacked", "text": "wrapped", "rows": [row]}
    bill = {"gain": 0.12, "kl": 4.1, "per_gain": 0.25, "perplexity_base": 18.2, "perplexity": 19.9}
    total = {"value": 0.03, "interval": {"low": 0.0, "high": 0.06}}
    return [
        section("efficiency", "Efficiency", "efficiency", {"panels": [curve]}, text="Nested shares."),
        section("generality", "Elsewhere", "generality", {"metric": "M", "unit": "share", "splits": [split]}),
        section("taxes", "Tax", "tax", {"policies": [{"subject": "dpo", "rows": [tax, weak], "total": total, **bill}]}),
    ]


def section(id: str, title: str, kind: str, data: dict[str, Any], text: str = "") -> dict[str, Any]:
    return {"id": id, "title": title, "text": text, "figures": [{"id": f"{id}-figure", "type": kind, "data": data}]}


@pytest.fixture(scope="module")
def drawn() -> tuple[dict[str, Any], str]:
    from valign.report.conftest import make_report, make_subjects

    subjects = make_subjects()
    subjects[-1] = replace(subjects[-1], audits=AUDITS)
    report = json.loads(json.dumps(make_report(subjects, extra=extra()), allow_nan=False))
    return report, render(report)


def test_every_number_of_the_figures_is_the_jsons(drawn: tuple[dict[str, Any], str]):
    report, html = drawn
    places = [f"/sections/{i}/figures" for i, s in enumerate(report["sections"])
              if s["id"] in ("efficiency", "generality", "taxes", "overoptimisation")]  # fmt: skip
    found = re.findall(r'<data class="num[^"]*" value="([^"]*)" data-at="([^"]*)">', html)
    mine = [(raw, at) for raw, at in found if at.startswith(tuple(places))]
    assert len(mine) > 60 and len(places) == 4
    for raw, at in mine:
        number = value(resolve(Node(report), at))
        assert raw == ("" if number is None else repr(number)), at
    shown = {at.split("/")[-1] for _, at in mine}
    assert {"mean_height", "cost_to_target", "gap", "retained", "lost", "won", "per_gain", "perplexity"} <= shown


def test_sections_stand_before_the_costs_and_in_the_contents(drawn: tuple[dict[str, Any], str]):
    report, html = drawn
    order = [s["id"] for s in report["sections"]]
    assert order[order.index("cost") - 4 : order.index("cost")] == ["overoptimisation", "efficiency", "generality", "taxes"]
    assert 'href="#efficiency"' in html and "Nested shares." in html
    assert "left out: the base is at chance" in html and "to target: not reached" in html


def test_the_alarm_stands_where_it_rang_and_the_peak_where_gold_was_highest():
    figure = overoptimisation([("grpo", "GRPO", AUDITS), (None, "quiet", [])])
    assert figure is not None and len(figure["data"]["panels"]) == 2
    gains, covariance = figure["data"]["panels"]
    assert {m["kind"]: m["x"] for m in gains["marks"]} == {"alarm": 4.5, "peak": 4.5}
    gold = gains["series"][0]["points"]
    assert [round(p["value"], 12) for p in gold] == [0.0, 0.06, 0.1, 0.12, 0.09], "gains over the start"
    assert gold[1]["high"] - gold[1]["low"] == pytest.approx(2 * 1.959964 * 0.01, rel=1e-6)
    assert [level["y"] for level in covariance["levels"]] == [0.0, 0.02]
    silent = overoptimisation([(None, "A/A", [{**a, "fires": False} for a in AUDITS])])
    assert silent is not None and [m["kind"] for m in silent["data"]["panels"][0]["marks"]] == ["peak"]
    assert overoptimisation([(None, "one look", AUDITS[:1])]) is None


def test_without_kl_the_axis_is_steps():
    figure = overoptimisation([(None, "r", [{k: v for k, v in a.items() if k != "kl"} for a in AUDITS])])
    assert figure is not None and figure["data"]["panels"][0]["x"]["title"] == "step"


def test_logarithmic_places_and_round_ticks():
    """Equal ratios are equal distances; ticks cover the data with 1, 2 and 5 times powers of ten."""
    place = _scale(10.0, 1000.0, True)
    assert place(100.0) == pytest.approx(50.0) and place(31.6227766) == pytest.approx(25.0, abs=1e-3)
    assert _decades(60, 480) == [50.0, 100.0, 200.0, 500.0]
    assert _decades(3, 90_000)[0] <= 3 and _decades(3, 90_000)[-1] >= 90_000 and len(_decades(3, 90_000)) <= 8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"id": "x", "figures": [{"id": "f", "type": "eficiency", "data": {"panels": []}}]}, "efficiency"),
        ({"id": "x", "figures": [{"id": "f", "type": "tax", "data": {}}]}, "policies"),
        ({"id": "x", "figures": [{"id": "f", "type": "efficiency", "data": {"panels": [{"title": "t"}]}}]}, "panel.series"),
        ({"id": "cost", "figures": []}, "id of its own"),
        ({"figures": []}, "id of its own"),
    ],
)
def test_wrong_sections_are_refused(report_of: Any, subjects: list[SubjectReport], wrong: dict[str, Any], message: str):
    with pytest.raises(ValignError, match=message):
        report_of(subjects[:2], extra=[wrong])
