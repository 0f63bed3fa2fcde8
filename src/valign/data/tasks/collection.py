"""Collections: a YAML file that lists tasks with their templates, examples and checks, as goal files name them.

    checkers: {short: {type: words, max: 40}}
    tasks:
      - id: refund
        templates: [{name: plain, jinja: "{{ text }} ||| {{ label }}", answer_choices: "yes ||| no"}]
        examples: refunds.jsonl            # or a list of mappings; a path is seen from the file's own folder
        checks: [short]                    # names of checkers, or checks themselves
      - {super_ni: task001.json}           # a task of Super-NaturalInstructions
      - {id: news, promptsource: ag_news.yaml, only: [classify], examples: ag_news.jsonl}
    mixture: {cap: 3000, weights: {refund: 2}, n: 1000, seed: 0}     # optional; also temperature

Always true here: what a file names lies on this machine; nothing is fetched; keys that are not known are errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from valign.data.tasks.mixture import Mixture
from valign.data.tasks.super_ni import read_super_ni
from valign.data.tasks.task import Task
from valign.data.tasks.template import Template, read_templates, template_of
from valign.errors import DataError, ValignError, unknown

SUPER_NI = ("definition", "positive", "negative", "explanations", "limit")
TOP = ("tasks", "checkers", "mixture")
NUMBERS: dict[str, Any] = {"cap": (int, float), "temperature": (int, float), "n": int, "seed": int}  # beside weights
KEYS = ("id", "templates", "promptsource", "only", "patterns", "examples", "checks")


def read_collection(path: str | Path, checks: Sequence[str] = ()) -> list[Task]:
    """The tasks of a collection file. Raises `DataError` or `UsageError` naming file and field.

    checks  names of the file's checkers that every task with examples of its own gets, beside those it lists
    """
    path = Path(path)
    content = _content(path)
    checkers = content.get("checkers") or {}
    all_ = _checks(checks, checkers, str(path))
    return [_task(entry, checkers, all_, path, f"{path}: tasks[{i}]") for i, entry in enumerate(content["tasks"])]


def read_mixture(path: str | Path, checks: Sequence[str] = (), **own: Any) -> Mixture:
    """The tasks of a collection file with their rates. Raises `DataError` or `UsageError` naming file and field.

    own  cap, temperature, weights, n, seed: take the place of the file's `mixture`
    """
    path = Path(path)
    said = _content(path).get("mixture") or {}
    where = f"{path}: mixture"
    if not isinstance(said, Mapping):
        raise DataError(f"must be a mapping, not {type(said).__name__}", where=where)
    options = {**said, **own}
    for key, value in options.items():
        if key != "weights" and key not in NUMBERS:
            raise unknown("key", str(key), (*NUMBERS, "weights"), where=where)
        kinds = NUMBERS.get(key)
        if kinds is not None and value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
            raise DataError(f"must be a {'whole ' * (kinds is int)}number, not {value!r}", where=f"{where}: {key}")
    weights = options.pop("weights", None) or {}
    if not isinstance(weights, Mapping) or not all(isinstance(w, int | float) for w in weights.values()):
        raise DataError(f"must be a mapping of tasks to numbers, not {weights!r}", where=f"{where}: weights")
    tasks = read_collection(path, checks)
    try:
        return Mixture(tasks, weights=dict(weights), **{k: v for k, v in options.items() if v is not None})
    except ValignError as error:
        raise type(error)(error.what, where=f"{path}: {error.where}", how=error.how) from error


def _content(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"is not one YAML document: {' '.join(str(error).split())}", where=str(path)) from error
    if not isinstance(content, Mapping) or not isinstance(content.get("tasks"), list) or not content["tasks"]:
        raise DataError("holds no list of tasks", where=str(path), how="tasks: [{id, templates, examples}]")
    for key in content:
        if key not in TOP:
            raise unknown("key", str(key), TOP, where=str(path))
    return content


def _task(entry: Any, checkers: Mapping[str, Any], every: list[Mapping[str, Any]], path: Path, where: str) -> Task:
    if not isinstance(entry, Mapping):
        raise DataError(f"must be a mapping, not {type(entry).__name__}", where=where)
    if "super_ni" in entry:
        options = {k: v for k, v in entry.items() if k != "super_ni"}
        for key in options:
            if key not in SUPER_NI:
                raise unknown("key", str(key), SUPER_NI, where=where)
        return read_super_ni(path.parent / str(entry["super_ni"]), **options)
    for key in entry:
        if key not in KEYS:
            raise unknown("key", str(key), (*KEYS, "super_ni"), where=where)
    if not isinstance(entry.get("id"), str):
        raise DataError("id is missing", where=where)
    examples, templates = _examples(entry.get("examples"), path, where), _templates(entry, path, where)
    if not examples or not templates:
        raise DataError("needs examples and at least one template", where=where)
    return Task(entry["id"], examples, templates, checks=[*_checks(entry.get("checks") or [], checkers, where), *every])


def _templates(entry: Mapping[str, Any], path: Path, where: str) -> list[Template]:
    found = [template_of(t, f"{where}: templates[{i}]") for i, t in enumerate(entry.get("templates") or [])]
    for i, pattern in enumerate(entry.get("patterns") or []):
        if not isinstance(pattern, list) or len(pattern) != 2:
            raise DataError("must be a pair of prompt and target", where=f"{where}: patterns[{i}]")
        found.append(Template.from_pattern(f"pattern {i + 1}", str(pattern[0]), str(pattern[1])))
    if "promptsource" in entry:
        named = read_templates(path.parent / str(entry["promptsource"]))
        for name in entry.get("only") or named:
            if name not in named:
                raise unknown("template", name, named, where=f"{where}: only")
            found.append(named[name])
    return found


def _examples(value: Any, path: Path, where: str) -> list[Mapping[str, Any]]:
    if isinstance(value, str):
        from valign.data.readers.containers import rows_of
        from valign.data.readers.reader import Log

        return [dict(row.fields) for row in rows_of(path.parent / value, Log())]
    if not isinstance(value, list) or not all(isinstance(v, Mapping) for v in value):
        raise DataError("must be a list of mappings, or the name of a file", where=f"{where}: examples")
    return [json.loads(json.dumps(v, default=str)) for v in value]


def _checks(value: Any, checkers: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    out: list[Mapping[str, Any]] = []
    for check in value:
        if isinstance(check, str):
            if check not in checkers:
                raise unknown("checker", check, checkers, where=f"{where}: checks")
            check = checkers[check]
        out.append(dict(check))
    return out
