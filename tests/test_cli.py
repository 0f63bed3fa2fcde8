"""The command line as other programs use it: files, statuses and JSON documents that they rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from valign.data import read, split

COMMANDS = (
    *(
        "demo",
        "run",
        "align",
        "compare",
        "evaluate",
        "profile",
        "generate",
        "report",
        "methods",
        "theory",
        "doctor",
    ),
    *("data inspect", "data convert", "models", "models merge"),
)
RESULT_FIELDS = {"metric", "variant", "level", "value", "interval", "n", "n_unscored", "direction"}


@pytest.fixture(scope="module")
def aligned(valign, model, tmp_path_factory) -> Path:
    """A policy folder from DPO on twelve pairs."""
    folder = tmp_path_factory.mktemp("aligned")
    data = folder / "pairs.jsonl"
    rows = [{"prompt": f"Question {i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(12)]
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = folder / "dpo"
    settings = ("batch_size=4", "learning_rate=1e-3")
    valign(
        "align",
        model,
        "--method",
        "dpo",
        "--data",
        data,
        "--out",
        out,
        *(x for s in settings for x in ("--set", s)),
    )
    return out


# --------------------------------------------------------------------------------------------------- aligning


def test_align_writes_a_policy_folder_that_every_command_takes_for_a_model(valign, model, aligned, pairs, tmp_path):
    manifest = json.loads((aligned / "policy.json").read_text())
    assert (manifest["schema"], manifest["kind"], manifest["method"]) == (1, "weights", "dpo")
    assert not (aligned / "run" / "checkpoints").exists()
    assert valign.json("generate", aligned, "hello", "--max-new-tokens", 3)[0]["responses"][0]["tokens"] <= 3
    valign.json("evaluate", aligned, "--data", pairs, "--out", tmp_path / "e", "--kl-prompts", 0)
    again = valign.json("align", aligned, "--method", "sft", "--data", pairs, "--out", tmp_path / "on_top")
    assert again["card"]["base"] == str(aligned)
    listed = valign.json("models", "--folder", aligned.parent)
    assert str(aligned) in {m["name"] for m in listed}
    assert any(r["name"] == "dpo" and r["can_run"] for r in valign.json("methods", "--model", aligned, "--data", pairs))


def test_trained_folders_load_without_valign(valign, model, aligned, pairs, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from valign.models.loading import load_model

    tokenizer = AutoTokenizer.from_pretrained(aligned)
    plain = AutoModelForCausalLM.from_pretrained(aligned)
    ids = tokenizer("hello", return_tensors="pt").input_ids
    assert plain(ids).logits.equal(load_model(aligned).model(ids).logits)
    assert not plain(ids).logits.equal(load_model(model).model(ids).logits)


def test_an_adapter_is_merged_into_a_folder_of_full_weights(valign, model, pairs, tmp_path, monkeypatch):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter, merged = tmp_path / "lora", tmp_path / "merged"
    valign("align", model, "--method", "dpo", "--data", pairs, "--out", adapter, "--set", "adapter=lora",
           "--set", "batch_size=4", "--set", "learning_rate=1e-2")  # fmt: skip
    assert (adapter / "adapter_model.safetensors").exists()
    assert not (adapter / "model.safetensors").exists()
    monkeypatch.chdir(tmp_path)  # an adapter names its base so that it is found from anywhere
    assert valign.json("models", "merge", adapter, "--out", merged)["out"] == str(merged)
    ids = AutoTokenizer.from_pretrained(merged)("hello", return_tensors="pt").input_ids
    together = AutoModelForCausalLM.from_pretrained(merged)(ids).logits
    apart = AutoPeftModelForCausalLM.from_pretrained(adapter)(ids).logits
    assert together.allclose(apart, atol=1e-4)
    assert "merge" in valign.error("align", adapter, "--method", "sft", "--data", pairs, "--out", tmp_path / "x")


def test_methods_that_wrap_write_folders_that_are_found_from_anywhere(
    valign, model, goal, vowels, tmp_path, monkeypatch
):
    monkeypatch.chdir(model.parent)  # the model is named by a relative path
    words, best = tmp_path / "words", tmp_path / "best"
    valign("align", model.name, "--method", "value_instruction", "--goal", goal, "--out", words)
    valign("align", words, "--method", "best_of_n", "--set", "n=2", "--reward", "length", "--out", best)
    monkeypatch.chdir(tmp_path)
    said = valign.json("generate", best, "hello", "--max-new-tokens", 3)
    assert len(said[0]["responses"]) == 1
    kinds = {m["name"]: m["kind"] for m in valign.json("models", "--folder", tmp_path)}
    assert (kinds[str(words)], kinds[str(best)]) == ("context", "decoding")


def test_a_finished_run_is_not_computed_again(valign, model, aligned, monkeypatch):
    data = aligned.parent / "pairs.jsonl"
    settings = ("--set", "batch_size=4", "--set", "learning_rate=1e-3")
    before = {p: p.stat().st_mtime_ns for p in aligned.iterdir() if p.is_file()}
    monkeypatch.setattr("valign.pipeline.align.train_policy", None)  # calling it would fail
    done = valign("align", model, "--method", "dpo", "--data", data, "--out", aligned, *settings)
    assert "nothing was computed" in done.stdout
    assert {p: p.stat().st_mtime_ns for p in aligned.iterdir() if p.is_file()} == before


def test_other_settings_in_the_same_folder_are_refused_with_what_changed(valign, model, aligned, pairs):
    said = valign.error("align", model, "--method", "dpo", "--data", pairs, "--out", aligned, "--set", "beta=0.3")
    for part in (
        "batch_size (4 -> 64)",
        "beta (0.1 -> 0.3)",
        "learning_rate (0.001 -> none)",
        "data (",
        "--force",
    ):
        assert part in said


def test_force_starts_again_and_leaves_nothing_of_the_old_policy(valign, model, pairs, tmp_path, whole):
    out, command = tmp_path / "out", ("align", model, "--method", "dpo", "--data", pairs)
    valign(*command, "--out", out, "--set", "adapter=lora")
    (out / "notes.txt").write_text("mine")
    valign(*command, "--out", out, "--force")
    assert not list(out.glob("adapter*"))  # transformers would load it on top of the weights
    assert (out / "model.safetensors").exists()
    assert (out / "notes.txt").read_text() == "mine"
    whole(out)


def test_a_run_that_was_refused_can_be_asked_for_differently(valign, model, lines, tmp_path):
    rows = [
        {"prompt": "x", "chosen": "y" * 700, "rejected": "z"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
    ]
    command = ("align", model, "--method", "dpo", "--data", lines(rows), "--out", tmp_path / "out")
    assert "cut" in valign(*command, "--set", "on_long=cut_response", status=1).stderr
    valign(*command, "--set", "on_long=drop")  # nothing was trained, so nothing is lost


def test_early_stopping_keeps_the_best_policy_on_the_dev_split(valign, model, lines, tmp_path):
    """The held-out pairs prefer the opposite: every step makes them worse, so the first evaluation is the best."""
    rows = [{"id": f"g{i}", "prompt": f"Question {i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(12)]
    held = {g.id for g in split(list(read(lines(rows, "straight.jsonl"))), 0.25)[1]}
    assert len(held) == 3
    turned = [r | {"chosen": r["rejected"], "rejected": r["chosen"]} if r["id"] in held else r for r in rows]
    done = valign("align", model, "--method", "dpo", "--data", lines(turned, "turned.jsonl"), "--dev", 0.25,
                  "--out", tmp_path / "out", "--set", "batch_size=3", "--set", "eval_every=1", "--set", "patience=2",
                  "--set", "epochs=4", "--set", "learning_rate=0.05")  # fmt: skip
    events = [json.loads(x) for x in (tmp_path / "out" / "run" / "log.jsonl").read_text().splitlines()]
    evaluated = {e["step"]: e["loss"] for e in events if e["event"] == "eval"}
    best = min(evaluated, key=evaluated.__getitem__)
    assert max(evaluated) == best + 2 < max(e["steps"] for e in events if e["event"] == "step")
    assert f"the policy of step {best} is kept" in done.stderr


def test_data_are_mixed_by_weight(valign, model, lines, pairs, tmp_path):
    other = lines([{"prompt": f"Other {i}?", "chosen": "a", "rejected": "b"} for i in range(12)], "other.jsonl")
    done = valign("align", model, "--method", "dpo", "--data", f"{pairs}=0.25", "--data", f"{other}=0.75",
                  "--out", tmp_path / "out")  # fmt: skip
    assert "groups: 16 of 16" in done.stderr  # 12 of the one, 4 of the other


# ------------------------------------------------------------------------------------------------- evaluating


def test_evaluate_writes_results_that_other_programs_read(valign, model, aligned, pairs, tmp_path):
    out = tmp_path / "e"
    printed = valign.json("evaluate", aligned, "--data", pairs, "--reference", model, "--out", out,
                          "--kl-prompts", 2, "--max-new-tokens", 4)  # fmt: skip
    stored = json.loads((out / "result.json").read_text())
    assert stored["schema"] == 1
    assert [(r["metric"], r["variant"], r["value"]) for r in printed["results"]] == [
        (r["metric"], r["variant"], r["value"]) for r in stored["results"]
    ]
    found = {(r["metric"], r["variant"]): r for r in stored["results"]}
    for variant in ("sum", "mean"):
        r = found["preference.implicit_reward", variant]
        assert set(r) >= RESULT_FIELDS
        assert 0 <= r["value"] <= 1
        assert r["n"] == 12
        assert r["direction"] == "up"
        assert set(r["interval"]) == {"low", "high", "level", "method"}
    assert ("kl.policy_reference", "k1") in found
    assert (out / "samples.jsonl").exists()


def test_a_page_of_given_responses_shows_their_texts(valign, model, pairs, tmp_path):
    """Nothing is sampled: the folder keeps what was scored, and the page and the card say what ran."""
    from valign.report import items, read_whole

    out = tmp_path / "e"
    valign("evaluate", model, "--data", pairs, "--out", out)
    paths = valign.json("report", out, "--card")
    found = items.table(read_whole(paths["json"]))
    (id, *_) = next(m for m in found["measures"] if m["name"] == "misalignment.M")["ids"]
    assert found["prompts"][id][0]["content"].startswith("Question ")
    assert {g["label"]: g["text"][:3] for g in found["given"][id]} == {"chosen": "yes", "rejected": "no "}
    card = Path(paths["card"]).read_text(encoding="utf-8")
    assert "- engine: row" in card and "- quantization: none" in card and "sha256: " in card and "torch " in card
    assert str(tmp_path) not in (out / "texts.jsonl").read_text()


def test_a_goal_adds_its_utility_and_misalignment_and_the_samples(valign, model, situations, goal, vowels, tmp_path):
    out = tmp_path / "e"
    command = ("evaluate", model, "--data", situations, "--goal", goal, "--out", out, "--max-new-tokens", 6)
    printed = valign.json(*command)
    metrics = {r["metric"] for r in printed["results"]}
    assert {"goal.utility", "misalignment.M", "value.V", "value.reliability.split_half"} <= metrics
    samples = [json.loads(x) for x in (out / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 6
    assert set(samples[0]) >= {"id", "prompt", "responses", "score"}
    page = valign.json("report", out / "result.json")
    assert "Can these profiles be trusted?" in Path(page["html"]).read_text()
    lines = valign(*command).stdout.split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("value.reliability.split_half (free_answers)"))
    assert lines[at - 1].startswith("value.V (neutral)")
    (trust,) = [r for r in printed["results"] if r["metric"] == "value.reliability.split_half"]
    unread = trust["value"] is None or trust["value"] < 0.7
    assert lines[at + 1].startswith("! UNRELIABLE, do not read this profile") == unread


def test_a_finished_evaluation_is_read_and_another_one_refused(valign, model, pairs, tmp_path, monkeypatch):
    command = ("evaluate", model, "--data", pairs, "--out", tmp_path / "e", "--kl-prompts", 0)
    first = valign.json(*command)
    with monkeypatch.context() as m:
        m.setattr("valign.pipeline.door.evaluate_policy", None)
        assert valign.json(*command) == first
    assert "seed (0 -> 1)" in valign.error(*command, "--seed", 1)
    assert valign.json(*command, "--seed", 1, "--force")["results"][0]["value"] == first["results"][0]["value"]


def test_profile_writes_results_samples_and_a_page(valign, model, situations, goal, vowels, tmp_path):
    out = tmp_path / "p"
    command = ("profile", model, "--goal", goal, "--data", situations, "--max-new-tokens", 4, "--out", out)
    assert "value.V" in {r["metric"] for r in valign.json(*command)["results"]}
    assert len((out / "samples.jsonl").read_text().splitlines()) == 6
    assert (out / "report.html").exists()


# ------------------------------------------------------------------------------------------ the whole surface


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_speaks_json(valign, command):
    said = valign(*command.split(), "--help").stdout
    assert "--json" in said
    for line in said.splitlines():
        assert line.rstrip() == line or line.strip(), line


def test_options_stand_in_the_same_group_of_every_help_page(valign):
    """Each option has a group, an option of one name the same one everywhere, and a page its groups in one order."""
    import typer.main

    from valign.cli.app import app
    from valign.cli.options import ARGUMENTS, PANELS

    groups: dict[str, set[str]] = {}

    def look(command, words):
        for name, sub in getattr(command, "commands", {}).items():
            look(sub, [*words, name])
        if hasattr(command, "commands"):
            return
        page = valign(*words, "--help").stdout
        heads = [line[:-1] for line in page.splitlines() if line[:-1] in (ARGUMENTS, *PANELS)]
        assert heads == sorted(heads, key=[ARGUMENTS, *PANELS].index) and "Options:" not in page, words
        for param in command.params:
            if param.param_type_name == "option":
                panel = param.rich_help_panel
                assert panel in PANELS, f"{words} {param.opts[0]}"
                section = page.split(f"\n{panel}:\n", 1)[1].split("\n\n", 1)[0]
                assert f"  {param.opts[0]}" in section, f"{words} {param.opts[0]}"
                groups.setdefault(param.opts[0], set()).add(panel)

    look(typer.main.get_command(app), [])
    twice = {name: found for name, found in groups.items() if len(found) > 1}
    assert set(twice) == {"--n"}  # samples of a prompt, or items of a plan


def test_shell_completion_and_version_exist(valign):
    import valign as package

    assert "--install-completion" in valign("--help").stdout
    assert valign("--version").stdout.strip() == package.__version__


@pytest.mark.parametrize("command", ["methods", "methods dpo", "models", "theory", "doctor"])
def test_looking_commands_print_one_json_document(valign, command, monkeypatch):
    monkeypatch.setattr("valign.pipeline.doctor.ROOM", 0)  # whatever is free on this machine
    assert valign.json(*command.split())


def test_data_commands_print_one_json_document(valign, pairs, tmp_path):
    assert valign.json("data", "inspect", pairs)["groups"] == 12
    assert valign.json("data", "convert", pairs, tmp_path / "out.jsonl", "--to", "unpaired")["written"] == 12
    assert "groups: 12" in valign("data", "inspect", pairs).stdout


def test_every_option_of_every_method_has_a_meaning_and_its_default(valign):
    from valign.methods.table import METHODS

    for name in METHODS:
        described = valign.json("methods", name)
        assert [s["name"] for s in described["settings"] if not s["meaning"]] == [], name
        text = valign("methods", name).stdout
        assert all(f"{s['name']} = {s['default']!r}" in text for s in described["settings"])


def test_errors_are_json_too(valign, model, tmp_path):
    error = valign.json("align", model, "--method", "dppo", "--out", tmp_path / "x", status=2)["error"]
    assert "dppo" in error["what"]
    assert any("dpo" in line for line in error["how"])
    assert not (tmp_path / "x").exists()


def test_prompts_come_from_standard_input_too(valign, model):
    done = valign("generate", model, "--max-new-tokens", 2, "--json", input="one\n\ntwo\n")
    assert [x["prompt"] for x in json.loads(done.stdout)] == ["one", "two"]
    assert "no prompt" in valign("generate", model, input="", status=2).stderr


# ----------------------------------------------------------------------------------------- trackers, watching


class Writer:
    """What torch.utils.tensorboard would give."""

    made: ClassVar[list[Writer]] = []

    def __init__(self, folder: str) -> None:
        self.folder, self.rows, self.closed = folder, [], False
        Writer.made.append(self)

    def add_scalar(self, key: str, value: float, step: int) -> None:
        self.rows.append((key, value, step))

    def close(self) -> None:
        self.closed = True


def test_steps_go_to_a_tracker_that_was_named(valign, model, pairs, tmp_path, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    Writer.made.clear()
    out = tmp_path / "out"
    valign(
        "align",
        model,
        "--method",
        "dpo",
        "--data",
        pairs,
        "--out",
        out,
        "--track",
        "tensorboard",
        "--set",
        "batch_size=6",
    )
    (writer,) = Writer.made
    assert writer.closed
    assert writer.folder.startswith(str(out))
    assert {s for k, _, s in writer.rows if k == "step/loss"} == {1, 2}


def test_a_tracker_that_is_not_installed_is_an_error_with_the_line_that_installs_it(
    valign, model, pairs, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    command = ("align", model, "--method", "dpo", "--data", pairs, "--out", tmp_path / "out", "--track")
    assert "pip install 'valign[wandb]'" in valign.error(*command, "wandb", status=2)
    assert "did you mean: wandb" in valign.error(*command, "wandbb", status=2)
    assert not (tmp_path / "out").exists()


def test_a_finished_run_can_be_watched(valign, aligned):
    assert "(finished)" in valign("report", aligned, "--watch").stdout
    assert valign.json("report", aligned, "--watch")["state"] == "finished"
    assert (aligned / "run" / "watch.html").exists()


# ---------------------------------------------------------------------------------------------- exit statuses


def test_a_bug_of_ours_ends_with_status_3_a_traceback_and_no_secret():
    """The one process of its own: the entry point and its status."""
    code = (
        "import sys, valign.pipeline.doctor as d\n"
        "def fail(): raise ZeroDivisionError('at https://me:secret@host/v1')\n"
        "d.examine = fail\n"
        "sys.argv = ['valign', 'doctor']\n"
        "from valign.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 3
    assert "Traceback" in done.stderr
    assert "report it" in done.stderr
    assert "secret" not in done.stderr
    assert "https://***@host" in done.stderr


def test_a_result_line_says_what_unscored_items_could_change():
    """Above one percent of the items the ends stand beside their number."""
    from valign.cli.shared import result_line
    from valign.evaluation.aggregate import summarize
    from valign.evaluation.record import Item

    def line(unscored: int, scored: int) -> str:
        rows = [Item(f"a{i}", f"a{i}", float(i % 4 > 0)) for i in range(scored)]
        rows += [Item(f"b{i}", f"b{i}", None, "parse_failure") for i in range(unscored)]
        return result_line(summarize(rows, metric="m", variant="v", subject="s", level="value"))

    assert "n=8, 2 unscored (0.600 to 0.800 with them)" in line(2, 8)
    assert "n=400, 1 unscored, better" in line(1, 400)


@pytest.mark.parametrize("how", ["CPU", "GPU", "python", "a bug"])
def test_memory_that_runs_out_is_no_bug_of_ours(how, capsys):
    """Whoever says it, the CPU's allocator too, which has no exception of its own; other runtime errors stay bugs."""
    import torch
    import typer

    from valign.cli.shared import errors

    said = {"GPU": torch.OutOfMemoryError("no memory left"), "python": MemoryError(), "a bug": RuntimeError("a bug")}
    with pytest.raises(RuntimeError if how == "a bug" else typer.Exit), errors(False):
        if how == "CPU":
            torch.empty(2**55)
        raise said[how]
    assert ("out of memory" in capsys.readouterr().err) == (how != "a bug")
