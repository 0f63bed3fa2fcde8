"""An option that a command would not read, as it is asked here, is refused by name; a default is not given."""

from __future__ import annotations

import json

import pytest
import typer

from valign.cli import app
from valign.cli.instruments import OF_A_MODEL
from valign.cli.options import LOADING

SERVER = "openai:big@http://localhost:1/v1"
OUT = ("--out", "nowhere")
PRICED = {"--max-cost": 1, "--price-read": 1, "--price-generated": 1}
LOADED = {"--device": "cpu", "--dtype": "float32", "--allow-pickle": None, "--trust-remote-code": None}

IDLE = [
    # the worlds of the over-optimization bench have no model
    *((("overopt", "worlds", *OUT), (option, value)) for option, value in {
        "--proxy": "length", "--gold": "hhh_like", "--data": "builtin:dilemmas", "--samples": 32, "--max-new-tokens": 40,
        "--limit": 3, **PRICED, **LOADED}.items()),
    # there is nothing to compare with, to judge or to cut
    (("evaluate", "m", "--data", "d", *OUT), ("--beta", 0.1)),
    (("evaluate", "m", "--data", "d", *OUT), ("--kl-prompts", 4)),
    (("evaluate", "m", "--data", "d", *OUT), ("--samples", 1)),
    (("evaluate", "m", "--data", "d", *OUT), ("--temperature", 0.7)),
    (("evaluate", "m", "--data", "d", *OUT), ("--risk", "toxicity")),
    (("tax", "m", "n", *OUT), ("--samples", 2)),
    (("tax", "m", "n", *OUT), ("--kl-prompts", 4)),
    (("explain", "m", "Why?", "--goal", "core", *OUT), ("--beta", 0.2)),
    (("explain", "m", "Why?", "--goal", "core", *OUT), ("--limit", 2)),
    (("explain", "m", "Why?", "--reference", "n", *OUT), ("--by", "word")),
    (("explain", "m", "Why?", "--reference", "n", *OUT), ("--threshold", 0)),
    (("efficiency", "m", "--method", "sft", "--data", "d", "--test", "t", *OUT), ("--samples", 2)),
    # another form of the command reads it
    (("generate", "m", "Once", "--raw"), ("--system", "Be brief.")),
    (("report", "folder"), ("--every", 2)),
    (("methods", "dpo"), ("--model", "m")),
    (("methods", "dpo"), ("--data", "d")),
    (("methods", "dpo"), ("--goal", "core")),
    (("profile", "m", "--items", "i.jsonl", "--instrument", "pvq40"), ("--limit", 2)),
    # a method that trains nothing
    (("align", "m", "--method", "urial", *OUT), ("--limit", 4)),
    (("align", "m", "--method", "urial", *OUT), ("--seed", 0)),
    (("align", "m", "--method", "best_of_n", "--reward", "length", *OUT), ("--track", "tensorboard")),
    (("compare", "m", "--method", "urial", *OUT), ("--seeds", 3)),
    # an endpoint loads nothing
    *((("generate", SERVER, "x"), pair) for pair in LOADED.items()),
    (("evaluate", SERVER, "--data", "d", *OUT), ("--device", "cpu")),
    (("profile", SERVER, "--against", SERVER), ("--dtype", "auto")),
    (("tax", SERVER, SERVER, *OUT), ("--device", "cpu")),
    (("overopt", SERVER, *OUT), ("--device", "cpu")),
    (("generality", SERVER, "--goal", "core", "--data", "d", *OUT), ("--device", "cpu")),
    (("explain", SERVER, "Why?", "--goal", "core", *OUT), ("--device", "cpu")),
    (("efficiency", SERVER, "--method", "sft", "--data", "d", "--test", "t", *OUT), ("--dtype", "float32")),
    (("align", SERVER, "--method", "urial", *OUT), ("--device", "cpu")),
    (("compare", SERVER, "--method", "urial", *OUT), ("--device", "cpu")),
    (("goal", "standardize", "g.yaml", "--model", SERVER, "--data", "d", *OUT), ("--device", "cpu")),
]  # fmt: skip


@pytest.mark.parametrize(("command", "option"), IDLE, ids=lambda x: " ".join(map(str, x)))
def test_an_option_that_has_no_effect_here_is_refused_by_its_name(valign, tmp_path, monkeypatch, command, option):
    """Before anything is loaded or written, also where it repeats the default, with what to do instead."""
    monkeypatch.chdir(tmp_path)
    name, value = option
    said = valign.error(*command, *((name,) if value is None else option), status=2)
    head, *how = said.strip().splitlines()
    assert head.startswith(f"valign: {name}: ") and "has no effect" in head and how
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["merge", "agree"])
def test_options_of_the_list_of_models_do_not_vanish_before_another_word(valign, word):
    for option in (("--folder", "elsewhere"), ("--json",)):
        done = valign("models", *option, word, "a", "b", status=2)
        said = done.stderr + done.stdout
        assert "it has no effect" in said and option[0] in said


def test_every_option_of_overopt_is_read_or_refused_for_the_worlds():
    """A new option must be placed: the worlds read it, or it is of a model."""
    command = typer.main.get_command(app).commands["overopt"]  # type: ignore[attr-defined]
    names = {p.name for p in command.params if p.name != "help"}
    assert names == {*OF_A_MODEL, "model", "out", "seed", "force", "as_json"} and set(LOADING) <= set(OF_A_MODEL)


def test_the_worlds_write_into_no_folder_of_something_else(valign, tmp_path):
    """--force is read: it alone starts again in a folder that holds another run."""
    (tmp_path / "section.json").write_text("{}")
    assert "something else" in valign.error("overopt", "worlds", *("--out", tmp_path), status=2)
    valign("overopt", "worlds", "--out", tmp_path, "--force")
    assert "other settings" in valign.error("overopt", "worlds", "--out", tmp_path, "--seed", 1)
    assert json.loads((tmp_path / "section.json").read_text())["id"] == "overopt_worlds"


def test_a_goal_or_reward_that_the_policy_does_not_read_is_refused(valign, model, pairs, tmp_path):
    """Weights answer alone; a policy that chooses by a reward takes another one; the words of one cannot be scored by one."""
    for option in (("--goal", "core"), ("--reward", "length")):
        said = valign.error("generate", model, "x", *option, status=2)
        assert f"{option[0]}: it has no effect" in said and "best_of_n" in said
    said = valign.error("evaluate", model, "--data", pairs, "--reward", "length", "--out", tmp_path / "e", status=2)
    assert "--reward: it has no effect" in said and not (tmp_path / "e").exists()
    words, best = tmp_path / "words", tmp_path / "best"
    valign("align", model, "--method", "value_instruction", "--goal", "core", "--out", words)
    valign("align", model, "--method", "best_of_n", "--set", "n=2", "--reward", "length", "--out", best)
    assert "value_instruction does not read it" in valign.error("generate", words, "x", "--reward", "length", status=2)
    assert valign.json("generate", words, "x", "--goal", "hhh", "--max-new-tokens", 2)[0]["responses"]
    assert valign.json("generate", best, "x", "--reward", "toxicity", "--max-new-tokens", 2)[0]["responses"]


def test_nothing_that_asks_for_nothing_is_refused(valign, model, pairs, tmp_path):
    """--kl-prompts 0 says that no KL is wanted, and none is measured."""
    assert valign.json("evaluate", model, "--data", pairs, "--kl-prompts", 0, "--out", tmp_path / "e")["results"]


def test_an_option_that_the_data_made_idle_is_told(valign, model, pairs, tmp_path):
    """What only the work itself shows: pairs have their answers, and nothing is sampled for them."""
    options = ("--limit", 2, "--samples", 2, "--max-new-tokens", 9, "--out")
    said = valign("explain", model, "--data", pairs, "--reward", "length", *options, tmp_path / "e").stderr
    assert "--samples had no effect" in said and "--max-new-tokens had no effect" in said and "--seed" not in said
    options = ("--limit", 2, "--max-new-tokens", 9, "--out")
    said = valign("evaluate", model, "--data", pairs, *options, tmp_path / "m").stderr
    assert "--max-new-tokens had no effect" in said
    said = valign("explain", model, "Why?", "--reward", "length", *options[2:4], "--out", tmp_path / "f").stderr
    assert "had no effect" not in said
