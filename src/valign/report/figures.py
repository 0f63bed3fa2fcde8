"""Figures made of rows: one policy a row, its mark drawn as SVG on a shared axis, its numbers printed beside.

Pure functions from the report's JSON (as `Node`s) to markup. Positions are percentages, so a drawing is as
wide as its place and text keeps its size on every screen; the words stand in HTML, the SVG carries only
marks, title and desc.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup, escape

from valign.report.node import Node, num, span, value
from valign.report.units import REFERENCE, REFERENCE_TEXT, interval, number, tick
from valign.report.visible import attribute, plain

AS_REFERENCE = Markup('<span class="none" title="{}">{}</span>').format(REFERENCE_TEXT, REFERENCE)
DASH = Markup('<span class="none" title="not recorded">–</span>')
COLOURS = 8  # classes c0 (the base) to c7; an eighth method starts again, its number tells it apart


def mark(subject: Node) -> Markup:
    """The numbered badge of a policy: colour and number, so colour is never needed."""
    return Markup('<span class="mark m{}" aria-hidden="true">{}</span>').format(
        tone(subject), value(subject.mark)
    )


def tone(subject: Node) -> int:
    """The colour class of a policy: 0 for the base."""
    index = int(value(subject.mark))
    return 0 if value(subject.base) else 1 + (index - 1) % (COLOURS - 1) if index else 1


def nice(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that cover [low, high]."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / max(1, count - 1)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def percent(x: float, domain: tuple[float, float]) -> float:
    """Place of x on the axis in percent, clipped to it: the drawing is clipped, the numbers are not."""
    low, high = domain
    return round(min(100.0, max(0.0, 100 * (x - low) / (high - low))), 3)


def track(
    label: str,
    tone: int,
    domain: tuple[float, float],
    point: float | None,
    ends: tuple[float | None, float | None] = (None, None),
    *,
    bar_from: float | None = None,
    ticks: Sequence[float] = (),
) -> Markup:
    """One row's SVG: ticks, a bar from `bar_from`, the interval as a line, the value as a dot.

    label   title and description for those who do not see the drawing
    """
    parts = [
        f'<line class="tick{" origin" * (t == 0 > domain[0])}" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>'
        for t, x in ((t, percent(t, domain)) for t in ticks)
    ]
    if point is not None:
        x = percent(point, domain)
        if bar_from is not None:
            a, b = sorted((percent(bar_from, domain), x))
            parts.append(
                f'<rect class="bar c{tone}" x="{a}%" width="{round(b - a, 3)}%" y="26%" height="48%" rx="2"/>'
            )
        if ends[0] is not None and ends[1] is not None:
            low, high = percent(ends[0], domain), percent(ends[1], domain)
            parts.append(f'<line class="whisker c{tone}" x1="{low}%" x2="{high}%" y1="50%" y2="50%"/>')
            parts += [
                f'<line class="whisker c{tone}" x1="{e}%" x2="{e}%" y1="32%" y2="68%"/>' for e in (low, high)
            ]
        parts.append(f'<circle class="dot c{tone}" cx="{x}%" cy="50%" r="4.5"/>')
    body = Markup("".join(parts))
    return Markup('<svg class="track" role="img"><title>{}</title>{}</svg>').format(plain(label), body)


def axis(marks: Sequence[tuple[float, str]], domain: tuple[float, float], width: float = 170.0) -> Markup:
    """Labels under a track; one that would touch its neighbour on a track of `width` pixels goes to a second
    line."""
    out, ends = [], [-1e9, -1e9]  # where each of the two lines is taken up to
    for at, label in sorted(marks):
        x, long = percent(at, domain), 5.4 * len(label) * 100 / width
        side = "start" if x < 8 else "end" if x > 92 else "mid"
        left = x - {"start": 0.0, "mid": long / 2, "end": long}[side]
        line = 0 if left > ends[0] + 3 else 1
        ends[line] = left + long
        out.append(
            Markup('<span class="{}{}" style="left:{}%">{}</span>').format(
                side, " second" if line else "", x, label
            )
        )
    height = " two" if ends[1] > -1e9 else ""
    return Markup('<div class="axis{}">{}</div>').format(height, Markup("").join(out))


def scale(
    marks: Sequence[tuple[float, str]], domain: tuple[float, float], kind: str = "", width: float = 170.0
) -> Markup:
    """The axis as the last row, so that it stands under the drawings of the rows above."""
    return Markup(
        '<div class="row scale {}"><span class="who"></span>{}<span class="nums"></span></div>'
    ).format(kind, axis(marks, domain, width))


def row(subject: Node, drawing: Markup, numbers: Markup, kind: str = "") -> Markup:
    """A row: badge and name, drawing, numbers."""
    return Markup(
        '<div class="row {}" data-subject="{}"><span class="who">{}<span class="name">{}</span></span>{}'
        '<span class="nums">{}</span></div>'
    ).format(kind, attribute(subject.id), mark(subject), subject.label, drawing, numbers)


def gap_bars(data: Node, subjects: dict[str, Node]) -> Markup:
    """M, 1 - V and T on the common axis [0, 1]; the value that is printed is the raw one."""
    panels = []
    for column in data.columns:
        anchors = [(float(value(t.at)), str(t.label)) for t in column.ticks]
        at = [a for a, _ in anchors]
        rows = []
        for r in column.rows:
            subject, ends = subjects[str(r.subject)], (value(r.low), value(r.high))
            missing = REFERENCE_TEXT if r.reference else "not measured"
            spoken = f"{number(value(r.gap))}, {interval(value(r.interval))}" if r.measured else missing
            label = f"{subject.label}: {column.title} {spoken}"
            drawing = track(label, tone(subject), (0, 1), value(r.gap), ends, bar_from=0, ticks=at)
            prefix = Markup("<small>V</small> ") if str(column.role) == "V" else Markup("")
            empty = AS_REFERENCE if r.reference else DASH
            rows.append(row(subject, drawing, prefix + num(r.value, r.unit) if r.measured else empty))
        panels.append(
            Markup(
                '<section class="panel"><h3 class="title">{}</h3><p class="hint">{}; {}</p>'
                '<div class="rows">{}{}</div></section>'
            ).format(
                column.title,
                column.meaning,
                counts([r for r in column.rows if r.measured]),
                Markup("").join(rows),
                scale([(a, f"{a:.2g} {b}") for a, b in anchors], (0, 1), width=130.0),
            )
        )
    return Markup('<div class="panels matrix">{}</div>').format(Markup("").join(panels))


def counts(rows: Sequence[Node]) -> Markup:
    """ "n 22", or "n 8 to 22" where the rows rest on different numbers of items."""
    known = sorted((r for r in rows if value(r.n) is not None), key=lambda r: int(value(r.n)))
    if not known:
        return Markup("n not recorded")
    if value(known[0].n) == value(known[-1].n):
        return Markup("n {}").format(num(known[0].n, "count"))
    return Markup("n {} to {}").format(num(known[0].n, "count"), num(known[-1].n, "count"))


def forest(data: Node, subjects: dict[str, Node]) -> Markup:
    """Paired differences from the base around 0, with p, what the test could have found, and items won and
    lost."""
    reach = max((abs(x) for r in data.rows for x in _span(r)), default=0.1) or 0.1
    marks = nice(-reach, reach)
    domain, rows = (marks[0], marks[-1]), []
    for r in data.rows:
        subject = subjects[str(r.subject)]
        if value(r.value) is None:
            rows.append(
                row(
                    subject,
                    track(f"{subject.label}: not compared", 0, domain, None, ticks=[0]),
                    Markup('<span class="none">not compared</span>'),
                    "wide",
                )
            )
            continue
        at = value(r.interval) or {}
        unit = str(r.unit)
        spoken = f"{number(value(r.value), unit, signed=True)}, {interval(at, unit, signed=True)}"
        label = f"{subject.label}: {spoken}"
        drawing = track(
            label, tone(subject), domain, value(r.value), (at.get("low"), at.get("high")), ticks=[*marks, 0]
        )
        rows.append(row(subject, drawing, _difference_text(r, str(data.better)), "wide"))
    if not any(value(r.value) is not None for r in data.rows):
        return Markup('<div class="rows forest">{}</div>').format(Markup("").join(rows))
    left, right = ("← better", "worse →") if str(data.better) == "down" else ("← worse", "better →")
    texts = [("" if m <= 0 else "+") + tick(m) for m in marks]
    foot = scale(list(zip(marks, texts, strict=True)), domain, "wide", 230.0)
    foot += Markup(
        '<div class="row scale wide sides"><span class="who"></span><div class="axis">'
        '<span class="start" style="left:0">{}</span>'
        '<span class="end" style="left:100%">{}</span></div><span class="nums"></span></div>'
    ).format(left, right)
    return Markup('<div class="rows forest">{}{}</div>').format(Markup("").join(rows), foot)


def _span(r: Node) -> list[float]:
    """Value and interval ends of a row, those that exist."""
    ends = value(r.interval) or {}
    return [x for x in (value(r.value), ends.get("low"), ends.get("high")) if x is not None]


def _difference_text(r: Node, better: str) -> Markup:
    parts = [
        Markup("<b>{}</b> {}").format(
            num(r.value, r.unit, signed=True), span(r.interval, r.unit, signed=True)
        )
    ]
    small = []
    if value(r.p_adjusted) is not None:
        small.append(Markup("p {} (alone {})").format(num(r.p_adjusted, "p"), num(r.p, "p")))
    if r.flips:
        good, bad = (r.flips.down, r.flips.up) if better == "down" else (r.flips.up, r.flips.down)
        small.append(
            Markup("{} better, {} worse, {} same").format(
                num(good, "count"), num(bad, "count"), num(r.flips.same, "count")
            )
        )
    else:
        small.append(Markup("n {}").format(num(r.n, "count")))
    if value(r.mde):  # 0 where all differences are equal: such a sample says nothing about what it could have found
        small.append(Markup("detects {}").format(num(r.mde, r.unit)))
    return parts[0] + Markup("<small>{}</small>").format(Markup(" · ").join(small))


def benchmarks(data: Node, subjects: dict[str, Node]) -> Markup:
    """One panel per benchmark: each policy's score with its interval, chance as a tick."""
    panels = []
    for group in data.groups:
        unit, chance = str(group.unit), value(group.chance)
        ends = [x for r in group.rows for x in _span(r)]
        low = 0.0
        if str(group.metric).startswith("tax.") and ends:  # signed: a gain lies left of 0
            steps = nice(min(0.0, *ends), max(0.0, *ends), 3)
            low, high, marks = steps[0], steps[-1], [(x, tick(x)) for x in steps]
        else:
            high = 1.0 if unit == "share" else max(ends, default=1.0)
            marks = [(0.0, "0"), (high, tick(float(f"{high:.3g}")))] + ([(chance, "chance")] if chance else [])
        rows = []
        for r in group.rows:
            subject = subjects.get(str(r.subject))
            if subject is None:
                continue
            at = value(r.interval) or {}
            label = f"{subject.label}: {number(value(r.value), unit)}, {interval(at, unit)}"
            drawing = track(
                label,
                tone(subject),
                (low, high),
                value(r.value),
                (at.get("low"), at.get("high")),
                bar_from=0,
                ticks=[a for a, _ in marks],
            )
            rows.append(row(subject, drawing, num(r.value, unit)))
        first = group.rows[0]
        panels.append(
            Markup(
                '<section class="panel"><h3>{} <small>{} · n {}</small></h3>'
                '<div class="rows">{}{}</div></section>'
            ).format(
                group.metric,
                group.variant,
                num(first.n, "count"),
                Markup("").join(rows),
                scale(marks, (low, high)),
            )
        )
    return Markup('<div class="panels two">{}</div>').format(Markup("").join(panels))


def cost_bars(data: Node, subjects: dict[str, Node]) -> Markup:
    """One panel per kind of cost, bars from 0; what was not recorded says so."""
    panels = []
    for measure in data.measures:
        unit = str(measure.unit)
        high = max((value(r.value) or 0 for r in measure.rows), default=1) or 1
        rows = []
        for r in measure.rows:
            subject = subjects[str(r.subject)]
            known = value(r.value) is not None
            text = num(r.value, unit) if known else DASH
            label = f"{subject.label}: {number(value(r.value), unit) if known else 'not recorded'}"
            rows.append(
                row(subject, _bar(label, tone(subject), percent(value(r.value) or 0, (0, high))), text)
            )
        panels.append(
            Markup(
                '<section class="panel"><h3 class="title">{}</h3><div class="rows">{}</div></section>'
            ).format(measure.title, Markup("").join(rows))
        )
    return Markup('<div class="panels">{}</div>').format(Markup("").join(panels))


def _bar(label: str, tone: int, width: float) -> Markup:
    return Markup(
        '<svg class="track" role="img"><title>{}</title>'
        '<rect class="bar solid c{}" x="0" width="{}%" y="24%" height="52%" rx="2"/></svg>'
    ).format(plain(label), tone, width)


def figure(node: Node, body: Markup, caption: str = "") -> Markup:
    """A figure with its caption; `caption` is trusted text of ours."""
    foot = Markup("<figcaption>{}</figcaption>").format(caption) if caption else Markup("")
    saves = Markup("").join(
        Markup('<button type="button" data-save="{}" aria-label="save the figure {} as {}">{}</button>').format(
            kind, attribute(node.id), kind.upper(), kind.upper()
        )
        for kind in ("png", "svg")
    )
    tools = Markup('<div class="tools needs-js">{}</div>').format(saves)
    return Markup('<figure id="figure-{}">{}{}{}</figure>').format(escape(str(node.id)), body, foot, tools)


Draw = Callable[[Node, dict[str, Node]], Any]
