"""transformers.generate on the same prompt ids: left-padded batches of 32 rows.

Sampled from the whole vocabulary at temperature 1. With several caches the faster one on the warm-up prompts is used.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.worker import Job, batches, counted_positions, run

Row = Mapping[str, Any]
ROWS = 32  # sequences decoded side by side, as many as valign's generator


def check_greedy(job: Job) -> dict[str, Any]:
    """Greedy ids in float32, cut after the first stop token."""
    model, s = _model(job, "float32"), job.settings
    found, _ = _decoded(job, model, job.inputs["check"], s["check_tokens"], sample=False, stops=True)
    return {"greedy": {p["id"]: rows[0] for p, rows in zip(job.inputs["check"], found, strict=True)}}


def time_decode(job: Job) -> dict[str, Any]:
    """Every row to its full length; sampling is the figure, greedy stands beside it."""
    model, prompts, n = _model(job, job.dtype()), job.inputs["prompts"], job.settings["new_tokens"]
    cache, tried = _fastest(job, model)
    with counted_positions() as positions:
        found, seconds = _decoded(job, model, prompts, n, sample=True, cache=cache)
    _, greedy = _decoded(job, model, prompts, n, sample=False, cache=cache)
    units = sum(len(x) for rows in found for x in rows)
    return {
        "seconds": seconds, "units": units, "positions": positions.count, "greedy_rate": units / greedy,
        "cache": cache, "tried_seconds": tried,
    }  # fmt: skip


def time_rollout(job: Job) -> dict[str, Any]:
    """Samples that end by themselves, several of each prompt."""
    model, s = _model(job, job.dtype()), job.settings
    cache, tried = _fastest(job, model)
    with counted_positions() as positions:
        found, seconds = _decoded(
            job, model, job.inputs["prompts"], s["new_tokens"], n=s["samples"], sample=True, stops=True, cache=cache
        )
    lengths = [len(x) for rows in found for x in rows]
    return {
        "seconds": seconds, "units": sum(lengths), "positions": positions.count,
        "mean_length": sum(lengths) / len(lengths), "cache": cache, "tried_seconds": tried,
    }  # fmt: skip


def _fastest(job: Job, model: Any) -> tuple[str, dict[str, float]]:
    """The variant's cache that decodes the warm-up prompts fastest; this is the warm-up too."""
    tried = {}
    for cache in job.variant["caches"]:
        _decoded(job, model, job.inputs["warm"], 4, sample=True, cache=cache)
        _, tried[cache] = _decoded(job, model, job.inputs["warm"], 16, sample=True, cache=cache)
    return min(tried, key=lambda c: tried[c]), tried


def _decoded(
    job: Job, model: Any, prompts: Sequence[Row], new_tokens: int, *, n: int = 1, sample: bool, stops: bool = False,
    cache: str = "dynamic",
) -> tuple[list[list[list[int]]], float]:  # fmt: skip
    """(ids of n samples of each prompt, in the order given; seconds)."""
    import torch

    ends = list(job.inputs["stop_ids"]) if stops else None  # the stop tokens that valign takes
    model.generation_config.eos_token_id = ends
    model.generation_config.pad_token_id = 0
    named: dict[str, Any] = {"max_new_tokens": new_tokens, "do_sample": sample, "num_return_sequences": n}
    if sample:
        named |= {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    if cache == "static":
        named["cache_implementation"] = "static"
    places = list(range(len(prompts)))
    if job.variant.get("order") == "length":
        places.sort(key=lambda i: -len(prompts[i]["ids"]))
    out: list[list[list[int]]] = [[] for _ in prompts]
    torch.manual_seed(0)
    began = time.perf_counter()
    for part in batches(places, max(1, ROWS // n)):
        ids, mask = _padded([prompts[i]["ids"] for i in part])
        with torch.inference_mode():
            whole = model.generate(input_ids=ids, attention_mask=mask, **named)
        rows = whole[:, ids.shape[1] :].tolist()
        for k, i in enumerate(part):
            out[i] = [_cut(row, ends or []) for row in rows[k * n : (k + 1) * n]]
    return out, time.perf_counter() - began


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    """Left-padded (ids, mask)."""
    import torch

    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :], mask[i, longest - len(row) :] = torch.tensor(list(row)), 1
    return ids, mask


def _cut(row: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The ids up to the first stop token, which is kept."""
    at = next((k for k, token in enumerate(row) if token in ends), len(row) - 1)
    return list(row[: at + 1])


def _model(job: Job, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(job.model, dtype=getattr(torch, dtype), local_files_only=True).eval()


TASKS = {
    "decode.check": check_greedy,
    "decode.time": time_decode,
    "rollout.check": check_greedy,
    "rollout.time": time_rollout,
}

if __name__ == "__main__":
    sys.exit(run(TASKS))
