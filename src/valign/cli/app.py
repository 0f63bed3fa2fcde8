"""The commands, in the order in which a newcomer meets them."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from valign.cli import (
    curves,
    differ,
    goal_quality,
    goal_standardize,
    instruments,
    look,
    measure,
    plan,
    profile,
    report,
    train,
)
from valign.cli.goal import goal_app
from valign.cli.options import Command
from valign.cli.shared import BUG, errors
from valign.errors import UsageError

app = typer.Typer(
    name="valign",
    help="Say what a model should align with, align it with any family of methods, "
    "and see on one scale how far it still is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        import valign

        typer.echo(valign.__version__)
        raise typer.Exit()


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1 and context.invoked_subcommand != "align":
        with errors(False):
            raise UsageError(f"torchrun is for valign align: {context.invoked_subcommand} is one process",
                             where="torchrun", how="valign evaluate shares its work with --workers")  # fmt: skip


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": train.demo,
    "run": train.run,
    "align": train.align,
    "compare": train.compare,
    "evaluate": measure.evaluate,
    "plan-eval": plan.plan_eval,
    "profile": profile.profile,
    "generate": measure.generate,
    "diff": differ.diff,
    "tax": instruments.tax,
    "generality": instruments.generality,
    "explain": instruments.explain,
    "efficiency": curves.efficiency,
    "choose": curves.choose,
    "value-risk": curves.value_risk,
    "overopt": instruments.overopt,
    "report": report.report,
    "methods": look.methods,
    "theory": look.theory,
    "doctor": look.doctor,
}
for _name, _command in COMMANDS.items():
    app.command(_name, cls=Command)(_command)
goal_app.command("quality", cls=Command)(goal_quality.quality)
goal_app.command("standardize", cls=Command)(goal_standardize.standardize)
app.add_typer(goal_app, name="goal")
app.add_typer(look.data_app, name="data")
app.add_typer(look.models_app, name="models")


def main() -> None:
    """Run the command line. What the user cannot fix ends with status 3 and the request to report it."""
    try:
        app()
    except (SystemExit, KeyboardInterrupt):
        raise
    except Exception:
        from valign.models.credentials import hide

        sys.stderr.write(hide(traceback.format_exc()))
        sys.stderr.write("valign: this is a bug of ours; please report it with the lines above\n")
        raise SystemExit(BUG) from None
