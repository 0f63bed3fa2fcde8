"""On-the-fly rules (OPO): the user's own texts of law and morals as a principle set. Nothing of them is shipped.

Always true here: a rule's text is the user's, word for word; its kind of rule becomes the theme. A file is plain text, one
rule per line (`#` starts a comment), or JSONL with `text` and optionally `id`, `type`, `source`, `conditions`, `exceptions`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from valign.data.jsonl import json_lines
from valign.errors import DataError
from valign.goals.files import Reader
from valign.goals.principle import Principle, PrincipleSet

TYPES = ("law", "basic morality", "social morality", "professional morality")  # the kinds of rule in arXiv 2312.15907
SOURCE = "arXiv 2312.15907 (the method); the texts are the user's"
LICENSE = "the user's own texts"


def read_rules(path: Path) -> PrincipleSet:
    """The rules of a file as the principle set `opo`. Raises `DataError` naming file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(f"cannot be read: {reason}", where=str(path)) from error
    jsonl = path.suffix == ".jsonl"
    lines = json_lines(text) if jsonl else text.splitlines()
    rules, seen = [], dict[str, int]()
    for number, line in enumerate(lines, 1):
        if not line.strip() or (not jsonl and line.lstrip().startswith("#")):
            continue
        where = f"{path} line {number}"
        rule = _rule(_json(line, where) if jsonl else {"text": line.strip()}, where, number)
        for key in (rule.id, " ".join(rule.text.lower().split())):
            if key in seen:
                raise DataError(f"the same rule or id stands in line {seen[key]}", where=where)
            seen[key] = number
        rules.append(rule)
    if not rules:
        raise DataError("holds no rules", where=str(path), how="one rule per line")
    return PrincipleSet("opo", tuple(rules), source=SOURCE, license_of_source=LICENSE, wording="quoted", title=path.name)


def _rule(content: Mapping[str, Any], where: str, number: int) -> Principle:
    r = Reader(content, where)
    out = Principle(
        id=r.text("id", default=f"line-{number}"),
        text=r.text("text"),
        theme=r.choice("type", TYPES, default="law"),
        conditions=tuple(r.texts("conditions", default=[])),
        exceptions=tuple(r.texts("exceptions", default=[])),
        source=r.text("source", default=SOURCE),
        license=LICENSE,
    )
    r.done()
    return out


def _json(line: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=where) from error
    return content if isinstance(content, dict) else {"text": content}
