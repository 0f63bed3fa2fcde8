"""What a figure depends on beside the code: the class of machine, and the commit that was measured."""

from __future__ import annotations

import os
import platform
import subprocess
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
