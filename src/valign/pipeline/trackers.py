"""Trackers: the events of a run, sent to a tool that the user names. Nothing is sent anywhere unless asked for.

One small interface: `log(step, numbers)` and `close()`. Each tracker is an extra, imported only here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from valign.errors import UsageError, unknown

Listen = Callable[[str, Mapping[str, Any]], None]


class Tracker(Protocol):
    """Where numbers go."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    def __init__(self, name: str, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "run" / "tensorboard"))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


class _Run:
    """Tools with the `init`, `log`, `finish` of Weights & Biases."""

    def __init__(self, module: Any, name: str, folder: Path) -> None:
        self.module = module
        module.init(project="valign", name=name)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.module.log(dict(numbers), step=step)

    def close(self) -> None:
        self.module.finish()


class _Wandb(_Run):
    def __init__(self, name: str, folder: Path) -> None:
        import wandb

        super().__init__(wandb, name, folder)


class _Trackio(_Run):
    def __init__(self, name: str, folder: Path) -> None:
        import trackio

        super().__init__(trackio, name, folder)


class _MLflow:
    def __init__(self, name: str, folder: Path) -> None:
        import mlflow

        self.mlflow = mlflow
        mlflow.start_run(run_name=name)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.mlflow.log_metrics(dict(numbers), step=step)

    def close(self) -> None:
        self.mlflow.end_run()


TRACKERS: dict[str, Callable[[str, Path], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "trackio": _Trackio,
    "mlflow": _MLflow,
}


@contextmanager
def trackers(names: Sequence[str], out: Path, listen: Listen) -> Iterator[Listen]:
    """A listener that also tells the named trackers about every step. Raises `UsageError` for one that is not there."""
    made: list[Tracker] = []
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS, where="--track")
        try:
            made.append(TRACKERS[name](out.name, out))
        except ImportError as error:
            raise UsageError(f"{name} is not installed", where="--track", how=f"pip install 'valign[{name}]'") from error

    def both(event: str, fields: Mapping[str, Any]) -> None:
        listen(event, fields)
        if event in ("step", "eval"):
            numbers = {f"{event}/{k}": float(v) for k, v in fields.items() if isinstance(v, (int, float)) and k != "step"}
            for tracker in made:
                tracker.log(int(fields["step"]), numbers)

    try:
        yield both if made else listen
    finally:
        for tracker in made:
            tracker.close()
