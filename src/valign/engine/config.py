"""What every training method can be told. A method's config is one of these dataclasses plus the method's own fields.

Every field has an effect; a field that a method cannot use does not stand in its config.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from valign.engine.optimizer import Schedule
from valign.errors import require


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop's settings. Defaults are those of the method entries unless a method says otherwise."""

    rates: ClassVar[tuple[float, float]] = (2e-5, 2e-4)  # the method's default peak rate: full weights, adapter

    learning_rate: float | None = None  # peak; None: the method's default for full weights or for an adapter
    batch_size: int = 64  # groups of one optimizer step
    epochs: float = 1.0  # passes over the data
    max_steps: int = 0  # stop after this many steps; 0: as epochs says
    schedule: Schedule = "cosine"  # after the warm-up: constant, linear (to 0) or cosine (to 10 %)
    warmup: float = 0.03  # share of the steps with a rising rate
    weight_decay: float = 0.0  # AdamW; never on norms, biases and embeddings
    max_grad_norm: float = 1.0  # gradients are scaled down to this global norm; 0: never
    adapter: Literal["auto", "none", "lora"] = "auto"  # auto: full weights below 1B parameters, LoRA from there on
    lora_rank: int = 16  # rank of the adapter; alpha is twice the rank, all linear layers
    token_budget: int = 0  # positions of one micro-batch: memory and speed, never the result; 0: as the memory plan says
    activation_checkpointing: Literal["auto", "on", "off"] = "auto"  # compute blocks again in the backward pass: a third
    #   more products, a fraction of the memory, same numbers; auto: where the memory plan finds no room otherwise
    compile: bool = False  # blocks through torch.compile: minutes before the first step, then element-wise passes are saved
    checkpoint_every: int = 0  # steps between checkpoints; 0: only at the end and when interrupted
    seed: int = 0  # of the order of the data, of rollouts and of a fresh adapter

    def __post_init__(self) -> None:
        require(
            self.learning_rate is None or self.learning_rate > 0,
            "learning_rate",
            self.learning_rate,
            "a positive number",
        )
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(self.epochs > 0, "epochs", self.epochs, "a positive number")
        require(self.max_steps >= 0, "max_steps", self.max_steps, "0 (as epochs says) or more")
        require(0 <= self.warmup < 1, "warmup", self.warmup, "a share of the steps in [0, 1)")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(self.max_grad_norm >= 0, "max_grad_norm", self.max_grad_norm, "0 (never clip) or more")
        require(self.lora_rank >= 1, "lora_rank", self.lora_rank, "at least 1")
        require(self.token_budget >= 0, "token_budget", self.token_budget, "0 (as the memory plan says) or more")
        require(self.checkpoint_every >= 0, "checkpoint_every", self.checkpoint_every, "0 or more")
        require(abs(self.seed) < 2**63, "seed", self.seed, "a whole number below 2**63")

    def peak(self, adapter: bool) -> float:
        """The peak learning rate that is used."""
        return self.learning_rate if self.learning_rate is not None else self.rates[int(adapter)]


@dataclass(frozen=True, kw_only=True)
class FeedbackConfig(TrainConfig):
    """What methods share that learn from a data set: its texts have lengths, and a part of it can be held out."""

    max_length: int = 1024  # tokens of the longest path that is trained
    on_long: Literal["error", "drop", "cut_prompt_left", "cut_response"] = "drop"  # what happens to longer ones
    eval_every: int = 0  # steps between evaluations on the dev split; 0: only at the end
    patience: int = 0  # stop after this many evaluations without a better one; 0: never

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.max_length >= 2, "max_length", self.max_length, "at least 2 tokens")
        require(self.eval_every >= 0, "eval_every", self.eval_every, "0 or more")
        require(self.patience >= 0, "patience", self.patience, "0 (never stop early) or more")
        require(not self.patience or self.eval_every > 0, "patience", self.patience, "0, or eval_every must be set too")
