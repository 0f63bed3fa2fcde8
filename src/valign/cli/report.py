"""`valign report`: draw a report again, take its numbers, items, figures and model card out, or follow a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from valign.cli.options import DATA, OUTPUT, Json, option
from valign.cli.shared import errors, print_json, refuse_given, say
from valign.errors import UsageError


def report(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A report.json, a result.json, or a run's folder.")],
    out: Annotated[Path | None, option(OUTPUT, help="Where everything goes; default: beside the source.")] = None,
    before: Annotated[
        Path | None, option(DATA, help="Results of the policy before, on the same items: a before/after page.")
    ] = None,
    with_: Annotated[
        list[Path] | None,
        option(DATA, "--with", help="A folder that an instrument wrote (valign tax, overopt ...): a section. May be repeated."),
    ] = None,
    csv: Annotated[bool, option(OUTPUT, "--csv", help="Also write numbers.csv and items.csv.")] = False,
    png: Annotated[bool, option(OUTPUT, "--png", help="Also write every figure as PNG (needs Chromium or Chrome).")] = False,
    card: Annotated[bool, option(OUTPUT, "--card", help="Also write MODEL_CARD.md for a model hub.")] = False,
    policy: Annotated[str | None, option(OUTPUT, help="The policy whose card is written (--card).")] = None,
    watch: Annotated[
        bool, option(OUTPUT, "--watch", help="Follow a running or finished run in the terminal and as a page.")
    ] = False,
    every: Annotated[float, option(OUTPUT, min=0.2, help="Seconds between two looks (--watch).")] = 2.0,
    as_json: Json = False,
) -> None:
    """Draw a report again from its JSON, export it, or follow a run."""
    with errors(as_json):
        from valign.pipeline import reports

        if policy is not None and not card:
            raise UsageError("--policy has no effect", where="--policy", how="it chooses whose card --card writes")
        if not watch:
            refuse_given(context, ["every"], "the run is looked at once", "follow it: --watch")
        if watch:
            if csv or png or card or with_ or before is not None:
                raise UsageError("a run that is followed has nothing to compare or export yet", where="--watch",
                                 how="leave --watch out when it is done")  # fmt: skip
            _follow(source, every, out, as_json)
            return
        paths: Any = reports.draw(source, out, before=before, instruments=with_ or ())
        paths = {**paths, **reports.export(paths, csv=csv, png=png, card=card, policy=policy)}
        if as_json:
            print_json({name: str(path) for name, path in paths.items()})
            return
        for name, path in paths.items():
            say(f"{name}: {path}")


def _follow(source: Path, every: float, out: Path | None, as_json: bool) -> None:
    """Print a run's state whenever it changed; with --json its last state, once."""
    from rich.console import Console

    from valign.pipeline.reports import follow
    from valign.report.text import run_text

    screen, shown = Console(highlight=False), None
    summary: Mapping[str, Any] = {}
    for summary, page in follow(source, every, out):
        state = (summary["name"], summary["step"], summary["state"])
        if as_json or state == shown:
            continue
        if shown is None:
            say(f"page: {page}")
        screen.print(run_text(summary))
        shown = state
    if as_json:
        print_json(summary)
