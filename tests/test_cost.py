"""A cost ceiling at the door: it stops cleanly, what is done is kept, and the same command with more goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def server(serve, model):
    """A server of the same weights as the folder `model`."""
    from valign.models.loading import load_model

    return serve(load_model(model, dtype="float32"))


def results(folder: Path) -> dict[tuple[str, str], float]:
    rows = json.loads((folder / "result.json").read_text())["results"]
    return {(r["metric"], r["variant"]): (r["value"], r["n"], r["n_unscored"]) for r in rows}


PRICED = ("--price-read", 1, "--price-generated", 4)


def test_an_evaluation_stops_at_its_ceiling_and_goes_on(valign, server, situations, goal, vowels, tmp_path, whole):
    name = server.named(options="parallel=2")
    args = ("evaluate", name, "--data", situations, "--goal", goal, "--max-new-tokens", 8, *PRICED)
    valign(*args, "--out", tmp_path / "free")
    price = json.loads((tmp_path / "free" / "cost.json").read_text())["spent"]
    asked = len(server.seen)
    out, ceiling = tmp_path / "e", price / 2 + 400e-6  # room for one request in its worst case
    message = valign.error(*args, "--out", out, "--max-cost", ceiling)
    assert "the cost ceiling is reached" in message and "run the same command again" in message
    assert not (out / "result.json").exists() and json.loads((out / "cost.json").read_text())["spent"] <= ceiling
    answered = len((out / "requests.jsonl").read_text().splitlines())
    assert 0 < answered < 6
    whole(out)
    valign(*args, "--out", out, "--max-cost", 3 * price)
    assert len(server.seen) == asked + 6, "no request was paid for twice"
    assert results(out) == results(tmp_path / "free")
    found = json.loads((out / "result.json").read_text())["results"][0]["provenance"]["cost"]
    assert found["money"] > 0 and found["tokens_generated"] > 0


def test_a_profile_has_the_same_ceiling(valign, server, situations, goal, vowels, tmp_path):
    args = ("profile", server.named(), "--data", situations, "--goal", goal, "--max-new-tokens", 8, *PRICED)
    assert "--out FOLDER" in valign.error(*args, "--max-cost", 1, status=2)
    assert "ceiling is reached" in valign.error(*args, "--max-cost", 1e-9, "--out", tmp_path / "p")


@pytest.mark.parametrize(
    "options, said",
    [
        (("--max-cost", 1), "needs prices"),
        (("--max-cost", 1, "--price-read", 1, "--workers", 2), "cannot share"),
        (("--price-read", -1), "0 or more"),
        (("--price-read", 1), "nobody is paid"),
    ],
)
def test_a_ceiling_that_means_nothing_is_refused(valign, model, pairs, tmp_path, options, said):
    from valign.cli import app

    done = valign.runner.invoke(
        app,
        [str(x) for x in ("evaluate", model, "--data", pairs, "--out", tmp_path / "e", *options)],
    )
    assert done.exit_code in (1, 2) and said in " ".join(done.stderr.split())
