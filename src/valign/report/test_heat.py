"""The table of values and risks: tints repeat the numbers, links stand in words, what does not vary says so."""

from __future__ import annotations

import json
import re
from typing import Any

from valign.report.from_section import section_of
from valign.report.html import render
from valign.report.node import Node, resolve, value


def content() -> dict[str, Any]:
    """What `valign value-risk` writes of two values and two risks over six checkpoints."""
    numbers = [(0.943, 0.005, 0.015), (-0.3, 0.56, 0.56), (0.1, 0.85, 0.85), (None, None, None)]
    results = [
        {"metric": f"value_risk.{v}.{r}", "variant": "spearman.rate", "subject": "6 checkpoints", "level": "value", "value": x,
         "unit": "score", "direction": "target:0", "n": 6, "interval": None if x is None else {"low": x - 0.05, "high": x + 0.05,
         "level": 0.95, "method": "fisher"}, "se": None if x is None else 0.03, "notes": []}
        for (v, r), (x, _, _) in zip([(v, r) for v in ("PO", "BE") for r in ("toxicity", "signs")], numbers)
    ]  # fmt: skip
    rows = [{"metric": r["metric"], "value": x, "p": p, "p_adjusted": q, "linked": q is not None and q < 0.05}
            for r, (x, p, q) in zip(results, numbers)]  # fmt: skip
    data = {"values": ["PO", "BE"], "risks": ["risk.toxicity:rate", "risk.signs:mean"], "checkpoints": list("abcdef"),
            "rows": rows, "level": 0.05}  # fmt: skip
    return {"id": "value_risk", "title": "Value pushes and risks", "results": results, "notes": [],
            "figures": [{"id": "value_risk", "type": "value_risk", "data": data}]}  # fmt: skip


def test_every_cell_is_the_jsons_and_links_stand_in_words(report_of: Any, subjects: Any):
    report = json.loads(json.dumps(report_of(subjects[:2], extra=[section_of(content())]), allow_nan=False))
    html = render(report)
    drawn = html[html.index('<table class="plain heat">') :]
    drawn = drawn[: drawn.index("</table>")]
    assert re.findall(r'<td class="([^"]*)"', drawn) == ["raises linked", "lowers", "raises", "flat"]
    assert re.findall(r'--strength:([^"]*)"', drawn) == ["0.943", "0.300", "0.100"]
    numbers = re.findall(r'<data class="num[^"]*" value="([^"]*)" data-at="([^"]*)">', drawn)
    assert len(numbers) == 3 * 5 and all(raw == repr(value(resolve(Node(report), at))) for raw, at in numbers)
    assert "PO with risk.toxicity:rate +0.943." in drawn and drawn.count("● linked") == 1 and "does not vary" in drawn
    assert "Values: 2, risks: 2, checkpoints: 6." in drawn
