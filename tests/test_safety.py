"""Safe by default: no foreign code, no pickles, no secrets on disk, no network, no markup from models."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SECRET = "hunter2"
ENDPOINT = f"openai:some-model@https://someone:{SECRET}@host.example/v1"


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return os.mkdir, (str(self.mark),)  # type: ignore[return-value]


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to look up or reach a host fails the test."""
    asked = []

    def refuse(*args: object, **_: object) -> None:
        asked.append(args)
        raise AssertionError(f"the network was asked for: {args}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    yield
    assert asked == []


def test_pickled_weights_are_refused_with_the_flag_that_allows_them(valign, model, tmp_path):
    import torch
    from safetensors.torch import load_file

    folder, mark = Path(shutil.copytree(model, tmp_path / "pickled")), tmp_path / "exploded"
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    for command in (
        ("generate", folder, "x"),
        ("evaluate", folder, "--data", "builtin:dilemmas", "--out", tmp_path / "e"),
    ):
        said = valign.error(*command)
        assert "pickled (pytorch_model.bin)" in said
        assert "--allow-pickle" in said
    assert not mark.exists()
    torch.save(weights, folder / "pytorch_model.bin")
    assert valign.json("generate", folder, "x", "--max-new-tokens", 2, "--allow-pickle")


def test_code_that_a_model_brings_runs_only_when_asked_for(valign, model, tmp_path):
    folder, mark = Path(shutil.copytree(model, tmp_path / "coded")), tmp_path / "ran"
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "homemade",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    assert "--trust-remote-code" in valign.error("generate", folder, "x")
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["goal", "recipe", "data"])
def test_files_hold_data_and_never_run_code(valign, model, pairs, tmp_path, kind):
    mark, file = tmp_path / "ran", tmp_path / f"{kind}.yaml"
    bomb = f"!!python/object/apply:os.mkdir ['{mark}']"
    if kind == "goal":
        file.write_text(f"level: value\ntheory: schwartz10\ntarget: {bomb}\n")
        said = valign.error("evaluate", model, "--data", pairs, "--goal", file, "--out", tmp_path / "o")
        assert "a tag is not allowed" in said
    elif kind == "recipe":
        file.write_text(f"name: x\nmethod: dpo\nnotes: {bomb}\n")
        assert "a tag is not allowed" in valign.error("run", file)
    else:
        data = tmp_path / "data.jsonl"
        data.write_bytes(pickle.dumps(Bomb(mark)))
        valign.error("data", "inspect", data)
    assert not mark.exists()


def test_a_policy_file_that_names_a_function_runs_it_only_when_the_user_names_it(valign, model, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def reward(prompt, response):\n    return len(response)\n")
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "best"
    reward = ("--reward", "python:mine.reward")
    valign("align", model, "--method", "best_of_n", "--set", "n=2", *reward, "--out", out)
    said = valign.error("generate", out, "x")
    assert "no file runs code" in said
    assert "--reward python:mine.reward" in said
    assert valign.json("generate", out, "x", "--max-new-tokens", 2, *reward)


def test_a_recipe_cannot_name_a_folder_outside_its_own(valign, pairs, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: x\ndata: {pairs}\nmethod: {{name: dpo, label: ../../elsewhere}}\n")
    assert "cannot name a method" in valign.error("run", recipe, status=2)


def test_what_models_say_is_escaped_in_pages(valign, model, lines, tmp_path, goal, vowels, monkeypatch):
    from valign.engine.local import LocalEngine

    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    real = LocalEngine.generate

    def generate(self, *args, **kwargs):
        from dataclasses import replace

        return [[replace(s, text=evil) for s in row] for row in real(self, *args, **kwargs)]

    monkeypatch.setattr(LocalEngine, "generate", generate)
    data, out = lines([{"prompt": f"{evil} {i}"} for i in range(3)]), tmp_path / "e"
    valign("evaluate", model, "--data", data, "--goal", goal, "--out", out, "--max-new-tokens", 2)
    assert evil in (out / "samples.jsonl").read_text()  # kept as it is where it is data
    page = Path(valign.json("report", out)["html"]).read_text()
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_credentials_never_reach_a_screen_or_a_file(valign, pairs, tmp_path, caplog):
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(f"name: x\nmodel: '{ENDPOINT}'\ndata: {pairs}\nmethod: dpo\nnotes: 'api_key={SECRET}'\n")
    printed = [
        valign("generate", ENDPOINT, "x", status=2),
        valign("generate", ENDPOINT, "x", "--json", status=2),
        valign("run", recipe, "--out", out, status=2),
        valign("run", recipe, "--out", out, "--set", f"method.password={SECRET}", status=2),
        valign("evaluate", ENDPOINT, "--data", pairs, "--out", tmp_path / "e", status=2),
    ]
    assert all(SECRET not in done.stdout + done.stderr for done in printed)
    assert "https://***@host.example" in printed[0].stderr
    assert SECRET not in caplog.text
    written = [p for folder in (out, tmp_path / "e") for p in folder.rglob("*") if p.is_file()]
    assert not out.exists(), "a run that is refused leaves nothing behind"
    assert [p for p in written if SECRET in p.read_text()] == []


def test_results_and_reports_hold_no_credentials(valign, model, pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: x\nmodel: {model}\ndata: {pairs}\nmethod: {{name: dpo, batch_size: 6}}\nnotes: 'at https://me:{SECRET}@host'\n"
        f"evaluate: {{data: {pairs}, kl_prompts: 0, max_new_tokens: 2}}\nout: {tmp_path / 'out'}\n"
    )
    valign("run", recipe)
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert {"report.json", "report.html", "recipe.json", "result.json"} <= {p.name for p in written}
    assert [p for p in written if SECRET.encode() in p.read_bytes()] == []


def test_what_a_model_said_is_printed_as_it_is(valign, model, monkeypatch):
    from dataclasses import replace

    from valign.engine.local import LocalEngine

    said, real = "the password: is a word, https://a:b@c is an address", LocalEngine.generate
    monkeypatch.setattr(
        LocalEngine,
        "generate",
        lambda self, *a, **k: [[replace(s, text=said) for s in row] for row in real(self, *a, **k)],
    )
    assert valign.json("generate", model, "x", "--max-new-tokens", 2)[0]["responses"][0]["text"] == said
    assert said in valign("generate", model, "x", "--max-new-tokens", 2).stdout


def test_aligning_and_measuring_ask_for_no_network(
    valign, model, pairs, situations, goal, vowels, tmp_path, no_network
):
    out = tmp_path / "out"
    valign("align", model, "--method", "dpo", "--data", pairs, "--out", out)
    valign(
        "evaluate",
        out,
        "--data",
        situations,
        "--reference",
        model,
        "--goal",
        goal,
        "--out",
        tmp_path / "e",
        "--max-new-tokens",
        4,
        "--kl-prompts",
        2,
    )
    valign("report", tmp_path / "e")
    valign(
        "align",
        model,
        "--method",
        "dpo",
        "--data",
        pairs,
        "--out",
        tmp_path / "lora",
        "--set",
        "adapter=lora",
    )


@pytest.mark.parametrize(("chosen", "off"), [(None, "True"), ("0", "False")])
def test_telemetry_is_off_before_a_library_could_read_the_switch(chosen, off):
    code = "import valign, huggingface_hub.constants as c; print(c.HF_HUB_DISABLE_TELEMETRY)"
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_DISABLE_TELEMETRY"}
    env |= {} if chosen is None else {"HF_HUB_DISABLE_TELEMETRY": chosen}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, env=env
    )
    assert done.stdout.strip() == off
