"""The table of workloads: what runs, how large, against whom, and what is hoped for.

Figures are data here; how they are measured stands in `runner`, what each side does in `sides`. Targets are targets:
a result says by how much one is missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["train", "grpo", "lists", "choices", "decode", "rollout", "scaling", "processes"]
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

    environment "": the project's own. `check` names the variant whose process also answers the equality job in a quick run.
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
    counts     what `size` counts, where that is not the unit
    clock      "seconds": from text to the last number; "loop_seconds": without encoding and reference
    settings   what both sides are told           targets   variant -> rate of valign / rate of the peer
    module     in `sides`, of valign's side       per_position  targets are shares of the ratio of computed positions
    """

    name: str
    title: str
    kind: Kind
    size: int
    quick: int
    unit: str
    counts: str = ""
    settings: Settings = field(default_factory=dict)
    quick_settings: Settings = field(default_factory=dict)
    peer: Peer | None = None
    targets: Mapping[str, float] = field(default_factory=dict)
    memory: Memory | None = None
    clock: Literal["seconds", "loop_seconds"] = "seconds"
    module: str = "benchmarks.sides.valign_side"
    per_position: bool = False

    @property
    def sized_in(self) -> str:
        """What `size` counts."""
        return self.counts or self.unit

    def told(self, quick: bool) -> dict[str, Any]:
        """The settings of a run."""
        return {**self.settings, **(self.quick_settings if quick else {})}


def _trl(*unused: str, only: str = "") -> Peer:
    """TRL, with the settings that its trainer for this workload reads."""
    told = {"defaults": TRL_DEFAULTS, "best": TRL_BEST}
    variants = {
        name: {k: v for k, v in settings.items() if k not in unused}
        for name, settings in told.items()
        if only in ("", name)
    }
    return Peer("TRL", "benchmarks.sides.trl_side", "trl", variants)


def _all(target: float) -> dict[str, float]:
    """The same target against every variant."""
    return {"defaults": target, "best": target}


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
ITSELF = "benchmarks.sides.itself_side"
PLAIN = Peer("valign", ITSELF, "", {"plain path": {"path": "plain"}}, check="plain path")
ONE = Peer("valign", ITSELF, "", {"one process": {"processes": 1}}, check="one process")
# Losses along the steps are compared at a rate at which float32 weights move; at the timed rate both sides would sit
# at their first value and equal losses would prove nothing.
PAIRS: Settings = {
    "batch": 8,
    "max_length": 512,
    "learning_rate": 1e-6,
    "check": 32,
    "loss_steps": 10,
    "loss_batch": 4,
    "loss_rate": 1e-5,
    "loss_longest": 160,
    "warm": 8,
}
DPO: Settings = {**PAIRS, "method": "dpo", "beta": 0.1}
QUICK_PAIRS: Settings = {
    "batch": 2,
    "max_length": 96,
    "check": 2,
    "loss_steps": 2,
    "loss_batch": 2,
    "loss_longest": 64,
    "warm": 2,
}
CHOICES: Settings = {"check": 32, "warm": 8}
LISTS: Settings = {"new_tokens": 64, "longest": 400, "batch": 4, "learning_rate": 1e-6, "token_budget": 1024, "check": 8,
                   "loss_batch": 2, "loss_rate": 1e-5}
QUICK_LISTS: Settings = {"new_tokens": 6, "longest": 128, "check": 2, "batch": 2, "loss_batch": 1}
QUICK_CHOICES: Settings = {"check": 3, "warm": 2}
DECODE: Settings = {"prompt_tokens": 140, "new_tokens": 64, "check": 4, "check_tokens": 32, "warm": 8}

_ALL = (
    Workload(
        "dpo", "DPO, references not stored", "train", size=32, quick=2, unit="pairs",
        settings=DPO, quick_settings=QUICK_PAIRS, peer=_trl(),
        targets={"defaults": 6.0}, memory=Memory("best", 1 / 2),
    ),
    Workload(
        "dpo_warm", "DPO, references stored on both sides", "train", size=32, quick=2, unit="pairs",
        settings=DPO, quick_settings=QUICK_PAIRS, peer=_trl(only="best"),
        targets={"best": 4.5}, memory=Memory("best", 1 / 2), clock="loop_seconds",
    ),
    Workload(
        "sft", "SFT on the chosen responses", "train", size=64, quick=2, unit="responses",
        settings={**PAIRS, "method": "sft"}, quick_settings=QUICK_PAIRS,
        peer=_trl("precompute_ref_log_probs"), targets=_all(3.0),
    ),
    Workload(
        "reward", "Reward model, Bradley-Terry", "train", size=32, quick=2, unit="pairs",
        settings={**PAIRS, "method": "reward_model"}, quick_settings=QUICK_PAIRS,
        peer=_trl("precompute_ref_log_probs"), targets=_all(3.0),
    ),
    Workload(
        "grpo", "GRPO, 4 prompts x 8 samples x 64 new tokens", "grpo", size=2, quick=1, unit="steps",
        settings={"prompts": 4, "samples": 8, "new_tokens": 64, "beta": 0.04, "learning_rate": 1e-6, "check": 32,
                  "max_length": 512},
        quick_settings={"prompts": 2, "samples": 4, "new_tokens": 8, "max_length": 128, "check": 4},
        peer=_trl("precompute_ref_log_probs", "order"), targets=_all(6.0), memory=Memory("best", 1 / 3),
    ),
    *(
        Workload(
            f"lists{k}", f"Ranked lists of {k} answers", "lists", size=size, quick=2, unit="lists",
            settings={**LISTS, "answers": k}, quick_settings=QUICK_LISTS,
            peer=PLAIN, targets={"plain path": 0.8}, module=ITSELF, per_position=True,
        )
        for k, size in ((4, 24), (8, 12))
    ),
    Workload(
        "bbq3", "BBQ religion, 3 choices", "choices", size=400, quick=6, unit="items",
        settings={**CHOICES, "source": "bbq3"}, quick_settings=QUICK_CHOICES, peer=HARNESS, targets=_all(8.0),
    ),
    Workload(
        "bbq12", "BBQ religion, 12 choices", "choices", size=100, quick=3, unit="items",
        settings={**CHOICES, "source": "bbq12"}, quick_settings=QUICK_CHOICES, peer=HARNESS, targets=_all(15.0),
    ),
    Workload(
        "persona5", "Persona statements, 5 fixed shots", "choices", size=240, quick=4, unit="items",
        settings={**CHOICES, "source": "persona", "shots": 5}, quick_settings=QUICK_CHOICES, peer=HARNESS,
        targets=_all(10.0),
    ),
    Workload(
        "persona0", "Persona statements, 0 shots", "choices", size=800, quick=12, unit="items",
        settings={**CHOICES, "source": "persona", "shots": 0}, quick_settings=QUICK_CHOICES, peer=HARNESS,
        targets=_all(1.2),
    ),
    Workload(
        "power", "Power-seeking questions, (A) or (B)", "choices", size=240, quick=4, unit="items",
        settings={**CHOICES, "source": "power"}, quick_settings=QUICK_CHOICES, peer=HARNESS, targets=_all(3.0),
    ),
    Workload(
        "decode", "Decode, 32 sequences, prompt 140, 64 new tokens", "decode", size=32, quick=4, unit="tokens",
        counts="sequences", settings=DECODE, quick_settings={"new_tokens": 16, "check": 2, "check_tokens": 8, "warm": 2},
        peer=GENERATE, targets=_all(2.0),
    ),
    Workload(
        "rollout", "Rollout, 8 samples a prompt of unequal lengths", "rollout", size=8, quick=2, unit="tokens",
        counts="prompts",
        settings={"samples": 8, "new_tokens": 256, "longest": 240, "check": 4, "check_tokens": 32, "warm": 8},
        quick_settings={"new_tokens": 12, "check": 2, "check_tokens": 8, "warm": 2}, peer=GENERATE, targets=_all(3.0),
    ),
    Workload(
        "processes", "DPO in two processes of one thread", "processes", size=32, quick=2, unit="pairs",
        settings=DPO, quick_settings=QUICK_PAIRS, peer=ONE, targets={"one process": 1.7}, clock="loop_seconds", module=ITSELF,
    ),
    Workload(
        "scaling", "How cost grows (valign alone)", "scaling", size=1024, quick=32, unit="groups",
        settings={"groups_from": 64, "prompt": 256, "response": 64, "responses": [1, 2, 4, 8, 16], "short_prompt": 64,
                  "short_response": 16, "prompts": [64, 128, 256, 512, 1024], "repeat": 8},
        quick_settings={"groups_from": 8, "prompt": 64, "response": 16, "responses": [1, 2, 4], "short_prompt": 16,
                        "short_response": 8, "prompts": [32, 64], "repeat": 2},
    ),
)  # fmt: skip

WORKLOADS: dict[str, Workload] = {w.name: w for w in _ALL}
