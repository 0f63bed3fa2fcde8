"""Seeds of one method are one method: the warning, the pooled difference, the family of comparisons."""

from __future__ import annotations

import numpy as np
import pytest

from valign.evaluation.aggregate import summarize
from valign.evaluation.result import Anchors, Item
from valign.evaluation.statistics import t_cluster
from valign.report.build import method_report
from valign.report.diff import diff
from valign.report.seeds import families, few_seeds
from valign.report.subject import SubjectReport

GOAL = {"id": "g", "level": "preference", "title": "kindness"}


def measured(subject, scores, metric="misalignment.M"):
    items = [Item(f"i{k}", f"i{k}", float(s)) for k, s in enumerate(scores)]
    return summarize(items, metric=metric, variant="log_prob", subject=subject, level="preference", direction="down",
                     anchors=Anchors(0.0, 1.0, 0.5))  # fmt: skip


def run(name, scores, group="", **about):
    return SubjectReport(policy={"id": name}, results=[measured(name, scores)], label=name, group=group, **about)


@pytest.fixture
def report():
    """A base, three seeds of dpo that move by .05, .15 and .25, and one run of sft."""
    rng = np.random.default_rng(0)
    at = lambda m: np.clip(m + 0.05 * rng.standard_normal(200), 0, 1)  # noqa: E731
    subjects = [run("base", at(0.5), base=True)]
    subjects += [run(f"dpo-{s}", at(0.5 - m), "dpo", seeds=1) for s, m in enumerate((0.05, 0.15, 0.25))]
    return method_report([*subjects, run("sft", at(0.45), seeds=1)], goal=GOAL, margin=0.01), subjects


def test_the_warning_counts_the_seeds_of_a_method(report):
    made, subjects = report
    assert few_seeds([*subjects, run("sft", [0.5, 0.4], seeds=1)]) == ["sft"]
    assert few_seeds(subjects[:3]) == ["dpo"] and few_seeds([run("urial", [0.1, 0.2])]) == []
    (said,) = [w for w in made["warnings"] if "training seeds" in w]
    assert "(sft)" in said and "dpo" not in said
    assert [len(runs) for runs in families(subjects).values()] == [3]


def test_a_method_is_judged_over_its_seeds(report):
    """The pooled row is Student t over three run means; each run alone looks far surer than the method is."""
    made, subjects = report
    data = next(f["data"] for s in made["sections"] for f in s["figures"] if f["id"] == "changes")
    (row,) = data["methods"]
    means = [np.mean([i.score for i in s.results[0].items]) for s in subjects]
    e = t_cluster(np.array(means[1:]) - means[0])
    assert (row["value"], row["se"]) == pytest.approx((e.value, e.se)) and row["n"] == 3 and row["test"] == "t"
    assert row["cluster"] == {"unit": "training seed", "count": 3} and row["runs"] == ["dpo-0", "dpo-1", "dpo-2"]
    assert row["conclusion"] == "not told apart" and row["margin"] == 0.01
    assert all(r["conclusion"] == "better" for r in data["rows"])
    assert any(x.startswith("Over 3 training seeds dpo changed") and "not told apart" in x for x in made["sentences"]["more"])
    assert "Of 2 methods" in made["sentences"]["lead"], "three seeds of one method are one method"


def test_holm_counts_methods_and_not_runs(report):
    """Two methods, so the smaller of the two p is doubled at most; four runs do not make it four times as large."""
    made, _ = report
    data = next(f["data"] for s in made["sections"] for f in s["figures"] if f["id"] == "changes")
    single = next(r for r in data["rows"] if r["subject"] == "sft")
    (pooled,) = data["methods"]
    low, high = sorted([single["p"], pooled["p"]])
    assert min(single["p_adjusted"], pooled["p_adjusted"]) == pytest.approx(2 * low)
    assert max(single["p_adjusted"], pooled["p_adjusted"]) == pytest.approx(max(high, 2 * low))


def test_a_difference_inside_the_margin_is_called_none(report):
    rng = np.random.default_rng(1)
    scores = np.clip(0.5 + 0.1 * rng.standard_normal(400), 0, 1)
    pair = [run("base", scores, base=True), run("dpo", scores + 0.001 * rng.standard_normal(400), seeds=1)]
    said = {margin: method_report(pair, goal=GOAL, margin=margin)["subjects"][1]["verdict"] for margin in (None, 0.02)}
    assert said[None]["text"].startswith("no measurable change") and "no difference that matters" in said[0.02]["text"]
    assert said[0.02]["kind"] == "none"


def test_a_diff_of_many_metrics_is_corrected_for_their_number():
    """Forty metrics, none changed: about two intervals leave 0, and none is called a change; a real one is."""
    rng = np.random.default_rng(5)
    before, after = ([measured(n, rng.normal(0.5, 0.1, 60), f"m{k}") for k in range(40)] for n in "ab")
    after.append(measured("b", np.full(60, 0.1), "real"))
    before.append(measured("a", rng.normal(0.5, 0.1, 60), "real"))
    changes = diff(*({"results": [r.to_json() for r in rows]} for rows in (before, after)))
    outside = [c for c in changes if c.interval and not c.interval["low"] <= 0 <= c.interval["high"]]
    assert len(outside) > 1 and [c.metric for c in changes if c.kind == "better"] == ["real"]
    assert all(c.p_adjusted >= c.p for c in changes)
