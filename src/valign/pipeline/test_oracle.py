"""On an oracle world every policy stands on the reward-KL plane at or below the enumerated optimum."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from valign.errors import UsageError
from valign.pipeline.oracle import world_report
from valign.report.html import render


@pytest.mark.parametrize("name", ["tabular", "sequence"])
def test_nothing_stands_above_the_optimum_and_gibbs_stands_on_it(name: str):
    report = json.loads(json.dumps(world_report(name), allow_nan=False))
    data: dict[str, Any] = next(f["data"] for s in report["sections"] for f in s["figures"] if f["id"] == "reward_kl")
    xs, ys = np.array(data["curve"]["points"]).T
    above = {p["subject"]: p["y"]["value"] - np.interp(p["x"]["value"], xs, ys) for p in data["points"]}
    assert {"gibbs-1", "gibbs-0.5", "best-of-4", "gamed"} <= set(above)
    room = 0.01 * (ys[-1] - ys[0])  # the curve is drawn through 41 points of a concave function, and ends at its height
    assert all(x <= room for x in above.values())
    assert all(abs(x) <= room for k, x in above.items() if k.startswith("gibbs"))
    assert above["gamed"] < -10 * room, "a gamed reward buys distance and little of what is wanted"
    beaten = {p["subject"] for p in data["points"] if p["dominated"]}
    assert "gamed" in beaten and not any(k.startswith("gibbs") for k in beaten)
    page = render(report)
    assert "the optimum at each distance, enumerated" in page and "point hollow" in page


def test_another_world_is_refused_with_the_names():
    with pytest.raises(UsageError, match="tabular"):
        world_report("tabuler")
