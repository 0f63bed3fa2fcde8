"""Any policy as a scorer: β log π(y|x) / π_ref(y|x) of two policies (R08).

Always true here: it is 0 for two equal policies, and its order is the order of the DPO margin. NaN for a
response without tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from valign.data.group import Group
from valign.errors import DataError, require
from valign.goals.base import Array, sha256
from valign.models.policy import Policy, Scored


@dataclass(frozen=True)
class ImplicitReward:
    """β (log π - log π_ref), nats times β.

    beta        the KL strength the policy was trained with, > 0
    per_token   divide by the number of tokens: another formula, for comparison over lengths
    """

    policy: Policy
    reference: Policy
    beta: float = 0.1
    per_token: bool = False

    def __post_init__(self) -> None:
        require(0 < self.beta < float("inf"), "beta", self.beta, "a positive number")

    @property
    def id(self) -> str:
        kind = "implicit_mean" if self.per_token else "implicit"
        return f"{kind} {self.policy.id} / {self.reference.id}"

    def score(self, groups: Sequence[Group]) -> list[Array]:
        """(n_responses,) per group."""
        return [np.array([self._total(t) for t in row], dtype=np.float64) for row in self.token_rewards(groups)]

    def token_rewards(self, groups: Sequence[Group]) -> list[list[Array]]:
        """β (log π - log π_ref) of every token of every response, (n_tokens,) each.

        Raises `DataError` when the two policies cut a response into different tokens.
        """
        pairs = zip(groups, self.policy.score(groups), self.reference.score(groups), strict=True)
        return [
            [self._tokens(group, a, b) for a, b in zip(own, reference, strict=True)] for group, own, reference in pairs
        ]

    def _tokens(self, group: Group, own: Scored, reference: Scored) -> Array:
        if own.n_tokens != reference.n_tokens:
            raise DataError(
                f"{self.policy.id} reads {own.n_tokens} tokens, {self.reference.id} {reference.n_tokens}",
                where=f"group {group.id}",
                how="an implicit reward needs two policies with the same tokenizer and template",
            )
        return self.beta * (own.log_probs.astype(np.float64) - reference.log_probs.astype(np.float64))

    def _total(self, tokens: Array) -> float:
        if not len(tokens):
            return float("nan")
        return float(tokens.mean() if self.per_token else tokens.sum())

    def fingerprint(self) -> str:
        """sha256 over both policies and β."""
        ids = [p.card().get("sha256") or p.id for p in (self.policy, self.reference)]
        return sha256([self.id, *ids, self.beta])
