"""Which families of methods a situation allows, and why the others are out (8.6). [F11]"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from valign.errors import unknown

Feedback = Literal[
    "reward",
    "pairs",
    "rankings",
    "unpaired",
    "demonstrations",
    "critiques",
    "principles",
    "values",
    "scored_log",
]
FEEDBACK: tuple[str, ...] = get_args(Feedback)
PROMPT_TOKENS = 200  # fewer extra tokens cannot hold demonstrations or principles

RISKS = {
    "rl_online": "reward gaming, instability",
    "rl_offline": "out of distribution",
    "sft": "imitates form",
    "sft_ranking": "likelihood displacement",
    "in_context": "forgetting, surface",
    "decoding": "cost, myopia",
}
USES: dict[str, tuple[str, ...]] = {
    "rl_online": ("reward", "pairs", "rankings"),
    "rl_offline": ("scored_log",),
    "sft": ("demonstrations", "critiques", "principles", "reward", "scored_log"),
    "sft_ranking": ("pairs", "rankings", "unpaired"),
    "in_context": ("demonstrations", "pairs", "rankings", "critiques", "principles", "values"),
    "decoding": ("reward", "principles", "values"),
}


@dataclass(frozen=True)
class Situation:
    """What is at hand.

    weights              the model can be trained        token_probs      next-token distributions can be read
    model_copies         full copies that fit in memory  samples_per_prompt, extra_prompt_tokens   affordable
                         per prompt
    """

    feedback: str
    weights: bool
    token_probs: bool
    model_copies: int = 1
    samples_per_prompt: int = 1
    extra_prompt_tokens: int = 0

    def __post_init__(self) -> None:
        if self.feedback not in FEEDBACK:
            raise unknown("feedback", self.feedback, FEEDBACK)


@dataclass(frozen=True)
class Choice:
    """A family: `failed` names the conditions that exclude it (empty: feasible), `risk` what to watch."""

    family: str
    failed: tuple[str, ...]
    risk: str

    @property
    def feasible(self) -> bool:
        return not self.failed


def choose(situation: Situation) -> list[Choice]:
    """Every family, feasible or with its reasons, in the table's order (order by cost is the caller's)."""
    return [Choice(family, tuple(_failed(family, situation)), risk) for family, risk in RISKS.items()]


def feasible(situation: Situation) -> list[str]:
    """Names of the families that the situation allows."""
    return [c.family for c in choose(situation) if c.feasible]


def _failed(family: str, s: Situation) -> list[str]:
    out = []
    if s.feedback not in USES[family]:
        out.append(f"{s.feedback} is no feedback it can use ({', '.join(USES[family])})")
    if family in ("rl_online", "rl_offline", "sft", "sft_ranking") and not s.weights:
        out.append("the weights are out of reach")
    if family == "rl_online" and s.model_copies < 2:
        out.append(f"{s.model_copies} model copies fit, it needs 2 (policy and reference)")
    if family == "in_context" and s.extra_prompt_tokens < PROMPT_TOKENS:
        out.append(f"{s.extra_prompt_tokens} extra prompt tokens are affordable, it needs {PROMPT_TOKENS}")
    if family == "decoding" and s.samples_per_prompt < 2 and not (s.feedback == "reward" and s.token_probs):
        out.append("it needs 2 samples per prompt, or a reward with the token distribution")
    return out
