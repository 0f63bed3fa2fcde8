"""Figures of instruments: curves with bands (over-optimization, efficiency), generality splits, tax by benchmark.

Pure functions from the figure's JSON (shapes in `instruments`) to markup. Curves are told apart by number, dash
and name, never by colour alone; every point's number stands in a table below, which is what a screen reader and
a printer get.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from valign.report.figures import axis, mark, nice, percent, tone, track
from valign.report.node import Node, num, span, value
from valign.report.units import interval, number, tick
from valign.report.visible import attribute, plain

DASHES = ("none", "7 4", "2 3", "9 3 2 3", "1 4", "12 4", "4 4")
Domain = tuple[float, float]
NEAR = 100  # characters of a text that stand beside its bar


def who(row: Node, subjects: Mapping[str, Node], index: int) -> tuple[Markup, str, int]:
    """(badge, name, colour) of a row: the policy's own where it is one of the report, else by position."""
    subject = subjects.get(str(row.subject)) if value(row.subject) is not None else None
    if subject is not None:
        return mark(subject), str(row.name) or str(subject.label), tone(subject)
    colour = 1 + index % 7
    badge = Markup('<span class="mark m{}" aria-hidden="true">{}</span>').format(colour, "abcdefg"[index % 7])
    return badge, str(row.name), colour


def panels(data: Node, subjects: dict[str, Node]) -> Markup:
    """One plot per panel: curves with bands, vertical marks (alarm, peak), horizontal levels (a target)."""
    drawn = [_panel(p, subjects) for p in data.panels]
    return Markup('<div class="panels two">{}</div>').format(Markup("").join(drawn))


def _panel(panel: Node, subjects: Mapping[str, Node]) -> Markup:
    log = bool(value(panel.log_x))
    xs = [value(p.x) for s in panel.series for p in s.points]
    ys = [y for s in panel.series for p in s.points for y in (value(p[k]) for k in ("value", "low", "high")) if y is not None]
    ys += [value(level.y) for level in panel.levels]
    if not xs or not ys:
        return Markup('<section class="panel"><h3 class="title">{}</h3><p class="none">nothing to draw</p></section>').format(
            panel.title
        )  # fmt: skip
    x_marks = _decades(min(xs), max(xs)) if log else nice(min(xs), max(xs))
    room = 0.06 * (max(ys) - min(ys) or 1.0)
    y_marks = nice(min(ys) - room, max(ys) + room)
    place = _scale(x_marks[0], x_marks[-1], log)
    dy = (y_marks[0], y_marks[-1])
    parts = [f'<line class="grid" x1="0" x2="100%" y1="{100 - percent(t, dy)}%" y2="{100 - percent(t, dy)}%"/>' for t in y_marks]
    parts += [_level(level, dy) for level in panel.levels]
    parts += [_series(s, i, subjects, place, dy) for i, s in enumerate(panel.series)]
    parts += [_upright(m, place) for m in panel.marks]
    svg = Markup('<svg class="plot-area" role="img"><title>{}: {} against {}</title><desc>{}</desc>{}</svg>').format(
        plain(panel.title), plain(panel.y.title), plain(panel.x.title), _spoken(panel, subjects), Markup("".join(parts))
    )
    ticks = Markup("").join(
        Markup('<span style="bottom:{}%">{}</span>').format(percent(t, dy), tick(t)) for t in y_marks
    )
    below = Markup("").join(
        Markup('<span style="left:{}%">{}</span>').format(place(t), _short(t, str(panel.x.unit))) for t in x_marks
    )
    text = Markup('<p class="hint">{}</p>').format(panel.text) if panel.text else Markup("")
    return Markup(
        '<section class="panel"><h3 class="title">{}</h3>{}<div class="plot small"><div class="y-title">{}</div>'
        '<div class="y-ticks">{}</div>{}<div class="x-ticks">{}</div><div class="x-title">{}</div></div>{}{}</section>'
    ).format(panel.title, text, panel.y.title, ticks, svg, below, panel.x.title, _key(panel, subjects), _table(panel, subjects))


def _scale(low: float, high: float, log: bool) -> _Place:
    return _Place(math.log10(low), math.log10(high), True) if log else _Place(low, high, False)


class _Place:
    """x to percent, linear or logarithmic."""

    def __init__(self, low: float, high: float, log: bool) -> None:
        self.domain, self.log = (low, high if high > low else low + 1.0), log

    def __call__(self, x: float) -> float:
        return percent(math.log10(x) if self.log else x, self.domain)


def _decades(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten that cover [low, high], thinned to at most seven."""
    steps = [m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)]
    first = max(i for i, s in enumerate(steps) if s <= low * (1 + 1e-9))
    last = min((i for i, s in enumerate(steps) if s >= high * (1 - 1e-9)), default=len(steps) - 1)
    kept = steps[first : last + 1]
    every = -(-len(kept) // 7)
    thin = kept[::every]
    return thin if thin[-1] == kept[-1] else [*thin, kept[-1]]


def _short(x: float, unit: str) -> str:
    return number(x, unit) if unit in ("bytes", "seconds") or abs(x) >= 1000 else tick(x)


def _level(level: Node, dy: Domain) -> Markup:
    y = 100 - percent(value(level.y), dy)
    return Markup(
        '<line class="reference" x1="0" x2="100%" y1="{}%" y2="{}%"/><text class="mark-name" x="100%" y="{}%" dy="-5" '
        'text-anchor="end">{}</text>'
    ).format(y, y, y, level.label)


def _upright(found: Node, place: _Place) -> Markup:
    x = place(value(found.x))
    kind = "alarm" if str(found.kind) == "alarm" else "peak"
    # the alarm is meant to stand left of the peak: its name goes to the left, the peak's to the right
    side, shift = ("end", -5) if x > 60 or (kind == "alarm" and x > 15) else ("start", 5)
    return Markup(
        '<line class="upright {}" x1="{}%" x2="{}%" y1="0" y2="100%"/><text class="mark-name" x="{}%" y="{}" dx="{}" '
        'text-anchor="{}">{}</text>'
    ).format(kind, x, x, x, 12 if kind == "alarm" else 27, shift, side, found.label)


def _series(series: Node, index: int, subjects: Mapping[str, Node], place: _Place, dy: Domain) -> Markup:
    _, _, colour = who(series, subjects, index)
    spots = [(place(value(p.x)), p) for p in series.points if value(p.value) is not None]
    line = " ".join(f"{x},{100 - percent(value(p.value), dy)}" for x, p in spots)
    banded = [(x, p) for x, p in spots if value(p.low) is not None and value(p.high) is not None]
    band = [f"{x},{100 - percent(value(p.high), dy)}" for x, p in banded]
    band += [f"{x},{100 - percent(value(p.low), dy)}" for x, p in reversed(banded)]
    area = f'<polygon class="band-area" points="{" ".join(band)}"/>' if len(banded) > 1 else ""
    at = [(x, 100 - percent(value(p.value), dy)) for x, p in spots]
    dots = "".join(f'<circle class="dot c{colour}" cx="{x}%" cy="{y}%" r="3.5"/>' for x, y in at)
    return Markup(
        '<svg class="c{}" viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">{}'
        '<polyline class="line" points="{}" stroke-dasharray="{}"/></svg>{}'
    ).format(colour, Markup(area), line, DASHES[index % len(DASHES)], Markup(dots if len(spots) <= 24 else ""))


def _spoken(panel: Node, subjects: Mapping[str, Node]) -> str:
    said, x, y = [], str(panel.x.unit), str(panel.y.unit)
    for i, s in enumerate(panel.series):
        points = [p for p in s.points if value(p.value) is not None]
        if points:
            first, last = (_place_of(p, x, y) for p in (points[0], points[-1]))
            said.append(f"{who(s, subjects, i)[1]} from {first} to {last}")
    said += [f"{m.label} at {_short(value(m.x), x)}" for m in panel.marks]
    return plain("; ".join(said))


def _place_of(p: Node, x: str, y: str) -> str:
    return f"{number(value(p.value), y)} at {_short(value(p.x), x)}"


def _key(panel: Node, subjects: Mapping[str, Node]) -> Markup:
    rows = []
    for i, s in enumerate(panel.series):
        badge, name, colour = who(s, subjects, i)
        more = []
        if value(s.mean_height) is not None:
            more.append(Markup("mean height {}").format(num(s.mean_height, panel.y.unit)))
        if "cost_to_target" in (value(s) or {}):
            reached = value(s.cost_to_target) is not None
            more.append(Markup("to target: {}").format(num(s.cost_to_target, panel.x.unit) if reached else "not reached"))
        if value(s.n) is not None:
            more.append(Markup("n {}").format(num(s.n, "count")))
        rows.append(
            Markup(
                '<li><svg class="key c{}" aria-hidden="true"><line class="line" x1="0" x2="26" y1="7" y2="7" '
                'stroke-dasharray="{}"/></svg>{}{} <small>{}</small></li>'
            ).format(colour, DASHES[i % len(DASHES)], badge, name, Markup(" · ").join(more))
        )
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(rows))


def _table(panel: Node, subjects: Mapping[str, Node]) -> Markup:
    rows = []
    for i, s in enumerate(panel.series):
        name = who(s, subjects, i)[1]
        for p in s.points:
            known = value(p.low) is not None and value(p.high) is not None
            ends = Markup("{} to {}").format(num(p.low, panel.y.unit), num(p.high, panel.y.unit)) if known else Markup("–")
            n = num(p.n, "count") if value(p.n) is not None else Markup("–")
            rows.append(
                Markup('<tr><th scope="row">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>').format(
                    name, num(p.x, panel.x.unit), num(p.value, panel.y.unit), ends, n
                )
            )
    heads = ("curve", panel.x.title, panel.y.title, "interval", "n")
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(h) for h in heads)
    return Markup(
        '<details class="fold"><summary>The numbers of this plot</summary><div class="scroll" role="group" '
        'aria-label="numbers of {}"><table class="plain"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div></details>'
    ).format(attribute(panel.title), head, Markup("").join(rows))


def splits(data: Node, subjects: dict[str, Node]) -> Markup:
    """Generality: one block per split, each policy's score with its gap to the i.i.d. split."""
    unit, blocks = str(data.unit), []
    low, high = _reach([r for s in data.splits for r in s.rows])
    for split in data.splits:
        rows = []
        for i, r in enumerate(split.rows):
            badge, name, colour = who(r, subjects, i)
            at = value(r.interval) or {}
            label = f"{name}, {split.title}: {number(value(r.value), unit)}, {interval(at, unit)}"
            drawing = track(label, colour, (low, high), value(r.value), (at.get("low"), at.get("high")), ticks=nice(low, high))
            rows.append(_wide(badge, name, drawing, _gap(r, unit)))
        foot = axis([(t, tick(t)) for t in nice(low, high)], (low, high), 230.0)
        blocks.append(
            Markup(
                '<section class="panel"><h3 class="title">{}</h3><p class="hint">{}</p><div class="rows">{}{}</div></section>'
            ).format(split.title, split.text, Markup("").join(rows), _wide(Markup(""), "", foot, Markup(""), "scale"))
        )  # fmt: skip
    return Markup('<div class="splits">{}</div>').format(Markup("").join(blocks))


def _reach(rows: Sequence[Node]) -> Domain:
    found = [x for r in rows for x in (value(r.value), *(value(r.interval) or {}).values()) if isinstance(x, (int, float))]
    marks = nice(min(found, default=0.0), max(found, default=1.0))
    return marks[0], marks[-1]


def _wide(badge: Markup, name: str, drawing: Markup, numbers: Markup, kind: str = "") -> Markup:
    return Markup(
        '<div class="row wide {}"><span class="who">{}<span class="name">{}</span></span>{}<span class="nums">{}</span></div>'
    ).format(kind, badge, name, drawing, numbers)


def _gap(r: Node, unit: str) -> Markup:
    first = Markup("<b>{}</b> {} <small>n {}").format(num(r.value, unit), span(r.interval, unit), num(r.n, "count"))
    parts = []
    if value(r.gap) is not None:
        parts.append(Markup("gap {} {}").format(num(r.gap, unit, signed=True), span(r.gap_interval, unit, signed=True)))
    if value(r.p_adjusted) is not None:
        parts.append(Markup("p {}").format(num(r.p_adjusted, "p")))
    if value(r.retained) is not None:
        parts.append(Markup("keeps {} of it").format(num(r.retained, "share")))
    if value(r.paired) is not None:
        parts.append(Markup("paired" if value(r.paired) else "unpaired"))
    return first + Markup("".join(f" · {p}" for p in parts)) + Markup("</small>")


def taxes(data: Node, subjects: dict[str, Node]) -> Markup:
    """Tax by benchmark: signed t_b around 0, items lost and won, and what the gain cost."""
    rows = [r for block in data.policies for r in block.rows if value(r.value) is not None]
    reach = max((abs(x) for x in _reach(rows)), default=0.1) or 0.1
    marks = nice(-reach, reach)
    domain, blocks = (marks[0], marks[-1]), []
    for i, block in enumerate(data.policies):
        badge, name, colour = who(block, subjects, i)
        drawn = [_tax_row(r, colour, domain, marks) for r in block.rows]
        foot = _wide(Markup(""), "", axis([(t, tick(t)) for t in marks], domain, 230.0), Markup("← gained · lost →"), "scale")
        blocks.append(
            Markup('<section class="panel"><h3>{}{}</h3><p class="hint">{}</p><div class="rows">{}{}</div></section>').format(
                badge, name, _bill(block), Markup("").join(drawn), foot
            )
        )
    return Markup('<div class="splits">{}</div>').format(Markup("").join(blocks))


def nearest(data: Node, subjects: dict[str, Node]) -> Markup:
    """The training groups nearest to each output, as bars of their similarity."""
    domain = (0.0, max((float(value(x.value)) for r in data.rows for x in r.near), default=1.0) or 1.0)
    blocks = []
    for r in data.rows:
        drawn = []
        for x in r.near:
            said = x.text if value(x.text) is not None else x.prompt
            drawing = track(f"{x.name}: {number(value(x.value), 'plain')}", 0, domain, value(x.value), bar_from=0)
            text = Markup("<b>{}</b> <small>{}</small>").format(num(x.value, "plain"), str(said)[:NEAR])
            drawn.append(_wide(Markup(""), str(x.name), drawing, text))
        blocks.append(
            Markup('<section class="panel"><h3>{}</h3><p class="hint">{}</p><p class="hint">{} of {} groups</p>'
                   '<div class="rows">{}</div></section>').format(
                r.name, str(r.text)[:NEAR], r.similarity, num(r.n, "count"), Markup("").join(drawn)
            )
        )  # fmt: skip
    return Markup('<div class="splits">{}</div>').format(Markup("").join(blocks))


def _tax_row(r: Node, colour: int, domain: Domain, marks: Sequence[float]) -> Markup:
    at = value(r.interval) or {}
    label = f"{r.benchmark}: {number(value(r.value), 'share', signed=True)}, {interval(at, 'share', signed=True)}"
    drawing = track(label, colour, domain, value(r.value), (at.get("low"), at.get("high")), ticks=[*marks, 0])
    if r.left_out:
        return _wide(Markup(""), str(r.benchmark), drawing, Markup('<span class="none">left out: {}</span>').format(r.left_out))
    small = [Markup("{} → {}").format(num(r.base, "share"), num(r.aligned, "share"))]
    if value(r.lost) is not None and value(r.won) is not None:
        small.append(Markup("items lost {}, won {}").format(num(r.lost, "count"), num(r.won, "count")))
    small.append(Markup("n {}").format(num(r.n, "count")))
    text = Markup("<b>{}</b> {}<small>{}</small>").format(
        num(r.value, "share", signed=True), span(r.interval, "share", signed=True), Markup(" · ").join(small)
    )
    return _wide(Markup(""), str(r.benchmark), drawing, text)


def _bill(block: Node) -> Markup:
    total = block.total
    parts = [Markup("tax T {} {}").format(num(total.value, "share"), span(total.interval, "share"))] if total else []
    for key, title, unit in (
        ("gain", "reward gained", "score"), ("kl", "KL spent", "nats"), ("per_gain", "tax per unit of gain", "plain"),
        ("perplexity_base", "perplexity before", "plain"), ("perplexity", "after", "plain"),
    ):  # fmt: skip
        if value(block[key]) is not None:
            parts.append(Markup("{} {}").format(title, num(block[key], unit)))
    return Markup(" · ").join(parts)
