"""Data for a run: sources with weights, and feedback that follows from a goal where the data hold none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from valign.data.convert import pairs_from_utility
from valign.data.group import Comparison, Demonstration, Group, Ranking, Score
from valign.data.readers.reading import YAML
from valign.data.tasks import as_dataset, task_counts
from valign.data.tasks.dataset import FORMAT
from valign.errors import DataError
from valign.goals.base import Goal
from valign.goals.instruction import InstructionGoal

if TYPE_CHECKING:
    from valign.data.dataset import Dataset
    from valign.pipeline.recipe import Source

Listen = Callable[[str, Mapping[str, Any]], None]
SHOWN = 3  # rows that a warning names, of those that were left out


def read_source(source: Source) -> Dataset:
    """One source: a file in any known format, "builtin:NAME", or "hub:OWNER/NAME"; a YAML file is a collection of tasks, or an
    instruction goal that names one.
    """
    from valign.data import builtin, read

    if source.path.startswith("builtin:"):
        name = source.path.removeprefix("builtin:")
        data = builtin(name, split=source.split)
    elif source.format is None and (goal := _goal_of(source.path)) is not None:
        data = as_dataset(goal.mixture(), source.path)
        if (split := source.split) is not None:
            data = data.map(lambda g: replace(g, split=split))
    else:
        data = read(source.path, format=source.format, split=source.split)
    if source.rows:
        first, last = source.row_range(len(data))
        data = data[first:last]
    if source.limit:
        data = data[: source.limit]
    if not len(data):
        raise DataError("no groups are left", where=source.path, how="look at split, rows and limit")
    return data


def _goal_of(path: str) -> InstructionGoal | None:
    """The instruction goal in a YAML file; None for anything that is no goal file. Raises `DataError` for another goal.

    Its collection is looked for from where the command runs, then beside the goal's file.
    """
    from valign.goals.files import read_yaml
    from valign.goals.loading import load_goal

    file = Path(path).expanduser()
    if file.suffix not in YAML or not file.is_file() or "level" not in read_yaml(file):
        return None
    goal = load_goal(file)
    if not isinstance(goal, InstructionGoal):
        raise DataError(f"is a goal of level {goal.level}, and only an instruction goal brings data", where=path,
                        how="name it with --goal, and data with --data")  # fmt: skip
    named = str((goal.tasks or {}).get("collection", ""))
    beside = file.parent / named
    if Path(named).is_file() or not beside.is_file():
        return goal
    return replace(goal, tasks={**(goal.tasks or {}), "collection": str(beside)})


def read_sources(sources: Sequence[Source], seed: int, tell: Listen | None = None) -> tuple[list[Group], list[Dataset]]:
    """Groups of all sources, mixed by their weights where these differ, and the data sets they came from.

    tell  hears a "warning" for each source of which rows were left out, and the "tasks" of each mixture with their counts
    """
    from valign.data import mixture

    sets = [read_source(s) for s in sources]
    for text in filter(None, map(left_out, sets)):
        if tell is not None:
            tell("warning", {"text": text})
    for data in sets:
        if tell is not None and data.format == FORMAT:
            tell("tasks", {"source": data.source, "counts": task_counts(data)})
    weights = [s.weight for s in sources]
    if len(sets) == 1 or len(set(weights)) == 1:
        groups = [g for d in sets for g in d]
    else:
        # as many groups as the shares allow without repeating one
        n = int(min(len(d) * sum(weights) / w for d, w in zip(sets, weights)))
        groups = list(mixture(list(zip(sets, weights)), seed=seed, n=n))
    seen: set[str] = set()
    for i, g in enumerate(groups):
        if g.id in seen:
            groups[i] = replace(g, id=f"{g.id}~{i}")
        seen.add(groups[i].id)
    return groups, sets


def left_out(data: Dataset) -> str:
    """How many rows of a source could not be read, and the first with line, field and reason; "" = none."""
    dropped = data.report.dropped
    if not dropped:
        return ""
    first = "; ".join(f"line {line}{', ' + field if field else ''}: {why}" for line, field, why in dropped[:SHOWN])
    return f"{data.source}: {len(dropped)} of {data.report.rows} rows are left out ({first})"


def with_feedback(
    groups: Sequence[Group], feedback: str, goal: Goal | None, tell: Listen | None = None
) -> tuple[list[Group], str]:
    """Groups that hold what a method learns from, and a note on where it came from ("" = it was there).

    Feedback that the data hold is never replaced. Without it, pairs (and rankings, as pairs) are the orders of
    the goal's utility, and demonstrations the responses that it finds best: from the labels in the data where
    there are any, else from the goal's scorer (`tell` hears that it is at work). Raises nothing: a method that finds no feedback
    says so itself.
    """
    made = feedback in ("pairs", "rankings", "demonstrations")
    if goal is None or not made or not groups or any(_has(g, feedback) for g in groups):
        return list(groups), ""
    utilities, origin = goal.labels(groups), "labels"
    if not any(np.isfinite(u).any() for u in utilities):
        if tell is not None:
            tell("measuring", {"subject": "", "what": f"scores of the data by goal {goal.id}"})
        utilities, origin = goal.utility(groups), "scores"
    make = _best if feedback == "demonstrations" else _pairs
    return [make(g, u) for g, u in zip(groups, utilities)], f"{feedback} follow from the {origin} of goal {goal.id}"


def _has(group: Group, feedback: str) -> bool:
    kinds = (Demonstration, Comparison) if feedback == "demonstrations" else (Comparison, Ranking, Score)
    return any(isinstance(f, kinds) for f in group.feedback)


def _pairs(group: Group, utility: np.ndarray) -> Group:  # type: ignore[type-arg]
    known = [i for i in range(len(group.responses)) if np.isfinite(utility[i])]
    if len(known) < 2:
        return group
    if len(known) == len(group.responses):
        return pairs_from_utility(group, utility.tolist())
    kept = replace(group, responses=tuple(group.responses[i] for i in known), feedback=(), gold=None)
    return pairs_from_utility(kept, utility[known].tolist())


def _best(group: Group, utility: np.ndarray) -> Group:  # type: ignore[type-arg]
    if not np.isfinite(utility).any():
        return group
    top = np.nanmax(utility)
    return group.with_feedback(*(Demonstration(response=int(i)) for i in np.flatnonzero(utility == top)))
