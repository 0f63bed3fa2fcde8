"""Trackers: the numbers of a run, sent to a tool that the user names. Nothing is sent unless asked for.

One small interface: `log(step, numbers)` and `close()`. Each tracker is an extra, imported only here. A
tracker that fails on the way is left out with a warning: it never costs a run its result.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from valign.errors import UsageError, unknown

Listen = Callable[[str, Mapping[str, Any]], None]
MODULES = {
    "tensorboard": "torch.utils.tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow",
}


class Tracker(Protocol):
    """Where numbers go."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    def __init__(self, module: Any, name: str, folder: Path) -> None:
        self.writer = module.SummaryWriter(str(folder / "run" / "tensorboard"))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


class _Run:
    """Weights & Biases and trackio: `init`, `log`, `finish`."""

    def __init__(self, module: Any, name: str, folder: Path) -> None:
        self.module = module
        module.init(project="valign", name=name)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.module.log(dict(numbers), step=step)

    def close(self) -> None:
        self.module.finish()


class _MLflow:
    def __init__(self, module: Any, name: str, folder: Path) -> None:
        self.module = module
        module.start_run(run_name=name)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.module.log_metrics(dict(numbers), step=step)

    def close(self) -> None:
        self.module.end_run()


TRACKERS: dict[str, Callable[[Any, str, Path], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Run,
    "trackio": _Run,
    "mlflow": _MLflow,
}


@contextmanager
def trackers(names: Sequence[str], out: Path, listen: Listen) -> Iterator[Listen]:
    """A listener that also tells the named trackers about every step and evaluation.

    They start with the first number, so that a run that is refused leaves nothing with them. Raises
    `UsageError` at once for one that is unknown or not installed, with the line that installs it.
    """
    sink = _Sink({name: _module(name) for name in dict.fromkeys(names)}, out, listen)
    try:
        yield sink if names else listen
    finally:
        sink.close()


def _module(name: str) -> Any:
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS, where="--track")
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        raise UsageError(f"{name} is not installed", where="--track", how=f"pip install 'valign[{name}]'") from error


class _Sink:
    def __init__(self, modules: Mapping[str, Any], out: Path, listen: Listen) -> None:
        self.waiting, self.out, self.listen = dict(modules), out, listen
        self.open: dict[str, Tracker] = {}

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        self.listen(event, fields)
        if event not in ("step", "eval"):
            return
        numbers = {f"{event}/{k}": float(v) for k, v in fields.items() if isinstance(v, (int, float)) and k != "step"}
        for name, module in self.waiting.items():
            made = self._try(name, partial(TRACKERS[name], module, self.out.name, self.out))
            if made is not None:
                self.open[name] = made
        self.waiting = {}
        for name, tracker in list(self.open.items()):
            self._try(name, partial(tracker.log, int(fields["step"]), numbers))

    def close(self) -> None:
        for name, tracker in list(self.open.items()):
            self._try(name, tracker.close)
        self.open.clear()

    def _try(self, name: str, act: Callable[[], Any]) -> Any:
        """What `act` gives; a tool that fails (no login, no network) is left out of the rest of the run."""
        try:
            return act()
        except Exception as error:  # whatever another project's tool may raise
            self.open.pop(name, None)
            self.listen("warning", {"text": f"tracker {name} failed and is left out: {error}"})
            return None
