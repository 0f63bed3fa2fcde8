"""What the commands share: printing, what they refuse, and how errors end."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from valign.cli.options import LOADING
from valign.errors import UsageError, ValignError
from valign.models.credentials import hidden, hide

if TYPE_CHECKING:
    from rich.console import Console

BUG = 3  # exit status for an error that is ours
INTERRUPTED = 130


def console() -> Console:
    """For people: standard error, so that what goes to standard output can be piped."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str = "") -> None:
    """One line for the reader, as it is: names go through `hide` before, what models say never does."""
    typer.echo(text)


def print_json(content: Any) -> None:
    """One JSON document on standard output; it never holds NaN."""
    typer.echo(json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False, default=str))


def settings(pairs: Sequence[str] | None) -> dict[str, Any]:
    """KEY=VALUE options as a mapping; a leading "method." is allowed. Raises `UsageError` for others."""
    from valign.pipeline.recipe import parse_value

    out: dict[str, Any] = {}
    for pair in pairs or ():
        key, sep, value = pair.partition("=")
        key = key.strip().removeprefix("method.")
        if not sep or not key:
            raise UsageError(f"{pair!r} is not KEY=VALUE", where="--set", how="for example --set beta=0.2")
        if key in out:
            raise UsageError(f"{key} is given twice", where="--set")
        out[key] = parse_value(value)
    return out


def refuse_given(context: typer.Context, names: Sequence[str], why: str, how: str = "leave it out") -> None:
    """Raise `UsageError` for the first option that was given although it would be ignored.

    names   parameters of the command
    why     what makes them idle here, as it ends the sentence "--limit: it has no effect: ..."
    """
    for option in _given(context, names):
        raise UsageError(f"it has no effect: {why}", where=option, how=how)


def tell_idle(context: typer.Context, names: Sequence[str], why: str) -> None:
    """Where only the work itself showed that an option has no effect: a line for each that was given."""
    for option in _given(context, names):
        console().print(f"  [yellow]{option} had no effect: {plain(why)}[/]")


def _given(context: typer.Context, names: Sequence[str]) -> list[str]:
    """The options among parameters `names` that the user wrote; a default is not given."""
    # by name: the enumeration belongs to the library inside typer
    written = lambda name: getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"  # noqa: E731
    return [p.opts[0] for p in context.command.params if p.name in names and written(p.name)]


def refuse_loading(context: typer.Context, *models: str | None) -> None:
    """Raise `UsageError` for options of loading where every model is an endpoint: nothing is loaded here."""
    from valign.models.endpoint.address import is_endpoint

    if all(is_endpoint(m) for m in models if m):
        refuse_given(context, LOADING, "the model is an endpoint, and its server loads it")


def single(goals: Sequence[str] | None) -> str | None:
    """The one goal that was named. A second one is an error, not a silent winner."""
    if goals and len(goals) > 1:
        raise UsageError(
            f"{len(goals)} goals are named: {', '.join(goals)}",
            where="--goal",
            how=[
                "name one",
                "or join them in a goal file of level composite, each with its scorer and weight",
            ],
        )
    return goals[0] if goals else None


@contextmanager
def errors(as_json: bool) -> Iterator[None]:
    """End with one clear message and the right status; no traceback for what the user can fix."""
    try:
        with _remarks():
            yield
    except ValignError as error:
        if not error.silent:
            _fail(error.what, error.where, error.how, as_json, error.exit_code)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        _fail(
            "interrupted; what was finished is kept",
            "",
            ("run the same command again to continue",),
            as_json,
            INTERRUPTED,
        )
        raise typer.Exit(INTERRUPTED) from error
    except BrokenPipeError as error:
        sys.stderr.close()
        raise typer.Exit(0) from error
    except OSError as error:
        if error.strerror is None:  # not the operating system's word: a bug, or a library's own error
            raise
        _fail(str(error.strerror), str(error.filename or "disk"), (), as_json, 1)
        raise typer.Exit(1) from error
    except (MemoryError, RuntimeError) as error:
        from valign.engine.allocator import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        how = ("use a smaller model, --limit, or --set token_budget=1024", "or --device cpu")
        _fail("out of memory", "", how, as_json, 1)
        raise typer.Exit(1) from error


def _fail(what: str, where: str, how: Sequence[str], as_json: bool, status: int) -> None:
    """The message: text on standard error, or one JSON document in place of the result."""
    if as_json:
        message = {"what": what, "where": where, "how": list(how)}
        print_json(hidden({"interrupted" if status in (0, INTERRUPTED) else "error": message}))
        return
    head = "[bold]valign:[/]" if status in (0, INTERRUPTED) else "[bold red]valign:[/]"
    console().print(f"{head} {plain(hide(ValignError(what, where=where, how=how).render()))}")


@contextmanager
def _remarks() -> Iterator[None]:
    """What the rooms log at warning level reaches the reader as one line each."""
    handler = _Remarks(logging.WARNING)
    log = logging.getLogger("valign")
    log.addHandler(handler)
    try:
        with warnings.catch_warnings():
            # what a library will change one day is not the reader's concern
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        log.removeHandler(handler)


class _Remarks(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        console().print(f"  [yellow]{plain(hide(record.getMessage()))}[/]")


def plain(text: str) -> str:
    """Text that rich prints as it is, brackets included."""
    from rich.markup import escape

    return escape(text)


def result_line(r: Any, *, of: str = "") -> str:
    """metric, value, interval, n, direction: the complete number on one line. of: whose it is, where several are shown."""
    value = "unscored" if r.value is None else f"{r.value:+.3f}" if r.value < 0 else f"{r.value:.3f}"
    interval = f" [{r.interval.low:.3f}, {r.interval.high:.3f}]" if r.interval is not None else ""
    unscored = f", {r.unscored} unscored" if r.unscored else ""
    if r.bounds is not None and r.many_unscored:
        unscored += f" ({r.bounds[0]:.3f} to {r.bounds[1]:.3f} with them)"
    whose = f" of {of}" if of else ""
    return f"{r.metric} ({r.variant}){whose}  {value}{interval}  {r.unit}, n={r.n}{unscored}, better: {r.direction}"
