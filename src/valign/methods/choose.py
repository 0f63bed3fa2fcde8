"""Which methods can run here, and what their settings mean."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from valign.data.group import Comparison, Demonstration, Group, Ranking, Score
from valign.methods.method import Method


def catalogue(
    methods: Iterable[Method],
    *,
    local: bool | None = None,
    groups: Sequence[Group] | None = None,
    has_goal: bool = False,
) -> list[dict[str, Any]]:
    """One row per method: what it needs, and whether it can run (None: nothing was said to judge by).

    local     whether the model's weights are in reach        groups  the data        has_goal  a goal is named
    """
    rows = []
    judged = local is not None or groups is not None or has_goal
    for m in methods:
        reason = obstacle(m, local, groups, has_goal) if judged else ""
        rows.append(
            {"name": m.name, "title": m.title, "family": m.family, "row": m.row, "paper": m.paper, "feedback": m.feedback,
             "trains": m.trains, "promise": m.promise, "can_run": not reason if judged else None, "reason": reason}
        )  # fmt: skip
    return rows


def obstacle(m: Method, local: bool | None, groups: Sequence[Group] | None, has_goal: bool) -> str:
    """Why the method cannot run; empty if nothing stands against it."""
    if m.trains and local is False:
        return "it changes weights, and this model's are out of reach"
    if m.feedback == "goal text" and not has_goal:
        return "it needs a goal to put into words (--goal)"
    if m.feedback == "reward" and not has_goal:
        return "it needs a goal or a reward that scores new responses (--goal, --reward)"
    if groups is None or m.feedback not in ("pairs", "rankings", "demonstrations"):
        return ""
    kinds = (Demonstration, Comparison) if m.feedback == "demonstrations" else (Comparison, Ranking, Score)
    if any(isinstance(f, kinds) for g in groups for f in g.feedback):
        return ""
    if has_goal and any(len(g.responses) > (m.feedback != "demonstrations") for g in groups):
        return ""
    return f"the data hold no {m.feedback}" + (
        "" if has_goal else "; with a goal that scores responses they could be made"
    )


def settings_of(method: Method) -> list[dict[str, Any]]:
    """Name, default and meaning of every setting: the comment that stands beside the field is its meaning."""
    meanings: dict[str, str] = {}
    for base in reversed(method.config.__mro__):
        if base is not object and hasattr(base, "__dataclass_fields__"):
            meanings |= _comments(base)
    rows = []
    for f in fields(method.config):
        meaning = meanings.get(f.name, "")
        if f.name == "learning_rate":
            full, adapter = method.config.rates
            meaning += f" ({full:g} full weights, {adapter:g} adapter)"
        rows.append({"name": f.name, "default": f.default, "type": str(f.type), "meaning": meaning})
    return rows


def _comments(cls: type[Any]) -> dict[str, str]:
    """Field name -> the comment at the end of its line."""
    source = inspect.getsource(cls)
    lines = source.splitlines()
    body = ast.parse(inspect.cleandoc(source)).body[0]
    assert isinstance(body, ast.ClassDef)
    out = {}
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            line = lines[(node.end_lineno or node.lineno) - 1]
            out[node.target.id] = line.partition("  # ")[2].strip()
    return out
