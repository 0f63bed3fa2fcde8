"""Two commands give a defended comparison of two checkpoints; a third reads it again."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Another tiny model than `model`."""
    from valign.models.gguf import quiet
    from valign.models.tiny import tiny_model

    folder = tmp_path_factory.mktemp("models") / "other"
    made = tiny_model("llama", seed=7)
    with quiet():
        made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def letters(lines) -> Path:
    """Thirty pairs of equally long nonsense: random models order them at random, and not alike."""
    rng = random.Random(0)
    words = ["".join(rng.choice("abcdefgh") for _ in range(6)) for _ in range(60)]
    return lines([{"prompt": f"Say {i}.", "chosen": a, "rejected": b} for i, (a, b) in enumerate(zip(words[::2], words[1::2]))])


def test_two_checkpoints_in_two_commands(valign, model, other, letters, tmp_path, whole):
    """Every row is the paired difference of the two result files, with raw and adjusted p and the detectable size."""
    from valign.evaluation.result import compare
    from valign.evaluation.results_file import read_results
    from valign.evaluation.statistics import benjamini_hochberg

    a, b = tmp_path / "a", tmp_path / "b"
    valign("evaluate", model, "--data", letters, "--out", a)
    done = valign("evaluate", other, "--data", letters, "--out", b, "--against", a, "--margin", "preference.accuracy=0.9")
    assert "paired 95 % interval" in done.stdout
    rows = {(r["metric"], r["variant"]): r for r in json.loads((b / "differences.json").read_text())["differences"]}
    one, two = ({(r.metric, r.variant): r for r in read_results(f / "result.json")} for f in (a, b))
    tested = []
    for key, row in rows.items():
        found = compare(two[key], one[key])
        if row["p"] is None:
            assert row["kind"] == "same", key
            continue
        tested.append(row)
        assert row["difference"] == pytest.approx(found.result.value) and row["p"] == found.p
        assert row["mde"] == pytest.approx(found.mde) and row["interval"]["low"] == pytest.approx(found.result.interval.low)
    assert tested
    assert [r["p_adjusted"] for r in tested] == pytest.approx(list(benjamini_hochberg([r["p"] for r in tested])))
    again = valign.json("diff", a, b / "result.json", "--margin", "preference.accuracy=0.9")
    assert {(r["metric"], r["variant"]): r for r in again["differences"]} == rows
    whole(b)


def test_wrong_comparisons_are_refused_before_anything_is_computed(valign, model, pairs, tmp_path):
    args = ("evaluate", model, "--data", pairs, "--out", tmp_path / "e")
    assert "no such file" in valign.error(*args, "--against", tmp_path / "nothing")
    assert "belongs to a comparison" in valign.error(*args, "--margin", "x=1", status=2)
    assert "METRIC=NUMBER" in valign.error(*args, "--against", tmp_path, "--margin", "x=-1", status=2)
    assert not (tmp_path / "e").exists()
    (tmp_path / "x.json").write_text("[]")
    assert "neither a report nor" in valign.error("diff", tmp_path / "x.json", tmp_path / "x.json")


def test_no_number_is_cut_in_a_narrow_terminal():
    """A cut p of 5.7e-06 would read 5.7."""
    from rich.console import Console

    from valign.report.diff import Change
    from valign.report.text import diff_table

    fields = dict.fromkeys(Change.__dataclass_fields__)
    one = {**fields, "subject": "tiny0 → runs/sft", "metric": "preference.implicit_reward", "variant": "preference_accuracy",
           "unit": "share", "before": 0.125, "after": 1.0, "difference": 0.875, "interval": {"low": 0.732, "high": 1.018},
           "p_adjusted": 5.7e-06, "kind": "better", "in_a": True, "in_b": True}  # fmt: skip
    with Console(width=80, file=io.StringIO()) as screen:
        screen.print(diff_table([Change(**one)]))
    said = screen.file.getvalue()
    for part in ("tiny0 → runs/sft", "5.7e-06", "0.125", "better", "+1.018]"):
        assert part in said


def test_a_look_on_the_way_is_decided_by_intervals_that_hold_at_every_look(valign, tmp_path):
    """Of 60 prompts where 400 are planned: what is plain is found, what is not stays undecided, and the intervals are wider."""
    import numpy as np

    from valign.evaluation.aggregate import summarize
    from valign.evaluation.result import Item
    from valign.evaluation.results_file import write_results

    rng = np.random.default_rng(0)
    for name, plain in (("a", 0.0), ("b", 1.0)):
        columns = {"plain": rng.normal(plain, 0.5, 60), "unclear": rng.normal(0, 0.5, 60) + 0.2 * plain}
        results = [
            summarize([Item(f"i{k}", f"i{k}", float(x)) for k, x in enumerate(scores)], metric=metric, variant="v", subject=name,
                      level="value", unit="score")
            for metric, scores in columns.items()
        ]  # fmt: skip
        write_results(results, tmp_path / name / "result.json")
    looks = [valign.json("diff", tmp_path / "a", tmp_path / "b", *more)["differences"] for more in ((), ("--planned", 400))]
    once, often = ({r["metric"]: r for r in rows} for rows in looks)
    assert often["plain"]["kind"] == "better" and often["unclear"]["kind"] == "undecided"
    assert {r["interval"]["method"] for r in often.values()} == {"always_valid"}
    for metric, row in once.items():
        wide, narrow = ((r["interval"]["high"] - r["interval"]["low"]) for r in (often[metric], row))
        assert wide > 1.2 * narrow and often[metric]["mde"] is None
    assert often["unclear"]["p"] > once["unclear"]["p"]
    said = valign("diff", tmp_path / "a", tmp_path / "b", "--planned", 400).stdout
    assert "undecided: measure more" in said and "hold at every look" in said
