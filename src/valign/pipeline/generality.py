"""`valign generality`: one checkpoint on i.i.d., shifted, attacked and value-swapped prompts, with paired tests. [F09]"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from valign.data.group import Group
from valign.errors import UsageError
from valign.evaluation.aggregate import summarize
from valign.evaluation.attacks import ATTACKS, attacked, check
from valign.evaluation.measure.common import judged_items, sample_groups, unanswered
from valign.evaluation.measure.generality import IID, JAILBREAK, OOD, SWAP, generality_section
from valign.evaluation.provenance import provenance
from valign.evaluation.result import Result
from valign.evaluation.section import Section
from valign.goals.base import Goal
from valign.goals.value import ValueGoal
from valign.models.policy import Policy, Sampling
from valign.pipeline.evaluate import Say, progress_of
from valign.pipeline.goals import judging, make_goal
from valign.pipeline.instruments import (
    Listen,
    carry_out,
    groups_named,
    nobody,
    policy_logged,
    request_of,
    workplace,
)
from valign.pipeline.judges import reasons
from valign.pipeline.policies import LoadOptions
from valign.pipeline.ranked import refuse_ranks
from valign.pipeline.texts import prompt_rows

Utility = Callable[[Sequence[Group]], Sequence[Any]]


def reversed_utility(goal: Goal) -> Utility:
    """The utility of the opposite goal: the target with its signs turned where the goal is a target of values, else the
    utility itself turned."""
    if isinstance(goal, ValueGoal):
        # the weights stay those of the goal: only what is wanted is turned
        turned = replace(goal, target={k: -v for k, v in goal.target.items()}, weights=tuple(goal.w), target_id="",
                         id=f"{goal.id} reversed")  # fmt: skip
        return turned.utility
    return lambda groups: [-np.asarray(u) for u in goal.utility(groups)]


@dataclass(frozen=True)
class Splits:
    """The prompts of each split. `iid` is attacked and swapped; `ood` may be empty, and so may `attacks`."""

    iid: Sequence[Group]
    ood: Sequence[Group] = ()
    attacks: Sequence[str] = ATTACKS


def measure_generality(
    policy: Policy, goal: Goal, splits: Splits, sampling: Sampling, *, say: Say | None = None
) -> Section:
    """The goal's utility of the policy's own answers on every split, and the gaps.

    value_swap needs no new answers: the same ones are judged by the reversed goal, and the score must turn. Raises
    `ValignError` for a goal without a scorer.
    """
    say = say or (lambda phase: None)
    about = provenance(policy, sampling=sampling, goal={"id": goal.id, "fingerprint": goal.fingerprint()})

    def ask(name: str, groups: Sequence[Group]) -> tuple[Sequence[Group], Any]:
        drawn, answered = sample_groups(policy, groups, sampling, say(name))
        return answered, unanswered(answered, drawn)

    def judged(name: str, utility: Utility, groups: Sequence[Group], missing: Any) -> Result:
        items = judged_items(groups, utility(groups), missing, reasons(goal))
        return summarize(items, metric="goal.utility", variant=f"{goal.id}.{name}",
                         subject=policy.id, level=goal.level, unit=_unit(goal), cluster_unit="prompt",
                         provenance=about)  # fmt: skip

    answered, missing = ask("i.i.d. prompts", splits.iid)
    found = {IID: judged(IID, goal.utility, answered, missing)}
    if splits.ood:
        found[OOD] = judged(OOD, goal.utility, *ask("shifted prompts", splits.ood))
    if splits.attacks:
        found[JAILBREAK] = judged(
            JAILBREAK, goal.utility, *ask("attacked prompts", attacked(splits.iid, splits.attacks))
        )
    found[SWAP] = judged(SWAP, reversed_utility(goal), answered, missing)
    notes = [] if splits.ood else ["no shifted split: name one with --ood"]
    return generality_section(found, notes=notes)


def _unit(goal: Goal) -> str:
    return "share" if goal.level == "instruction" else "score"


def generality_from_names(
    model: str, goal: str, data: Sequence[str], out: Path, *, ood: Sequence[str] = (), attacks: Sequence[str] = ATTACKS,
    sampling: Sampling, limit: int | None = None, options: LoadOptions | None = None, force: bool = False,
    on_event: Listen | None = None,
) -> tuple[Section, dict[str, Path]]:  # fmt: skip
    """What `valign generality` does; answers are logged in `out`, so an interrupted one goes on."""
    tell, made = on_event or nobody, judging(make_goal(goal))
    refuse_ranks(made, "--goal")
    check(attacks)
    splits = Splits(groups_named(data, limit, tell), groups_named(ood, limit, tell) if ood else (), tuple(attacks))
    same = {g.fingerprint() for g in splits.iid} & {g.fingerprint() for g in splits.ood}
    if same:
        raise UsageError(f"{len(same)} groups stand in both --data and --ood", where="--ood", how="name another source")
    with workplace(out) as run:
        policy = policy_logged(model, options, out / "requests.jsonl", tell)
        request = request_of("generality", {"model": policy}, {"iid": splits.iid, "ood": splits.ood}, sampling,
                             goal=made.fingerprint(), attacks=list(attacks))  # fmt: skip
        return carry_out(
            run, request, lambda: measure_generality(policy, made, splits, sampling, say=progress_of(tell)), [policy], [made],
            texts=prompt_rows([*splits.iid, *splits.ood]), options=options, force=force, tell=tell,
        )  # fmt: skip
