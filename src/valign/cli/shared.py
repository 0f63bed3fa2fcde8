"""What the commands share: options, printing, progress, and how errors end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from valign.errors import UsageError, ValignError

if TYPE_CHECKING:
    from rich.console import Console

BUG = 3  # exit status for an error that is ours
INTERRUPTED = 130

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, float64 (auto: float32 weights).")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is random.")]
Limit = Annotated[int | None, typer.Option(help="At most so many groups of the data.", min=1)]
Out = Annotated[Path, typer.Option(help="Output folder; run the same command again to continue there.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: KEY=VALUE. May be repeated.")]
GoalOption = Annotated[
    str | None, typer.Option("--goal", help="A goal: a name (`schwartz10:benevolence=1,power=-1`, `core`) or a YAML file.")
]
Model = Annotated[str, typer.Argument(help="A model: smollm2-135m-instruct, a folder, a GGUF file, or a hub id.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load pickled weights. They can run code: only from people you trust.")]
TrustCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run the model author's own code.")]


def console() -> Console:
    """For people: standard error when JSON goes to standard output, so that pipes stay clean."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str = "") -> None:
    """One line for the reader."""
    typer.echo(text)


def print_json(content: Any) -> None:
    """One JSON document on standard output; it never holds NaN."""
    typer.echo(json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False, default=str))


def settings(pairs: Sequence[str] | None) -> dict[str, Any]:
    """KEY=VALUE options as a mapping; a leading "method." is allowed. Raises `UsageError` for anything else."""
    from valign.pipeline.recipe import parse_value

    out: dict[str, Any] = {}
    for pair in pairs or ():
        key, sep, value = pair.partition("=")
        if not sep or not key:
            raise UsageError(f"{pair!r} is not KEY=VALUE", where="--set", how="for example --set beta=0.2")
        out[key.removeprefix("method.")] = parse_value(value)
    return out


@contextmanager
def errors(as_json: bool) -> Iterator[None]:
    """End with one clear message and the right status; no traceback for what the user can fix."""
    try:
        yield
    except ValignError as error:
        if as_json:
            print_json({"error": {"what": error.what, "where": error.where, "how": list(error.how)}})
        elif error.exit_code == 0:
            console().print(f"[bold]valign:[/] {_plain(error.render())}")
        else:
            console().print(f"[bold red]valign:[/] {_plain(error.render())}")
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        console().print("valign: interrupted; what was finished is kept, run the same command again to continue")
        raise typer.Exit(INTERRUPTED) from error
    except BrokenPipeError as error:
        sys.stderr.close()
        raise typer.Exit(0) from error
    except OSError as error:
        if error.errno is None or error.filename is None and error.strerror is None:
            raise
        console().print(f"[bold red]valign:[/] {error.filename or 'disk'}: {error.strerror}")
        raise typer.Exit(1) from error


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


class Watch:
    """Live progress of long work: hears the pipeline's and the loop's events and shows them on standard error."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.quiet = quiet
        self.out = console()
        self.progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("[dim]{task.fields[note]}"), console=self.out, transient=True,
            disable=quiet or not self.out.is_terminal,
        )  # fmt: skip
        self.task = self.progress.add_task("", total=None, note="")
        self.name = ""

    def __enter__(self) -> Watch:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        handler: Callable[[Mapping[str, Any]], None] | None = getattr(self, f"on_{event}", None)
        if handler is not None and not self.quiet:
            handler(fields)

    def line(self, text: str) -> None:
        """A line that stays."""
        self.out.print(text)

    def on_phase(self, f: Mapping[str, Any]) -> None:
        self.name = str(f["name"])
        self.line(f"[bold]{_plain(self.name)}[/] [dim]({f['index'] + 1} of {f['count']})[/]")

    def on_measuring(self, f: Mapping[str, Any]) -> None:
        self.progress.reset(self.task, total=None, description=f"  measuring {f['what']}", note="")

    def on_progress(self, f: Mapping[str, Any]) -> None:
        self.progress.update(self.task, total=f["total"], completed=f["done"])

    def on_audit(self, f: Mapping[str, Any]) -> None:
        mark = "[green]ok[/]" if f["ok"] else "[yellow]look[/]"
        self.line(f"  audit {mark} {_plain(str(f['name']))}: {_plain(str(f['text']))}")

    def on_step(self, f: Mapping[str, Any]) -> None:
        shown = [f"loss {f['loss']:.4f}"] if f.get("loss") is not None else []
        shown += [f"{name} {f[name]:.3f}" for name in ("reward", "kl", "correct", "chosen", "rejected") if f.get(name) is not None]
        shown.append(f"{f.get('tokens_per_second') or 0:.0f} tokens/s")
        total, left = f["steps"], f["steps"] - f["step"]
        shown.append(f"about {_clock(left * f['seconds'])} left" if left else "done")
        self.progress.update(self.task, description="  training", total=total, completed=f["step"], note=", ".join(shown))
        if not self.out.is_terminal or not left or f["step"] == 1:
            self.line(f"  step {f['step']}/{total}: {', '.join(shown)}")

    def on_eval(self, f: Mapping[str, Any]) -> None:
        self.line(f"  dev at step {f['step']}: loss {f['loss']:.4f}{' (best so far)' if f['best'] else ''}")

    def on_resume(self, f: Mapping[str, Any]) -> None:
        self.line(f"  continuing after step {f['step']}")

    def on_warning(self, f: Mapping[str, Any]) -> None:
        self.line(f"  [yellow]{_plain(str(f['text']))}[/]")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def result_line(r: Any) -> str:
    """metric, value, interval, n, direction: the complete number on one line."""
    value = "unscored" if r.value is None else f"{r.value:+.3f}" if r.value < 0 else f"{r.value:.3f}"
    interval = f" [{r.interval.low:.3f}, {r.interval.high:.3f}]" if r.interval is not None else ""
    unscored = f", {sum(r.n_unscored.values())} unscored" if r.n_unscored else ""
    return f"{r.metric} ({r.variant})  {value}{interval}  {r.unit}, n={r.n}{unscored}, better: {r.direction}"
