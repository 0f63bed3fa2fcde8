"""What a figure depends on beside the code: the class of machine, and the commit that was measured."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "bf16", "i8mm", "sve")


def hardware() -> dict[str, Any]:
    """Processor, cores, memory. What the system does not tell is left out."""
    about = _cpuinfo(Path("/proc/cpuinfo"))
    flags = set((about.get("flags") or about.get("Features") or "").split())
    return {
        "processor": about.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [f for f in FLAGS if f in flags],
        "memory_gib": _memory_gib(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def commit(root: Path) -> dict[str, Any]:
    """The commit of the working tree and whether the package differs from it."""
    head = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", "src")
    return {"commit": head or None, "changed_since": bool(changed)}


def energy_joules() -> float | None:
    """The processor's energy counter, None where it cannot be read."""
    counters = sorted(Path("/sys/class/powercap").glob("intel-rapl:[0-9]*/energy_uj"))
    try:
        packages = [c for c in counters if c.parent.name.count(":") == 1]
        return sum(int(c.read_text()) for c in packages) / 1e6 if packages else None
    except (OSError, ValueError):
        return None


class Others:
    """From here to `share()`: how much of this machine's processors other programs took, 0 to 1.

    Its busy time less that of this process and of its children that ended meanwhile; None where the system tells no
    busy time.
    """

    def __init__(self) -> None:
        self._busy, self._own, self._began = _busy_seconds(), _own_seconds(), time.monotonic()

    def share(self) -> float | None:
        busy, whole = _busy_seconds(), (os.cpu_count() or 1) * (time.monotonic() - self._began)
        if busy is None or self._busy is None or not whole:
            return None
        return round(max(0.0, busy - self._busy - (_own_seconds() - self._own)) / whole, 3)


def killed_for_memory(counts: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has killed since it started because memory ran out; 0 where it does not tell."""
    try:
        lines = counts.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _busy_seconds(stat: Path = Path("/proc/stat")) -> float | None:
    """Seconds that the processors spent on anything but waiting, over all of them."""
    try:
        name, *ticks = stat.read_text(encoding="utf-8").splitlines()[0].split()
        user, nice, system, _, _, *interrupts = map(int, ticks[:7])
    except (OSError, ValueError, IndexError):
        return None
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK") if name == "cpu" else None


def _own_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def _cpuinfo(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _git(root: Path, *arguments: str) -> str:
    try:
        out = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return out.stdout.strip() if out.returncode == 0 else ""
