"""Goals that rank responses (social: borda, condorcet): whom a policy's own answers are ranked against.

A rank is among the responses to one prompt. Among a policy's own answers its mean is the same whatever they say, so answers
are ranked one by one against those of a reference: every policy that is measured meets the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from valign.data.group import Group
from valign.errors import UsageError
from valign.goals.base import Array, Goal
from valign.goals.composite import ranks

OWN = "or a rule that scores each answer by itself, in the goal file: social: mean, maxmin, nash or approval"


def utility_beside(goal: Goal, groups: Sequence[Group], others: Sequence[Group]) -> list[Array]:
    """(n_responses,) per group: the goal's utility of each response as the only one of its policy, ranked among `others`, the
    reference's responses to the same prompt."""
    alone = [
        replace(g, id=g.id if len(g.responses) == 1 else f"{g.id}#{k}", responses=(r, *o.responses))
        for g, o in zip(groups, others, strict=True)
        for k, r in enumerate(g.responses)
    ]
    found = iter(goal.utility(alone))
    return [np.array([next(found)[0] for _ in g.responses], np.float64) for g in groups]


def refuse_ranks(goal: Goal | None, where: str, how: Sequence[str] = ()) -> None:
    """Raise `UsageError` for a goal that ranks where there is nobody to be ranked against.

    how   what else can be done here, before the advice to score answers by themselves
    """
    if goal is not None and ranks(goal):
        raise UsageError(
            f"goal {goal.id} ranks the responses to one prompt (social: borda or condorcet): one policy's answers have no number "
            "of their own, there must be answers of another policy beside them",
            where=where, how=[*how, OWN],
        )  # fmt: skip
