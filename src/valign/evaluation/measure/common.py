"""What all runs share: clusters, samples as groups."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from valign.data.group import Group, Response
from valign.errors import require
from valign.evaluation.provenance import DataSource
from valign.evaluation.record import Item
from valign.models.policy import Policy, Progress, Sample, Sampling


def cluster_of(group: Group) -> str:
    """What counts as independent: the group's cluster, else its id."""
    return group.cluster or group.id


def data_of(groups: Sequence[Group]) -> DataSource | None:
    """The groups as a data set if they know where they came from."""
    return groups if isinstance(groups, DataSource) else None


def require_ids(groups: Sequence[Group]) -> None:
    """Items are paired by id: every group needs its own. Raises `ValignError` naming one that repeats."""
    seen: set[str] = set()
    for g in groups:
        require(g.id not in seen, "id", g.id, "different for every group of one measurement")
        seen.add(g.id)


def sample_groups(
    policy: Policy, groups: Sequence[Group], sampling: Sampling, progress: Progress | None = None
) -> tuple[list[list[Sample]], list[Group]]:
    """(samples per group, the groups with those samples as their responses, ids kept).

    The address of a prompt's randomness is the group's id, so a subset of the data draws the same samples.
    """
    samples = policy.generate(
        [g.prompt for g in groups], sampling, keys=[g.id for g in groups], progress=progress
    )
    sampled = [
        replace(
            g,
            responses=tuple(response_of(s, policy.id) for s in found),
            feedback=(),
            choices=False,
            gold=None,
        )
        for g, found in zip(groups, samples, strict=True)
    ]
    return samples, sampled


def unanswered(groups: Sequence[Group], samples: Sequence[Sequence[Sample]]) -> frozenset[str]:
    """Item ids (group#sample) of the responses that an endpoint failed to give: they are unscored (`no_answer`)."""
    return frozenset(f"{g.id}#{k}" for g, row in zip(groups, samples) for k, s in enumerate(row) if s.failure)


def why_unscored(name: str, scores: Any, missing: Collection[str] = (), why: Mapping[str, str] | None = None) -> str | None:
    """Why the response `name` (group#sample) has no score; None where it has one.

    scores   its score or scores; nan is none       missing  responses that an endpoint failed to give (`no_answer`)
    why      what a judge says of responses without a verdict; `judge_error` where it says nothing
    """
    if name in missing:
        return "no_answer"
    return (why or {}).get(name, "judge_error") if np.isnan(scores).any() else None


def judged_items(
    groups: Sequence[Group], scores: Sequence[Any], missing: Collection[str] = (), why: Mapping[str, str] | None = None
) -> list[Item]:
    """One item per response, called group#sample, from (n_responses,) scores per group; see `why_unscored`."""
    out = []
    for g, row in zip(groups, scores, strict=True):
        for k, score in enumerate(row):
            reason = why_unscored(f"{g.id}#{k}", score, missing, why)
            out.append(Item(f"{g.id}#{k}", cluster_of(g), None if reason else float(score), reason))
    return out


def response_of(sample: Sample, source: str = "") -> Response:
    """A sample as a response: token in, token out. Ids that an endpoint does not tell are not known."""
    return Response(sample.text, source=source, ids=sample.ids or None, finish=sample.finish)
