"""TRL's side: DPOTrainer, SFTTrainer, RewardTrainer and GRPOTrainer on the texts that valign reads too.

Prompts come rendered, answers as text: TRL then tokenizes exactly what valign does, the end-of-turn token included
(with messages it would also train the line break that the template writes after it). Models are loaded before the
clock starts; the trainer's own work on the data (tokens, precomputed references) stands inside it.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.worker import Job, Timeline, batches, counted_positions, rule_reward, run

Row = Mapping[str, Any]
CHECK_BATCH = 8


# --------------------------------------------------------------------------------- training on pairs and responses


def check_training(job: Job) -> dict[str, Any]:
    """Log-probs (rewards for a reward model) of the check pairs, and losses along some steps, in float32."""
    s = job.settings
    plain = {"weights": "float32", "autocast": False, "gradient_checkpointing": False, "order": "given"}
    trainer = _trainer(job, job.inputs["check"], plain, rate=0.0, batch=CHECK_BATCH)
    out = NUMBERS[s["method"]](trainer, [p["id"] for p in job.inputs["check"]])
    del trainer
    gc.collect()
    rows = _ordered(job.inputs["loss_pairs"], job.inputs["loss_order"])
    trainer = _trainer(job, rows, plain, rate=s["loss_rate"], batch=s["loss_batch"], schedule="constant")
    trainer.train()
    return {**out, "losses": [float(x) for x in trainer.losses]}


def time_training(job: Job) -> dict[str, Any]:
    """One epoch with the variant's settings."""
    pairs, s = job.inputs["pairs"], job.settings
    warm = _trainer(job, job.inputs["warm"], job.variant, rate=0.0, batch=s["batch"], max_steps=1)
    warm.train()
    del warm
    gc.collect()
    models = _models(job, job.variant)
    line = Timeline()
    with counted_positions() as positions:
        rows = _ordered(pairs, job.inputs["order"])
        trainer = _trainer(
            job, rows, job.variant, rate=s["learning_rate"], batch=s["batch"], line=line, models=models
        )  # fmt: skip
        trainer.train()
    return {**line.to_json(), "units": len(pairs), "positions": positions.count}


def _trainer(
    job: Job, pairs: Sequence[Row], variant: Row, *, rate: float, batch: int, schedule: str = "linear",
    max_steps: int = -1, line: Timeline | None = None, models: tuple[Any, Any] | None = None,
) -> Any:  # fmt: skip
    """The trainer of the workload's method, ready to train."""
    import trl
    from datasets import Dataset

    method = job.settings["method"]
    model, reference = models or _models(job, variant)
    arguments = _arguments(job, variant, rate, batch, schedule, max_steps)
    named: dict[str, Any] = {"model": model, "processing_class": _tokenizer(job)}
    if method == "dpo":
        stored = bool(variant.get("precompute_ref_log_probs"))
        config: Any = trl.DPOConfig(**arguments, beta=job.settings["beta"], precompute_ref_log_probs=stored)
        base: Any = trl.DPOTrainer
        named["ref_model"] = None if stored else reference
        rows = [{k: p[k] for k in ("prompt", "chosen", "rejected")} for p in pairs]
    elif method == "sft":
        config, base = trl.SFTConfig(**arguments), trl.SFTTrainer
        rows = [{"prompt": p["prompt"], "completion": p["chosen"]} for p in pairs]
    else:
        config, base = trl.RewardConfig(**arguments, pad_token=_padding(named["processing_class"])), trl.RewardTrainer
        rows = [{k: p["prompt"] + p[k] for k in ("chosen", "rejected")} for p in pairs]
    kind = _recording(base, variant["order"])
    return kind(**named, args=config, train_dataset=Dataset.from_list(rows), callbacks=[_listener(line)])


def _arguments(job: Job, variant: Row, rate: float, batch: int, schedule: str, max_steps: int) -> dict[str, Any]:
    """What all trainers share."""
    every = variant.get("log_every_step", False)
    out = {
        "output_dir": str(job.folder / "trainer"),
        "per_device_train_batch_size": batch,
        "learning_rate": rate,
        "lr_scheduler_type": schedule,
        "warmup_steps": 0,
        "num_train_epochs": 1,
        "max_steps": max_steps,
        "gradient_checkpointing": variant["gradient_checkpointing"],
        "bf16": bool(variant["autocast"]) and job.fast == "bfloat16",
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "logging_strategy": "steps" if every else "no",
        "logging_steps": 1,
        "seed": 0,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    if job.kind == "train":
        out["max_length"] = job.settings["max_length"]
    return out


def _recording(base: Any, order: str) -> Any:
    """The trainer, with its losses kept and its batches in the given order or sorted by length."""

    class Recording(base):  # type: ignore[misc]
        def __init__(self, *positional: Any, **named: Any) -> None:
            self.losses: list[Any] = []
            super().__init__(*positional, **named)

        def compute_loss(self, *positional: Any, **named: Any) -> Any:
            loss = super().compute_loss(*positional, **named)
            self.losses.append((loss[0] if isinstance(loss, tuple) else loss).detach())
            return loss

        def _get_train_sampler(self, *positional: Any) -> Any:
            from torch.utils.data import SequentialSampler
            from transformers.trainer_pt_utils import LengthGroupedSampler

            if order == "given":
                return SequentialSampler(self.train_dataset)
            return LengthGroupedSampler(self.args.train_batch_size, lengths=_lengths(self.train_dataset))

    return Recording


def _lengths(dataset: Any) -> list[int]:
    """Tokens of each row's longest sequence."""
    if "input_ids" in dataset.column_names:
        return [len(x) for x in dataset["input_ids"]]
    prompt = [len(x) for x in dataset["prompt_ids"]] if "prompt_ids" in dataset.column_names else [0] * len(dataset)
    both = zip(prompt, dataset["chosen_ids"], dataset["rejected_ids"], strict=True)
    return [p + max(len(c), len(r)) for p, c, r in both]


def _listener(line: Timeline | None) -> Any:
    from transformers import TrainerCallback

    class Listener(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            if line is not None:
                line.begin_loop()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if line is not None:
                line.step()

    return Listener()


def _models(job: Job, variant: Row) -> tuple[Any, Any]:
    """(policy or reward model, reference): two copies for DPO without precomputed references."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    name = str(variant["weights"])
    dtype = getattr(torch, job.fast if name == "fast" else name)
    if job.settings.get("method") == "reward_model":
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(
            job.model, num_labels=1, dtype=dtype, local_files_only=True
        )
        with torch.no_grad():
            model.score.weight.copy_(torch.tensor(first_head(model.score.weight.shape[1])).to(dtype))
        return model, None
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype, local_files_only=True)
    needs = job.settings.get("method") == "dpo" and not variant.get("precompute_ref_log_probs")
    reference = AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype, local_files_only=True) if needs else None
    return model, reference


def first_head(width: int) -> list[list[float]]:
    """The reward head that both sides begin with: a small wave, the same everywhere."""
    from math import sin

    return [[0.02 * sin(1.0 + i) for i in range(width)]]


def _tokenizer(job: Job) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(job.model, local_files_only=True)


def _padding(tokenizer: Any) -> str:
    """A padding token that ends no response. The embedded model's own is its stop token: transformers reads a reward at
    the last token that is not padding, which would be one token early."""
    return next(str(t) for t in (tokenizer.unk_token, *tokenizer.all_special_tokens) if t and t != tokenizer.eos_token)


def _ordered(pairs: Sequence[Row], order: Sequence[Sequence[int]]) -> list[Row]:
    return [pairs[i] for step in order for i in step]


# ----------------------------------------------------------------------------------------- numbers to compare with


def dpo_numbers(trainer: Any, ids: Sequence[str]) -> dict[str, Any]:
    """id -> log-probs of both responses, under the policy and under the reference, as the trainer computes them."""
    out: dict[str, Any] = {"log_probs": {}, "reference": {}, "tokens": {}}
    rows = list(trainer.train_dataset)
    _require(rows, ids)
    for names, part in zip(batches(ids, CHECK_BATCH), batches(rows, CHECK_BATCH), strict=True):
        padded = trainer.data_collator(list(part))
        for key, model in (("log_probs", trainer.model), ("reference", trainer.ref_model)):
            chosen, rejected = trainer.compute_ref_log_probs(model, padded)
            for name, c, r in zip(names, chosen.tolist(), rejected.tolist(), strict=True):
                out[key][name] = [c, r]
        for name, row in zip(names, part, strict=True):
            out["tokens"][name] = [len(row["chosen_ids"]), len(row["rejected_ids"])]
    return out


def sft_numbers(trainer: Any, ids: Sequence[str]) -> dict[str, Any]:
    """id -> log-prob of the response: minus the trainer's mean loss on it alone, times its tokens."""
    import torch

    out: dict[str, Any] = {"log_probs": {}, "tokens": {}}
    rows = list(trainer.train_dataset)
    _require(rows, ids)
    for name, row in zip(ids, rows, strict=True):
        n = sum(label != -100 for label in row["labels"])
        with torch.no_grad():
            inputs = trainer.data_collator([{k: row[k] for k in ("input_ids", "labels")}])
            loss = trainer.compute_loss(trainer.model, dict(inputs))
        out["log_probs"][name], out["tokens"][name] = [-float(loss) * n], [n]
    return out


def reward_numbers(trainer: Any, ids: Sequence[str]) -> dict[str, Any]:
    """id -> rewards of both responses."""
    import torch

    out: dict[str, Any] = {"rewards": {}}
    rows = list(trainer.train_dataset)
    _require(rows, ids)
    for names, part in zip(batches(ids, CHECK_BATCH), batches(rows, CHECK_BATCH), strict=True):
        inputs = trainer.data_collator([{k: r[k] for k in ("chosen_ids", "rejected_ids")} for r in part])
        with torch.no_grad():
            rewards = trainer.model(**inputs).logits.squeeze(-1).float()
        chosen, rejected = rewards.chunk(2)
        for name, c, r in zip(names, chosen.tolist(), rejected.tolist(), strict=True):
            out["rewards"][name] = [c, r]
    return out


def _require(rows: Sequence[Any], ids: Sequence[str]) -> None:
    if len(rows) != len(ids):
        raise RuntimeError(f"TRL kept {len(rows)} of {len(ids)} rows")


NUMBERS = {"dpo": dpo_numbers, "sft": sft_numbers, "reward_model": reward_numbers}


# ------------------------------------------------------------------------------------------------------------ GRPO


def check_grpo(job: Job) -> dict[str, Any]:
    """Log-probs of given responses by the function that GRPOTrainer's loss calls."""
    import torch

    variant = {"weights": "float32", "autocast": False, "gradient_checkpointing": False}
    trainer, _ = _grpo_trainer(job, job.inputs["warm"], variant, 1)
    tokenizer = _tokenizer(job)
    out: dict[str, Any] = {"log_probs": {}, "tokens": {}}
    for pair in job.inputs["check"]:
        prompt = tokenizer(pair["prompt"])["input_ids"]
        sums, counts = [], []
        for side in ("chosen", "rejected"):
            whole = torch.tensor([tokenizer(pair["prompt"] + pair[side] + tokenizer.eos_token)["input_ids"]])
            n = whole.shape[1] - len(prompt)
            with torch.no_grad():
                found = trainer._get_per_token_logps_and_entropies(trainer.model, whole, torch.ones_like(whole), n)
            sums.append(float(found[0].double().sum()))
            counts.append(n)
        out["log_probs"][pair["id"]], out["tokens"][pair["id"]] = sums, counts
    return out


def time_grpo(job: Job) -> dict[str, Any]:
    """Steps of sampling, rule reward and update, from the call of train() to the last update."""
    warm, _ = _grpo_trainer(job, job.inputs["warm"], job.variant, 1)
    warm.train()
    del warm
    gc.collect()
    steps = len(job.inputs["pairs"]) // job.settings["prompts"]
    line = Timeline()
    trainer, lengths = _grpo_trainer(job, job.inputs["pairs"], job.variant, steps, line)
    line.began = time.perf_counter()  # the trainer has loaded its reference model: not counted
    with counted_positions() as positions:
        trainer.train()
    mean = sum(lengths) / len(lengths)
    return {**line.to_json(), "units": steps, "positions": positions.count, "mean_length": mean}


def _grpo_trainer(
    job: Job, prompts: Sequence[Row], variant: Row, steps: int, line: Timeline | None = None
) -> tuple[Any, list[int]]:
    import trl
    from datasets import Dataset

    s = job.settings
    lengths: list[int] = []
    config = trl.GRPOConfig(
        **_arguments(job, variant, s["learning_rate"], s["prompts"] * s["samples"], "linear", steps),
        num_generations=s["samples"], max_completion_length=s["new_tokens"], beta=s["beta"], loss_type="grpo",
        temperature=1.0, shuffle_dataset=False,
    )  # fmt: skip

    def reward(completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        lengths.extend(len(x) for x in completion_ids)
        return [rule_reward(c) for c in completions]

    model, _ = _models(job, variant)
    rows = Dataset.from_list([{"prompt": p["prompt"]} for p in prompts])
    trainer = trl.GRPOTrainer(
        model=model, reward_funcs=reward, args=config, train_dataset=rows, processing_class=_tokenizer(job),
        callbacks=[_listener(line)],
    )  # fmt: skip
    return trainer, lengths


TASKS = {
    "train.check": check_training,
    "train.time": time_training,
    "grpo.check": check_grpo,
    "grpo.time": time_grpo,
}

if __name__ == "__main__":
    sys.exit(run(TASKS))
