"""Figures with two axes: scatter plots with a reference curve, and small training curves.

Marks sit at percentages inside a drawing that is as wide as its place; curves are stretched in a box of their
own, whose lines keep their width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from valign.report.figures import mark, nice, percent, tone
from valign.report.node import Node, num, value
from valign.report.units import number, tick
from valign.report.visible import attribute

WIDTH, HEIGHT = 660, 320  # pixels for which labels are placed; narrower screens show the numbered marks alone
LETTER, LINE = 6.6, 15.0  # pixels of a letter and of a line of a label
Domain = tuple[float, float]


def scatter(data: Node, subjects: dict[str, Node]) -> Markup:
    """Points with intervals on both axes, numbered like the policies; a dashed reference curve where one is
    known."""
    curve = value(data.curve) or {}
    x_marks, y_marks = _marks(data, "x"), _marks(data, "y")
    dx, dy = (x_marks[0], x_marks[-1]), (y_marks[0], y_marks[-1])
    parts = [
        f'<line class="grid" x1="0" x2="100%" y1="{100 - percent(t, dy)}%" y2="{100 - percent(t, dy)}%"/>'
        for t in y_marks
    ]
    parts += [
        f'<line class="zero" x1="0" x2="100%" y1="{100 - percent(0, dy)}%" y2="{100 - percent(0, dy)}%"/>'
    ] * (dy[0] < 0 < dy[1])
    parts += [f'<line class="zero" x1="{percent(0, dx)}%" x2="{percent(0, dx)}%" y1="0" y2="100%"/>'] * (
        dx[0] < 0 < dx[1]
    )
    parts.append(_curve(curve.get("points", ()), dx, dy))
    places = _labels(data, subjects, dx, dy)
    for p in data.points:
        parts.append(_point(p, subjects[str(p.subject)], dx, dy, places[str(p.subject)]))
    svg = Markup(
        '<svg class="plot-area" role="img"><title>{} against {}</title><desc>{}</desc>{}</svg>'
    ).format(
        data.y.title,
        data.x.title,
        "; ".join(_spoken(p, subjects, data) for p in data.points),
        Markup("".join(parts)),
    )
    note = (
        Markup('<p class="hint"><span class="dash"></span>{}</p>').format(data.curve.label)
        if curve
        else Markup("")
    )
    return Markup(
        '<div class="plot"><div class="y-title">{}</div><div class="y-ticks">{}</div>{}'
        '<div class="x-ticks">{}</div><div class="x-title">{}</div></div>{}{}'
    ).format(
        data.y.title,
        _ticks(y_marks, dy, "bottom"),
        svg,
        _ticks(x_marks, dx, "left"),
        Markup("{}{}").format(data.x.title, _unit(data.x)),
        note,
        _legend(data, subjects),
    )


def _bare(axis: Node) -> str:
    """The unit of printed numbers: nats are named by the axis."""
    return "bare" if str(axis.unit) == "nats" else str(axis.unit)


def _unit(axis: Node) -> str:
    return ", nats" if str(axis.unit) == "nats" else ""


def _marks(data: Node, name: str) -> list[float]:
    found = [x for p in data.points for x in (value(p[name]) or {}).values() if x is not None]
    if name in (value(data.zero) or ()):
        found.append(0.0)
    low, high = min(found), max(found)
    room = 0.06 * (high - low or 1.0)
    return nice(low if low == 0 else low - room, high + room)


def _ticks(marks: Sequence[float], domain: Domain, side: str) -> Markup:
    texts = [
        Markup('<span style="{}:{}%">{}</span>').format(side, percent(m, domain), tick(m)) for m in marks
    ]
    return Markup("").join(texts)


def _curve(points: Sequence[Sequence[float]], dx: Domain, dy: Domain) -> Markup:
    if len(points) < 2:
        return Markup("")
    spots = [
        ((x - dx[0]) / (dx[1] - dx[0]), (dy[1] - y) / (dy[1] - dy[0])) for x, y in points
    ]  # cut by the box, not here
    path = " ".join(
        f"{round(100 * x, 3)},{round(100 * y, 3)}" for x, y in spots if -9 < x < 10 and -9 < y < 10
    )
    return Markup(
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">'
        '<polyline class="reference" points="{}"/></svg>'
    ).format(path)


def _point(p: Node, subject: Node, dx: Domain, dy: Domain, place: Mapping[str, float | str] | None) -> Markup:
    x, y, c = percent(value(p.x.value), dx), 100 - percent(value(p.y.value), dy), tone(subject)
    lines = []
    if value(p.x.low) is not None and value(p.x.high) is not None:
        a, b = percent(value(p.x.low), dx), percent(value(p.x.high), dx)
        lines.append(f'<line class="whisker c{c}" x1="{a}%" x2="{b}%" y1="{y}%" y2="{y}%"/>')
    if value(p.y.low) is not None and value(p.y.high) is not None:
        a, b = 100 - percent(value(p.y.low), dy), 100 - percent(value(p.y.high), dy)
        lines.append(f'<line class="whisker c{c}" x1="{x}%" x2="{x}%" y1="{a}%" y2="{b}%"/>')
    beaten = " hollow" if value(p.dominated) else ""
    text = Markup("")
    if place:
        text = Markup(
            '<text class="point-name" x="{}%" y="{}%" dx="{}" dy="{}" text-anchor="{}">{}</text>'
        ).format(x, y, place["dx"], place["dy"], place["anchor"], subject.label)
    return Markup(
        '<g data-subject="{}">{}<circle class="point{} c{}" cx="{}%" cy="{}%" r="9.5"/>'
        '<text class="point-mark k{}" x="{}%" y="{}%" dy="4" text-anchor="middle">{}</text>{}</g>'
    ).format(
        attribute(subject.id), Markup("".join(lines)), beaten, c, x, y,
        "-hollow" if beaten else c, x, y, value(subject.mark), text,
    )  # fmt: skip


def _labels(
    data: Node, subjects: dict[str, Node], dx: Domain, dy: Domain
) -> dict[str, Mapping[str, float | str] | None]:
    """A place for each name that overlaps no mark and no other name; None where there is none (the number
    remains)."""
    centres = {
        str(p.subject): (
            percent(value(p.x.value), dx) * WIDTH / 100,
            (100 - percent(value(p.y.value), dy)) * HEIGHT / 100,
        )
        for p in data.points
    }
    taken = [(x - 11, y - 11, x + 11, y + 11) for x, y in centres.values()]
    places: dict[str, Mapping[str, float | str] | None] = {}
    for name, (x, y) in centres.items():
        long = LETTER * len(str(subjects[name].label))
        places[name] = None
        for ox, oy, anchor in (
            (13, -8, "start"),
            (13, 17, "start"),
            (-13, -8, "end"),
            (-13, 17, "end"),
            (15, 4, "start"),
            (-15, 4, "end"),
            (0, -16, "middle"),
            (0, 25, "middle"),
        ):
            left = x + ox - {"start": 0.0, "middle": long / 2, "end": long}[anchor]
            box = (left, y + oy - LINE + 3, left + long, y + oy + 3)
            inside = box[0] >= 0 and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT
            if inside and not any(_overlap(box, other) for other in taken):
                places[name] = {"dx": ox, "dy": oy, "anchor": anchor}
                taken.append(box)
                break
    return places


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _spoken(p: Node, subjects: dict[str, Node], data: Node) -> str:
    x, y = number(value(p.x.value), str(data.x.unit)), number(value(p.y.value), str(data.y.unit))
    return f"{subjects[str(p.subject)].label}: {x}, {y}"


def _legend(data: Node, subjects: dict[str, Node]) -> Markup:
    """Every point with both numbers and its n: no figure without them."""
    items = [
        Markup(
            '<li data-subject="{}">{}{} <span class="pair">{} · {}{}</span> <small>n {}{}</small></li>'
        ).format(
            attribute(p.subject),
            mark(subjects[str(p.subject)]),
            subjects[str(p.subject)].label,
            num(p.x.value, _bare(data.x)),
            num(p.y.value, _bare(data.y)),
            Markup(" · T {}").format(num(p.tax.value, "share")) if p.tax and value(p.tax.value) is not None else "",
            num(p.n, "count"),
            ", dominated" if value(p.dominated) else "",
        )
        for p in data.points
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def training(data: Node, subjects: dict[str, Node]) -> Markup:
    """Small curves, one block per run, one drawing per series, first and last number printed."""
    blocks = []
    for run in data.runs:
        subject = subjects[str(run.subject)]
        steps = run.steps
        tiles = [
            sparkline(str(name), run.series[name], value(steps), tone(subject)) for name in value(run.series)
        ]
        blocks.append(
            Markup(
                '<section class="run" data-subject="{}"><h3>{}{} <small>{} steps</small></h3>'
                '<div class="tiles">{}</div></section>'
            ).format(
                attribute(subject.id),
                mark(subject),
                subject.label,
                num(run.of, "count"),
                Markup("").join(tiles),
            )
        )
    return Markup("").join(blocks)


def sparkline(name: str, series: Node, steps: Sequence[float], tone: int = 1) -> Markup:
    """One series over steps: a line whose gaps are missing values, with its first and last number."""
    ys = value(series)
    known = [i for i, y in enumerate(ys) if y is not None]
    low, high = min(ys[i] for i in known), max(ys[i] for i in known)
    domain = (low, high) if high > low else (low - 1, low + 1)
    across = (steps[0], steps[-1]) if steps[-1] > steps[0] else (steps[0], steps[0] + 1)
    path, pen = [], "M"
    for i, y in enumerate(ys):
        if y is None:
            pen = "M"
            continue
        path.append(f"{pen}{percent(steps[i], across)} {round(96 - 0.92 * percent(y, domain), 2)}")
        pen = "L"
    word = name.replace("_", " ")
    return Markup(
        '<div class="tile"><div class="tile-head"><span>{}</span><span>{} → <b>{}</b></span></div>'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img"><title>{} from {} to {}</title>'
        '<path class="line c{}" d="{}"/></svg></div>'
    ).format(
        word,
        num(series[known[0]], "plain"),
        num(series[known[-1]], "plain"),
        word,
        number(ys[known[0]], "plain"),
        number(ys[known[-1]], "plain"),
        tone,
        " ".join(path),
    )
