"""Bad input meets one clear error (what, where, how) or a stated, counted skip; nothing is left
half-written.
"""

from __future__ import annotations

import contextlib
import errno
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

GOOD = [{"prompt": f"Question {i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(6)]


@pytest.fixture
def align(valign, model, tmp_path) -> Callable[..., tuple[Any, Path]]:
    """`align(data, *options, status=)`: valign align by DPO; the run and the folder that it was given."""

    def run(data: object, *options: object, method: str = "dpo", status: int = 0) -> tuple[Any, Path]:
        out = tmp_path / "out"
        done = valign("align", model, "--method", method, "--data", data, "--out", out, *options, status=status)
        assert "Traceback" not in done.stderr
        return done, out

    return run


@pytest.fixture
def raw(tmp_path) -> Callable[[bytes | str], Path]:
    def write(content: bytes | str) -> Path:
        path = tmp_path / "raw.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def text_of(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(r) + "\n" for r in rows)


# ------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ["raw.jsonl: the file is empty"]),
        (
            text_of(GOOD).encode() + b'{"prompt": "\xe9", "chosen": "a", "rejected": "b"}\n',
            ["raw.jsonl:7", "not UTF-8", "save"],
        ),
        (text_of(GOOD).encode("utf-16"), ["UTF-16", "save it again as UTF-8"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ["Git LFS pointer", "git lfs pull"]),
        (text_of([{"question": "x", "good": "y"}]).encode(), ["fit no known format", "rename the columns"]),
    ],
    ids=["empty", "encoding", "utf16", "pointer", "unknown format"],
)
def test_a_file_that_cannot_be_read_is_one_error(align, raw, content, says):
    done, out = align(raw(content), status=1)
    for part in says:
        assert part in done.stderr
    assert not out.exists()


def test_a_missing_file_is_one_error(align, tmp_path):
    done, out = align(tmp_path / "none.jsonl", status=1)
    assert "none.jsonl: no such file" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"prompt": "a", "chos', "line 7: the line ends in the middle of a JSON value"),
        ('{"prompt": "x", "chosen": "y"}\n', "line 7, rejected: is missing"),
        ('{"prompt": 3, "chosen": "y", "rejected": "z"}\n', "line 7, prompt"),
    ],
    ids=["half a line", "missing field", "wrong type"],
)
def test_a_row_that_cannot_be_read_is_left_out_counted_and_named(align, raw, row, says):
    done, _ = align(raw(text_of(GOOD) + row))
    assert "1 of 7 rows are left out" in done.stderr
    assert says in done.stderr
    assert "groups: 6 of 6" in done.stderr


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "x", "chosen": "y", "rejected": "y"}, "1 with chosen = rejected"),
        ({"prompt": "x", "chosen": "y", "rejected": ""}, "1 with an empty response"),
        ({"prompt": "x", "chosen": "y" * 700, "rejected": "z"}, "1 too long"),
    ],
    ids=["equal", "empty", "over the context"],
)
def test_a_pair_that_cannot_teach_is_left_out_and_counted(align, lines, row, reason):
    done, out = align(lines([*GOOD, row]))
    assert f"left out: {reason}" in done.stderr
    assert "groups: 6 of 7" in done.stderr
    events = [json.loads(x) for x in (out / "run" / "log.jsonl").read_text().splitlines()]
    assert any(e["event"] == "audit" and reason in e["text"] for e in events)


def test_data_of_such_pairs_alone_are_refused(align, lines):
    done, _ = align(lines([{"prompt": "x", "chosen": "y", "rejected": "y"}] * 3), status=1)
    assert "no group can be used" in done.stderr
    assert "3 with chosen = rejected" in done.stderr
    assert "valign data inspect" in done.stderr


LONG = {
    "prompt": "x " * 300,
    "chosen": "y",
    "rejected": "z",
}  # more characters than the tiny model has positions
LONG_ANSWER = {"prompt": "x", "chosen": "y" * 700, "rejected": "z"}


@pytest.mark.parametrize(
    ("row", "choice", "status", "says"),
    [
        (LONG_ANSWER, "error", 1, "the limit is 512"),
        (LONG_ANSWER, "drop", 0, "1 too long"),
        (LONG, "cut_prompt_left", 0, "audit ok cut: 3.2% of the responses"),
        (LONG_ANSWER, "cut_response", 0, "audit ok cut: 1.6% of the responses"),
        (LONG_ANSWER, "cut_prompt_left", 0, "1 response alone is too long"),
    ],
)
def test_a_response_over_the_context_meets_the_policy_that_was_named(align, lines, row, choice, status, says):
    rows = [{**GOOD[0], "prompt": f"Question {i}?"} for i in range(30)]
    done, _ = align(lines([*rows, row]), "--set", f"on_long={choice}", status=status)
    assert says in done.stderr


def test_a_run_that_would_cut_much_is_refused_before_it_trains(align, lines):
    done, out = align(lines([GOOD[0], LONG_ANSWER]), "--set", "on_long=cut_response", status=1)
    assert "the audit before step 0 refuses this run: cut: 25.0% of the responses" in done.stderr
    assert not (out / "policy.json").exists()


def test_evaluation_counts_what_it_cannot_score(valign, model, lines, tmp_path):
    rows = [*GOOD, LONG_ANSWER, {"prompt": "x", "chosen": "y", "rejected": "y"}]
    printed = valign.json(
        "evaluate",
        model,
        "--data",
        lines(rows),
        "--reference",
        model,
        "--out",
        tmp_path / "e",
        "--kl-prompts",
        0,
    )
    result = printed["results"][0]
    assert (result["n"], result["n_unscored"]) == (6, {"over_length": 1})
    assert any("1 pairs with chosen = rejected are left out" in note for note in result["notes"])


def test_labels_out_of_range_are_named(valign, model, situations, goal, vowels, tmp_path):
    rows = [json.loads(x) for x in situations.read_text().splitlines()]
    rows[0]["feedback"][0]["values"] = {"BE": 3}
    situations.write_text(text_of(rows))
    done = valign(
        "evaluate",
        model,
        "--data",
        situations,
        "--goal",
        goal,
        "--out",
        tmp_path / "e",
        "--max-new-tokens",
        2,
    )
    assert "1 of 6 rows are left out (line 1" in done.stderr
    assert "[-1, 1]" in done.stderr


# ---------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--set", "betta=1"], 2, ["method 'dpo' has no option 'betta'", "did you mean: beta?"]),
        (["--set", "beta=-1"], 1, ["beta = -1.0", "positive"]),
        (["--set", "beta"], 2, ["is not KEY=VALUE"]),
        (["--set", "beta=1", "--set", "beta=2"], 2, ["beta is given twice"]),
        (["--set", "batch_size=some"], 1, ["'some' is not an int"]),
        (["--set", "on_long=shorten"], 1, ["'shorten' is not a choice", "cut_response"]),
        (["--reward", "length"], 1, ["a reward has no effect"]),
        (["--set", "patience=1", "--set", "eval_every=1"], 1, ["has no effect without a dev split", "--dev"]),
        (["--goal", "core", "--goal", "hhh"], 2, ["2 goals are named: core, hhh", "composite"]),
        (["--goal", "schwartz11"], 2, ["schwartz10"]),
        (["--goal", "schwartz10:benevolense=1"], 2, ["benevolence"]),
        (["--goal", "schwartz10:benevolence"], 2, ["NAME=NUMBER"]),
        (["--dtype", "float12"], 2, ["float12", "bfloat16"]),
        (["--device", "abacus"], 1, ["abacus"]),
        (["--limit", "0"], 2, ["--limit", "greater than or equal to 1"]),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_an_option_that_is_wrong_or_would_be_ignored_is_an_error(align, pairs, options, status, says):
    done, out = align(pairs, *options, status=status)
    for part in says:
        assert part in done.stderr
    assert not (out / "policy.json").exists()


def test_an_unknown_method_is_an_error_with_the_nearest(align, pairs):
    done, _ = align(pairs, method="dpp", status=2)
    assert "unknown method 'dpp'" in done.stderr
    assert "did you mean: dpo" in done.stderr


def test_methods_that_train_need_data_and_others_say_that_they_read_none(valign, model, pairs, tmp_path):
    assert "--data FILE" in valign.error("align", model, "--method", "dpo", "--out", tmp_path / "a", status=2)
    said = valign("align", model, "--method", "urial", "--data", pairs, "--out", tmp_path / "b").stdout
    assert "learns from nothing: the data were not read" in said
    options = ("--dev", 0.2, "--data", pairs, "--out", tmp_path / "c")
    assert "--dev has no effect" in valign.error("align", model, "--method", "urial", *options, status=2)


def test_a_goal_whose_scorer_reads_another_theory_is_refused(valign, model, pairs, vowels, tmp_path):
    """Two parts of one goal that need different scorers: the one that is at hand does not fit the second."""
    goal = tmp_path / "both.yaml"
    dimensions = "{id: A, name: a, definition: being a}, {id: B, name: b, definition: being b}"
    own = f"{{id: own, version: 1, dimensions: [{dimensions}]}}"
    goal.write_text(
        "level: composite\nid: both\nrule: weighted\nparts:\n"
        "  - {weight: 1, goal: {level: value, theory: schwartz10, target: {benevolence: 1}}}\n"
        f"  - {{weight: 1, goal: {{level: value, theory: {own}, target: {{A: 1}}}}}}\n"
    )
    said = valign.error(
        "align", model, "--method", "grpo", "--data", pairs, "--goal", goal, "--out", tmp_path / "o", status=2
    )
    assert "the evaluator reads theory schwartz10, the goal needs own" in said


def test_data_on_which_nothing_can_be_measured_are_refused(valign, model, lines, tmp_path):
    said = valign.error("evaluate", model, "--data", lines([{"prompt": "x"}]), "--out", tmp_path / "e")
    assert "nothing can be measured" in said
    assert "--goal" in said


# ----------------------------------------------------------------------------------------------------- models


@pytest.fixture
def copied(model, tmp_path) -> Path:
    import shutil

    return Path(shutil.copytree(model, tmp_path / "copied"))


def test_models_that_are_not_whole_are_named(valign, copied, tmp_path):
    weights = copied / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    assert "model.safetensors" in valign.error("generate", copied, "x")
    weights.unlink()
    assert "no weights" in valign.error("generate", copied, "x")
    (copied / "config.json").unlink()
    assert "not a model folder" in valign.error("generate", copied, "x")
    assert "there is no model" in valign.error("generate", tmp_path / "nowhere", "x")


def test_a_run_that_is_not_finished_is_no_model(valign, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "request.json").write_text("{}")
    said = valign.error("generate", tmp_path, "x")
    assert "not finished" in said
    assert "run the same valign align command again" in said


def test_a_policy_folder_that_was_changed_is_refused(valign, model, tmp_path):
    folder = tmp_path / "words"
    valign("align", model, "--method", "urial", "--out", folder)
    manifest = json.loads((folder / "policy.json").read_text())
    for change, says in (
        ({"base": None}, "base is missing"),
        ({"base": str(folder)}, "its base"),
        ({"schema": 9}, "schema 9"),
    ):
        (folder / "policy.json").write_text(json.dumps({**manifest, **change}))
        assert says in valign.error("generate", folder, "x")


# ----------------------------------------------------------------------------------------- places to write to


def test_a_place_that_cannot_be_written_is_one_error(valign, model, pairs, tmp_path):
    """A file where a folder should be refuses every user, root too."""
    place = tmp_path / "file"
    place.write_text("mine")
    for out in (place, place / "below"):
        for command in (
            ("align", model, "--method", "dpo", "--data", pairs, "--out", out),
            ("evaluate", model, "--data", pairs, "--out", out),
        ):
            said = valign.error(*command)
            assert "cannot make the folder" in said
            assert "choose another --out" in said
    assert "cannot write" in valign.error("data", "convert", pairs, tmp_path / "no" / "such" / "folder.jsonl")
    assert place.read_text() == "mine"


def test_no_permission_is_one_error(valign, model, pairs, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "out"))

    monkeypatch.setattr(Path, "mkdir", refuse)
    said = valign.error("align", model, "--method", "dpo", "--data", pairs, "--out", tmp_path / "out")
    assert "Permission denied" in said
    assert "choose another --out" in said


def test_the_model_itself_and_another_model_are_never_overwritten(valign, model, copied, pairs):
    command = ("align", model, "--method", "dpo", "--data", pairs, "--out")
    assert "the very model" in valign.error(*command, model)
    assert "the very model" in valign.error(*command, model, "--force")
    assert "holds another model" in valign.error(*command, copied)


def test_a_second_run_in_the_same_folder_is_refused_while_one_runs(valign, model, pairs, tmp_path):
    from valign.engine.run import RunFolder

    out = tmp_path / "out"
    with RunFolder(out / "run"):
        said = valign.error("align", model, "--method", "dpo", "--data", pairs, "--out", out)
        assert "is writing here" in said
        assert "is writing here" in valign.error(
            "align", model, "--method", "dpo", "--data", pairs, "--out", out, "--force"
        )
    with RunFolder(out):
        assert "is writing here" in valign.error("evaluate", model, "--data", pairs, "--out", out)
    valign("align", model, "--method", "dpo", "--data", pairs, "--out", out)


# -------------------------------------------------------------------------------------------------- full disk


@contextlib.contextmanager
def small_files(limit: int) -> Iterator[None]:
    """Files cannot grow beyond `limit` bytes: the operating system refuses as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_while_the_policy_is_written_leaves_no_half_policy(valign, model, pairs, tmp_path, whole):
    out = tmp_path / "out"
    command = ("align", model, "--method", "dpo", "--data", pairs, "--out", out, "--set", "batch_size=6")
    with small_files(40_000):  # less than the weights, more than the log
        done = valign(*command, status=1)
    assert "the policy cannot be written" in done.stderr
    assert "run the same command again" in done.stderr
    assert "checkpoint not written" in done.stderr
    assert not (out / "policy.json").exists()
    whole(out)
    valign(*command)
    assert valign.json("generate", out, "x", "--max-new-tokens", 2)


def test_after_a_full_disk_the_last_checkpoint_is_continued(valign, model, pairs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = ("align", model, "--method", "dpo", "--data", pairs, "--out", out, "--set", "batch_size=6")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr("valign.models.policy_folder.save_model", full)
        assert "No space left on device" in valign(*command, status=1).stderr
    assert "continuing after step 2" in valign(*command).stderr


@pytest.mark.parametrize(
    "place",
    [
        "valign.evaluation.log.os.fsync",
        "valign.engine.run.os.fsync",
        "valign.evaluation.results_file.os.fsync",
    ],
)
def test_a_full_disk_while_evaluating_is_one_error_and_nothing_half(
    valign, model, pairs, tmp_path, monkeypatch, whole, place
):
    out = tmp_path / "e"
    command = ("evaluate", model, "--data", pairs, "--out", out, "--kl-prompts", 0)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(place, full)
        assert "No space left on device" in valign.error(*command)
    assert not (out / "result.json").exists()
    whole(out)
    assert valign.json(*command)["results"]


# ---------------------------------------------------------------------------------------- options and output folders

UNUSED = [
    ("evaluate {m} --data {p} --out {o} --beta 0.3", "--beta", "--reference"),
    ("evaluate {m} --data {p} --out {o} --kl-prompts 3", "--kl-prompts", "--reference"),
    ("evaluate {m} --data {p} --out {o} --samples 3", "--samples", "--goal"),
    ("evaluate {m} --data {p} --out {o} --reward length", "--reward", "--goal"),
    ("generate {m} Hi --goal core", "--goal", "leave it out"),
    ("generate {m} Hi --reward length", "--reward", "leave it out"),
    ("generate {m} Hi --raw --system Hello", "--system", "--raw"),
    ("tax {m} {m} --out {o} --samples 3", "--samples", "--reward"),
    ("explain {m} Hi --out {o} --reward length --beta 0.3", "--beta", "--reference"),
    ("explain {m} Hi --out {o} --reference {m} --by word", "--by", "--goal"),
    ("overopt worlds --out {o} --limit 3", "--limit", "leave it out"),
    ("report {m} --every 3", "--every", "--watch"),
    ("methods dpo --data {p}", "--data", "leave the name out"),
    ("plan-eval --accuracy 0.7 --correlation 0.5 --difference 0.04 --samples 4", "--samples", "--noise"),
    ("plan-eval --win-rate 0.6 --icc 0.3", "--icc", "--votes"),
]


@pytest.mark.parametrize(("line", "option", "mend"), UNUSED, ids=[line.split(" --")[0] + o for line, o, _ in UNUSED])
def test_an_option_without_effect_is_refused(valign, model, pairs, tmp_path, line, option, mend):
    out = tmp_path / "out"
    said = valign.error(*line.format(m=model, p=pairs, o=out).split(), status=2)
    assert f"{option}: it has no effect" in said
    assert mend in said
    assert not (out / "result.json").exists()


WRONG = [
    ("overopt {m} --proxy sentimen --gold length --data {p} --out {o}", 2, "unknown reward or goal 'sentimen'", "sentiment?"),
    ("tax {m} {m} --tasks {p} --out {o}", 1, "no group has checks or answer choices", "builtin:instructions#test"),
    ("efficiency {m} --method urial --sizes 2,4,8 --data {p} --test {p} --out {o}", 2, "urial learns from no data",
     "valign compare"),
    ("plan-eval --accuracy 0.7 --correlation 0.5 --difference 3", 2, "two shares cannot differ by 3", "--difference"),
    ("models --folder {o}", 2, "there is no such folder", "--out"),
    ("report {o}", 1, "there is no such file or folder", "report.json"),
    ("data convert {p} {p}", 2, "this is the file that is read", "another file"),
    ("data convert builtin:demonstrations {o} --to pairs", 2, "nothing in builtin:demonstrations becomes pairs", "rankings"),
    ("diff {p} {p}", 1, "not JSON", "name a folder of valign evaluate"),
    ("compare {p}9 --method dpo --data {p} --out {o}", 1, "there is no model", "known"),
]


@pytest.mark.parametrize(("line", "status", "what", "mend"), WRONG, ids=[line.split(" {")[0] for line, *_ in WRONG])
def test_a_wrong_name_is_one_error_and_nothing_is_written(valign, model, pairs, tmp_path, line, status, what, mend):
    out, before = tmp_path / "out", pairs.read_text()
    said = valign(*line.format(m=model, p=pairs, o=out).split(), status=status).stderr
    assert what in said
    assert mend in said
    assert "Traceback" not in said
    assert not out.exists()
    assert pairs.read_text() == before


def test_a_margin_of_an_unknown_metric_is_found_before_anything_is_computed(valign, model, pairs, tmp_path):
    valign("evaluate", model, "--data", pairs, "--out", tmp_path / "a")
    said = valign.error("evaluate", model, "--data", pairs, "--out", tmp_path / "b", "--against", tmp_path / "a", "--margin",
                        "misalignment.N=0.02", status=2)  # fmt: skip
    assert "does not have misalignment.N" in said
    assert "misalignment.M" in said
    assert not (tmp_path / "b").exists()


def test_a_profile_does_not_write_over_results_of_something_else(valign, model, pairs, tmp_path):
    valign("evaluate", model, "--data", pairs, "--out", tmp_path / "a")
    before = (tmp_path / "a" / "result.json").read_bytes()
    said = valign.error("profile", model, "--limit", 1, "--no-retest", "--out", tmp_path / "a")
    assert "the folder holds a run with other settings" in said
    assert "--force" in said
    assert (tmp_path / "a" / "result.json").read_bytes() == before
