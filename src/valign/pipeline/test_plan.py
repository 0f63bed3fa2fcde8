"""The planning command, from options to sentences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from valign.cli.app import app
from valign.errors import UsageError
from valign.evaluation.aggregate import summarize
from valign.evaluation.planning import Options
from valign.evaluation.result import Item
from valign.evaluation.results_file import write_results
from valign.pipeline.plan import Asked, plan_evaluation

GOLDENS = Path(__file__).parents[3] / "tests" / "fixtures" / "evaluation_goldens.json"


@pytest.fixture(scope="module")
def golden():
    table = {g["id"]: g for g in json.loads(GOLDENS.read_text(encoding="utf-8"))["goldens"]}
    return table.__getitem__


def ask(*words):
    return CliRunner().invoke(app, ["plan-eval", *map(str, words)])


def test_stated_spread_gives_the_goldens(golden):
    """969 items for a difference of .03; .0406 with 1000 items."""
    g = golden("stats.power")
    i, want = g["inputs"], g["expected"]
    found = json.loads(ask("--variance", i["omega2"], "--noise", i["sigma2_a"] + i["sigma2_b"], "--samples", i["k"],
                           "--difference", i["delta"], "--json").output)  # fmt: skip
    assert found["items"] == want["n_needed_ceil"]
    found = json.loads(ask("--accuracy", i["p"], "--correlation", i["rho"], "--n", i["n"], "--json").output)
    assert found["detectable"] == pytest.approx(want["mde"], abs=1e-9)


def test_human_votes_give_the_golden(golden):
    g = golden("stats.human_sample_size")
    i, want = g["inputs"], g["expected"]
    done = ask("--win-rate", i["win_rate"], "--votes", i["votes_per_item"], "--icc", i["icc"])
    assert done.exit_code == 0 and f"{want['n_votes_ceil']} independent votes" in done.output
    assert f"{want['n_items']} items" in done.output


def pilot(folder, scores, name, metric="m"):
    rows = [Item(f"i{k}", f"i{k}", float(s)) for k, s in enumerate(scores)]
    more = [Item(f"i{k}", f"i{k}", float(k % 2)) for k in range(len(scores))]
    about = {"subject": name, "level": "value"}
    results = [summarize(rows, metric=metric, variant="v", **about), summarize(more, metric="other", variant="w", **about)]
    return write_results(results, folder / name / "result.json")


def test_a_pilot_gives_its_own_variance(tmp_path):
    """(z.975 + z.8)² s² / δ² with the pilot's own s²."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=300)
    a, b = pilot(tmp_path, scores, "a"), pilot(tmp_path, np.zeros(300), "b")
    done = ask(a, b.parent, "--metric", "m", "--difference", 0.25)
    assert done.exit_code == 0, done.output
    want = int(np.ceil((1.959964 + 0.841621) ** 2 * scores.var(ddof=1) / 0.25**2))
    assert f"{want} items" in done.output and "a pilot of 300 items" in done.output
    assert "names no numbers" in ask(a, b, "--metric", "x", "--difference", 0.1).output
    assert "say which number" in ask(a, b, "--difference", 0.1).output
    assert ask(a, "--metric", "m", "--difference", 0.1).exit_code == 2


def test_noise_and_clusters_are_explained():
    found = plan_evaluation(Asked(variance=0.04, noise=0.18, difference=0.05, n=400, per_cluster=4, icc=0.5, samples=2))
    assert found["by_samples"][1] > found["by_samples"][16] and found["items"] == found["by_samples"][2]
    text = " ".join(found["lines"])
    assert "times 2.5 for clusters" in text and "clusters of 4" in text and "More than 45 samples" in text
    many = plan_evaluation(Asked(variance=0.04, difference=0.05, options=Options(tests=10)))
    alone = plan_evaluation(Asked(variance=0.04, difference=0.05))
    assert "10 comparisons" in many["lines"][0] and many["items"] > alone["items"]


@pytest.mark.parametrize(
    "asked",
    [
        Asked(),
        Asked(variance=0.1),
        Asked(variance=0.1, accuracy=0.5, correlation=0.1, n=10),
        Asked(accuracy=0.5, n=10),
        Asked(variance=0.1, n=10, metric="m"),
        Asked(accuracy=0.5, correlation=0.5, noise=0.1, n=10),
        Asked(variance=0.1, n=10, icc=0.1),
        Asked(variance=0.1, n=10, votes=3),
        Asked(win_rate=0.6, n=10),
        Asked(win_rate=0.5),
        Asked(win_rate=0.6, samples=2),
        Asked(win_rate=0.6, votes=0),
    ],
)
def test_options_that_do_not_fit_are_refused(asked):
    with pytest.raises(UsageError):
        plan_evaluation(asked)
