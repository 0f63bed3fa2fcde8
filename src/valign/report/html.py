"""The page: one self-contained HTML file from a report's JSON. It adds no number and asks no network for
anything.

Everything on the page is escaped by default; only markup made in this room is trusted. A content security
policy in the page forbids every request, and every script but those of `templates/`, named by their hash. The
items and the JSON itself travel inside, compressed, as data that is no script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from valign.errors import require
from valign.report import figures, heat, items, lines, visible
from valign.report.circle import circle
from valign.report.node import Node, num, place, resolve, span, value
from valign.report.plots import scatter, training
from valign.report.sections import says_something
from valign.report.units import REFERENCE_TEXT, interval, number
from valign.report.words import is_no_goal

MAX_BYTES = 8_000_000  # evaluation notes section 11
SAMPLES = 12  # prompts that a reader without JavaScript sees; with it all items are listed
JSON_ROOM = 1_500_000  # bytes of the report's JSON inside the page; a larger one is only beside it
PREVIEW = 320  # characters shown before a text is folded
SCRIPTS = ("report.js", "items.js", "save.js")
DRAW = {
    "gap": figures.gap_bars,
    "forest": figures.forest,
    "benchmarks": figures.benchmarks,
    "cost": figures.cost_bars,
    "scatter": scatter,
    "curves": training,
    "circle": circle,
    "radar": circle,
    "overoptimisation": lines.panels,
    "efficiency": lines.panels,
    "generality": lines.splits,
    "tax": lines.taxes,
    "nearest": lines.nearest,
    "value_risk": heat.correlations,
}


def render(
    report: Mapping[str, Any], *, samples: int = SAMPLES, store: Callable[[Mapping[str, Any]], str] | None = None
) -> str:
    """The page of a report's JSON, its item lists in place; fewer samples are shown if it would be larger than
    8 MB.

    store   is given the item table where it does not fit into the page, and tells the path that the page names
    Raises `ValignError` for a JSON that is not a report of this schema.
    """
    require(
        report.get("schema") == 1 and "sections" in report,
        "report",
        report.get("schema"),
        "a report JSON of schema 1",
    )
    table = items.table(report)
    inside, left = items.fitting(table) if table["measures"] else ("", None)
    if left is not None:
        left["path"] = store(table) if store is not None else None
    whole = items.packed(report)
    carried = {
        "item_data": Markup(inside),
        "items_left": left,
        "report_data": Markup(whole if len(whole) <= JSON_ROOM else ""),
    }
    while True:
        page = _render(report, samples, carried)
        if len(page.encode()) < MAX_BYTES or samples == 0:
            return page
        samples //= 2


def script() -> str:
    """The page's one script, from its files."""
    return "\n".join(source(name) for name in SCRIPTS)


def _render(report: Mapping[str, Any], samples: int, carried: Mapping[str, Any]) -> str:
    root = Node(dict(report))
    subjects = {str(s.id): s for s in root.subjects}
    shown = [s for s in root.sections if all(str(f.id) != "methods" or says_something(value(f.data)) for f in s.figures)]

    def draw(figure: Node) -> Markup:
        return figures.figure(figure, DRAW[str(figure.type)](figure.data, subjects))

    page: str = (
        environment()
        .get_template("report.html.j2")
        .render(
            report=root,
            subjects=subjects,
            draw=draw,
            cards=_cards(root),
            drawn=set(DRAW),
            samples=samples,
            style=Markup(source("report.css")),
            script=Markup(script()),
            script_hash=script_hash(script()),
            sections=shown,
            toc=[(str(s.id), str(s.title)) for s in shown],
            has_cards=any(len(s.policy) > 1 for s in root.subjects),
            has_goal=not is_no_goal(value(root.goal)),
            **carried,
        )
    )
    return page


def _cards(root: Node) -> list[dict[str, Any]]:
    """M, V and T of the best policy (of the only one, else of the base), with the base's number before it."""
    from valign.report.roles import roles_for

    base = next((str(s.id) for s in root.subjects if value(s.base)), None)
    best = value(root.sentences.best) or (None if base else str(root.subjects[0].id))
    table = next(f.data for s in root.sections for f in s.figures if str(f.id) == "methods")
    rows = {str(r.subject): r for r in table.rows}
    shown = rows[best or base or str(root.subjects[0].id)]
    return [
        {
            "title": role.title,
            "meaning": role.meaning,
            "now": shown[k],
            "whose": str(shown.subject),
            "before": rows[base][k] if base and best and k != "T" else None,
        }
        for k, role in roles_for(str(root.primary)).items()
        if k in ("M", "V", "T") and k in value(table.columns)
    ]


@cache
def source(name: str) -> str:
    """A file of templates/."""
    return (files("valign.report") / "templates" / name).read_text(encoding="utf-8")


def script_hash(script: str) -> str:
    """The script as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def environment() -> Any:
    """The Jinja environment: autoescape for everything, undefined names are errors."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    env = Environment(
        loader=FunctionLoader(source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "num": num,
        "span": span,
        "v": value,
        "at": place,
        "attr": visible.attribute,
        "first": lambda n, k: [n[i] for i in range(min(k, len(n)))],
        "count": len,
        "sorted_keys": lambda n: sorted(value(n) or {}),
        "long": folded,
        "words": words,
    }
    env.globals |= {
        "mark": figures.mark,
        "resolve": resolve,
        "number": number,
        "interval": interval,
        "tone": figures.tone,
        "as_reference": figures.AS_REFERENCE,
        "reference_text": REFERENCE_TEXT,
    }
    return env


def folded(node: Any) -> Markup:
    """A text of a model or user: escaped, laid out in its own direction, long ones folded, very long ones
    cut."""
    text = str(value(node) if value(node) is not None else "")
    if not text.strip():
        return Markup('<p class="said empty">empty response</p>')
    cut = Markup("")
    if len(text) > items.CUT:
        cut = Markup('<p class="hint">… {} more characters are in the JSON beside this page</p>').format(
            len(text) - items.CUT
        )
        text = text[: items.CUT]
    whole = Markup('<p class="said" dir="auto">{}</p>').format(visible.html(text)) + cut
    if len(text) <= PREVIEW:
        return whole
    return Markup(
        '<details class="long"><summary><span class="said preview" dir="auto">{}…</span>'
        '<span class="show">show all {} characters</span></summary>{}</details>'
    ).format(visible.html(text[:PREVIEW]), len(str(value(node))), whole)


def words(node: Any) -> Markup:
    """A JSON value in a definition list: numbers plain, lists and objects as short text."""
    raw = value(node)
    match raw:
        case None:
            return Markup('<span class="none">not recorded</span>')
        case bool():
            return visible.html("yes" if raw else "no")
        case int() | float():
            return Markup('<data class="num" value="{}" data-at="{}">{}</data>').format(
                repr(raw), place(node), f"{raw:.10g}"
            )
        case dict():
            return Markup(", ").join(Markup("{} {}").format(visible.html(k), words(node[k])) for k in raw)
        case list():
            return Markup(", ").join(words(x) for x in node)
    text = str(raw)
    if len(text) >= 40 and all(c in "0123456789abcdef" for c in text):
        return Markup('<code title="{}">{}…</code>').format(text, text[:12])
    return visible.html(text)
