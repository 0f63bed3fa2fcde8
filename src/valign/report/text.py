"""A report, a diff and a running run in the terminal: rich renderables from the same JSON. Nothing is printed
here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from valign.report.units import REFERENCE, interval, number
from valign.report.visible import plain

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    from valign.report.diff import Change

HEADS = {"M": "M ↓", "V": "V ↑", "T": "T ↓", "KL": "KL"}
MARKS = {
    "better": ("better", "green"),
    "worse": ("worse", "red"),
    "none": ("not told apart", "dim"),
    "unknown": ("not compared", "dim"),
}
BLOCKS = "▁▂▃▄▅▆▇█"


def report_text(report: Mapping[str, Any]) -> Group:
    """The headline sentences, the methods' table and the warnings."""
    from rich.console import Group
    from rich.text import Text

    said = report["sentences"]
    lines: list[RenderableType] = [
        Text(plain(said["lead"]), style="bold"),
        *(Text("· " + plain(m)) for m in said["more"]),
        Text(""),
        methods_table(report),
    ]
    return Group(*lines, *(Text("! " + plain(w), style="yellow") for w in report["warnings"]))


def methods_table(report: Mapping[str, Any]) -> Table:
    """One row per policy: headline numbers, paired change, what it cost."""
    from rich.table import Table

    data = next(f["data"] for s in report["sections"] for f in s["figures"] if f["id"] == "methods")
    cards = {s["id"]: s for s in report["subjects"]}
    many = len(cards) > 1
    table = _new_table(
        "policy",
        *(HEADS[k] for k in data["columns"]),
        *([f"Δ{data['primary']} [95 %]", ""] if many else []),
        "tokens",
        "time",
        "memory",
    )
    assert isinstance(table, Table)
    for r in data["rows"]:
        own = cards[r["subject"]]
        row = [_t(own["label"], "bold" if r["subject"] == report["sentences"]["best"] else "")]
        row += [
            _t(REFERENCE, "dim") if r[k].get("reference") else _t(number(r[k]["value"], "bare" if k == "KL" else r[k]["unit"]))
            for k in data["columns"]
        ]
        if many:
            row += _change(r["difference"], own)
        row += [
            _t("–" if r[k] is None else number(r[k], unit))
            for k, unit in (("tokens", "count"), ("seconds", "seconds"), ("memory", "bytes"))
        ]
        table.add_row(*row, style="dim" if r["dominated_by"] else "")
    return table


def _change(difference: Mapping[str, Any] | None, own: Mapping[str, Any]) -> list[Text]:
    if own["base"]:
        return [_t("–"), _t("base", "dim")]
    word, style = MARKS[own["verdict"]["kind"]]
    word = "no difference" if (difference or {}).get("conclusion") == "no difference" else word
    if difference is None or difference["value"] is None:
        return [_t("–"), _t(word, style)]
    unit = difference["unit"]
    ends = f" [{interval(difference['interval'], unit, signed=True)}]" if difference["interval"] else ""
    return [_t(number(difference["value"], unit, signed=True) + ends), _t(word, style)]


def diff_table(changes: Sequence[Change]) -> Table:
    """Metrics of two reports side by side, changed ones first."""
    policies = {c.subject for c in changes}
    heads = ("policy", "metric", "variant", "before", "after", "difference", "p", "")
    table = _new_table(*heads[len(policies) == 1 :], whole=("before", "after", "p"))
    if len(policies) == 1:  # said once above the table: the width is needed for numbers
        table.title, table.title_justify = _t(policies.pop()), "left"
    for c in sorted(changes, key=lambda c: (c.kind == "same", c.metric)):
        style = {"better": "green", "worse": "red", "same": "dim"}.get(c.kind, "")
        ends = f" [{interval(c.interval, c.unit, signed=True)}]" if c.interval else ""
        difference = "" if c.difference is None else number(c.difference, c.unit, signed=True) + ends
        row = [
            _t(c.subject),
            _t(c.metric),
            _t(c.variant),
            _t(number(c.before, c.unit) if c.in_a else "–"),
            _t(number(c.after, c.unit) if c.in_b else "–"),
            _t(difference),
            _t("" if c.p_adjusted is None else f"{c.p_adjusted:.2g}"),
            _t(_kind_text(c), style),
        ]
        table.add_row(*row[-len(table.columns) :])
    for column in table.columns:
        if column.no_wrap:  # rich would cut these as well where the others cannot give enough
            column.min_width = max(len(str(cell)) for cell in (column.header, *column.cells))
    return table


def _kind_text(c: Change) -> str:
    """The kind; where noise hides what there may be, the size that would have been found."""
    return f"within noise (finds {number(c.mde, c.unit)})" if c.kind == "within noise" and c.mde else c.kind


def run_text(summary: Mapping[str, Any]) -> Group:
    """A run from `watch.run_summary`: how far, how fast, the curves in blocks, findings and warnings."""
    from rich.console import Group
    from rich.table import Table

    done, steps = summary["step"], summary["steps"]
    share = f" {100 * done / steps:.0f} %" if steps else ""
    left = (
        f", about {number(summary['seconds_left'], 'seconds')} left"
        if summary["seconds_left"] is not None
        else ""
    )
    lines: list[RenderableType] = [
        _t(
            f"{plain(summary['name'])}: step {done} of {steps or '?'}{share}{left} ({summary['state']})",
            "bold",
        )
    ]
    grid = Table.grid(padding=(0, 2))
    for name, series in summary["curves"]["series"].items():
        known = [x for x in series if x is not None]
        grid.add_row(
            _t(name.replace("_", " "), "dim"),
            _t(blocks(series)),
            _t(f"{number(known[0], 'plain')} → {number(known[-1], 'plain')}"),
        )
    lines.append(grid)
    lines += [_t(f"✗ {a['name']}: {a['text']}", "red") for a in summary["audit"] if not a["ok"]]
    return Group(*lines, *(_t("! " + plain(w), "yellow") for w in summary["warnings"]))


def blocks(series: Sequence[float | None], width: int = 40) -> str:
    """A series as block characters, the mean of each stretch; a stretch without values is a space."""
    size = max(1, -(-len(series) // width))
    parts = [[x for x in series[i : i + size] if x is not None] for i in range(0, len(series), size)]
    means = [sum(p) / len(p) if p else None for p in parts]
    known = [m for m in means if m is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if m is None else BLOCKS[round((m - low) * scale)] for m in means)


def _new_table(*heads: str, whole: Sequence[str] | None = None) -> Table:
    """An empty table. whole: heads of columns that never take a second line; default: all but those with intervals."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:  # a column that may not take a second line is cut in a narrow terminal when the others are at their end
        table.add_column(_t(head), overflow="fold", no_wrap="[" not in head if whole is None else head in whole)
    return table


def _t(text: Any, style: str = "") -> Text:
    """Text that no markup and no terminal escape in it can change."""
    from rich.text import Text

    return Text(plain(text), style=style)
