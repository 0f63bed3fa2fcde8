"""The command that compares two evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from valign.cli.options import STATISTICS, Json, Margins, option
from valign.cli.shared import errors, print_json, say

if TYPE_CHECKING:
    from valign.report.diff import Change



Planned = Annotated[
    int | None,
    option(STATISTICS, min=1, help="Clusters (prompts) that are expected in all, where this is not the only look: "
           "intervals and p then hold at every look, and are wider."),
]  # fmt: skip


def diff(
    before: Annotated[Path, typer.Argument(help="A folder of valign evaluate, a result.json or a report.json.")],
    after: Annotated[Path, typer.Argument(help="The same of another model, or of the same one later.")],
    margin: Margins = None,
    planned: Planned = None,
    as_json: Json = False,
) -> None:
    """What changed from BEFORE to AFTER: every metric, paired item by item, with adjusted p."""
    with errors(as_json):
        from valign.pipeline import differences as found

        changes = found.differences(before, after, found.margins_of(margin), planned)
        if as_json:
            print_json(found.as_json(changes))
            return
        show(changes, planned)


def show(changes: Sequence[Change], planned: int | None = None) -> None:
    """The table and how to read it, on standard output."""
    from rich.console import Console

    from valign.report.text import diff_table

    Console(highlight=False).print(diff_table(changes))
    if planned is not None:
        say("difference: after minus before on the same items; interval (95 %) and p (adjusted for all rows) hold at every look, "
            f"narrowest at {planned} clusters; undecided: measure more, or stop as planned")  # fmt: skip
        return
    say("difference: after minus before on the same items, with the paired 95 % interval; p: adjusted for all rows "
        "(Benjamini-Hochberg); finds: the smallest difference that such a comparison finds in 4 of 5 cases")  # fmt: skip
