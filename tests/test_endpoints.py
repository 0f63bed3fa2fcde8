"""An endpoint as MODEL at every door: what works on generated text works, what needs log-probs says so, no key is left
behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

SECRET = "a-key-that-nobody-may-see-42"


@pytest.fixture
def server(serve, model, monkeypatch):
    """A server of the same weights as the folder `model`; every request to it carries the key."""
    from valign.models.loading import load_model

    monkeypatch.setenv("VALIGN_API_KEY", SECRET)
    return serve(load_model(model, dtype="float32"))


def stored(folder: Path) -> Iterator[bytes]:
    return (f.read_bytes() for f in folder.rglob("*") if f.is_file())


def test_generate_asks_the_server(valign, server, tmp_path):
    """The same ids and log-probs as the local model's own sampling would report; text, JSON and many prompts."""
    found = valign.json("generate", server.named(), "Why?", "--n", 2, "--max-new-tokens", 6, "--temperature", 1)
    assert len(found[0]["responses"]) == 2 and all(r["tokens"] and r["log_prob"] < 0 for r in found[0]["responses"])
    plain = valign.json("generate", server.named("openai"), "Why?", "--max-new-tokens", 6)
    assert plain[0]["responses"][0]["log_prob"] is None, "what OpenAI's log-probs mean at temperature 0.7 is not known"
    assert valign("generate", server.named(), "--raw", "Once", "--max-new-tokens", 4).stdout
    assert {h["authorization"] for _, _, h in server.seen} == {f"Bearer {SECRET}"}
    server.always = 401
    message = valign.error("generate", server.named(), "Why?")
    assert "VALIGN_API_KEY" in message and SECRET not in message


def test_one_answer_of_two_is_shown_with_the_reason_of_the_other(valign, server):
    server.faults.extend([None, (400, {}, '{"error": {"message": "too long"}}')])
    found = valign("generate", server.named(options="parallel=1"), "Why?", "How?", "--max-new-tokens", 3).stdout
    assert "> How?\n[no answer: HTTP 400: too long]" in found


def test_evaluate_measures_what_rests_on_generated_text(valign, server, situations, goal, vowels, tmp_path):
    """Profile and utility are there; the order of given responses is listed as not available; failures are unscored and are
    asked for again, answers are not."""
    out, name = tmp_path / "e", server.named(options="attempts=1,parallel=1")
    args = ("evaluate", name, "--data", situations, "--goal", goal, "--out", out, "--max-new-tokens", 8)
    server.faults.extend([None, (400, {}, '{"error": {"message": "no"}}')])
    done = valign(*args)
    assert "not available: the order of given responses" in done.stderr.replace("\n", " ")
    results = {(r["metric"], r["variant"]): r for r in json.loads((out / "result.json").read_text())["results"]}
    utility = next(r for (metric, _), r in results.items() if metric == "goal.utility")
    assert utility["n"] == 5 and utility["n_unscored"] == {"no_answer": 1}
    assert results["value.V", "profile"]["n_unscored"] == {"no_answer": 1}
    assert not any(metric.startswith(("misalignment", "preference", "kl")) for metric, _ in results)
    assert results["value.V", "profile"]["provenance"]["model"]["config"]["url"] == server.url
    samples = [json.loads(x) for x in (out / "samples.jsonl").read_text().splitlines()]
    assert [r["failure"] for s in samples for r in s["responses"] if "failure" in r] == ["HTTP 400: no"]
    asked = len(server.seen)
    valign(*args, "--force")
    assert len(server.seen) == asked + 1, "the one without an answer"
    assert not any(SECRET.encode() in content for content in stored(tmp_path))


def test_what_needs_log_probs_is_an_error_that_says_how(valign, server, pairs, model, tmp_path):
    message = valign.error("evaluate", server.named(), "--data", pairs, "--out", tmp_path / "a")
    assert "not available" in message and "local model" in message
    message = valign.error("evaluate", model, "--data", pairs, "--reference", server.named(), "--out", tmp_path / "b")
    assert "--reference vllm:tiny@" in message and "local model" in message
    message = valign.error("align", server.named(), "--method", "dpo", "--data", pairs, "--out", tmp_path / "c")
    assert "it needs a local model" in message
    assert "weights are not here" in valign.error("models", "merge", server.named(), "--out", tmp_path / "d")
    rows = {r["name"]: r for r in valign.json("methods", "--model", server.named(), "--goal", "core")}
    assert rows["best_of_n"]["can_run"] and not rows["dpo"]["can_run"]
    assert not server.seen


@pytest.mark.parametrize(
    "method, more",
    [
        ("value_instruction", ["--goal", "GOAL"]),
        ("value_instruction", ["--set", "text=Be kind.", "--set", "mode=q_if_cot", "--set", "consider_tokens=4"]),
        ("urial", ["--set", "examples=1", "--set", "system=Be kind."]),
        ("best_of_n", ["--reward", "length", "--set", "n=3"]),
    ],
)
def test_in_context_and_decoding_methods_wrap_it(valign, server, goal, vowels, tmp_path, method, more):
    """A folder that every command takes for a model, found by `valign models`, without the key."""
    out, name = tmp_path / "runs" / "made", server.named(options="parallel=2")
    valign("align", name, "--method", method, "--out", out, *(goal if x == "GOAL" else x for x in more))
    manifest = json.loads((out / "policy.json").read_text())
    assert manifest["base"] == name
    before = len(server.seen)
    found = valign.json("generate", out, "Why?", "--max-new-tokens", 5, "--temperature", 1)
    expected = 3 if method == "best_of_n" else 2 if "mode=q_if_cot" in more else 1
    assert found[0]["responses"][0]["text"] and len(server.seen) - before == expected
    listed = {m["name"]: m for m in valign.json("models", "--folder", tmp_path / "runs")}
    assert method in listed[str(out)]["note"]
    assert not any(SECRET.encode() in content for content in stored(tmp_path))


def test_considerations_that_failed_leave_the_answer_unscored(server):
    import valign as va
    from valign.methods.context.value_instruction import ValueInstructionConfig, value_instruction
    from valign.models.policy import Sampling

    base = va.load(server.named(options="attempts=1,parallel=1"))
    policy = value_instruction(base, va.Target(), ValueInstructionConfig(mode="q_if_cot", text="Be kind.", consider_tokens=3))
    server.faults.extend([None, (400, {}, "{}")])
    a, b = policy.generate([va.user("Why?"), va.user("How?")], Sampling(n=2, max_new_tokens=3))
    assert not any(s.failure for s in a) and [s.failure for s in b] == ["HTTP 400: {}"] * 2


def test_compare_runs_over_an_endpoint(valign, server, situations, goal, vowels, tmp_path):
    """Two methods that need no weights, measured beside their base; the report is written."""
    out = tmp_path / "c"
    found = valign.json("compare", server.named(), "--method", "best_of_n,n=2",
                        "--method", "urial,examples=0,goal=false",  # a tiny model reads no more
                        "--data", situations, "--test", situations, "--goal", goal, "--out", out)  # fmt: skip
    assert (out / "report.html").exists() and found
    bound = json.loads((out / "evaluation" / "best_of_n" / "result.json").read_text())["results"]
    about = next(r["provenance"] for r in bound if r["variant"] == "best_of_n_bound")
    assert about["model"]["config"]["n"] == 2 and "seconds" in about["cost"]
    assert not any(SECRET.encode() in content for content in stored(tmp_path))


def test_agree_compares_a_server_with_its_weights(valign, server, model, serve, tmp_path):
    """The same weights agree to the wire's precision and read the same prompt ids; others are told apart."""
    from valign.models.tiny import tiny_model

    exact = ("--max-new-tokens", 6, "--dtype", "float32")  # bf16 products would differ by some hundredths of a nat
    found = valign.json("models", "agree", server.named(), model, "--samples", 16, *exact)
    assert found["ok"] and found["samples"] == 16 and found["largest"] < 1e-3 and found["kl_per_token"] < 1e-6
    assert found["same_prompt_ids"] == found["prompts"] == 16 and found["unanswered"] == 0
    other = serve(tiny_model("llama", seed=5))
    said = valign("models", "agree", other.named(), model, "--samples", 4, *exact, status=1).stdout
    assert "DISAGREES" in said and "KL(sampler‖trainer)" in said
    assert "vllm:" in valign.error("models", "agree", server.named("openai"), model, "--samples", 2, status=2)


def test_align_trains_on_rollouts_of_a_server(valign, server, model, lines, tmp_path):
    """`rollouts` in the settings: the audit stands in the run's log, the key does not."""
    prompts = lines([{"prompt": f"Question {i}?"} for i in range(6)], "prompts.jsonl")
    args = ("align", model, "--method", "grpo", "--data", prompts, "--reward", "length", "--out", tmp_path / "p",
            "--set", f"rollouts={server.named()}", "--set", "batch_size=3", "--set", "group_size=3",
            "--set", "max_new_tokens=6")  # fmt: skip
    message = valign.error(*args)
    assert "the server keeps the weights of step 0" in message and "max_steps=1" in message
    valign(*args, "--set", "max_steps=1", "--force")
    log = (tmp_path / "p" / "run" / "log.jsonl").read_text()
    assert "KL(sampler‖trainer)" in log and '"sampler_capped"' in log
    assert not any(SECRET.encode() in content for content in stored(tmp_path))


def test_workers_share_an_endpoint(server, tmp_path):
    """The queue of `va.sharded` without Ray: failures pass through it as unscored samples."""
    import valign as va
    from valign.models.policy import Sampling

    server.faults.extend([None, (400, {}, "{}")])
    with va.sharded(server.named(options="parallel=1"), log=tmp_path / "log.jsonl") as policy:
        rows = policy.generate([va.user(str(i)) for i in range(4)], Sampling(max_new_tokens=3))
        assert [bool(row[0].failure) for row in rows] == [False, True, False, False]
        again = policy.generate([va.user(str(i)) for i in range(4)], Sampling(max_new_tokens=3))
    assert not any(row[0].failure for row in again) and again[0][0].ids == rows[0][0].ids
    assert len(server.seen) == 5
