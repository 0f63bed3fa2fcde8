"""The value circle: a policy's profile as a polygon over the base's and the target, on Schwartz's ring or a
radar.

The centre is -1 (opposed), the dashed ring 0 (no connection), the rim +1 (important). Pure functions from the
figure's JSON to SVG; angles run clockwise from the top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from valign.evaluation.metrics.reliability import ENOUGH
from valign.report.figures import mark, tone
from valign.report.node import Node, num, span, value
from valign.report.units import number
from valign.report.visible import attribute, plain

RIM = 150.0  # radius of +1
BAND = 20.0  # width of the ring that names the groups
SIDE, TOP = 285.0, 218.0  # half of the large drawing
SMALL = 204.0  # half of a small one
Point = tuple[float, float]


def circle(data: Node, subjects: dict[str, Node]) -> Markup:
    """The large drawing of base and one policy, a chooser, the small drawings of all, and the numbers as a
    table."""
    others = [p for p in data.policies if str(p.subject) != str(data.base)]
    if len(data.spokes) < 3:
        return _trust(data, subjects) + _numbers(data, subjects, True)
    picks = [_pick(p, subjects[str(p.subject)], data) for p in (others or data.policies)]
    large = _large(data, subjects, others or list(data.policies))
    few = (
        Markup("")
        if len(others) < 2
        else Markup('<div class="small-circles">{}</div>').format(
            Markup("").join(_small(p, data, subjects) for p in others)
        )
    )
    return Markup(
        '<div class="circle-box">{}<div class="circle-side">{}'
        '<div class="picks" role="group" aria-label="profile shown">'
        "{}</div></div></div>{}{}{}"
    ).format(large, _key(data, subjects), Markup("").join(picks), few, _trust(data, subjects), _numbers(data, subjects, False))


def _at(angle: float, radius: float) -> Point:
    turn = math.radians(angle)
    return round(radius * math.sin(turn), 2), round(-radius * math.cos(turn), 2)


def _radius(v: float, low: float, high: float) -> float:
    return RIM * min(1.0, max(0.0, (v - low) / (high - low)))


def _polygon(data: Node, values: Mapping[str, float | None], kind: str) -> Markup:
    """A closed line through the known dimensions; open dots would suggest a value where none is."""
    low, high = value(data.range)
    spots = [
        _at(value(s.angle), _radius(values[str(s.id)] or 0.0, low, high))
        for s in data.spokes
        if values.get(str(s.id)) is not None
    ]
    if len(spots) < 3:
        return Markup("")
    return Markup('<polygon class="{}" points="{}"/>').format(kind, " ".join(f"{x},{y}" for x, y in spots))


def _frame(data: Node) -> Markup:
    """Rings at -0.5, 0, 0.5, 1, the spokes, and the bands of the groups."""
    rings = [
        f'<circle class="ring{" mid" if r == 0 else ""}" r="{_radius(r, -1, 1)}"/>' for r in (-0.5, 0, 0.5, 1)
    ]
    ends = [_at(value(s.angle), RIM) for s in data.spokes]
    spokes = [f'<line class="spoke" x1="0" y1="0" x2="{x}" y2="{y}"/>' for x, y in ends]
    return Markup("".join(rings + spokes))


def _bands(data: Node, id: str) -> Markup:
    """The ring of higher-order groups, named along the ring; words on the lower half run the other way to be
    upright."""
    out = []
    for i, b in enumerate(data.bands):
        a, e = value(b["from"]) + 1, value(b["to"]) - 1
        (x1, y1), (x2, y2) = _at(a, RIM + BAND / 2 + 4), _at(e, RIM + BAND / 2 + 4)
        wide = int(e - a > 180)
        out.append(
            Markup('<path class="band" d="M{} {} A{r} {r} 0 {} 1 {} {}"/>').format(
                x1, y1, wide, x2, y2, r=RIM + BAND / 2 + 4
            )
        )
        middle = ((a + e) / 2) % 360
        upright = middle < 90 or middle > 270
        r = RIM + BAND / 2 + (0.5 if upright else 7.5)
        start, end = (_at(a, r), _at(e, r)) if upright else (_at(e, r), _at(a, r))
        out.append(
            Markup(
                '<path id="{}-{}" d="M{} {} A{r} {r} 0 {} {} {} {}" fill="none"/><text class="band-name">'
                '<textPath href="#{}-{}" startOffset="50%" text-anchor="middle">{}</textPath></text>'
            ).format(id, i, *start, wide, int(upright), *end, id, i, b.name, r=r)
        )
    return Markup("").join(out)


def _names(data: Node, *, short: bool) -> Markup:
    """Names outside the ring. Where two share a wedge the inner one of the theory stands nearer the
    centre."""
    out = []
    extra = BAND + 16 if data.bands else 14
    for s in data.spokes:
        x, y = _at(value(s.angle), RIM + (extra if data.bands and not short else 22 if short else 14))
        anchor = "middle" if abs(x) < 30 else "start" if x > 0 else "end"
        long = str(s.name) if len(str(s.name)) <= 18 else f"{str(s.name)[:17]}…"
        text = (
            Markup('<tspan class="long">{}</tspan><tspan class="short">{}</tspan>').format(long, s.id)
            if not short
            else Markup("{}").format(s.id)
        )
        out.append(
            Markup('<text class="spoke-name" x="{}" y="{}" dy="{}" text-anchor="{}">{}</text>').format(
                x, y, _drop(y), anchor, text
            )
        )
    return Markup("").join(out)


def _drop(y: float) -> float:
    """How far a label's baseline lies below its spot, so that it clears the ring at top and bottom."""
    return 4 + 6 * y / RIM


def _whiskers(policy: Node, data: Node, kind: str) -> Markup:
    low, high = value(data.range)
    out = []
    for s in data.spokes:
        ends = [value(policy[k][str(s.id)]) for k in ("low", "high")]
        v = value(policy["values"][str(s.id)])
        if v is None:
            continue
        if None not in ends:
            (x1, y1), (x2, y2) = (_at(value(s.angle), _radius(e, low, high)) for e in ends)
            out.append(f'<line class="whisker {kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')
        x, y = _at(value(s.angle), _radius(v, low, high))
        out.append(f'<circle class="dot {kind}" cx="{x}" cy="{y}" r="3"/>')
    return Markup("".join(out))


def _target(data: Node, small: bool = False) -> Markup:
    """A polygon where the target covers every dimension; else a diamond on each spoke that it names.

    A line from the ring of 0 leads to the diamond: how far the goal asks to go, and which way.
    """
    wanted, (low, high) = value(data.target) or {}, value(data.range)
    if wanted and all(str(s.id) in wanted for s in data.spokes):
        return _polygon(data, wanted, "target")
    size = 11 if small else 6
    out = []
    for s in data.spokes:
        if str(s.id) in wanted:
            angle, end = value(s.angle), _radius(wanted[str(s.id)], low, high)
            (x0, y0), (x, y) = _at(angle, _radius(0, low, high)), _at(angle, end)
            out.append(f'<line class="target" x1="{x0}" y1="{y0}" x2="{x}" y2="{y}"/>')
            out.append(
                f'<path class="aim" d="M{x} {y - size} l{size} {size} l{-size} {size} l{-size} {-size} z"/>'
            )
    return Markup("".join(out))


def _large(data: Node, subjects: dict[str, Node], policies: Sequence[Node]) -> Markup:
    base = next((p for p in data.policies if str(p.subject) == str(data.base)), None)
    layers = []
    for p in policies:
        c = tone(subjects[str(p.subject)])
        chosen = str(p.subject) == str(data.chosen)
        layers.append(
            Markup('<g class="layer{}" data-profile="{}">{}{}</g>').format(
                " on" if chosen else "",
                attribute(p.subject),
                _polygon(data, value(p["values"]), f"area c{c}"),
                _whiskers(p, data, f"c{c}"),
            )
        )
    before = (
        _polygon(data, value(base["values"]), "before c0")
        if base is not None and base not in policies
        else Markup("")
    )
    spoken = "; ".join(
        f"{s.name} "
        + ", ".join(
            f"{subjects[str(p.subject)].label} {number(value(p['values'][str(s.id)]))}" for p in data.policies
        )
        for s in data.spokes
    )
    scale = Markup("").join(
        Markup('<text class="ring-name" x="4" y="{}">{}</text>').format(round(-_radius(r, -1, 1) + 11, 1), t)
        for r, t in ((0, "0"), (1, "+1"))
    )
    return Markup(
        '<svg class="circle" viewBox="{} {} {} {}" role="img">'
        "<title>Value profiles: base, chosen policy and target</title><desc>{}</desc>{}{}{}{}{}{}{}</svg>"
    ).format(
        -SIDE,
        -TOP,
        2 * SIDE,
        2 * TOP,
        plain(spoken),
        _frame(data),
        _bands(data, "band"),
        _names(data, short=False),
        before,
        Markup("").join(layers),
        _target(data),
        scale,
    )


def _small(policy: Node, data: Node, subjects: dict[str, Node]) -> Markup:
    subject = subjects[str(policy.subject)]
    c = tone(subject)
    base = next((p for p in data.policies if str(p.subject) == str(data.base)), None)
    before = _polygon(data, value(base["values"]), "before c0") if base is not None else Markup("")
    return Markup(
        '<div class="small-circle" data-subject="{}"><svg viewBox="{} {} {} {}" role="img">'
        "<title>Value profile of {}</title>{}{}{}{}{}</svg><p>{}{}</p></div>"
    ).format(
        attribute(subject.id),
        -SMALL,
        -SMALL,
        2 * SMALL,
        2 * SMALL,
        plain(subject.label),
        _frame(data),
        _names(data, short=True),
        before,
        _polygon(data, value(policy["values"]), f"area c{c}"),
        _target(data, small=True),
        mark(subject),
        subject.label,
    )


def _pick(policy: Node, subject: Node, data: Node) -> Markup:
    on = str(policy.subject) == str(data.chosen)
    fit = Markup("")
    if policy.circle:
        fit = Markup("<small>circle R² {}, chance {}</small>").format(
            num(policy.circle.r2, "plain"), num(policy.circle.null_r2, "plain")
        )
    return Markup(
        '<button type="button" class="pick" data-profile="{}" aria-pressed="{}">{}<span>{}{}</span></button>'
    ).format(attribute(policy.subject), "true" if on else "false", mark(subject), subject.label, fit)


def _key(data: Node, subjects: dict[str, Node]) -> Markup:
    base = subjects.get(str(data.base))
    rows = (
        [
            Markup(
                '<li><svg class="key"><line class="target" x1="0" x2="26" y1="7" y2="7"/>'
                '<path class="aim" d="M20 2 l5 5 l-5 5 l-5 -5 z"/></svg>target</li>'
            )
        ]
        if data.target
        else []
    )
    if base is not None:
        rows.append(
            Markup(
                '<li><svg class="key"><line class="before c0" x1="0" x2="26" y1="7" y2="7"/></svg>'
                "{} (before)</li>"
            ).format(base.label)
        )
    rows.append(
        Markup(
            '<li><svg class="key"><rect class="chosen-key" x="1" y="1" width="24" height="12"/></svg>'
            "chosen policy, with intervals</li>"
        )
    )
    rows.append(
        Markup('<li class="hint">centre −1 opposed, dashed ring 0 no connection, rim +1 important</li>')
    )
    return Markup('<ul class="key-list">{}</ul>').format(Markup("").join(rows))


def _trust(data: Node, subjects: dict[str, Node]) -> Markup:
    """How far each profile can be trusted, and a plain warning where it cannot."""
    rows = []
    for p in data.policies:
        said, r = Markup("its reliability was not measured"), p.reliability
        if r:
            again = Markup("not asked again in other words")
            if r.retest:
                again = Markup("asked again in other words {} {}").format(
                    num(r.retest["value"], "plain"), span(r.retest.interval, "plain")
                )
            said = Markup("{} {}; {}").format(num(r["value"], "plain"), span(r.interval, "plain"), again)
            said += Markup(' <b class="unreliable">{}</b>').format(r.warning) if r.warning else Markup("")
        subject = subjects[str(p.subject)]
        rows.append(
            Markup('<li data-subject="{}">{}{}: {}</li>').format(attribute(p.subject), mark(subject), subject.label, said)
        )
    return Markup(
        '<div class="trust"><p class="hint">Can these profiles be trusted? Two halves of what was asked must give the same '
        "one: 1 they do, 0 not at all; {} is needed.</p><ul>{}</ul></div>"
    ).format(ENOUGH, Markup("").join(rows))


def _numbers(data: Node, subjects: dict[str, Node], open: bool) -> Markup:
    """The same as a table: one row per dimension."""
    head = Markup("").join(
        Markup('<th data-subject="{}" scope="col">{}{}</th>').format(
            attribute(p.subject), mark(subjects[str(p.subject)]), subjects[str(p.subject)].label
        )
        for p in data.policies
    )
    rows = []
    for s in data.spokes:
        key = str(s.id)
        goal = (
            num(data.target[key], "plain", signed=True)
            if key in (value(data.target) or {})
            else Markup('<span class="none" title="not part of the target">–</span>')
        )
        cells = Markup("").join(
            Markup('<td data-subject="{}">{}</td>').format(
                attribute(p.subject), num(p["values"][key], "share", signed=True)
            )
            for p in data.policies
        )
        group = Markup(" <small>{}</small>").format(s.group) if s.group else Markup("")
        rows.append(
            Markup('<tr><th scope="row"><abbr>{}</abbr> {}{}</th><td>{}</td>{}</tr>').format(
                s.id, s.name, group, goal, cells
            )
        )
    n = Markup("").join(
        Markup('<td data-subject="{}">{}</td>').format(
            attribute(p.subject), num(p.n, "count") if value(p.n) is not None else ""
        )
        for p in data.policies
    )
    return Markup(
        '<details class="fold"{}><summary>The numbers</summary>'
        '<div class="scroll" role="group" aria-label="numbers of the values"><table class="plain">'
        '<thead><tr><th scope="col">value</th><th scope="col">target</th>{}</tr></thead>'
        '<tbody>{}<tr><th scope="row">responses</th>'
        "<td></td>{}</tr></tbody></table></div></details>"
    ).format(Markup(" open") if open else Markup(""), head, Markup("").join(rows), n)
