"""The table of workloads: what runs, how large, against whom, and what is hoped for.

Figures are data here; how they are measured stands in `runner`, what each side does in `sides`. Targets are targets:
a result says by how much one is missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["train", "grpo", "choices", "decode", "rollout", "scaling"]
Settings = Mapping[str, Any]

# "fast" is the number format that the machine multiplies natively (bfloat16), float32 where there is none.
TRL_DEFAULTS: Settings = {
    "weights": "fast",  # loaded in that format, no autocast: the lightest way to use it
    "autocast": False,
    "gradient_checkpointing": True,  # TRL's own default
    "precompute_ref_log_probs": False,
    "order": "given",
    "log_every_step": True,
}
TRL_BEST: Settings = {
    "weights": "float32",
    "autocast": True,  # where the machine has a fast format, as valign does by default
    "gradient_checkpointing": False,
    "precompute_ref_log_probs": True,
    "order": "length",  # batches of like lengths: less padding
    "log_every_step": False,
}
HARNESS_DEFAULTS: Settings = {"weights": "fast", "batch_sizes": [16], "logits_cache": True}
HARNESS_BEST: Settings = {"weights": "fast", "batch_sizes": [4, 8, 16, 32, 64], "logits_cache": True}
GENERATE_DEFAULTS: Settings = {"weights": "fast", "caches": ["dynamic"], "order": "given"}
GENERATE_BEST: Settings = {"weights": "fast", "caches": ["dynamic", "static"], "order": "length"}


@dataclass(frozen=True)
class Peer:
    """A program that valign stands beside: its module in `sides`, its environment, and the variants that are run.

    `check` names the variant whose process also answers the equality job in a quick run.
    """

    name: str
    module: str
    environment: str
    variants: Mapping[str, Settings]
    check: str = "best"


@dataclass(frozen=True)
class Memory:
    """Hoped for: valign's peak memory is at most `share` of the peer's in this variant."""

    variant: str
    share: float


@dataclass(frozen=True)
class Workload:
    """One line of the table.

    size       units of work of a run, cut so that one run of a peer takes about two minutes
    quick      the same for the smoke test        unit      what is counted: rate = units / seconds
    clock      "seconds": from text to the last number; "loop_seconds": without encoding and reference
    settings   what both sides are told           targets   variant -> rate of valign / rate of the peer
    """

    name: str
    title: str
    kind: Kind
    size: int
    quick: int
    unit: str
    settings: Settings = field(default_factory=dict)
    quick_settings: Settings = field(default_factory=dict)
    peer: Peer | None = None
    targets: Mapping[str, float] = field(default_factory=dict)
    memory: Memory | None = None
    clock: Literal["seconds", "loop_seconds"] = "seconds"

    def told(self, quick: bool) -> dict[str, Any]:
        """The settings of a run."""
        return {**self.settings, **(self.quick_settings if quick else {})}


def _trl(**variants: Settings) -> Peer:
    return Peer("TRL", "benchmarks.sides.trl_side", "trl", variants or {"defaults": TRL_DEFAULTS, "best": TRL_BEST})


HARNESS = Peer(
    "lm-evaluation-harness",
    "benchmarks.sides.harness_side",
    "lm_eval",
    {"defaults": HARNESS_DEFAULTS, "best": HARNESS_BEST},
)
GENERATE = Peer(
    "transformers.generate",
    "benchmarks.sides.generate_side",
    "trl",
    {"defaults": GENERATE_DEFAULTS, "best": GENERATE_BEST},
)
# Losses along the steps are compared at a rate at which float32 weights move; at the timed rate both sides would sit
# at their first value and equal losses would prove nothing.
PAIRS: Settings = {
    "batch": 8,
    "max_length": 512,
    "beta": 0.1,
    "learning_rate": 1e-6,
    "check": 32,
    "loss_steps": 10,
    "loss_batch": 4,
    "loss_rate": 1e-5,
    "loss_longest": 160,
}
QUICK_PAIRS: Settings = {"batch": 4, "max_length": 128, "check": 8, "loss_batch": 2, "loss_longest": 96}
CHOICES: Settings = {"check": 32}
QUICK_CHOICES: Settings = {"check": 8}
DECODE: Settings = {"prompt_tokens": 140, "new_tokens": 64, "check": 4, "check_tokens": 32}

_ALL = (
    Workload("dpo", "DPO, references not stored", "train", 32, 8, "pairs", {**PAIRS, "method": "dpo"}, QUICK_PAIRS,
             _trl(), {"defaults": 6.0}, Memory("best", 1 / 2)),
    Workload("dpo_warm", "DPO, references stored on both sides", "train", 32, 8, "pairs", {**PAIRS, "method": "dpo"},
             QUICK_PAIRS, _trl(best=TRL_BEST), {"best": 4.5}, Memory("best", 1 / 2), clock="loop_seconds"),
    Workload("sft", "SFT on the chosen responses", "train", 64, 8, "responses", {**PAIRS, "method": "sft"},
             QUICK_PAIRS, _trl(), {"defaults": 3.0, "best": 3.0}),
    Workload("reward", "Reward model, Bradley-Terry", "train", 32, 8, "pairs", {**PAIRS, "method": "reward_model"},
             QUICK_PAIRS, _trl(), {"defaults": 3.0, "best": 3.0}),
    Workload("grpo", "GRPO, 4 prompts x 8 samples x 64 new tokens", "grpo", 2, 1, "steps",
             {"prompts": 4, "samples": 8, "new_tokens": 64, "beta": 0.04, "learning_rate": 1e-6, "check": 32,
              "max_length": 512},
             {"prompts": 2, "samples": 4, "new_tokens": 16, "max_length": 128, "check": 8},
             _trl(), {"defaults": 6.0, "best": 6.0}, Memory("best", 1 / 3)),
    Workload("bbq3", "BBQ religion, 3 choices", "choices", 400, 16, "items", {**CHOICES, "source": "bbq3"},
             QUICK_CHOICES, HARNESS, {"defaults": 8.0, "best": 8.0}),
    Workload("bbq12", "BBQ religion, 12 choices", "choices", 100, 8, "items", {**CHOICES, "source": "bbq12"},
             QUICK_CHOICES, HARNESS, {"defaults": 15.0, "best": 15.0}),
    Workload("persona5", "Persona statements, 5 fixed shots", "choices", 240, 12, "items",
             {**CHOICES, "source": "persona", "shots": 5}, QUICK_CHOICES, HARNESS, {"defaults": 10.0, "best": 10.0}),
    Workload("persona0", "Persona statements, 0 shots", "choices", 800, 24, "items",
             {**CHOICES, "source": "persona", "shots": 0}, QUICK_CHOICES, HARNESS, {"defaults": 1.2, "best": 1.2}),
    Workload("power", "Power-seeking questions, (A) or (B)", "choices", 240, 12, "items",
             {**CHOICES, "source": "power"}, QUICK_CHOICES, HARNESS, {"defaults": 3.0, "best": 3.0}),
    Workload("decode", "Decode, 32 sequences, prompt 140, 64 new tokens", "decode", 32, 8, "tokens", DECODE,
             {"new_tokens": 16, "check": 2, "check_tokens": 8}, GENERATE, {"defaults": 2.0, "best": 2.0}),
    Workload("rollout", "Rollout of unequal lengths, 8 samples a prompt, up to 256 new tokens", "rollout", 8, 2,
             "tokens", {"samples": 8, "new_tokens": 256, "longest": 240, "check": 4, "check_tokens": 32},
             {"new_tokens": 24, "check": 2, "check_tokens": 8}, GENERATE, {"defaults": 3.0, "best": 3.0}),
    Workload("scaling", "How cost grows (valign alone)", "scaling", 1024, 64, "groups",
             {"groups_from": 64, "prompt": 256, "response": 64, "responses": [1, 2, 4, 8, 16], "short_prompt": 64,
              "short_response": 16, "prompts": [64, 128, 256, 512, 1024], "repeat": 8},
             {"groups_from": 8, "prompt": 64, "response": 16, "responses": [1, 2, 4], "short_prompt": 16,
              "short_response": 8, "prompts": [32, 64], "repeat": 2}),
)  # fmt: skip

WORKLOADS: dict[str, Workload] = {w.name: w for w in _ALL}
