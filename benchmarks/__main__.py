"""`python -m benchmarks WORKLOAD ...`: measure, and write one JSON file per workload."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.environments import EnvironmentFailed
from benchmarks.parts import PARTS
from benchmarks.runner import AT_ONCE, ROOT, Answer, Failed, Options, profile_workload, run_workload
from benchmarks.workloads import WORKLOADS

RESULTS = ROOT / "benchmarks" / "results"
BUSY = 0.7  # processes that wanted a core during the last minute
DATA = ROOT.parent / "shared" / "data"


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all measured and equal; 1: something was not; 2: usage."""
    told = _parser().parse_args(arguments)
    if told.list:
        for w in WORKLOADS.values():
            print(f"{w.name:10} {w.title} ({w.size} {w.sized_in}{f', against {w.peer.name}' if w.peer else ''})")
        return 0
    names = list(WORKLOADS) if not told.workloads or "all" in told.workloads else told.workloads
    if told.profile and told.quick:
        print("--profile and --quick do not go together: cut a profile with --size N", file=sys.stderr)
        return 2
    if unknown := [n for n in names if n not in WORKLOADS]:
        print(f"no workload {', '.join(unknown)}; known: all, {', '.join(WORKLOADS)}", file=sys.stderr)
        return 2
    options = Options(
        data=told.data.resolve(),
        model=(told.model or _embedded()).resolve(),
        out=told.out or RESULTS / ("quick" if told.quick else "profiles" if told.profile else ""),
        runs=1 if told.quick else told.runs,
        size=told.size,
        quick=told.quick,
        threads=told.threads,
        dtype=told.dtype,
        variants=tuple(told.variants.split(",")) if told.variants else None,
    )
    if not options.data.is_dir():
        print(f"there is no data folder {options.data}: name it with --data DIR", file=sys.stderr)
        return 2
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > BUSY:
        print(f"other programs use this machine (load {os.getloadavg()[0]:.1f}): figures will suffer", flush=True)
    one = partial(_measured, options=options, profile=told.profile)
    if not told.quick:
        return 0 if all([one(name) for name in names]) else 1
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return 0 if all(list(pool.map(one, names))) else 1


def _measured(name: str, options: Options, profile: bool) -> bool:
    """Measure one workload and tell; whether it went well."""
    try:
        if profile:
            _say(profile_in_words(profile_workload(WORKLOADS[name], options, say=_say)))
            return True
        result = run_workload(WORKLOADS[name], options, say=_say)
    except (Failed, EnvironmentFailed) as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        return False
    _say(told_in_words(result))
    return bool(result["equality"]["passed"]) and not result["problems"]


def told_in_words(result: Answer) -> str:
    """The result in a few lines."""
    name, lines = result["workload"], []
    for check in result["equality"]["checks"]:
        word = "equal" if check["passed"] else "NOT EQUAL"
        lines.append(
            f"  {check['name']}: {word}, worst {check['worst']:.2g} of {check['tolerance']:g} ({check['note']})"
        )
    lines += [f"  {side}: {text.splitlines()[0]}" for side, text in result["problems"].items()]
    for variant, ratio in result["ratios"].items():
        r = ratio["rate"]
        between = f" [{r['low']:.2f}, {r['high']:.2f}]" if r["low"] is not None else " (single runs: a smoke test)"
        target = result["targets"].get(variant)
        against = f"{result['peer']}, {variant}"
        wanted = f", target {target:g}" if target else ""
        lines.append(f"  {r['value']:.2f} times {against}{between}{wanted}; memory x {ratio['memory']:.2f}")
    return "\n".join([f"{name} ({result['size']} {result['sized_in']}, {result['took_seconds']} s)", *lines])


def profile_in_words(result: Answer) -> str:
    """Seconds of each part, a line per side."""
    lines = [f"{result['workload']} ({result['size']} {result['sized_in']}), seconds under the profiler"]
    for name, side in result["sides"].items():
        parts = ", ".join(f"{part} {side['parts'][part]:.1f}" for part in PARTS)
        lines.append(f"  {name}: {side['seconds']:.1f} s, {side['positions'] or 0:,} positions: {parts}")
    return "\n".join(lines)


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help="names of --list, or all (default)")
    parser.add_argument("--list", action="store_true", help="name the workloads")
    parser.add_argument(
        "--quick", action="store_true", help="cut sizes, one run a side, two at once: no figure to quote"
    )
    parser.add_argument("--profile", action="store_true", help="where the seconds of a run go, not how many they are")
    parser.add_argument("--runs", type=_positive, default=3, help="timed processes of each side (default 3)")
    parser.add_argument("--size", type=_positive, help="units of work of a run, instead of the workload's own")
    parser.add_argument("--out", type=Path, help="folder of the results (default benchmarks/results)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data (default ../shared/data)")
    parser.add_argument("--model", type=Path, help="folder of the model (default: the embedded one)")
    parser.add_argument("--threads", type=_positive, default=os.cpu_count() or 1, help="of every process")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"],
                        help="the fast number format (default: what this machine multiplies fast)")  # fmt: skip
    parser.add_argument("--variants", help="of the peer, comma-separated: defaults, best (default: all)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _embedded() -> Path:
    """The folder of the embedded model. Asked in a process of its own: this one stays small."""
    code = "from valign.models import embedded; print(embedded.folder())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip().splitlines()[-1])
    return Path(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped; workloads that had ended are written", file=sys.stderr)
        sys.exit(130)
