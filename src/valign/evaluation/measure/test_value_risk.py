"""Value-risk correlation: a planted link is found, the others are not, and the golden goes through."""

from __future__ import annotations

import numpy as np
import pytest

from valign.errors import DataError, ValignError
from valign.evaluation.measure.value_risk import value_risk
from valign.evaluation.result import Result


def result(metric, value, variant="mean", direction="down"):
    return Result(
        metric=metric,
        variant=variant,
        subject="m",
        level="value",
        value=float(value),
        unit="score",
        direction=direction,
    )


def checkpoint(values, risks):
    return [result(f"value.profile.{k}", v, direction="up") for k, v in values.items()] + [
        result(k, v, "rate") for k, v in risks.items()
    ]


def found(section, metric):
    return next(r for r in section.results if r.metric == metric)


@pytest.mark.capability("N20")
def test_a_planted_link_is_found_and_the_others_are_not():
    """30 checkpoints, 5 values x 4 risks; only power drives toxicity; no risk is named. False discovery
    rate 5 %: over 8 worlds the other 152 pairs are linked in at most 5 %."""
    false, risks = 0, ("risk.toxicity", "risk.unsafe", "bbq.s_amb", "misalignment.M")
    for seed in range(8):
        rng = np.random.default_rng(seed)
        pushes, noise = rng.normal(size=(30, 5)), rng.normal(size=(30, 4))
        noise[:, 0] = pushes[:, 1] + 0.4 * noise[:, 0]
        runs = {
            f"c{i}": checkpoint(
                dict(zip(("BE", "PO", "SE", "TR", "UN"), v)), dict(zip(risks, r))
            )
            for i, (v, r) in enumerate(zip(pushes, noise))
        }
        rows = value_risk(runs).figure("value_risk")["rows"]
        linked = {r["metric"] for r in rows if r["linked"]}
        assert "value_risk.PO.risk.toxicity" in linked and len(rows) == 20
        assert all(r["p_adjusted"] >= r["p"] - 1e-12 for r in rows)
        false += len(linked) - 1
    assert false <= 0.05 * 8 * 19


def test_golden_through_the_measurement(golden):
    """Pushes are counted from the base; a constant base changes no rank."""
    g = golden("n20.value_risk")
    x, y = g["inputs"]["value_push"], g["inputs"]["risk"]
    runs = {f"c{i}": checkpoint({"PO": a}, {"risk.unsafe": b}) for i, (a, b) in enumerate(zip(x, y))}
    for base in (None, checkpoint({"PO": 0.4}, {"risk.unsafe": 0.1})):
        r = found(value_risk(runs, base), "value_risk.PO.risk.unsafe")
        assert r.value == pytest.approx(g["expected"]["spearman"]) and r.interval.method == "fisher" and r.n == 6
    assert dict(r.items[0].detail)["push"] == pytest.approx(x[0] - 0.4)


def test_the_direction_of_a_risk_counts():
    """A metric that is better when higher is a risk when it falls; one with a target, when it leaves it."""
    runs = {f"c{i}": [*checkpoint({"PO": i}, {}), result("safetext.accuracy", -i, "a", "up"),
                       result("bbq.s_amb", 50 - i, "a", "target:50")]
            for i in range(5)}  # fmt: skip
    s = value_risk(runs)
    assert found(s, "value_risk.PO.safetext.accuracy").value == 1 and found(s, "value_risk.PO.bbq.s_amb").value == 1
    flat = {name: [*rows, result("unsafe", 0.5, "rate")] for name, rows in runs.items()}
    still = found(value_risk(flat, risks=["unsafe"]), "value_risk.PO.unsafe")
    assert still.value is None and "does not vary" in still.notes[-1]


def test_too_few_or_unlike_checkpoints_are_refused():
    one = checkpoint({"PO": 1}, {"risk.unsafe": 1})
    with pytest.raises(ValignError, match="at least 4"):
        value_risk({"a": one, "b": one})
    with pytest.raises(DataError, match=r"no risk is in all.*"):
        value_risk({k: checkpoint({"PO": 1}, {}) for k in "abcd"})


def test_a_risk_is_named_as_where_it_was_measured():
    """`--risk toxicity` here and in `valign evaluate`; a metric's whole name and one variant of it are names as well."""
    runs = {
        f"c{i}": [*checkpoint({"PO": i}, {"risk.toxicity": i}), result("risk.toxicity", i * i, "any"),
                  result("value.profile.PO", -i, "conditional", "up")]
        for i in range(5)
    }  # fmt: skip
    for risks in (["toxicity"], ["risk.toxicity"], []):
        section = value_risk(runs, risks=risks)
        assert [(r.metric, r.variant) for r in section.results] == [
            ("value_risk.PO.risk.toxicity", "spearman.any"), ("value_risk.PO.risk.toxicity", "spearman.rate")
        ], "the conditional mean is no push"  # fmt: skip
    assert [r.variant for r in value_risk(runs, risks=["toxicity:rate"]).results] == ["spearman.rate"]
    with pytest.raises(DataError, match=r"no risk is in all[\s\S]*--risk toxicity"):
        value_risk(runs, risks=["tox:other"])
