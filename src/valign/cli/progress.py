"""Live progress: what the pipeline and the training loop tell, on the terminal or as lines of a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from valign.cli.shared import console, plain
from valign.models.credentials import hide
from valign.report.units import number

if TYPE_CHECKING:
    from rich.progress import TaskID

EVERY = 10.0  # seconds between two lines of progress where there is no terminal
TRAINING = "training"
TASKS = 12  # of a mixture that are named with their counts; the run's data.json has all


class Watch:
    """Live progress of long work: hears the pipeline's and the loop's events, shows them on standard error.

    quiet   with --json: nothing but a bar, and that only in a terminal
    """

    def __init__(self, quiet: bool = False) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

        self.quiet = quiet
        self.out = console()
        self.progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=16),
            TextColumn("{task.fields[count]}"), TimeRemainingColumn(), TextColumn("[dim]{task.fields[note]}"),
            console=self.out, transient=True, disable=not self.out.is_terminal,
        )  # fmt: skip
        self.task: TaskID | None = None
        self.what, self.told = "", 0.0

    def __enter__(self) -> Watch:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        handler: Callable[[Mapping[str, Any]], None] | None = getattr(self, f"on_{event}", None)
        if handler is not None:
            handler(fields)

    def line(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet:
            self.out.print(text)

    def part(self, what: str) -> None:
        """A part of the work begins: a bar of its own, without an end until that is known."""
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.what, self.told = what, time.monotonic()
        self.task = self.progress.add_task(f"  {plain(hide(what))}", total=None, count="", note="")

    def bar(self, done: int, total: int, note: str = "") -> None:
        """The part that runs is so far."""
        if self.task is not None:
            count = f"{done}/{total}"
            self.progress.update(self.task, total=total, completed=done, count=count, note=note)

    def on_phase(self, f: Mapping[str, Any]) -> None:
        self.line(f"[bold]{plain(str(f['name']))}[/] [dim]({f['index'] + 1} of {f['count']})[/]")

    def on_loading(self, f: Mapping[str, Any]) -> None:
        self.part(f"loading {f['name']}")

    def on_measuring(self, f: Mapping[str, Any]) -> None:
        self.part(str(f["what"]))

    def on_writing(self, f: Mapping[str, Any]) -> None:
        self.part(f"writing {f['path']}")

    def on_progress(self, f: Mapping[str, Any]) -> None:
        self.bar(f["done"], f["total"])
        if self.out.is_terminal or time.monotonic() - self.told < EVERY:
            return
        self.told = time.monotonic()  # a log file has no bar: a line now and then
        self.line(f"  {plain(self.what)}: {f['done']} of {f['total']}")

    def on_audit(self, f: Mapping[str, Any]) -> None:
        mark = "[green]ok[/]" if f["ok"] else "[yellow]look[/]"
        self.line(f"  audit {mark} {plain(str(f['name']))}: {plain(str(f['text']))}")

    def on_step(self, f: Mapping[str, Any]) -> None:
        shown = [f"loss {f['loss']:.4f}"] if f.get("loss") is not None else []
        shown += [
            f"{name} {f[name]:.3f}"
            for name in ("reward", "kl", "correct", "chosen", "rejected")
            if f.get(name) is not None
        ]
        shown.append(f"{f.get('tokens_per_second') or 0:.0f} tokens/s, padding {f.get('pad_share') or 0:.0%}")
        shown += [number(f["memory"], "bytes")] if f.get("memory") else []
        total, left = f["steps"], f["steps"] - f["step"]
        shown.append(f"about {_clock(f['left'])} left" if left else "done")
        if self.what != TRAINING:
            self.part(TRAINING)
        self.bar(f["step"], total, ", ".join(shown[:1] + shown[-3:]))
        if not self.out.is_terminal or not left or f["step"] == 1:
            self.line(f"  step {f['step']}/{total}: {', '.join(shown)}")

    def on_eval(self, f: Mapping[str, Any]) -> None:
        self.line(f"  dev at step {f['step']}: loss {f['loss']:.4f}{' (best so far)' if f['best'] else ''}")

    def on_guard(self, f: Mapping[str, Any]) -> None:
        if f.get("covariance") is not None:
            shown = ", ".join(f"{k} {f[k]:.4g}" for k in ("proxy", "gold", "covariance"))
            self.line(f"  audit at step {f['step']}: {shown}")

    def on_memory(self, f: Mapping[str, Any]) -> None:
        self.line(f"  memory: {number(f['taken'], 'bytes')} taken, {number(f['planned'], 'bytes')} planned")

    def on_best(self, f: Mapping[str, Any]) -> None:
        best = f"its dev loss {f['loss']:.4f} was the best" if "loss" in f else "the guard found it best"
        self.line(f"  the policy of step {f['step']} is kept: {best}")

    def on_resume(self, f: Mapping[str, Any]) -> None:
        self.line(f"  continuing after step {f['step']}")

    def on_tasks(self, f: Mapping[str, Any]) -> None:
        shown = [f"{name} {n}" for name, n in f["counts"].items()]
        more = [f"and {len(shown) - TASKS} tasks more"] if len(shown) > TASKS else []
        text = f"{f['source']}: {sum(f['counts'].values())} groups: {', '.join([*shown[:TASKS], *more])}"
        self.line(f"  {plain(text)}")

    def on_warning(self, f: Mapping[str, Any]) -> None:
        self.line(f"  [yellow]{plain(hide(str(f['text'])))}[/]")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
