"""How far a policy has moved: KL(π‖π_ref) from its own samples, which the reference scores as ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from valign.data.group import Group
from valign.errors import ValignError
from valign.evaluation.aggregate import summarize
from valign.evaluation.measure.common import cluster_of, data_of, require_ids, sample_groups
from valign.evaluation.provenance import provenance
from valign.evaluation.result import Anchors, Item, Result
from valign.models.policy import Policy, Progress, Sampling, score_each
from valign.theory.divergence import k1, k3


def measure_kl(
    policy: Policy,
    reference: Policy,
    groups: Sequence[Group],
    sampling: Sampling = Sampling(n=4),  # noqa: B008
    *,
    data: Any = None,
    progress: Progress | None = None,
) -> list[Result]:
    """KL(policy‖reference) in nats per response, from the policy's samples of the groups' prompts.

    `k1` (headline): mean of log π - log π_ref, unbiased. `k3`: Σ_t (e^d - 1 - d), d = log π_ref - log π of a
    token; never negative, less spread where the two are near. `k1_per_token` divides by tokens. Cluster =
    prompt.
    Raises `ValignError` unless samples come from the policy's own law: temperature 1, nothing cut off.
    """
    if (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) != (1.0, 1.0, 0, 0.0):
        raise ValignError(
            "samples of a changed law do not estimate this KL", where="sampling",
            how="use temperature 1, top_p 1, top_k 0, min_p 0",
        )  # fmt: skip
    require_ids(groups)
    samples, sampled = sample_groups(policy, groups, sampling, progress)
    if any(len(s.raw) != len(s.ids) or (s.text and not s.ids) for found in samples for s in found):
        raise ValignError("the samples come without their token ids and log-probs: there is no KL", where=policy.id,
                          how="sample from a local model of the same weights")  # fmt: skip
    scored = score_each(reference, sampled)
    items: dict[str, list[Item]] = {"k1": [], "k3": [], "k1_per_token": []}
    for group, found, other in zip(groups, samples, scored, strict=True):
        for k, sample in enumerate(found):
            name, cluster = f"{group.id}#{k}", cluster_of(group)
            if other is None or sample.failure or not sample.ids:
                reason = "no_answer" if sample.failure else "over_length" if other is None else "empty_continuation"
                for rows in items.values():
                    rows.append(Item(name, cluster, None, reason))
                continue
            own, ref = np.asarray(sample.raw, float), np.asarray(other[k].log_probs, float)
            total = float(k1(own, ref).sum())
            items["k1"].append(Item(name, cluster, total, detail={"tokens": len(own)}))
            items["k3"].append(Item(name, cluster, float(k3(own, ref).sum())))
            items["k1_per_token"].append(Item(name, cluster, total / len(own)))
    about = provenance(policy, reference=reference, data=data or data_of(groups), sampling=sampling)
    cut = sum(s.finish == "length" for found in samples for s in found)
    notes = (
        [f"{cut} responses were cut at {sampling.max_new_tokens} tokens: KL of what was sampled"]
        if cut
        else []
    )
    return [
        summarize(
            rows, metric="kl.policy_reference", variant=variant, subject=policy.id, level="cost", unit="nats",
            direction="down", anchors=Anchors(best=0.0), cluster_unit="prompt", provenance=about, notes=notes,
        )
        for variant, rows in items.items()
    ]  # fmt: skip
