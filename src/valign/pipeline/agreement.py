"""Does a server hold the same model as the one here? Its samples are teacher-forced by the local model's scorer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from valign.data.group import Prompt
from valign.engine.agreement import AUDITED, Agreement, agreement
from valign.engine.local import LocalEngine
from valign.engine.tree import from_paths
from valign.errors import ValignError
from valign.models.endpoint import EndpointPolicy
from valign.models.policy import LocalPolicy, Policy, Progress, Sampling

MAX_KL = 0.01  # nats per token above which training refuses a sampler (max_sampler_kl)


@dataclass(frozen=True)
class EndpointAudit:
    """What an audit found.

    agreement   the server's samples under both laws          unanswered  samples that the server failed to give
    same_ids    prompts of which the server's chat template makes the same token ids as the local one, of `prompts`
    """

    agreement: Agreement
    same_ids: int
    prompts: int
    unanswered: int

    @property
    def ok(self) -> bool:
        """Whether samples of the server can train the local model."""
        return self.agreement.tokens > 0 and self.agreement.kl <= MAX_KL

    def to_json(self) -> dict[str, Any]:
        a = self.agreement
        return {"ok": self.ok, "samples": a.samples, "tokens": a.tokens, "mean": a.mean, "largest": a.largest,
                "outside": a.outside, "kl_per_token": a.kl, "max_kl_per_token": MAX_KL, "same_prompt_ids": self.same_ids,
                "prompts": self.prompts, "unanswered": self.unanswered}  # fmt: skip


def audit_endpoint(
    endpoint: Policy,
    model: Policy,
    prompts: Sequence[Prompt],
    *,
    samples: int = AUDITED,
    max_new_tokens: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> EndpointAudit:
    """Draw `samples` responses at temperature 1 from the server, after the token ids that the local template makes of the
    prompts (taken in turn), and score them with the local model.

    Raises `ValignError` unless `endpoint` is a vLLM endpoint and `model` a local model, and for no prompts.
    """
    if not isinstance(endpoint, EndpointPolicy):
        raise ValignError("this is not an endpoint", where=endpoint.id, how="name it vllm:NAME@URL")
    if not isinstance(model, LocalPolicy) or not isinstance(model.engine, LocalEngine):
        raise ValignError("the other side must be a local model", where=model.id, how="name the weights that are served")
    if not prompts:
        raise ValignError("there are no prompts", where="data")
    some = list(prompts)[:samples]
    heads = model.model.template.prompt_ids_many(some)
    law = Sampling(n=-(-samples // len(some)), max_new_tokens=max_new_tokens, seed=seed)
    rows = endpoint.continue_ids(heads, law, stop_ids=model.model.template.stop_ids, progress=progress)
    drawn = [[s for s in row if not s.failure] for row in rows]
    pairs = [(head, row) for head, row in zip(heads, drawn) if row]
    trees = [from_paths(str(i), head, [s.ids for s in row]) for i, (head, row) in enumerate(pairs)]
    scored = model.engine.scorer(model.model).score(trees, budget=model.engine.budget)
    found = agreement([s.law for _, row in pairs for s in row], [x for row in scored for x in row])
    same = sum(tuple(head) == ids for head, ids in zip(heads, endpoint.prompt_ids(some)))
    return EndpointAudit(found, same, len(some), sum(bool(s.failure) for row in rows for s in row))
