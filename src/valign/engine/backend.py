"""Rollout backends: who samples for training when it is not the trainer itself.

A backend is asked with token ids and answers with token ids and the log-probs of the law that drew them. It knows after
which optimizer step its weights were taken, so a sample's age (its lag) is known. There is no standard way to hand new
weights to a running server: an endpoint keeps those it was started with, and the run is refused where that would make its
samples older than `max_lag`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from valign.errors import ValignError
from valign.models.endpoint import EndpointPolicy
from valign.models.policy import Sample, Sampling


class Backend(Protocol):
    """Samples for training from somewhere else.

    version   the optimizer step whose weights it holds        name   how it is called
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...

    def sample(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[str]
    ) -> list[list[Sample]]:
        """`sampling.n` samples after each prompt's ids; `law` holds what they were drawn from."""
        ...


@dataclass
class EndpointBackend:
    """A vLLM server that holds the weights of step 0. stop_ids: tokens at which the trainer's responses end."""

    policy: EndpointPolicy
    stop_ids: Sequence[int]
    version: int = 0

    @property
    def name(self) -> str:
        return self.policy.id

    def sample(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[str]
    ) -> list[list[Sample]]:
        """See `Backend.sample`. Raises `ModelError` where the server does not answer at all."""
        return self.policy.continue_ids(prompts, sampling, stop_ids=self.stop_ids, keys=keys)


def check_lag(backend: Backend, steps: int, max_lag: int) -> None:
    """Raise `ValignError` when the last of `steps` would train on samples older than `max_lag` steps."""
    lag = steps - 1 - backend.version
    if lag > max_lag:
        raise ValignError(
            f"{steps} steps are planned, and the samples of the last would be {lag} steps old: the server keeps the "
            f"weights of step {backend.version}",
            where=backend.name,
            how=[
                f"--set max_steps={max_lag + 1 + backend.version}; then serve the result, and align that one further",
                f"or --set max_lag={lag}: old samples are corrected by truncated ratios, up to max_sampler_kl",
            ],
        )
