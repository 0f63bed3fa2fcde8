"""What the documents show holds: samples are read, goals load, recipes parse, commands and names exist."""

from __future__ import annotations

import ast
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.name != "capabilities.md")]
BLOCK = re.compile(r"^```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"^(?:.* -m )?valign ")
MENTION = re.compile(r"`(valign [^`]+)`")
SAMPLE = re.compile(r"^### (?P<name>\w+)$(?P<body>.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """(page, text) of every code block of a language."""
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
            if match["language"] == language:
                yield page.name, match["text"]


def samples() -> dict[str, str]:
    """Format -> its sample in the page on data."""
    found = {}
    for section in SAMPLE.finditer((ROOT / "docs" / "data.md").read_text(encoding="utf-8")):
        block = BLOCK.search(section["body"])
        if block:
            found[section["name"]] = block["text"]
    return found


def command_lines() -> list[tuple[str, str]]:
    """(page, line from `valign` on) of every command that is shown in a block."""
    return [
        (page, "valign " + PROGRAM.sub("", line.split("  #")[0]).strip())
        for page, text in blocks("bash")
        for line in text.splitlines()
        if PROGRAM.match(line)
    ]


def mentions() -> list[tuple[str, str]]:
    """(page, words) of every command that a sentence names; it may leave out what the sentence does not need."""
    pages = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "docs" / "capabilities.md"]
    return sorted({
        (page.name, " ".join(found.split()))
        for page in pages
        for found in MENTION.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))
    })  # fmt: skip


def command_of(line: str):
    """(the command, its name, the words after it)."""
    import typer.main

    from valign.cli.app import app

    command, names, words = typer.main.get_command(app), [], shlex.split(line)[1:]
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        assert words[0] in command.commands, line
        names.append(words.pop(0))
        command = command.commands[names[-1]]
    return command, " ".join(names), words


def test_every_format_has_a_sample():
    from valign.data import READERS

    assert set(samples()) == set(READERS)


@pytest.mark.parametrize("name", sorted(samples()))
def test_a_sample_is_read_as_the_format_it_stands_under(name, tmp_path):
    from valign.data import read

    file = tmp_path / "sample"
    file.write_text(samples()[name], encoding="utf-8")
    found = read(file)
    assert found.format == name
    assert len(found) and not found.report.dropped


@pytest.mark.parametrize("page, text", list(blocks("yaml")))
def test_goal_files_and_recipes_are_valid(page, text):
    from valign.goals.loading import load_goal
    from valign.pipeline.recipe import parse

    content = yaml.safe_load(text)
    load_goal(content) if "level" in content else parse(content, page)


@pytest.mark.parametrize("page, text", list(blocks("python")))
def test_python_is_valid_and_its_names_exist(page, text):
    import importlib

    import valign

    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "va":
            assert node.attr in valign.__all__, f"{page}: va.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("valign."):
            home = importlib.import_module(str(node.module))
            assert all(hasattr(home, a.name) for a in node.names), f"{page}: {node.module}"


@pytest.mark.parametrize("page, line", command_lines())
def test_a_command_that_is_shown_is_one_that_the_program_takes(page, line):
    """Its options exist, their values have the right type, and nothing that is needed is missing."""
    command, name, words = command_of(line)
    command.make_context(name, words)


@pytest.mark.parametrize("page, line", mentions())
def test_a_command_that_a_sentence_names_exists_with_its_options(page, line):
    command, _, words = command_of(line)
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "--version"}
    assert {w.split("=")[0] for w in words if w.startswith("--")} <= known, f"{page}: {line}"


def test_every_page_is_in_the_navigation():
    """A page that no menu names is found by nobody."""
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("nav:", 1)[1]
    pages = [p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")]
    assert [p for p in pages if f" {p}\n" not in f"{nav}\n"] == []


def test_the_tiny_model_of_the_guide_is_made_aligned_and_measured(valign, tmp_path, monkeypatch):
    """Its code runs as it stands, and so do its commands that train and measure."""
    import json

    monkeypatch.chdir(tmp_path)
    (code,) = (text for page, text in blocks("python") if page == "tiny.md")
    exec(compile(code, "tiny.md", "exec"), {})
    shown = [shlex.split(line)[1:] for page, line in command_lines() if page == "tiny.md"]
    for words in shown:
        if words[0] in ("align", "evaluate"):
            valign(*words)
    results = json.loads(Path("runs/tiny/evaluation/result.json").read_text())["results"]
    assert {"preference.accuracy", "preference.implicit_reward", "kl.policy_reference"} <= {r["metric"] for r in results}
    assert all(r["n"] == 8 for r in results if r["metric"] == "preference.accuracy")


def test_every_command_and_option_stands_in_the_reference():
    import typer.main

    from valign.cli.app import app

    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")

    def check(command, name):
        assert name == "valign" or f"`{name}`" in page, f"{name} is missing; run: make commands"
        for option in (o for p in command.params for o in p.opts if o.startswith("--")):
            assert f"`{option}" in page, f"{name} {option} is missing; run: make commands"
        for child, sub in getattr(command, "commands", {}).items():
            check(sub, f"{name} {child}")

    check(typer.main.get_command(app), "valign")


def test_methods_page_names_every_method():
    from valign.methods.table import METHODS

    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert [name for name in METHODS if f"`{name}`" not in page] == []


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not target.endswith(".png"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_worked_example_is_right(golden):
    """The objective of "Add a method" meets the goldens of its paper."""
    import torch

    example = next(text for page, text in blocks("python") if page == "add_a_method.md" and "def ipo_sum" in text)
    names: dict[str, object] = {"__name__": "valign_example"}
    sys.modules["valign_example"] = types.ModuleType("valign_example")  # dataclasses look their module up by name
    exec(compile(example, "add_a_method.md", "exec"), names)
    for entry in golden.all("ipo_sum"):
        data = {k: torch.tensor(v, dtype=torch.float64) for k, v in entry["data"].items() if isinstance(v, list)}
        n = len(data["policy_chosen"])
        policy = torch.cat([data["policy_chosen"], data["policy_rejected"]])[:, None]
        reference = torch.cat([data["reference_chosen"], data["reference_rejected"]])[:, None]
        pairs = torch.stack([torch.arange(n), torch.arange(n) + n], 1)
        terms = names["ipo_sum"](policy, reference, torch.ones_like(policy), pairs, **entry["params"])
        assert terms.losses.tolist() == pytest.approx(entry["expected"]["loss"], rel=1e-9)
