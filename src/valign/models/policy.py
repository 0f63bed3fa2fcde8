"""Policy: whatever scores and generates. The protocol that methods, evaluation and pipelines are written
against.

Always true here: results of a policy do not depend on how prompts are batched, log-probs are natural
logarithms in float32, and `cost` only grows. How a policy computes (batches, trees, caches) is left to its
engine, which is passed in because it lives on a higher floor; wrapped policies (in-context, decoding,
endpoints) live with their methods.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from valign.data.group import Group, Prompt
from valign.errors import TooLong, require

if TYPE_CHECKING:
    from valign.models.loading import LoadedModel

Kind = Literal["weights", "adapter", "context", "decoding", "endpoint"]
Progress = Callable[[int, int], None]  # (done, total), called from time to time
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """The law from which tokens are drawn, and when to stop.

    n               samples per prompt
    max_new_tokens  longest response, stop token included
    temperature     logits are divided by it; 0 takes the most probable token (greedy)
    top_p           nucleus: the smallest set of tokens whose probability reaches it; 1 keeps all
    top_k           the k most probable tokens; 0 keeps all
    min_p           tokens at least this share as probable as the best one; 0 keeps all
    seed            with the prompt's key and the sample's index it addresses the randomness of a sample
    stop            texts that end a response, beside the model's stop tokens
    """

    n: int = 1
    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least 1")
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        require(0 <= self.temperature < float("inf"), "temperature", self.temperature, "0 (greedy) or more")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1]")
        require(self.top_k >= 0, "top_k", self.top_k, "0 (all) or more")
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "in [0, 1]")
        require(not isinstance(self.stop, str), "stop", self.stop, "a tuple of texts")
        require(all(self.stop), "stop", self.stop, "a tuple of texts that are not empty")

    @property
    def is_plain(self) -> bool:
        """Whether tokens are drawn from the model's own law: nothing is sharpened or cut off."""
        return self.temperature == 1 and self.top_p == 1 and not self.top_k and not self.min_p


@dataclass(frozen=True, eq=False)
class Sample:
    """One response as a sampler drew it. A local model tells everything; what an endpoint does not tell is empty.

    ids      token ids, the stop token included when it was produced
    raw      (tokens,) log-prob of each token at temperature 1 over the full vocabulary, nats
    law      (tokens,) log-prob of each token under the law it was drawn from, nats; 0 for greedy
    finish   "stop": the model (or a stop text) ended it; "length": it was cut at max_new_tokens
    failure  why there is no response (an endpoint that did not answer); its item is unscored. "" for a response
    refused  an endpoint says that the model, or a filter before it, refused; the text is then the refusal, or empty
    """

    text: str
    ids: tuple[int, ...]
    raw: Floats
    law: Floats
    finish: Literal["stop", "length"]
    failure: str = ""
    refused: bool = False


def no_sample(failure: str, refused: bool = False) -> Sample:
    """The place of a response that could not be had, and why; refused: it was withheld."""
    empty: Floats = np.zeros(0, np.float32)
    return Sample("", (), empty, empty, "length", failure, refused)


@dataclass(frozen=True, eq=False)
class Scored:
    """How probable a policy finds one response: (n_tokens,) log-probs in nats, the stop token included."""

    log_probs: Floats

    @property
    def log_prob(self) -> float:
        """Sum over the tokens, added in float64; 0 for a response without tokens."""
        return float(np.sum(self.log_probs, dtype=np.float64))

    @property
    def n_tokens(self) -> int:
        return len(self.log_probs)

    @property
    def mean(self) -> float:
        """log_prob per token; NaN for a response without tokens."""
        return self.log_prob / self.n_tokens if self.n_tokens else float("nan")


@dataclass(frozen=True)
class Cost:
    """What was spent: calls of the policy, tokens by what was done to them, seconds of wall clock.

    retries   requests of an endpoint that were sent again      unanswered   those that stayed without an answer
    money     by the prices that the user gave; 0 where none were
    """

    calls: int = 0
    tokens_read: int = 0
    tokens_generated: int = 0
    tokens_trained: int = 0
    seconds: float = 0.0
    retries: int = 0
    unanswered: int = 0
    money: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __sub__(self, other: Cost) -> Cost:
        """What was spent since `other` was read."""
        return Cost(**{f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(self)})


@runtime_checkable
class Policy(Protocol):
    """Anything that scores and generates: a local model, an adapter, an endpoint, or one of them wrapped."""

    @property
    def id(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def cost(self) -> Cost:
        """The running total since the policy was made."""
        ...

    def card(self) -> dict[str, Any]:
        """JSON: id, kind, base, method, config, sha256, parameters, dtype, device, template_sha256, notes.

        likelihood: false, where the policy can generate but not score.
        """
        ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        keys: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[list[Sample]]:
        """`sampling.n` samples per prompt. keys: the address of a prompt's randomness, default its index."""
        ...

    def score(self, groups: Sequence[Group], *, progress: Progress | None = None) -> list[list[Scored]]:
        """One `Scored` per response; for groups with `choices` by the harness rule (no stop token)."""
        ...

    def save(self, folder: Path) -> None:
        """Write a policy folder that `load_model` (weights, adapter) or its own loader reads back."""
        ...


def runtime_of(policy: Policy) -> dict[str, Any]:
    """What computes, where the policy tells it (`LocalPolicy.runtime`); None for what it does not tell."""
    told: dict[str, Any] = getattr(policy, "runtime", dict)()
    return {**dict.fromkeys(("tokenizer_sha256", "start", "quantization", "engine")), **told}


def has_likelihood(policy: Policy) -> bool:
    """Whether `score` has an answer: false for endpoints, and for what stands on one."""
    return policy.card().get("likelihood") is not False


def score_each(policy: Policy, groups: Sequence[Group], progress: Progress | None = None) -> list[list[Scored] | None]:
    """`policy.score`, with None for a group that is longer than the model can read.

    Such a group is unscored (`over_length`), never cut. It is found by halving, so the others stay batched.
    """
    if not groups:
        return []
    try:
        return list(policy.score(groups, progress=progress))
    except TooLong:
        if len(groups) == 1:
            return [None]
    middle = len(groups) // 2
    return [*score_each(policy, groups[:middle]), *score_each(policy, groups[middle:])]


class Engine(Protocol):
    """What a local model needs to compute; `engine.local.LocalEngine` is the one implementation."""

    def generate(
        self,
        model: LoadedModel,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        keys: Sequence[str],
        progress: Progress | None,
    ) -> list[list[Sample]]: ...

    def score(
        self, model: LoadedModel, groups: Sequence[Group], *, progress: Progress | None
    ) -> list[list[Scored]]: ...

    def runtime(self, model: LoadedModel) -> dict[str, Any]:
        """JSON: engine (the path that scores: "row" or "plain") and products (dtype of matrix products)."""
        ...


@dataclass(eq=False)
class LocalPolicy:
    """A loaded model with the engine that runs it."""

    model: LoadedModel
    engine: Engine
    cost: Cost = field(default_factory=Cost)

    @property
    def id(self) -> str:
        return self.model.id

    @property
    def kind(self) -> Kind:
        return self.model.kind

    def card(self) -> dict[str, Any]:
        """See `Policy.card`."""
        return self.model.card()

    def runtime(self) -> dict[str, Any]:
        """JSON: what computes, as provenance tells it beside the card: see `LoadedModel.runtime` and `Engine.runtime`."""
        return {**self.model.runtime(), **self.engine.runtime(self.model)}

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        keys: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[list[Sample]]:
        """See `Policy.generate`. Raises `ValignError` when keys and prompts differ in number."""
        addresses = list(keys) if keys is not None else [str(i) for i in range(len(prompts))]
        require(len(addresses) == len(prompts), "keys", len(addresses), f"one per prompt ({len(prompts)})")
        start = time.perf_counter()
        samples = self.engine.generate(self.model, prompts, sampling, keys=addresses, progress=progress)
        self.cost += Cost(
            calls=sum(map(len, samples)),
            tokens_read=sum(len(self.model.template.prompt_ids(p)) for p in prompts),
            tokens_generated=sum(len(s.ids) for row in samples for s in row),
            seconds=time.perf_counter() - start,
        )
        return samples

    def score(self, groups: Sequence[Group], *, progress: Progress | None = None) -> list[list[Scored]]:
        """See `Policy.score`."""
        start = time.perf_counter()
        scored = self.engine.score(self.model, groups, progress=progress)
        self.cost += Cost(
            calls=sum(map(len, scored)),
            tokens_read=sum(len(self.model.template.prompt_ids(g.prompt)) for g in groups)
            + sum(s.n_tokens for row in scored for s in row),
            seconds=time.perf_counter() - start,
        )
        return scored

    def save(self, folder: Path) -> None:
        """Write the weights (or the adapter alone) as a policy folder, atomically."""
        from valign.models.policy_folder import save_model

        save_model(self.model, Path(folder))
