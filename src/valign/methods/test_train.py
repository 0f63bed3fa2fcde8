"""`train_policy`: every training method end to end on a tiny model, with full weights and with an adapter."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from valign.data.group import Comparison, Demonstration, Group, Response, user
from valign.engine import memory
from valign.engine.local import LocalEngine
from valign.engine.run import RunFolder
from valign.engine.scorer import Scorer
from valign.errors import DataError, ValignError
from valign.methods.table import METHODS
from valign.methods.target import Target
from valign.methods.train import train_policy
from valign.models.adapters import adapter_parameters, merge
from valign.models.loaded import memory_digest
from valign.models.policy import LocalPolicy
from valign.models.tiny import tiny_model

TRAINING = [n for n, m in METHODS.items() if m.trains and not m.makes_reward]  # those: test_train_reward.py


def vowels(groups):
    return [np.array([sum(c in "aeiou" for c in r.text) + 0.1 * len(r.text) for r in g.responses]) for g in groups]


def groups_for(feedback, n=6):
    """Groups with the feedback that a method learns from; only prompts for those that sample."""
    out = []
    for i in range(n):
        mark = {"demonstrations": Demonstration(response=0), "pairs": Comparison(chosen=0, rejected=1)}.get(feedback)
        responses = () if mark is None else (Response(f"yes {i}"), Response("no"))
        out.append(
            Group(id=f"g{i}", prompt=user(f"Why {i}?"), responses=responses, feedback=() if mark is None else (mark,))
        )
    return out


def trained(policy, folder, name, listen=None, dev=(), groups=None, **settings):
    method = METHODS[name]
    small = {"group_size": 3, "max_new_tokens": 5} if method.samples else {}
    config = method.configure({"learning_rate": 1e-2, "batch_size": 3, "max_steps": 2, **small, **settings})
    target = Target(reward=vowels) if method.samples else Target()
    given = groups_for(method.feedback) if groups is None else groups
    with RunFolder(folder) as run:
        return train_policy(method, policy, target, config, run, groups=given, dev=dev, on_event=listen)


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("name", TRAINING)
def test_the_policy_moves_and_the_one_it_came_from_stays(tiny_policy, tmp_path, name, adapter):
    before = memory_digest(tiny_policy.model.model)
    told = []
    found = trained(tiny_policy, tmp_path / "run", name, lambda event, f: told.append((event, f)), adapter=adapter)
    policy = found.policy
    assert memory_digest(tiny_policy.model.model) == before
    assert policy.id == f"{name}({tiny_policy.id})" and policy.kind == ("weights" if adapter == "none" else "adapter")
    assert policy.card()["method"] == name and policy.card()["base"] == tiny_policy.id
    assert found.outcome.steps == 2 and found.outcome.tokens_trained > 0
    assert not any(p.requires_grad for p in policy.model.model.parameters())
    probe = [Group(id="p", prompt=user("Why?"), responses=(Response("because"),))]
    a, b = (p.score(probe)[0][0].log_prob for p in (tiny_policy, policy))
    assert abs(a - b) > 1e-4
    audit = {f["name"]: f for event, f in told if event == "audit"}
    bad = [name for name, f in audit.items() if not f["ok"]]
    assert audit and bad in ([], ["responses end by themselves"]), "a random model may never stop"
    if METHODS[name].at_start is not None:
        assert audit["loss at start"]["text"] == "0.6931, known value 0.6931"


@pytest.mark.parametrize("name", TRAINING)
def test_a_run_that_was_cut_short_ends_where_a_whole_one_does(tiny_policy, tmp_path, name):
    """The same weights bit for bit: two steps of four, then the rest in the same folder."""
    settings = {"epochs": 2, "max_steps": 4, "schedule": "constant", "warmup": 0, "checkpoint_every": 1}
    whole = trained(tiny_policy, tmp_path / "whole", name, **settings).policy
    stop = 0

    def interrupt(event, fields):
        nonlocal stop
        if event == "checkpoint" and fields["step"] == 2 and not stop:
            stop = 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tiny_policy, tmp_path / "cut", name, interrupt, **settings)
    rest = trained(tiny_policy, tmp_path / "cut", name, **settings).policy
    pairs = zip(whole.model.model.parameters(), rest.model.model.parameters())
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_a_dev_split_is_evaluated(tiny_policy, tmp_path, name):
    told = []
    dev = groups_for(METHODS[name].feedback, 2)
    found = trained(tiny_policy, tmp_path / "run", name, lambda e, f: told.append((e, f)), dev=dev, eval_every=1)
    losses = [f["loss"] for event, f in told if event == "eval"]
    assert len(losses) == 2 and losses[1] < losses[0] and found.outcome.best == (2, pytest.approx(losses[1]))


def test_without_a_kl_term_no_reference_is_kept(tiny_policy, tmp_path):
    with_kl = trained(tiny_policy, tmp_path / "a", "rloo")
    without = trained(tiny_policy, tmp_path / "b", "rloo", beta=0)
    assert "kl" in with_kl.outcome.meters and "kl" not in without.outcome.meters


def test_rollouts_longer_than_the_model_reads_are_refused(tiny_policy, tmp_path):
    said = r"610 positions .* 600 for what comes after.* has 512: 6 of 6 prompts[\s\S]*lower max_new_tokens"
    with pytest.raises(ValignError, match=said):
        trained(tiny_policy, tmp_path / "a", "grpo", max_new_tokens=600)


def test_what_cannot_be_trained_says_why(tiny_policy, tmp_path, scripted):
    with pytest.raises(ValignError, match="only a local model"):
        trained(LocalPolicy(tiny_policy.model, scripted()), tmp_path / "a", "sft")
    with pytest.raises(ValignError, match="no prompts"):
        trained(tiny_policy, tmp_path / "b", "grpo", groups=[])
    with pytest.raises(DataError, match="learns from pairs"):
        trained(tiny_policy, tmp_path / "c", "dpo", groups=groups_for("demonstrations"))
    adapted = trained(tiny_policy, tmp_path / "d", "sft", adapter="lora").policy
    with pytest.raises(ValignError, match="on top of an adapter"):
        trained(adapted, tmp_path / "e", "sft")


def test_rewards_that_never_differ_are_refused_before_step_0(tiny_policy, tmp_path):
    method = METHODS["grpo"]
    config = method.configure({"group_size": 3, "max_new_tokens": 4, "max_steps": 1})
    target = Target(reward=lambda groups: [np.zeros(len(g.responses)) for g in groups])
    with RunFolder(tmp_path / "run") as run, pytest.raises(ValignError, match="reward varies"):
        train_policy(method, tiny_policy, target, config, run, groups=groups_for("reward"))


def test_the_memory_plan_stands_in_the_audit_and_is_kept(tiny_policy, tmp_path):
    """Chosen once: a run that continues cuts its micro-batches where it cut them before."""
    told = []
    found = trained(tiny_policy, tmp_path / "run", "dpo", lambda e, f: told.append((e, f)))
    line = next(f for event, f in told if event == "audit" and f["name"] == "memory")
    assert line["ok"] and "token budget 1024" in line["text"]
    kept = json.loads((tmp_path / "run" / "memory.json").read_text())
    assert kept["token_budget"] == 1024 and found.planned == kept["peak"] > sum(kept["terms"].values())
    (tmp_path / "run" / "memory.json").write_text(json.dumps({**kept, "token_budget": 300, "peak": 7}))
    assert trained(tiny_policy, tmp_path / "run", "dpo").planned == 7


@pytest.mark.proof("E3")
@pytest.mark.parametrize("name", ["dpo", "grpo"])
def test_activation_checkpointing_changes_no_weight(tiny_policy, tmp_path, name):
    """E3 through whole runs: blocks computed again end at bitwise the same policy, and the audit says that they were."""
    told: list[str] = []
    off = trained(tiny_policy, tmp_path / "off", name, activation_checkpointing="off")
    on = trained(tiny_policy, tmp_path / "on", name, lambda e, f: told.append(f.get("text", "")), activation_checkpointing="on")
    assert on.policy.model.digest == off.policy.model.digest != tiny_policy.model.digest
    assert any("blocks are computed again" in t for t in told)


@pytest.mark.parametrize("name", ["dpo", "grpo"])
def test_compile_reaches_the_blocks_that_are_trained(tiny_policy, tmp_path, monkeypatch, name):
    """The scorer of the run asks for compiled blocks, and only when it is told to; E14 says what they compute."""
    bodies = []
    monkeypatch.setattr("valign.engine.scorer.compiled_blocks", lambda body: bodies.append(body) or {})
    trained(tiny_policy, tmp_path / "off", name)
    assert not bodies
    trained(tiny_policy, tmp_path / "on", name, compile=True)
    assert bodies


@pytest.mark.parametrize("name", TRAINING)
def test_a_run_that_cannot_fit_is_refused_before_step_0(tiny_policy, tmp_path, monkeypatch, name):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(ValignError, match="memory: .* the largest part is"):
        trained(tiny_policy, tmp_path / "run", name)
    assert not any((tmp_path / "run" / "checkpoints").glob("*"))


def test_the_reference_of_rollouts_is_no_second_copy(tiny_policy, tmp_path):
    """The policy that the caller holds is the reference: with full weights nothing but it is planned beside the one that
    moves, with an adapter nothing at all."""
    terms = {}
    for adapter in ("none", "lora"):
        trained(tiny_policy, tmp_path / adapter, "grpo", adapter=adapter)
        terms[adapter] = json.loads((tmp_path / adapter / "memory.json").read_text())["terms"]
    weights = sum(p.numel() * p.element_size() for p in tiny_policy.model.model.parameters())
    assert (terms["none"]["other copies"], terms["lora"]["other copies"]) == (weights, 0)


@pytest.mark.proof("E9")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["dpo", "grpo"])
def test_with_an_adapter_there_is_one_model(tmp_path, name, dtype):
    """Base weights lie in memory once, before and after, in the caller's dtype; merging leaves the caller's untouched."""
    start = LocalPolicy(tiny_model("llama", dtype=dtype), LocalEngine())
    base = {n: (p.data_ptr(), p.detach().clone()) for n, p in start.model.model.named_parameters()}
    found = trained(start, tmp_path / "run", name, adapter="lora").policy
    own = {id(p) for p in adapter_parameters(found.model).values()}
    rest = [p for p in found.model.model.parameters() if id(p) not in own]
    assert {p.data_ptr() for p in rest} == {where for where, _ in base.values()} and len(rest) == len(base)
    merged = merge(found.model)
    assert merged.dtype == torch.float32
    for name_, p in start.model.model.named_parameters():
        assert p.data_ptr() == base[name_][0] and torch.equal(p, base[name_][1])


def test_another_run_scores_no_reference_again(tiny_policy, tmp_path, monkeypatch):
    """What one run scored, the next one reads, whatever its folder and its settings."""
    monkeypatch.setenv("VALIGN_REFERENCES", str(tmp_path / "references"))
    scored = []
    real = Scorer.batches
    monkeypatch.setattr(Scorer, "batches", lambda s, trees, **o: scored.append(len(trees)) or real(s, trees, **o))
    trained(tiny_policy, tmp_path / "a", "dpo")
    trained(tiny_policy, tmp_path / "b", "dpo", learning_rate=1e-3, token_budget=64)
    assert scored == [6, 0]


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_rollouts_from_a_server_train_like_ones_own(tiny_policy, tmp_path, serve, name):
    """One step on samples of a server of the same weights: the audit names both laws, the weights move, and a second step,
    whose samples would be old, is refused unless it is allowed."""
    server = serve(tiny_policy.model)
    told = []
    found = trained(tiny_policy, tmp_path / "a", name, lambda e, f: told.append((e, f)), max_steps=1,
                    rollouts=server.named())  # fmt: skip
    assert {path for path, _, _ in server.seen} == {"/v1/completions"} and len(server.seen) == 9
    line = next(f for e, f in told if e == "audit" and f["name"] == "sampler = trainer")
    assert line["ok"] and "KL(sampler‖trainer)" in line["text"]
    assert found.outcome.steps == 1 and found.outcome.meters["sampler_kl"] < 1e-6 and found.outcome.meters["lag"] == 0
    probe = [Group(id="p", prompt=user("Why?"), responses=(Response("because"),))]
    a, b = (p.score(probe)[0][0].log_prob for p in (tiny_policy, found.policy))
    assert abs(a - b) > 1e-4
    with pytest.raises(ValignError, match="1 steps old"):
        trained(tiny_policy, tmp_path / "b", name, rollouts=server.named())
    old = trained(tiny_policy, tmp_path / "c", name, rollouts=server.named(), max_lag=1, max_sampler_kl=5.0)
    assert old.outcome.meters["lag"] == 1 and old.outcome.meters["sampler_kl"] > 1e-6
    with pytest.raises(ValignError, match="step 1, vllm:.*too far apart"):
        trained(tiny_policy, tmp_path / "d", name, rollouts=server.named(), max_lag=1, max_sampler_kl=1e-6)


def test_the_own_sampler_is_looked_at_while_training(tiny_policy, tmp_path):
    """`audit_every`: at the steps it names, and only there; sampler and trainer agree after an update too."""
    steps = []
    trained(tiny_policy, tmp_path / "run", "rloo", lambda e, f: steps.append(f) if e == "step" else None, max_steps=4,
            epochs=2, audit_every=2)  # fmt: skip
    assert [f["step"] for f in steps if "sampler_kl" in f] == [3], "the third step has index 2"
    assert steps[2]["sampler_kl"] < 0.01


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"max_lag": 1}, "never old"),
        ({"rollouts": "openai:m@http://localhost/v1"}, "training needs token ids"),
        ({"rollouts": "vllm:m@http://localhost/v1", "temperature": 0.7}, "temperature"),
        ({"rollouts": "localhost"}, "not an endpoint"),
        ({"max_sampler_kl": 0}, "max_sampler_kl"),
    ],
)
def test_settings_of_rollouts_that_cannot_be_are_refused(settings, said):
    with pytest.raises(ValignError, match=said):
        METHODS["grpo"].configure(settings)
