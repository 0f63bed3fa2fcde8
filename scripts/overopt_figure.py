"""Draw the over-optimization curves of `valign overopt` as one SVG: gold and proxy against KL, the peak, the alarm.

    python scripts/overopt_figure.py OUT.svg SECTION.json [SECTION.json ...]

A section of the oracle worlds gives one panel for each world's planted exploit; one of a model gives its tilted law.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 300, 230, 44, 30, 34, 10
GOLD, PROXY, ALARM = "#b8860b", "#3b6fb6", "#b3261e"
EXPLOIT = "adversarial"
POINTS = 40  # of a curve: strengths past the gold peak look alike


def panels(section: Mapping[str, Any]) -> list[dict[str, Any]]:
    """title, kl, proxy, gold, alarm (an index or None) of everything a section holds."""
    data = section["figures"][0]["data"]
    if section["id"] == "overopt_worlds":
        runs = [r for r in data["runs"] if r["proxy"] == EXPLOIT]
        return [
            _panel(f"{r['world']} world, planted exploit", r["curve"], (r["alarm"] or {}).get("strength")) for r in runs
        ]
    tilted = data["tilted"]
    title = f"{data['proxy']} pushed, {data['gold'][:24]} watched (proxy rescaled)"
    low, gain = tilted["proxy"][0], max(tilted["gold"]) - tilted["gold"][0]  # two units in one drawing
    scale = gain / (max(tilted["proxy"]) - low)
    tilted = {**tilted, "proxy": [low + scale * (p - low) for p in tilted["proxy"]]}
    return [_panel(title, tilted, (tilted["alarm"] or {}).get("strength"))]


def _panel(title: str, curve: Mapping[str, Sequence[float]], strength: float | None) -> dict[str, Any]:
    at = (
        None
        if strength is None
        else min(range(len(curve["strength"])), key=lambda i: abs(curve["strength"][i] - strength))
    )
    cut = {k: list(curve[k])[:POINTS] for k in ("kl", "proxy", "gold")}
    return {"title": title, **cut, "alarm": at if at is not None and at < POINTS else None}


def drawing(found: Sequence[Mapping[str, Any]]) -> str:
    """The SVG of all panels, side by side."""
    width = len(found) * WIDTH
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT + 22}" '
        'font-family="sans-serif" font-size="11">',
             f'<rect width="{width}" height="{HEIGHT + 22}" fill="#ffffff"/>']  # fmt: skip
    for i, p in enumerate(found):
        parts.append(f'<g transform="translate({i * WIDTH},0)">{_axes(p)}{_lines(p)}</g>')
    legend = (("gold", GOLD), ("proxy", PROXY), ("alarm", ALARM))
    for i, (name, colour) in enumerate(legend):
        x = LEFT + 80 * i
        parts.append(
            f'<rect x="{x}" y="{HEIGHT + 6}" width="12" height="4" fill="{colour}"/>'
            f'<text x="{x + 16}" y="{HEIGHT + 12}">{name}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _scale(p: Mapping[str, Any]) -> tuple[Any, Any, tuple[float, float], float]:
    values = [v - base for name in ("proxy", "gold") for base in [p[name][0]] for v in p[name]]
    low, high, end = min(values), max(values), max(p["kl"]) or 1.0
    room = (high - low) or 1.0
    x = lambda kl: LEFT + (WIDTH - LEFT - RIGHT) * kl / end  # noqa: E731
    y = lambda v: HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (v - low) / room  # noqa: E731
    return x, y, (low, high), end


def _axes(p: Mapping[str, Any]) -> str:
    x, y, (low, high), end = _scale(p)
    out = [f'<text x="{LEFT}" y="16" font-weight="bold" font-size="10">{p["title"]}</text>']
    for v in (low, 0.0, high):
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#dddddd"/>')
        out.append(f'<text x="{LEFT - 4}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.2f}</text>')
    for v in (0.0, end / 2, end):
        out.append(f'<text x="{x(v):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{v:.2f}</text>')
    out.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">KL to the start, nats (change from the start above)</text>'
    )
    return "".join(out)


def _lines(p: Mapping[str, Any]) -> str:
    x, y, _, _ = _scale(p)
    out = []
    for name, colour in (("proxy", PROXY), ("gold", GOLD)):
        points = " ".join(f"{x(kl):.1f},{y(v - p[name][0]):.1f}" for kl, v in zip(p["kl"], p[name]))
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    if p["alarm"] is not None:
        at = x(p["kl"][p["alarm"]])
        out.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="{ALARM}" stroke-dasharray="4 3"/>'
        )
    return "".join(out)


def main(arguments: Sequence[str]) -> int:
    if len(arguments) < 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    found = [p for name in arguments[1:] for p in panels(json.loads(Path(name).read_text(encoding="utf-8")))]
    Path(arguments[0]).write_text(drawing(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
