"""One workload from inputs to result: equality first, then A B A B, every run a fresh process.

The result is one JSON value; the page of figures is written from it and from nothing else. A side that fails is
reported with its error, and nothing is compared with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from benchmarks import equality, hardware
from benchmarks.environments import python_of
from benchmarks.ratio import ratio_of_medians, spread
from benchmarks.workloads import Peer, Workload

ROOT = Path(__file__).resolve().parent.parent
OURS = "valign"
LIMIT = 3600  # seconds after which a single process is given up

Answer = dict[str, Any]

AT_ONCE = 2  # workloads that a quick run has under way
ORDER = "valign, then each variant, and again: A B A B"
QUICK_ORDER = "valign, then its peer, while another workload runs"


class Failed(RuntimeError):
    """Inputs could not be prepared, or a process gave no answer."""


class Answers:
    """The equality jobs of a command: whoever asks a question first answers it, and others wait for that."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Future[Answer]] = {}
        self._lock = Lock()

    def asked(self, key: tuple[str, str]) -> tuple[Future[Answer], bool]:
        """The answer that comes, and whether it is the caller's to give, with `give`."""
        with self._lock:
            known = self._found.get(key)
            return (known, False) if known else (self._found.setdefault(key, Future()), True)

    def give(self, key: tuple[str, str], answer: Answer) -> None:
        """What a process answered. A problem is told to those who wait; who asks later asks anew."""
        if problem := _problem(answer):
            with self._lock:
                self._found.pop(key).set_exception(Failed(problem))
        else:
            self._found[key].set_result(answer["check"])


ANSWERS = Answers()


@dataclass(frozen=True)
class Options:
    """What the command line says.

    size      units of a run, None: the workload's own      runs      timed processes of each side
    variants  of the peer, None: all                        dtype     fast number format, "auto": measured
    """

    data: Path
    model: Path
    out: Path
    runs: int = 3
    size: int | None = None
    quick: bool = False
    threads: int = 1
    dtype: str = "auto"
    variants: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Side:
    """A column of the result: which module answers in which environment, told which settings."""

    name: str
    module: str
    python: Path
    variant: Mapping[str, Any]


def run_workload(workload: Workload, options: Options, say: Callable[[str], None] = print) -> Answer:
    """Measure one workload. The result is also written to `options.out`/NAME.json."""
    began = time.time()
    size = options.size or (workload.quick if options.quick else workload.size)
    with tempfile.TemporaryDirectory(prefix="valign-bench-") as scratch:
        bench = _Bench(workload, options, size, Path(scratch), say)
        result = bench.measure()
    result["took_seconds"] = round(time.time() - began, 1)
    write(options.out / f"{workload.name}.json", result)
    return result


def profile_workload(workload: Workload, options: Options, say: Callable[[str], None] = print) -> Answer:
    """Where the seconds of one run of each side go, written to `options.out`/NAME.json. Nothing is compared first: a
    profile explains a ratio, it is none."""
    with tempfile.TemporaryDirectory(prefix="valign-bench-") as scratch:
        bench = _Bench(workload, options, options.size or workload.size, Path(scratch), say)
        result = bench.profile()
    write(options.out / f"{workload.name}.json", result)
    return result


def write(path: Path, result: Answer) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


class _Bench:
    """The steps of one workload, and what they share."""

    def __init__(self, workload: Workload, options: Options, size: int, scratch: Path, say: Callable[[str], None]):
        self.workload, self.options, self.size, self.scratch, self.say = workload, options, size, scratch, say
        self.settings = workload.told(options.quick)
        self.threads = max(1, options.threads // AT_ONCE) if options.quick else options.threads
        self.inputs = scratch / "inputs.json"
        self.count = 0

    def measure(self) -> Answer:
        sides = self._sides()
        fast = self._prepare()
        result: Answer = {
            "schema": 1,
            "workload": self.workload.name,
            "title": self.workload.title,
            "unit": self.workload.unit,
            "clock": self.workload.clock,
            "size": self.size,
            "sized_in": self.workload.sized_in,
            "quick": self.options.quick,
            "model": self.options.model.name,
            "fast_dtype": fast,
            "threads": self.threads,
            "settings": dict(self.settings),
            "peer": self.workload.peer.name if self.workload.peer else None,
            "variants": {s.name: dict(s.variant) for s in sides},
            "memory_target": vars(self.workload.memory) if self.workload.memory else None,
            "hardware": hardware.hardware(),
            **hardware.commit(ROOT),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        runs: dict[str, list[Answer]] = {s.name: [] for s in sides}
        problems: dict[str, str] = {}
        checks: dict[str, Answer] = {}
        if self.options.quick:
            self._time_quickly(sides, runs, checks, problems)
        else:
            self._check(sides, checks, problems)
            if not problems and self._agree(checks):
                self._time(sides, runs, problems)
        return {**result, **self._summary(runs, checks, problems)}

    def profile(self) -> Answer:
        """One profiled run of each side."""
        sides = self._sides()
        self._prepare()
        answers = {s.name: self._run(s, ["profile"]) for s in sides}
        problems = {name: text for name, a in answers.items() if (text := _problem(a)) is not None}
        if problems:
            raise Failed("; ".join(f"{name}: {text}" for name, text in problems.items()))
        return {
            "schema": 1, "workload": self.workload.name, "title": self.workload.title, "unit": self.workload.unit,
            "size": self.size, "sized_in": self.workload.sized_in, "threads": self.threads,
            "peer": self.workload.peer.name if self.workload.peer else None,
            "hardware": hardware.hardware(), **hardware.commit(ROOT), "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "sides": {name: {**a["profile"], "others": a["others"]} for name, a in answers.items()},
        }  # fmt: skip

    def _sides(self) -> list[Side]:
        own, peer = Path(sys.executable), self.workload.peer
        ours = Side(OURS, self.workload.module, own, {"size": self.size})
        if peer is None:
            return [ours]
        named = self.options.variants or ((peer.check,) if self.options.quick else None)  # quick: one A B
        wanted = [v for v in peer.variants if named is None or v in named]
        if not wanted:
            raise Failed(f"{self.workload.name} has the variants {', '.join(peer.variants)}")
        python = python_of(peer.environment) if peer.environment else own
        return [ours, *(Side(v, peer.module, python, peer.variants[v]) for v in wanted)]

    def _prepare(self) -> str:
        """Write the inputs; returns the machine's fast number format."""
        request = self.scratch / "request.json"
        content = {
            "kind": self.workload.kind, "settings": self.settings, "size": self.size, "model": str(self.options.model),
            "data": str(self.options.data), "dtype": self.options.dtype, "out": str(self.inputs),
        }  # fmt: skip
        request.write_text(json.dumps(content), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.data", str(request)], cwd=ROOT, capture_output=True, text=True,
            env=self._environment(self.scratch), check=False,
        )  # fmt: skip
        if done.returncode:
            raise Failed(_tail(done.stderr))
        return str(json.loads(self.inputs.read_text(encoding="utf-8"))["fast"])

    # -------------------------------------------------------------------------------------- the two kinds of jobs

    def _check(self, sides: Sequence[Side], checks: dict[str, Answer], problems: dict[str, str]) -> None:
        """The equality job of valign and of one variant: it runs in a wide format whatever the variant says."""
        if self.workload.peer is None:
            return
        for side in (sides[0], self._checked(sides)):
            key = self._key(side)
            coming, mine = ANSWERS.asked(key)
            if mine:
                self._answered(side, key, ["check"])
            try:
                checks[side.name] = coming.result()
            except Failed as problem:
                problems[side.name] = str(problem)
                return

    def _answered(self, side: Side, key: tuple[str, str], tasks: Sequence[str]) -> Answer:
        """Run tasks with the equality job among them; whoever waits for its answer hears, come what may."""
        answer: Answer = {"error": "the workload that was to answer ended early"}
        try:
            answer = self._run(side, tasks)
        finally:
            ANSWERS.give(key, answer)
        return answer

    def _key(self, side: Side) -> tuple[str, str]:
        """Who answers which equality job. valign may stand beside itself: then both sides have one module, and each answers
        for its own path."""
        return f"{side.module} {'ours' if side.name == OURS else 'theirs'}", self._question()

    def _question(self) -> str:
        """All that the equality job depends on: workloads that ask the same are answered once."""
        inputs = json.loads(self.inputs.read_text(encoding="utf-8"))
        asked = {k: v for k, v in inputs.items() if k.startswith(("check", "loss", "stop"))}
        told = (self.workload.kind, dict(self.settings), asked, str(self.options.model), self.threads)
        return json.dumps(told, sort_keys=True)

    def _checked(self, sides: Sequence[Side]) -> Side:
        """The peer's side that answers the equality job."""
        assert self.workload.peer is not None
        return next((s for s in sides[1:] if s.name == self.workload.peer.check), sides[1])

    def _time(self, sides: Sequence[Side], runs: dict[str, list[Answer]], problems: dict[str, str]) -> None:
        for _ in range(self.options.runs):
            for side in sides:
                if side.name in problems:
                    continue
                answer = self._run(side, ["time"])
                if problem := _problem(answer):
                    problems[side.name] = problem
                    if side.name == OURS:
                        return
                    continue
                runs[side.name].append(_timed(answer))

    def _time_quickly(
        self, sides: Sequence[Side], runs: dict[str, list[Answer]], checks: dict[str, Answer], problems: dict[str, str]
    ) -> None:
        """One run of each side; its process also answers the equality job, where no other workload has asked the same."""
        for side in sides:
            key = self._key(side)
            coming, mine = ANSWERS.asked(key) if len(sides) > 1 else (None, False)
            answer = self._answered(side, key, ["check", "time"]) if mine else self._run(side, ["time"])
            try:
                if problem := _problem(answer):
                    raise Failed(problem)
                runs[side.name].append(_timed(answer))
                if coming:
                    checks[side.name] = coming.result()
            except Failed as found:
                problems[side.name] = str(found)
                return

    def _run(self, side: Side, tasks: Sequence[str]) -> Answer:
        """One fresh process; its answer, or {"error": ...}."""
        self.count += 1
        folder = self.scratch / f"{self.count:02d}-{side.name}"
        folder.mkdir()
        job, out, log = folder / "job.json", folder / "answer.json", folder / "log.txt"
        content = {
            "tasks": list(tasks), "kind": self.workload.kind, "workload": self.workload.name, "settings": self.settings,
            "variant": dict(side.variant), "model": str(self.options.model), "inputs": str(self.inputs),
            "folder": str(folder), "threads": self.threads, "out": str(out),
        }  # fmt: skip
        job.write_text(json.dumps(content), encoding="utf-8")
        began, others, killed = time.time(), hardware.Others(), hardware.killed_for_memory()
        with log.open("w", encoding="utf-8") as lines:
            try:
                ended = subprocess.run(
                    [str(side.python), "-m", side.module, str(job)], cwd=ROOT, env=self._environment(folder),
                    stdout=lines, stderr=subprocess.STDOUT, timeout=LIMIT, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return {"error": f"no answer within {LIMIT} s"}
        tail = _tail(log.read_text(encoding="utf-8").replace(str(ROOT), "."))
        if not out.exists():
            return {"error": f"{_end(ended.returncode, hardware.killed_for_memory() - killed)}\n{tail}"}
        answer: Answer = {**json.loads(out.read_text(encoding="utf-8")), "others": others.share()}
        if "error" in answer:
            answer["error"] += f"\n{tail}"
        self.say(f"  {self.workload.name}: {side.name} {'+'.join(tasks)} {time.time() - began:.0f} s{_short(answer)}")
        return answer

    def _environment(self, folder: Path) -> dict[str, str]:
        """Both sides' environment: the same threads, no network, caches of their own so that nothing is warm."""
        threads = str(self.threads)
        return {
            **{k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")},
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(folder / "hf"),
            "VALIGN_CACHE": str(folder / "valign"),
            "PYTHONHASHSEED": "0",
        }

    # ---------------------------------------------------------------------------------------------------- the result

    def _agree(self, checks: Mapping[str, Answer]) -> bool:
        return self.workload.peer is None or equality.passed(_checks(checks))

    def _summary(
        self, runs: Mapping[str, Sequence[Answer]], checks: Mapping[str, Answer], problems: Mapping[str, str]
    ) -> Answer:
        sides = {name: side_summary(found, self.workload.clock) for name, found in runs.items() if found}
        compared = _checks(checks) if self.workload.peer else []
        agree = self.workload.peer is None or equality.passed(compared)
        return {
            "equality": {"passed": agree, "checks": [c.to_json() for c in compared]},
            "problems": dict(problems),
            "sides": sides,
            "ratios": ratios(sides, self.workload.peer) if agree else {},
            "targets": targets(self.workload, sides),
            "order": QUICK_ORDER if self.options.quick else ORDER,
        }


def _timed(answer: Answer) -> Answer:
    """What a result keeps of one timed run."""
    return {**answer["time"], **{k: answer[k] for k in ("peak_bytes", "versions", "others")}}


def side_summary(found: Sequence[Answer], clock: str) -> Answer:
    """Median and spread of rate, seconds and peak memory over the runs of a side, and the runs themselves."""
    rates = [r["units"] / r[clock] for r in found]
    return {
        "rate": spread(rates),
        "seconds": spread([r[clock] for r in found]),
        "peak_bytes": spread([r["peak_bytes"] for r in found]),
        "rates": rates,
        "versions": found[0]["versions"],
        "runs": [{k: v for k, v in r.items() if k != "versions"} for r in found],
    }


def ratios(sides: Mapping[str, Answer], peer: Peer | None) -> Answer:
    """variant -> how many times faster valign is, with its interval, and its share of the peer's peak memory."""
    if peer is None or OURS not in sides:
        return {}
    ours = sides[OURS]
    return {
        name: {
            "rate": ratio_of_medians(ours["rates"], sides[name]["rates"]).to_json(),
            "memory": ours["peak_bytes"]["median"] / sides[name]["peak_bytes"]["median"],
        }
        for name in peer.variants
        if name in sides
    }


def targets(workload: Workload, sides: Mapping[str, Answer]) -> dict[str, float]:
    """variant -> the ratio that was hoped for; where it is a share of the positions that are saved, of those counted."""
    if not workload.per_position:
        return dict(workload.targets)
    ours = sides.get(OURS)
    saved = {
        name: sides[name]["runs"][0]["positions"] / ours["runs"][0]["positions"]
        for name in workload.targets
        if ours is not None and name in sides
    }
    return {name: round(workload.targets[name] * ratio, 3) for name, ratio in saved.items()}


def _checks(checks: Mapping[str, Answer]) -> list[equality.Check]:
    theirs = [answer for name, answer in checks.items() if name != OURS]
    return equality.compare(checks[OURS], theirs[0]) if OURS in checks and theirs else []


def _problem(answer: Answer) -> str | None:
    problem = answer.get("not_available") or answer.get("error")
    return None if problem is None else str(problem)


def _short(answer: Answer) -> str:
    """A few words for the line of progress."""
    if problem := _problem(answer):
        return f": {problem}"
    timed = answer.get("time") or answer.get("profile")
    peak = f", peak {answer['peak_bytes'] / 2**30:.2f} GiB"
    return f": {timed['units'] / timed['seconds']:.3g} per second{peak}" if timed else peak


def _end(code: int, killed: int) -> str:
    """How a process ended that left no answer: its exit status, and how often the kernel killed for memory meanwhile."""
    if code == -signal.SIGKILL and killed:
        return "killed by the system: memory ran out"
    return f"the process ended without an answer ({signal.Signals(-code).name if code < 0 else f'exit status {code}'})"


def _tail(text: str, n: int = 12) -> str:
    return "\n".join(text.strip().splitlines()[-n:])
