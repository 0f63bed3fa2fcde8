"""Lets mkdocstrings show our docstrings as they are written.

Our docstrings are plain text: aligned lines "name   meaning" and indented formulas. Markdown would run them
together. This griffe extension turns aligned lines into lists, keeps formulas as code, and gives a dataclass
field without a docstring the comment at the end of its line.
"""

from __future__ import annotations

import io
import re
import tokenize
from typing import Any

import griffe

ENTRY = re.compile(r"^(?P<indent> {0,3})(?P<name>\S+(?: \S+)*?) {2,}(?P<text>\S.*)$")
CODE_INDENT = 4
MARKED = re.compile(r"(`+[^`]*`+)")


def as_markdown(text: str) -> str:
    """The docstring as Markdown: lists for aligned lines, code for indented ones, the rest as it reads."""
    out: list[str] = []
    inside = ""  # what the last line was part of: "", "text", "list" or "code"
    for line in text.expandtabs().splitlines():
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            out.append("")
            inside = ""
        elif inside == "list" and indent >= 2 and not ENTRY.match(line):
            out.append(f"    {escaped(line.strip())}")
        elif match := ENTRY.match(line):
            if inside not in ("", "list"):
                out.append("")
            out.append(f"- `{match['name']}` {escaped(match['text'])}")
            inside = "list"
        elif indent >= CODE_INDENT:
            if inside not in ("", "code"):
                out.append("")
            out.append(line)
            inside = "code"
        else:
            if inside in ("list", "code"):
                out.append("")
            out.append(escaped(line.strip()))
            inside = "text"
    return "\n".join(out)


def escaped(text: str) -> str:
    """Text whose `*`, `_`, `<` and `[` outside of backticks are shown, not read as markup."""
    parts = MARKED.split(text)
    return "".join(p if i % 2 else re.sub(r"([*_<\[\\])", r"\\\1", p) for i, p in enumerate(parts))


def end_comment(lines: list[str]) -> str:
    """The comment that closes the last line of a statement, "" without one."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO("\n".join(lines).strip() + "\n").readline))
    except (tokenize.TokenError, SyntaxError):
        return ""
    comments = [t.string for t in tokens if t.type == tokenize.COMMENT]
    return comments[-1].lstrip("# ").strip() if comments else ""


class PlainDocstrings(griffe.Extension):
    """Called by griffe for every object that it reads from the source."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)

    def on_attribute(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        if (
            not attr.docstring
            and isinstance(attr.parent, griffe.Class)
            and (comment := end_comment(attr.lines))
        ):
            attr.docstring = griffe.Docstring(escaped(comment), parent=attr)
