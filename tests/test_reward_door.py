"""Reward models through the doors: trained by a command, measured on held-out pairs, used wherever a reward is taken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import valign as va

SETTINGS = ("batch_size=4", "learning_rate=1e-2", "epochs=6")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Sixty pairs in which the polite answer is preferred."""
    rows = [{"prompt": f"Q{i}?", "chosen": f"yes {i}, thanks", "rejected": f"no {i}"} for i in range(60)]
    path = tmp_path_factory.mktemp("reward") / "pairs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def command(model, data):
    """The words of the command that trains."""
    settings = [x for s in SETTINGS for x in ("--set", s)]
    return ["align", model, "--method", "reward_model", "--data", data, "--dev", 0.2, *settings, "--out", data.parent / "rm"]


@pytest.fixture(scope="module")
def trained(valign, command):
    """What the command prints, as JSON."""
    return valign.json(*command)


@pytest.fixture(scope="module")
def folder(trained) -> Path:
    return Path(trained["reward"])


def test_align_writes_a_reward_model_with_its_held_out_accuracy(valign, trained, folder, command, whole, monkeypatch):
    """Folder, card, accuracy with interval on the dev split; asked for again, nothing is computed and the same is said."""
    manifest = json.loads((folder / "policy.json").read_text())
    assert (manifest["kind"], manifest["method"], trained["card"]["kind"]) == ("reward", "reward_model", "reward")
    assert manifest["sd"] > 0 and not (folder / "run" / "checkpoints").exists()
    whole(folder)
    accuracy = next(r for r in trained["results"] if r["metric"] == "reward.accuracy")
    assert accuracy["value"] == 1.0 and accuracy["n"] == 12 and accuracy["interval"]["low"] > 0.7
    stored = json.loads((folder / "evaluation" / "result.json").read_text())
    assert {r["metric"] for r in stored["results"]} >= {"reward.accuracy", "reward.log_loss", "reward.ece"}
    monkeypatch.setattr("valign.pipeline.align.train_reward", None)  # calling it would fail
    said = valign(*command).stdout
    assert "reward.accuracy (score)  1.000 [" in said and f"reward model: {folder}" in said
    assert "finished before" in said


def test_best_of_n_chooses_by_the_folder_and_finds_it_from_anywhere(valign, model, folder, tmp_path, monkeypatch):
    best = tmp_path / "best"
    monkeypatch.chdir(folder.parent)
    valign("align", model, "--method", "best_of_n", "--set", "n=3", "--reward", folder.name, "--out", best)
    monkeypatch.chdir(tmp_path)
    policy, base, reward = va.load(best), va.load(model), va.reward(folder)
    sampling = va.Sampling(max_new_tokens=5, seed=1)
    prompt = va.user("Q?")
    drawn = base.generate([prompt], va.Sampling(n=3, max_new_tokens=5, seed=1))[0]
    group = va.Group("g", prompt, tuple(va.Response(s.text, ids=s.ids, finish=s.finish) for s in drawn))
    (chosen,) = policy.generate([prompt], sampling)[0]
    assert chosen.ids == drawn[int(np.argmax(reward.score([group])[0]))].ids
    assert valign.json("generate", best, "Q?", "--max-new-tokens", 3)[0]["responses"]


def test_grpo_and_a_preference_goal_take_it(valign, model, folder, data, tmp_path):
    """As --reward, and as the scorer of a goal: in words on the command line, in a file, in a recipe's mapping."""
    small = ("--set", "max_new_tokens=4", "--set", "group_size=3", "--set", "max_steps=1", "--set", "batch_size=2")
    made = valign.json("align", model, "--method", "grpo", "--data", data, "--reward", folder, *small, "--out", tmp_path / "g")
    assert made["card"]["method"] == "grpo"
    file = tmp_path / "liked.yaml"
    file.write_text(f"id: liked\nlevel: preference\nreward_model: {folder}\n")
    named, read = va.goal(f"preference:reward_model={folder}"), va.goal(file)
    groups = list(va.read(data))[:3]
    reward = va.reward(folder)
    for goal in (named, read, va.goal(read.to_json())):
        assert all(np.array_equal(a, b) for a, b in zip(goal.utility(groups), reward.score(groups)))
    assert va.goal(read.to_json()).fingerprint() == read.fingerprint() != va.goal({"level": "preference"}).fingerprint()
    args = ("align", model, "--method", "best_of_n", "--set", "n=2", "--goal", file, "--out", tmp_path / "b")
    valign(*args)
    assert va.load(tmp_path / "b").goal.fingerprint() == read.fingerprint(), "the goal is stored with its reward model"


def test_evaluating_the_goal_measures_its_reward_model(valign, model, folder, data, tmp_path):
    """Held-out accuracy of the reward beside what the model's own answers score under it."""
    found = valign.json("evaluate", model, "--data", data, "--goal", f"preference:reward_model={folder}", "--limit", 8,
                        "--max-new-tokens", 4, "--kl-prompts", 0, "--out", tmp_path / "e")["results"]  # fmt: skip
    accuracy = next(r for r in found if r["metric"] == "reward.accuracy")
    assert accuracy["value"] == 1.0 and accuracy["n"] == 8 and accuracy["interval"] is not None
    assert any(r["metric"] == "goal.utility" for r in found)


def test_a_reward_model_is_not_taken_for_a_policy(valign, model, folder, data, tmp_path):
    """One clear error for each door that wants a policy, and for a policy where a reward is wanted."""
    for args in (("generate", folder, "hello"),
                 ("evaluate", folder, "--data", data, "--out", tmp_path / "a"),
                 ("align", folder, "--method", "dpo", "--data", data, "--out", tmp_path / "b")):  # fmt: skip
        said = valign.error(*args)
        assert "scores responses and generates none" in said and "--reward" in said
    said = valign.error("align", model, "--method", "best_of_n", "--reward", model, "--out", tmp_path / "c")
    assert "not a policy folder" in said
    said = valign.error("compare", model, "--method", "reward_model", "--data", data, "--out", tmp_path / "d")
    assert "cannot be compared with policies" in said and "reward_model: DIR" in said
    policy = va.load(model)
    with pytest.raises(va.ValignError, match=r"va\.train_reward"):
        va.align(policy, va.Target(), "reward_model", list(va.read(data)))
    with pytest.raises(va.ValignError, match=r"va\.align"):
        va.train_reward(policy, list(va.read(data)), method="dpo")


def test_from_python_with_rankings(model, data, tmp_path):
    """`va.train_reward` gives a reward at once, and in a folder the same again; labels may come from a goal."""
    from valign.data.group import Ranking

    groups = [
        va.Group(g.id, g.prompt, (*g.responses, va.Response("?")), (Ranking(order=((0,), (1,), (2,))),))
        for g in list(va.read(data))[:8]
    ]
    policy = va.load(model)
    found = va.train_reward(policy, groups, method="reward_plackett_luce", out=tmp_path / "rm", batch_size=4)
    scores = found.score(groups)
    assert np.allclose(np.concatenate(va.reward(tmp_path / "rm").score(groups)), np.concatenate(scores), atol=1e-4)
    assert abs(np.concatenate(scores).mean()) < 1e-4
    assert va.METHODS["reward_plackett_luce"].makes_reward


def test_methods_shows_the_settings(valign):
    said = valign("methods", "reward_model").stdout
    assert "1e-05 full weights, 0.0001 adapter" in said and "0.01 is usual" in said and "learns from pairs" in said
