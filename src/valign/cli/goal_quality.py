"""`valign goal quality`: how comprehensive, precise and compatible a set of principles is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from valign.cli.options import DATA, MEASURE, OUTPUT, Json, Judges, Seed, option
from valign.cli.progress import Watch
from valign.cli.shared import errors, print_json, say

SHOWN = 5
SITUATIONS = 60  # of the bank's 300, unless the user says how many: three of each theme


def quality(
    set_: Annotated[str, typer.Argument(metavar="SET", help="A principle set (`core`) or its YAML file.")],
    judge: Judges = None,
    situations: Annotated[
        int, option(MEASURE, min=1, help="How many of the bank's situations, evenly over its themes.")
    ] = SITUATIONS,
    bank: Annotated[str, option(DATA, help="A bank of situations: `assistant`, or a YAML file.")] = "assistant",
    orders: Annotated[int, option(MEASURE, min=1, max=2, help="2: ask for and against; 1: for only, at half the cost.")] = 2,
    out: Annotated[Path | None, option(OUTPUT, help="A JSON file to write.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Comprehensiveness, precision and compatibility of a set of principles: gaps, vague rules, contradictions."""
    with errors(as_json):
        import json

        from valign.engine.run import write_whole
        from valign.pipeline.quality import quality_from_names

        with Watch(quiet=as_json) as watch:
            found = quality_from_names(
                set_, judge or [], situations=situations, bank=bank, orders=orders, seed=seed, on_event=watch
            )
        content = found.to_json()
        if out is not None:
            write_whole(out, json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
        if as_json:
            print_json(content)
            return
        show_quality(found)


def show_quality(q: Any) -> None:
    """Print what was found about a set of principles."""

    def three(x: tuple[float, float, float]) -> str:
        return f"{x[0]:.2f} [{x[1]:.2f}, {x[2]:.2f}]"

    say(f"{q.set}: {len(q.precision)} principles, {q.n} situations, {len(q.judges)} judges")
    say(f"comprehensiveness  {three(q.comprehensiveness['all'])}  share of situations that a principle covers")
    for theme in q.gaps:
        say(f"  gap: {theme}  {three(q.comprehensiveness[theme])}")
    mean = "unknown" if q.mean_precision is None else f"{q.mean_precision:.2f}"
    say(f"precision          {mean}  mean agreement of the judges (Krippendorff's alpha; 1 is best, 0 is chance)")
    for name in q.vague:
        say(f"  vague: {name}  {three(q.precision[name])}")
    for name in q.unused:
        say(f"  never applied: {name}")
    say(f"compatibility      {three(q.compatibility)}  1 - share of clashes where two principles meet, n={q.meetings}")
    for c in q.clashes[:SHOWN]:
        say(f"  clash: {c['one']} and {c['other']} in {c['share']:.0%} of {c['n']}, such as: {c['examples'][0]}")
    if len(q.clashes) > SHOWN:
        say(f"  and {len(q.clashes) - SHOWN} more pairs")
    if q.unscored:
        say(f"unscored: {', '.join(f'{n} {k}' for k, n in q.unscored.items())}")
    say("These numbers are as good as the judges: a weak judge makes every principle look vague.")
