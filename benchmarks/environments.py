"""The peers' own environments: made once from pinned requirement files, beside the project's, never in it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from threading import Lock

HERE = Path(__file__).resolve().parent
MARK = ".installed"  # holds the hash of the requirements that were installed; written last
_MAKING = Lock()  # workloads under way at once may want the same one


class EnvironmentFailed(RuntimeError):
    """A peer's environment could not be made."""


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment; the first call installs it (minutes).

    Raises `EnvironmentFailed` with the last lines of the installer.
    """
    folder, requirements = HERE / ".venvs" / name, HERE / "peers" / f"{name}.txt"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    with _MAKING:
        _make(folder, requirements, python)
    return python


def _make(folder: Path, requirements: Path, python: Path) -> None:
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    mark = folder / MARK
    if mark.exists() and mark.read_text(encoding="utf-8") == wanted:
        return
    print(
        f"making the environment of {folder.name} in {folder.relative_to(HERE.parent)} (some minutes, 2 GB)", flush=True
    )
    _do([sys.executable, "-m", "venv", str(folder)])
    _do([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
    mark.write_text(wanted, encoding="utf-8")


def _do(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise EnvironmentFailed(f"{' '.join(command[:4])} ... failed:\n{tail}")
