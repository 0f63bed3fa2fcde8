"""Outputs that an evaluation stored, read again so that another goal can judge them.

Always true here: what was stored is not changed; a response that was never given stays unscored; values that a value
evaluator read off a response are used again only for the same theory and the same evaluator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from valign.data.group import Group, Message, Response, user
from valign.data.jsonl import json_lines, read_object
from valign.errors import DataError, ValignError
from valign.goals.base import Array, Goal, scorer_identity
from valign.goals.composite import CompositeGoal
from valign.goals.dimensions import Theory
from valign.goals.value import ValueGoal
from valign.pipeline.evaluate import AGAIN, GOAL, RESULT, SAMPLES

HOW = ("name the folder that `valign evaluate --out` or `valign profile --out` wrote, or its samples.jsonl",)


@dataclass(frozen=True)
class Outputs:
    """The responses of one policy.

    groups   its prompts with its responses
    scores   (n_responses,) per group as they were stored; NaN: unscored
    given    (n_responses,) bool per group; False: no answer came
    rows     the lines of the file
    record   what the goal was (`goal_record`); None where an older version stored none
    """

    folder: Path
    subject: str
    groups: tuple[Group, ...]
    scores: tuple[Array, ...]
    given: tuple[Array, ...]
    rows: tuple[Mapping[str, Any], ...]
    record: Mapping[str, Any] | None = None

    @property
    def answered(self) -> list[Group]:
        """The groups with the responses that were given; a group without any is left out."""
        kept = [
            replace(group, responses=tuple(r for r, ok in zip(group.responses, given, strict=True) if ok))
            for group, given in zip(self.groups, self.given, strict=True)
        ]
        return [g for g in kept if g.responses]

    def spread_out(self, rows: Sequence[Array]) -> list[Array]:
        """Rows (given responses,) of `answered` as (n_responses,) of every group; NaN where no answer came."""
        found = iter(rows)
        out = []
        for given in self.given:
            full = np.full(len(given), np.nan)
            if given.any():
                full[given] = next(found)
            out.append(full)
        return out

    def at_own_places(self, why: Mapping[str, str]) -> dict[str, str]:
        """What is said of responses of `answered` (GROUP#RESPONSE), by their places among all."""
        places = {g.id: np.flatnonzero(given) for g, given in zip(self.groups, self.given, strict=True)}
        named = {f"{id}#{k}": f"{id}#{at}" for id, found in places.items() for k, at in enumerate(found)}
        return {named[item]: reason for item, reason in why.items() if item in named}

    def values(self, theory: Theory) -> list[Array] | None:
        """(n_responses, K) per group as stored; None where a scored response has no values of this theory."""
        out = []
        for row, scores in zip(self.rows, self.scores, strict=True):
            table = np.full((len(scores), len(theory.ids)), np.nan)
            for k, response in enumerate(row["responses"]):
                found = response.get("values") or {}
                if set(found) == set(theory.ids):
                    table[k] = [found[d] for d in theory.ids]
                elif not np.isnan(scores[k]):
                    return None
            out.append(table)
        return out


@dataclass(frozen=True, eq=False)
class StoredValues:
    """A `ValueScorer` that says again what an evaluator said of stored responses."""

    id: str
    theory: str
    by_group: Mapping[str, Array]

    def values(self, groups: Sequence[Group]) -> list[Array]:
        """See `ValueScorer.values`."""
        return [self.by_group[g.id] for g in groups]

    def fingerprint(self) -> str:
        """That of the evaluator, so that the goal is the same goal."""
        return self.id


def read_outputs(source: Path) -> list[Outputs]:
    """The outputs in a folder or file: one policy's, or those of each policy below it. Raises `DataError` naming the line."""
    if source.is_file():
        return [_outputs(source)]
    if not source.is_dir():
        raise DataError("there is no such file or folder", where=str(source), how=HOW)
    files = [source / SAMPLES] if (source / SAMPLES).is_file() else []
    for pattern in ("evaluation/*", "*"):
        files = files or sorted(f for f in source.glob(f"{pattern}/{SAMPLES}"))
    found = [o for o in map(_outputs, files) if o.groups]
    if not found:
        raise DataError("no stored outputs: there is no samples.jsonl with a response", where=str(source), how=HOW)
    return found


def with_stored_values(goal: Goal, outputs: Outputs) -> Goal:
    """The goal, reading values where they are stored: then no model is needed and the numbers are the stored ones."""
    if isinstance(goal, CompositeGoal):
        parts = tuple(replace(p, goal=with_stored_values(p.goal, outputs)) for p in goal.parts)
        return replace(goal, parts=parts)
    record = outputs.record
    if not isinstance(goal, ValueGoal) or record is None or record["goal"].get("theory") != goal.theory.id:
        return goal
    if goal.evaluator is not None and scorer_identity(goal.evaluator) != record["scorer"]:
        return goal
    values = outputs.values(goal.theory)
    if values is None or record["scorer"] is None:
        return goal
    by_group = {g.id: v[given] for g, v, given in zip(outputs.groups, values, outputs.given, strict=True)}
    return replace(goal, evaluator=StoredValues(record["scorer"], goal.theory.id, by_group))


def joined(outputs: Sequence[Outputs]) -> tuple[Outputs, list[list[tuple[int, slice]]]]:
    """All responses to a prompt, whoever gave them, in one group; and of every policy's groups, in its order, where they lie:
    (group, responses)."""
    members: dict[str, list[tuple[int, int]]] = {}
    for p, o in enumerate(outputs):
        for g, group in enumerate(o.groups):
            members.setdefault(group.id, []).append((p, g))
    places: list[list[tuple[int, slice]]] = [[(0, slice(0))] * len(o.groups) for o in outputs]
    groups, scores, given, rows = [], [], [], []
    for at, found in enumerate(members.values()):
        start = 0
        for p, g in found:
            stop = start + len(outputs[p].groups[g].responses)
            places[p][g], start = (at, slice(start, stop)), stop
        first, index = outputs[found[0][0]], found[0][1]
        groups.append(replace(first.groups[index], responses=tuple(r for p, g in found for r in outputs[p].groups[g].responses)))
        scores.append(np.concatenate([outputs[p].scores[g] for p, g in found]))
        given.append(np.concatenate([outputs[p].given[g] for p, g in found]))
        rows.append({**first.rows[index], "responses": [r for p, g in found for r in outputs[p].rows[g]["responses"]]})
    same = all(o.record == outputs[0].record for o in outputs)
    whole = Outputs(outputs[0].folder, "", tuple(groups), tuple(scores), tuple(given), tuple(rows),
                    outputs[0].record if same else None)  # fmt: skip
    return whole, places


def _outputs(file: Path) -> Outputs:
    rows, groups, scores, given, seen = [], [], [], [], set[str]()
    for number, line in enumerate(json_lines(file.read_text(encoding="utf-8")), 1):
        where = f"{file} line {number}"
        try:
            row = json.loads(line)
            group = _group(row)
        except (ValueError, TypeError, KeyError, ValignError) as error:
            raise DataError(f"not a stored sample: {error}", where=where, how=HOW) from error
        if group.id in seen:
            raise DataError(f"the id {group.id!r} stands twice", where=where)
        seen.add(group.id)
        rows.append(row)
        groups.append(group)
        scores.append(np.array([np.nan if r.get("score") is None else float(r["score"]) for r in row["responses"]]))
        given.append(np.array(["failure" not in r for r in row["responses"]], dtype=bool))
    record = file.with_name(GOAL)
    return Outputs(
        folder=file.parent,
        subject=_subject(file.with_name(RESULT)) or file.parent.name,
        groups=tuple(groups),
        scores=tuple(scores),
        given=tuple(given),
        rows=tuple(rows),
        record=read_object(record, AGAIN) if record.is_file() else None,
    )


def _group(row: Mapping[str, Any]) -> Group:
    messages = tuple(Message(role, content) for role, content in row["messages"]) if "messages" in row else None
    responses = tuple(Response(str(r["text"]), finish=r.get("finish")) for r in row["responses"])
    return Group(
        id=str(row["id"]), prompt=messages or user(row["prompt"]), responses=responses, cluster=row.get("cluster", "")
    )


def _subject(results: Path) -> str:
    """The policy that a result file is about, "" where it does not say."""
    if not results.is_file():
        return ""
    rows = read_object(results, AGAIN).get("results")
    subjects = [str(r.get("subject", "")) for r in rows if isinstance(r, dict)] if isinstance(rows, list) else []
    return next((s for s in subjects if s and not s.startswith("baseline")), "")
