"""The package as it is installed: what the wheel holds, and how quick and light its import is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import valign

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 2.0  # a cold import on a slow machine; without heavy packages it takes a tenth of this


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files in the wheel, built from a copy so that no old build folder can slip in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".mypy_cache")
    shutil.copytree(ROOT / "src", source / "src", ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(source)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (built,) = folder.glob("valign-*.whl")
    assert built.name.startswith(f"valign-{valign.__version__}-py3-none-any")
    return zipfile.ZipFile(built).namelist()


@pytest.mark.slow
def test_the_wheel_holds_no_tests(wheel):
    assert [n for n in wheel if re.search(r"(^|/)(test_[^/]*|conftest)\.py$", n) or "fixtures/" in n] == []


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_data_file(wheel):
    """What lies in src and is neither a test nor a note lies in the wheel."""
    files = [p for p in (ROOT / "src" / "valign").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    wanted = {
        p.relative_to(ROOT / "src").as_posix()
        for p in files
        if not re.fullmatch(r"test_.*\.py|conftest\.py", p.name) and not p.name.startswith(".")
    }
    assert sorted(wanted - set(wheel)) == []
    assert "valign/py.typed" in wheel


@pytest.mark.slow
def test_the_wheel_holds_the_licence(wheel):
    assert [n for n in wheel if n.endswith("LICENSE")]


def test_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == valign.__version__
    assert f"## {valign.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_import_is_quick_and_light():
    """`import valign` brings in neither torch nor transformers, nor anything else that takes seconds."""
    heavy = ("torch", "transformers", "datasets", "scipy", "peft", "pandas", "pyarrow", "numpy")
    code = (
        "import sys, time; t = time.perf_counter(); import valign; s = time.perf_counter() - t;"
        f"print(s, *[m for m in {heavy!r} if m in sys.modules])"
    )
    seconds, *loaded = run(code).split()
    assert loaded == []
    assert float(seconds) < SECONDS


def test_the_command_line_starts_without_torch():
    heavy = ("torch", "transformers", "datasets")
    assert run(f"import sys, valign.cli; print(*[m for m in {heavy!r} if m in sys.modules])") == ""


def test_every_public_name_is_there():
    assert [name for name in valign.__all__ if not hasattr(valign, name)] == []
