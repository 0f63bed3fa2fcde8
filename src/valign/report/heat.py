"""A table whose cells are tinted by their numbers: correlations of value pushes with risks.

Pure functions from the figure's JSON (shapes in `instruments`) to markup. The tint repeats what the signed number in the
cell says, and a mark with a word repeats the frame, so nothing is told by colour alone.
"""

from __future__ import annotations

from markupsafe import Markup

from valign.report.node import Node, num, span, value
from valign.report.units import number
from valign.report.visible import plain


def correlations(data: Node, subjects: dict[str, Node]) -> Markup:
    """Values as rows, risks as columns; the caption says in words what is linked."""
    heads = Markup("").join(Markup('<th scope="col">{}</th>').format(risk) for risk in data.risks)
    rows = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(r.name, Markup("").join(_cell(c) for c in r.cells))
        for r in data.rows
    )
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="correlations of values and risks"><table class="plain heat">'
        '<caption>{}</caption><thead><tr><th scope="col">value</th>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(spoken(data), heads, rows)


def spoken(data: Node) -> str:
    """The table in words: its size, and every link that holds after the correction."""
    names = [str(risk) for risk in data.risks]
    said = [
        f"{row.name} with {names[k]} {number(value(cell.value), 'score', signed=True)}"
        for row in data.rows
        for k, cell in enumerate(row.cells)
        if value(cell.linked)
    ]
    size = f"Values: {len(data.rows)}, risks: {len(names)}, checkpoints: {value(data.checkpoints)}"
    found = "; ".join(said) or "none"
    return plain(
        f"{size}. Linked (p at or below {value(data.level):g} after Benjamini-Hochberg over the table): {found}."
    )


def _cell(cell: Node) -> Markup:
    r = value(cell.value)
    if r is None:
        return Markup('<td class="flat"><span class="none">does not vary</span></td>')
    kind = ("raises" if r > 0 else "lowers") + (" linked" if value(cell.linked) else "")
    mark = Markup("<small><b>● linked</b></small>") if value(cell.linked) else Markup("")
    return Markup(
        '<td class="{}" style="--strength:{}"><b>{}</b>{}<small>{} · p {} · n {}</small></td>'
    ).format(
        kind, f"{abs(r):.3f}", num(cell.value, "score", signed=True), mark, span(cell.interval, "score", signed=True),
        num(cell.p_adjusted, "p"), num(cell.n, "count"),
    )  # fmt: skip
