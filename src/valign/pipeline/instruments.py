"""What the instruments share: judges by name, an output folder that is owned and remembered, policies that remember.

OUT/request.json   what was asked for; something else in the same folder is refused
OUT/*.jsonl        every request to a policy or a judge: an interrupted instrument goes on where it was
OUT/result.json, OUT/section.json   written last, each whole or absent
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from valign.data.group import Group
from valign.engine.run import RunFolder
from valign.errors import UsageError, unknown
from valign.evaluation.result import Result
from valign.evaluation.section import FILE, Section, write_section
from valign.goals.base import ResponseScorer
from valign.methods.guard import Guard
from valign.models.policy import Policy, Sampling
from valign.pipeline import request as asked
from valign.pipeline.data import read_sources
from valign.pipeline.door import source
from valign.pipeline.judges import LOG as JUDGE_LOG
from valign.pipeline.judges import judges_logged
from valign.pipeline.policies import LoadOptions, load_policy
from valign.pipeline.spending import accounted, check_priced
from valign.pipeline.texts import write_texts

Listen = Callable[[str, Mapping[str, Any]], None]


def nobody(event: str, fields: Mapping[str, Any]) -> None:
    """Nobody listens."""


def judge_named(name: str) -> ResponseScorer:
    """A judge of responses by name: a reward (`sentiment`, a reward model's folder, python:module.function) or a goal."""
    from valign.goals.loading import goal_names
    from valign.pipeline.goals import make_goal
    from valign.rewards.base import PREFIX, from_goal
    from valign.rewards.registry import REWARDS, make
    from valign.rewards.reward_model import is_reward_folder

    if name in REWARDS or name.startswith(PREFIX) or is_reward_folder(Path(name).expanduser()):
        return make(name)
    try:
        return from_goal(make_goal(name))
    except UsageError as error:
        if error.what != unknown("goal", name, ()).what:
            raise
        raise unknown("reward or goal", name, (*REWARDS, *goal_names())) from error


def groups_named(names: Sequence[str], limit: int | None, tell: Listen) -> list[Group]:
    """The groups of one or more sources (`FILE`, `FILE#split`, `builtin:NAME#split`)."""
    return read_sources([source(n, limit) for n in names], 0, tell)[0]


def guard_named(
    gold: str | None,
    audit: Sequence[str],
    *,
    every: int,
    action: str,
    max_kl: float | None,
    limit: int | None,
    tell: Listen,
) -> Guard | None:
    """The guard of a training run from names; None where nothing was asked for. Raises `ValignError` for what has no
    effect."""
    if gold is None and max_kl is None and not audit and action == "warn" and not every:
        return None
    if gold is None and every:
        raise UsageError("without a judge there is no audit", where="--audit-steps", how="name one: --gold")
    judge = judge_named(gold) if gold else None
    return Guard(
        judge, groups_named(audit, limit, tell) if audit else (), every=every, action=cast(Any, action), max_kl=max_kl
    )


def policy_logged(name: str, options: LoadOptions | None, log: Path, tell: Listen, **scorers: Any) -> Any:
    """A policy whose answers are kept in `log` and read from there when asked again."""
    from valign.evaluation.cached import CachedPolicy

    tell("loading", {"name": name})
    return CachedPolicy(load_policy(name, options, **scorers), log)


def request_of(kind: str, policies: Mapping[str, Policy | None], groups: Mapping[str, Sequence[Group]],
               sampling: Sampling | None = None, **settings: Any) -> dict[str, Any]:  # fmt: skip
    """What an instrument was asked for, as its folder remembers it."""
    from valign.evaluation.cached import fingerprint

    chosen = {k: v for k, v in asdict(sampling).items() if k != "stop"} if sampling is not None else {}
    models = {name: None if p is None else f"{p.id} {fingerprint(p)}" for name, p in policies.items()}
    data = {name: asked.digest(g) for name, g in groups.items()}
    return {"instrument": kind, "models": models, "data": data, "settings": {**chosen, **settings}}


@contextmanager
def workplace(out: Path) -> Iterator[RunFolder]:
    """The output folder, owned while the instrument works."""
    with RunFolder(out) as run:
        yield run


def remember(run: RunFolder, request: Mapping[str, Any], force: bool) -> None:
    """Refuse a folder that holds another request's section; else note this one."""
    out = run.path
    finished = (out / FILE).exists()
    if finished and not force and not (out / asked.FILE).exists():
        raise UsageError("the folder holds results of something else", where=str(out / FILE), how=asked.HOW)
    asked.is_repeated(out, out / asked.FILE, request, force=force, lost=finished)
    run.write(asked.FILE, asked.text(request))


def carry_out(
    run: RunFolder, request: Mapping[str, Any], work: Callable[[], Section], policies: Sequence[Policy | None] = (),
    judges: Sequence[Any] = (), *, texts: Sequence[Mapping[str, Any]] = (), options: LoadOptions | None = None,
    force: bool = False, tell: Listen,
) -> tuple[Section, dict[str, Path]]:  # fmt: skip
    """The section that `work` gives, and its files: what it cost stands in the provenance of every Result.

    judges   goals and rewards whose judges are asked: they answer through a log in the folder, and their endpoints share the
             budget of `options` with the policies
    texts    rows of `texts` that the folder keeps, for the page
    Raises `UsageError` where prices are given and nobody is paid, before the folder remembers the request.
    """
    budget = options.budget if options is not None else None
    with judges_logged((*judges, *policies), run.path / JUDGE_LOG, budget) as asked:
        check_priced((*policies, *asked), budget)
        remember(run, request, force)
        section = costed(work, (*policies, *asked))
    if texts:
        write_texts(run.path, texts)
    return section, finish(section, run.path, tell)


def costed(work: Callable[[], Section], policies: Sequence[Policy | None] = ()) -> Section:
    """The section that `work` gives, with what the work cost in the provenance of every Result."""
    results: list[Result] = []
    with accounted(results, policies):
        section = work()
        results += section.results
    return replace(section, results=results)


def finish(section: Section, out: Path, tell: Listen) -> dict[str, Path]:
    """Write the section; notes are told as warnings."""
    for note in section.notes:
        tell("warning", {"text": note})
    tell("writing", {"path": str(out)})
    return write_section(section, out)
