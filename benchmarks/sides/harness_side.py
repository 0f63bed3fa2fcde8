"""lm-evaluation-harness: a local JSON task of type multiple_choice, its own request loop timed.

Timed is `loglikelihood` over all requests of the task: from text to numbers, as on valign's side. With several batch
sizes the fastest one on the warm-up items is used.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.worker import Job, accuracy, counted_positions, run

Row = Mapping[str, Any]
TRIAL = 64  # requests on which a batch size is tried


def check_choices(job: Job) -> dict[str, Any]:
    """Log-likelihood of every choice in float64."""
    scores, _ = _evaluated(job, _model(job, "float64", 8), job.inputs["check"], "check")
    return {"choices": scores, "accuracy": accuracy(scores, job.inputs["check"])}


def time_choices(job: Job) -> dict[str, Any]:
    """The timed items, with the variant's batch size."""
    sizes, items = job.variant["batch_sizes"], job.inputs["items"]
    tried = {}
    for size in sizes:  # also the warm-up
        trial = items[: trial_items(len(items), len(items[0]["choices"]))] if len(sizes) > 1 else job.inputs["warm"]
        _, tried[size] = _evaluated(job, _model(job, job.dtype(), size), trial, f"warm-{size}")
    best = min(tried, key=lambda size: tried[size])
    model = _model(job, job.dtype(), best)
    with counted_positions() as positions:
        scores, seconds = _evaluated(job, model, items, "timed")
    return {
        "seconds": seconds, "units": len(items), "positions": positions.count, "accuracy": accuracy(scores, items),
        "batch_size": best, "tried_seconds": {str(k): v for k, v in tried.items()},
    }  # fmt: skip


def trial_items(items: int, choices: int) -> int:
    """How many items one batch size is tried on: a quarter of the work, at most one batch of the largest size."""
    return max(1, min(TRIAL, items * choices // 4) // choices)


_LOADED: dict[str, Any] = {}


def _model(job: Job, dtype: str, batch_size: int) -> Any:
    """The harness's model; weights are loaded once per process."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if dtype not in _LOADED:
        _LOADED[dtype] = AutoModelForCausalLM.from_pretrained(
            job.model, dtype=getattr(torch, dtype), local_files_only=True
        ).eval()
    tokenizer = AutoTokenizer.from_pretrained(job.model, local_files_only=True)
    cached = bool(job.variant.get("logits_cache", True))
    return HFLM(
        pretrained=_LOADED[dtype], tokenizer=tokenizer, device="cpu", batch_size=batch_size, logits_cache=cached
    )


def _evaluated(job: Job, model: Any, items: Sequence[Row], name: str) -> tuple[dict[str, list[float]], float]:
    """(log-likelihoods by item, seconds in the request loop)."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    file = Path(job.folder) / f"{name}.jsonl"
    file.write_text("".join(json.dumps(i) + "\n" for i in items), encoding="utf-8")
    task = {
        "task": f"{job.workload}-{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": " ",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    timed, seconds = model.loglikelihood, []

    def loglikelihood(requests: Any, **named: Any) -> Any:
        began = time.perf_counter()
        answers = timed(requests, **named)
        seconds.append(time.perf_counter() - began)
        return answers

    model.loglikelihood = loglikelihood
    try:
        found = simple_evaluate(
            model=model, tasks=[task], log_samples=True, bootstrap_iters=0, verbosity="ERROR",
            task_manager=TaskManager(include_defaults=False),
        )  # fmt: skip
    finally:
        model.loglikelihood = timed
    (samples,) = found["samples"].values()
    scores = {s["doc"]["id"]: [float(r[0][0]) for r in s["resps"]] for s in samples}
    if len(scores) != len(items):
        raise RuntimeError(f"the harness answered {len(scores)} of {len(items)} items")
    return scores, sum(seconds)


TASKS = {"choices.check": check_choices, "choices.time": time_choices}

if __name__ == "__main__":
    sys.exit(run(TASKS))
