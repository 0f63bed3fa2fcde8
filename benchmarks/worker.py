"""What every measured process does around its work: read the job, set threads, count, time, write the answer.

Standard library at import; torch is the side's own. The answer is one JSON file. An error is an answer too: its text,
and whether the thing is not available rather than broken.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.hardware import energy_joules
from benchmarks.parts import profiled

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "datasets", "trl", "lm_eval", "valign")


around: Callable[[], AbstractContextManager[Any]] = nullcontext  # what the timed part of a run happens in: a profile, or nothing


class NotAvailable(RuntimeError):
    """The side does not have what the workload asks for (yet)."""


@dataclass(frozen=True)
class Job:
    """One job file.

    task      "check" (wide numbers, for equality), "time", or "profile" (the timed run under torch's profiler)
    settings  of the workload          variant   of the side (dtype, order, batch sizes ...)
    inputs    as `data.prepare` wrote them; its `fast` is the machine's fast number format
    folder    a fresh folder for whatever the side writes
    """

    task: str
    kind: str
    workload: str
    settings: Mapping[str, Any]
    variant: Mapping[str, Any]
    model: str
    inputs: Mapping[str, Any]
    folder: Path
    threads: int

    @property
    def fast(self) -> str:
        return str(self.inputs["fast"])

    def dtype(self) -> str:
        """The variant's number format by name."""
        named = str(self.variant.get("weights", "fast"))
        return self.fast if named == "fast" else named


@dataclass
class Positions:
    """Token positions that went through the model's embedding, padding included."""

    count: int = 0


@dataclass
class Timeline:
    """When steps began and ended, and their losses. All times are seconds of one monotonic clock."""

    began: float = field(default_factory=time.perf_counter)
    loop_began: float | None = None
    ended: float | None = None
    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)

    def begin_loop(self) -> None:
        self.loop_began = time.perf_counter()

    def step(self, loss: float | None = None, seconds: float | None = None) -> None:
        """A step has ended now."""
        now = time.perf_counter()
        last = self.ended if self.ended is not None else self.loop_began
        if seconds is None:
            seconds = now - (last if last is not None else self.began)
        if self.loop_began is None:
            self.loop_began = now - seconds
        self.ended = now
        self.step_seconds.append(seconds)
        if loss is not None:
            self.losses.append(loss)

    def to_json(self) -> dict[str, Any]:
        """seconds: from `began` to the last update; loop_seconds: from the loop's begin to it."""
        if self.ended is None or self.loop_began is None:
            raise RuntimeError("no step was made")
        return {
            "seconds": self.ended - self.began,
            "loop_seconds": self.ended - self.loop_began,
            "step_seconds": self.step_seconds,
        }


@contextmanager
def counted_positions() -> Iterator[Positions]:
    """Count the ids that any embedding of tokens looks up: the same meter for every side."""
    import torch.nn.functional as functional

    found, original = Positions(), functional.embedding

    def embedding(ids: Any, weight: Any, *rest: Any, **named: Any) -> Any:
        if weight.shape[0] > 64:
            found.count += ids.numel()
        return original(ids, weight, *rest, **named)

    functional.embedding = embedding  # type: ignore[assignment]
    try:
        with around():
            yield found
    finally:
        functional.embedding = original


def rule_reward(text: str) -> float:
    """The reward of the GRPO workload: the number of "sorry" minus characters / 500."""
    return text.lower().count("sorry") - len(text) / 500


def batches(rows: Sequence[Any], n: int) -> Iterator[Sequence[Any]]:
    """Consecutive parts of at most n."""
    return (rows[i : i + n] for i in range(0, len(rows), n))


def accuracy(scores: Mapping[str, Sequence[float]], items: Sequence[Mapping[str, Any]]) -> float:
    """Share of items whose best choice is the right one; the first of equal choices counts, as in the harness."""
    right = [max(range(len(s)), key=lambda i: s[i]) == item["gold"] for item in items for s in [scores[item["id"]]]]
    return sum(right) / len(right)


def run(tasks: Mapping[str, Callable[[Job], dict[str, Any]]]) -> int:
    """Answer the job file named on the command line with the functions of `tasks`, keyed "KIND.TASK"."""
    raw = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer: dict[str, Any] = {"versions": versions()}
    try:
        import torch

        torch.set_num_threads(raw["threads"])
        for task in raw["tasks"]:
            inputs = json.loads(Path(raw["inputs"]).read_text(encoding="utf-8"))
            folder = Path(raw["folder"]) / task
            folder.mkdir(parents=True, exist_ok=True)
            job = Job(task, raw["kind"], raw["workload"], raw["settings"], raw["variant"], raw["model"], inputs, folder,
                      raw["threads"])  # fmt: skip
            before, began, used = energy_joules(), time.perf_counter(), time.process_time()
            part = _profiled(job, tasks) if task == "profile" else tasks[f"{job.kind}.{task}"](job)
            # far below the number of threads: somebody else was at work on this machine
            part["cores_used"] = (time.process_time() - used) / (time.perf_counter() - began)
            if task == "time" and before is not None:
                part["joules"] = (energy_joules() or before) - before
            answer[task] = part
        # work in processes of its own says itself what they took
        answer["peak_bytes"] = max(peak_bytes(), *(answer[task].get("peak_bytes", 0) for task in raw["tasks"]))
    except NotAvailable as error:
        answer["not_available"] = str(error)
    except Exception as error:  # whatever a side raises is its answer; the launcher shows it
        answer["error"] = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    Path(raw["out"]).write_text(json.dumps(answer), encoding="utf-8")
    return 0 if "error" not in answer else 1


def _profiled(job: Job, tasks: Mapping[str, Callable[[Job], dict[str, Any]]]) -> dict[str, Any]:
    """The timed run once more, its timed part under torch's profiler: units, positions, seconds, and seconds of each part."""
    global around
    parts: dict[str, float] = {}
    vocabulary = json.loads((Path(job.model) / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    around = lambda: profiled(vocabulary, parts)  # noqa: E731
    try:
        timed = tasks[f"{job.kind}.time"](job)
    finally:
        around = nullcontext
    # what is written after the last number is no part of the timed seconds, and hardly of the operations
    parts["outside"] = max(0.0, timed["seconds"] - sum(parts.values()))
    return {"units": timed["units"], "positions": timed.get("positions"), "seconds": timed["seconds"], "parts": parts}


def peak_bytes() -> int:
    """The highest resident size of this process.

    /proc is read first: getrusage also remembers the size of the process that started this one.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str]:
    """Of the packages that are installed in this environment."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
