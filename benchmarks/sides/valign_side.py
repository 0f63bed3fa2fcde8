"""valign's side of every workload, through the interfaces that its users call.

Training is `train_policy` with the method's own table entry, scoring is `Policy.score`, decoding the generator of the
local engine. Equality jobs run in float32 with full precision.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ratio import line_through
from benchmarks.worker import Job, NotAvailable, Timeline, accuracy, counted_positions, rule_reward, run

Row = Mapping[str, Any]


# --------------------------------------------------------------------------------- training on pairs and responses


def check_training(job: Job) -> dict[str, Any]:
    """Log-probs of policy and reference (rewards, for a reward model) on the same pairs, and losses along some steps."""
    method = _method(job)
    policy = _policy(job, "float32")
    settings = job.settings
    numbers = _rewards if method.makes_reward else _log_probs
    out: dict[str, Any] = numbers(job, policy, method)
    config = {"learning_rate": settings["loss_rate"], "batch_size": settings["loss_batch"], "schedule": "constant"}
    line = _trained(job, policy, method, job.inputs["loss_pairs"], job.folder / "losses", config)
    return {**out, "losses": line.losses}


def time_training(job: Job) -> dict[str, Any]:
    """One epoch. With a warm store an earlier run has left the references of the pairs in the cache."""
    method, policy, pairs = _method(job), _policy(job, "auto"), job.inputs["pairs"]
    config = {
        "learning_rate": job.settings["learning_rate"],
        "batch_size": job.settings["batch"],
        "schedule": "linear",
    }
    warm = job.workload == "dpo_warm"
    first = pairs if warm else job.inputs["warm"]
    _trained(job, policy, method, first, job.folder / "warm", {**config, "max_steps": 1})
    gc.collect()
    with counted_positions() as positions:
        line = _trained(job, policy, method, pairs, job.folder / "run", config)
    return {**line.to_json(), "units": len(pairs), "positions": positions.count}


def _trained(
    job: Job, policy: Any, method: Any, pairs: Sequence[Row], folder: Path, config: Mapping[str, Any]
) -> Timeline:
    """Train a copy of the policy; times and losses of its steps."""
    from valign.engine.run import RunFolder
    from valign.methods.target import Target
    from valign.methods.train import train_policy
    from valign.methods.train_reward import train_reward

    told = {"warmup": 0, "max_length": job.settings["max_length"], "on_long": "error", "epochs": 1, "seed": 0, **config}
    if method.uses_reference:
        told["beta"] = job.settings["beta"]
    line = Timeline()
    given = {"groups": _groups(pairs, method), "on_event": _listener(line)}
    with RunFolder(folder) as run_folder:
        if method.makes_reward:
            train_reward(method, policy, method.configure(told), run_folder, head=_first_head, **given)
        else:
            train_policy(method, policy, Target(), method.configure(told), run_folder, **given)
    return line


def _first_head(width: int, seed: int) -> Any:
    """The wave that TRL's side begins with, too."""
    from benchmarks.sides.trl_side import first_head

    return np.array(first_head(width)[0])


def _rewards(job: Job, policy: Any, method: Any) -> dict[str, Any]:
    """id -> rewards of both responses, as the head gives them before the first step."""
    from dataclasses import replace

    from valign.methods.train import trainable_copy
    from valign.models.scalar_head import attach_head
    from valign.rewards.reward_model import RewardModel

    model = trainable_copy(policy.model, method.configure({}))
    attach_head(model.model, _first_head(int(model.model.config.get_text_config().hidden_size), 0))
    groups = _groups(job.inputs["check"], method)
    reward = RewardModel(replace(model, id="start"), policy.engine)
    return {"rewards": {g.id: [float(x) for x in row] for g, row in zip(groups, reward.score(groups), strict=True)}}


def _listener(line: Timeline) -> Any:
    def hear(event: str, fields: Mapping[str, Any]) -> None:
        if event == "step":
            line.step(fields["loss"], fields["seconds"])

    return hear


def _log_probs(job: Job, policy: Any, method: Any) -> dict[str, Any]:
    """id -> log-prob of each response under policy and reference, and how many tokens that sums."""
    from valign.engine.reference import with_references
    from valign.methods.feedback import prepare

    model = policy.model
    config = method.configure({"max_length": job.settings["max_length"], "on_long": "error"})
    groups = _groups(job.inputs["check"], method)
    items = prepare(method.feedback, groups, model.template, config).items
    scorer = policy.engine.scorer(model)
    trees = [i.tree for i in items]
    out: dict[str, Any] = {
        "log_probs": _sums([g.id for g in groups], scorer.score(trees)),
        "tokens": {t.id: [int((t.response_loss(leaf) != 0).sum()) for leaf in t.leaves] for t in trees},
    }
    if method.uses_reference:
        stored = with_references(items, scorer, model.digest, job.folder, budget=scorer.budget)
        out["reference"] = _sums([g.id for g in groups], [i.tokens["reference"] for i in stored])
    return out


def _sums(ids: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[float]]:
    return {id: [float(np.sum(r, dtype=np.float64)) for r in row] for id, row in zip(ids, rows, strict=True)}


def _method(job: Job) -> Any:
    from valign.methods.table import METHODS

    name = job.settings["method"]
    if name not in METHODS:
        raise NotAvailable(f"not available yet: valign's table of methods has no {name!r}")
    return METHODS[name]


def _groups(pairs: Sequence[Row], method: Any) -> list[Any]:
    """The pairs as groups with the feedback that the method learns from."""
    from valign.data.group import Comparison, Demonstration, Group, Message, Response

    out = []
    for p in pairs:
        prompt = tuple(Message(role, content) for role, content in p["messages"])
        if method.feedback == "demonstrations":
            answers, feedback = (Response(p["chosen"]),), (Demonstration(response=0),)
            out.append(Group(p["id"], prompt, answers, feedback))
        else:
            both = (Response(p["chosen"]), Response(p["rejected"]))
            out.append(Group(p["id"], prompt, both, (Comparison(chosen=0, rejected=1),)))
    return out


# ------------------------------------------------------------------------------------------------------------ GRPO


def check_grpo(job: Job) -> dict[str, Any]:
    """Log-probs of given responses: what the objective is computed from on both sides."""
    from valign.methods.table import METHODS

    found = _log_probs(job, _policy(job, "float32"), METHODS["dpo"])
    return {k: found[k] for k in ("log_probs", "tokens")}


def time_grpo(job: Job) -> dict[str, Any]:
    """Steps of sampling, rule reward and update, from text to the last update."""
    policy, settings = _policy(job, "auto"), job.settings
    _rolled(job, policy, job.inputs["warm"], job.folder / "warm")
    gc.collect()
    with counted_positions() as positions:
        line, lengths = _rolled(job, policy, job.inputs["pairs"], job.folder / "run")
    steps = len(job.inputs["pairs"]) // settings["prompts"]
    return {**line.to_json(), "units": steps, "positions": positions.count, "mean_length": float(np.mean(lengths))}


def _rolled(job: Job, policy: Any, prompts: Sequence[Row], folder: Path) -> tuple[Timeline, list[float]]:
    from valign.data.group import Group, Message
    from valign.engine.run import RunFolder
    from valign.methods.table import METHODS
    from valign.methods.target import Target
    from valign.methods.train import train_policy

    method, settings, lengths = METHODS["grpo"], job.settings, []
    config = method.configure({
        "learning_rate": settings["learning_rate"], "batch_size": settings["prompts"], "beta": settings["beta"],
        "group_size": settings["samples"], "max_new_tokens": settings["new_tokens"], "schedule": "linear", "warmup": 0,
        "epochs": 1, "seed": 0,
    })  # fmt: skip
    groups = [Group(p["id"], tuple(Message(r, c) for r, c in p["messages"])) for p in prompts]
    line = Timeline()

    def reward(rollouts: Sequence[Any]) -> list[Any]:
        return [np.array([rule_reward(r.text) for r in g.responses]) for g in rollouts]

    def hear(event: str, fields: Mapping[str, Any]) -> None:
        if event == "step":
            line.step(fields["loss"], fields["seconds"])
            lengths.append(fields["length"])

    with RunFolder(folder) as run_folder:
        train_policy(method, policy, Target(reward=reward), config, run_folder, groups=groups, on_event=hear)
    return line, lengths


# -------------------------------------------------------------------------------------------------- answer choices


def check_choices(job: Job) -> dict[str, Any]:
    """Log-likelihood of every choice in float64."""
    scores, _ = _scored(_policy(job, "float64"), job.inputs["check"])
    return {"choices": scores, "accuracy": accuracy(scores, job.inputs["check"])}


def time_choices(job: Job) -> dict[str, Any]:
    """From text to log-likelihoods, in the machine's fast number format."""
    policy, items = _policy(job, job.fast), job.inputs["items"]
    _scored(policy, job.inputs["warm"])
    with counted_positions() as positions:
        scores, seconds = _scored(policy, items)
    return {
        "seconds": seconds, "units": len(items), "positions": positions.count, "accuracy": accuracy(scores, items),
    }  # fmt: skip


def _scored(policy: Any, items: Sequence[Row]) -> tuple[dict[str, list[float]], float]:
    from valign.data.group import Group, Response, text

    groups = [
        Group(i["id"], text(i["prompt"]), tuple(Response(f" {c}") for c in i["choices"]), choices=True, gold=i["gold"])
        for i in items
    ]
    began = time.perf_counter()
    scored = policy.score(groups)
    seconds = time.perf_counter() - began
    return {g.id: [float(s.log_prob) for s in row] for g, row in zip(groups, scored, strict=True)}, seconds


# -------------------------------------------------------------------------------------------------------- decoding


def check_decode(job: Job) -> dict[str, Any]:
    """Greedy ids in float32."""
    policy = _policy(job, "float32")
    stop_ids = job.inputs["stop_ids"]
    samples, _ = _decoded(policy, job.inputs["check"], job.settings["check_tokens"], temperature=0.0, stop_ids=stop_ids)
    return {
        "greedy": {p["id"]: list(map(int, row[0].ids)) for p, row in zip(job.inputs["check"], samples, strict=True)}
    }


def time_decode(job: Job) -> dict[str, Any]:
    """Tokens sampled at temperature 1 from the whole vocabulary, and greedily; no stop token ends a row."""
    policy, prompts, n = _policy(job, job.fast), job.inputs["prompts"], job.settings["new_tokens"]
    _decoded(policy, job.inputs["warm"], 8, temperature=1.0)
    with counted_positions() as positions:
        samples, seconds = _decoded(policy, prompts, n, temperature=1.0)
    _, greedy = _decoded(policy, prompts, n, temperature=0.0)
    units = _tokens(samples)
    return {"seconds": seconds, "units": units, "positions": positions.count, "greedy_rate": units / greedy}


def time_rollout(job: Job) -> dict[str, Any]:
    """Samples that end by themselves, several of each prompt."""
    policy, prompts, settings = _policy(job, job.fast), job.inputs["prompts"], job.settings
    _decoded(policy, job.inputs["warm"], 8, temperature=1.0)
    with counted_positions() as positions:
        samples, seconds = _decoded(
            policy, prompts, settings["new_tokens"], n=settings["samples"], temperature=1.0,
            stop_ids=job.inputs["stop_ids"],
        )  # fmt: skip
    lengths = [len(s.ids) for row in samples for s in row]
    return {
        "seconds": seconds, "units": sum(lengths), "positions": positions.count, "mean_length": float(np.mean(lengths)),
    }  # fmt: skip


def _decoded(
    policy: Any, prompts: Sequence[Row], new_tokens: int, *, n: int = 1, temperature: float,
    stop_ids: Sequence[int] = (),
) -> tuple[list[list[Any]], float]:  # fmt: skip
    from valign.engine.generator import Generator
    from valign.models.policy import Sampling

    template = policy.model.template
    generator = Generator(policy.model.model, stop_ids=stop_ids, decode=template.decode, rows=policy.engine.rows)
    sampling = Sampling(n=n, max_new_tokens=new_tokens, temperature=temperature, seed=0)
    began = time.perf_counter()
    samples = generator([p["ids"] for p in prompts], sampling, keys=[p["id"] for p in prompts])
    return samples, time.perf_counter() - began


def _tokens(samples: Sequence[Sequence[Any]]) -> int:
    return sum(len(s.ids) for row in samples for s in row)


# --------------------------------------------------------------------------------------------------- how cost grows


def time_scaling(job: Job) -> dict[str, Any]:
    """Seconds of scoring by the number of groups, by responses per prompt (forward, and with gradient), by prompt."""
    policy, s = _policy(job, job.fast), job.settings
    scorer = policy.engine.scorer(policy.model)
    longest = policy.model.max_positions or 1 << 30
    _score_seconds(scorer, _trees(8, s["short_prompt"], 1, s["short_response"]))
    by_groups = []
    n = s["groups_from"]
    while n <= job.variant["size"]:
        by_groups.append({"groups": n, **_score_seconds(scorer, _trees(n, s["short_prompt"], 1, s["short_response"]))})
        n *= 2
    shape = (s["repeat"], s["prompt"])
    widest = _trees(2, s["prompt"], max(s["responses"]), s["response"])
    _score_seconds(scorer, widest)  # memory that is taken for the first time is dear: the first point must not pay for it
    by_responses = [
        {"responses": g, **_score_seconds(scorer, _trees(*shape, g, s["response"]))} for g in s["responses"]
    ]
    _gradient_seconds(scorer, widest)
    by_gradient = [
        {"responses": g, **_gradient_seconds(scorer, _trees(*shape, g, s["response"]))} for g in s["responses"]
    ]
    by_prompt = [
        {"prompt": p, **_score_seconds(scorer, _trees(s["repeat"], p, 1, s["response"]))}
        for p in s["prompts"]
        if p + s["response"] <= longest
    ]
    r_squared = None
    if len(by_groups) > 1:
        r_squared = line_through([x["groups"] for x in by_groups], [x["seconds"] for x in by_groups]).r_squared
    total = sum(x["seconds"] for x in by_groups)
    return {
        "seconds": total, "units": sum(x["groups"] for x in by_groups), "by_groups": by_groups, "r_squared": r_squared,
        "warmed": True,
        "by_responses": _bounded(by_responses, s), "by_responses_gradient": _bounded(by_gradient, s),
        "by_prompt": by_prompt,
    }  # fmt: skip


def _bounded(points: Sequence[dict[str, Any]], s: Row) -> list[dict[str, Any]]:
    """t(G) / t(1) beside the bound 1.25 (P + G R) / (P + R)."""
    prompt, response = s["prompt"], s["response"]
    first = points[0]["seconds"]
    return [
        {
            **x,
            "relative": x["seconds"] / first,
            "bound": 1.25 * (prompt + x["responses"] * response) / (prompt + response),
        }
        for x in points
    ]


def _trees(n: int, prompt: int, responses: int, length: int) -> list[Any]:
    from valign.engine.tree import from_paths

    rng = np.random.default_rng(0)

    def ids(count: int) -> list[int]:
        return [int(i) for i in rng.integers(10, 90, count)]

    return [from_paths(f"group {k}", ids(prompt), [ids(length) for _ in range(responses)]) for k in range(n)]


def _score_seconds(scorer: Any, trees: Sequence[Any]) -> dict[str, Any]:
    began = time.perf_counter()
    scorer.score(trees)
    return {"seconds": time.perf_counter() - began, "tokens": sum(t.tokens for t in trees)}


def _gradient_seconds(scorer: Any, trees: Sequence[Any]) -> dict[str, Any]:
    """One group at a time: what is compared is the shape of a group, not how groups are packed."""
    scorer.model.requires_grad_(True)
    began = time.perf_counter()
    for tree in trees:
        (-scorer([tree]).log_probs.sum()).backward()
    seconds = time.perf_counter() - began
    scorer.model.zero_grad(set_to_none=True)
    scorer.model.requires_grad_(False)
    return {"seconds": seconds, "tokens": sum(t.tokens for t in trees)}


def _policy(job: Job, dtype: str) -> Any:
    """The model as a user loads it. "auto": float32 weights whose products are in bfloat16 where that is fast."""
    from valign.pipeline.policies import LoadOptions, load_policy

    return load_policy(job.model, LoadOptions(device="cpu", dtype=dtype))


TASKS = {
    "train.check": check_training,
    "train.time": time_training,
    "grpo.check": check_grpo,
    "grpo.time": time_grpo,
    "choices.check": check_choices,
    "choices.time": time_choices,
    "decode.check": check_decode,
    "decode.time": time_decode,
    "rollout.check": check_decode,
    "rollout.time": time_rollout,
    "scaling.time": time_scaling,
}

if __name__ == "__main__":
    sys.exit(run(TASKS))
