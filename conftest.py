"""Fixtures of every test: the golden numbers, and the sample data beside the project."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent
MARKS = (
    "capability(row): the mission row whose 'works when' sentence this test shows",
    "proof(id): the engine's promise, E1 to E30, that this test shows or helps to show",
    "slow: takes more than ten seconds",
    "real: runs the embedded default model",
    "browser: opens a page in Chromium",
)


def pytest_configure(config: pytest.Config) -> None:
    # what an earlier run of the tests stored must not stand in for what this one computes
    os.environ["VALIGN_REFERENCES"] = tempfile.mkdtemp(prefix="valign-references-")
    os.environ.pop("VALIGN_ANSWERS", None)
    for mark in MARKS:
        config.addinivalue_line("markers", mark)


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(os.environ["VALIGN_REFERENCES"], ignore_errors=True)


@cache
def _goldens() -> dict[str, dict[str, Any]]:
    """Every entry of tests/fixtures/*.json by its id; an entry's named fixture stands beside it under
    "data".
    """
    found = {}
    for path in sorted((ROOT / "tests" / "fixtures").glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            continue
        for entry in document.get("goldens", ()):
            if "fixture" in entry:
                entry = {**entry, "data": document["fixtures"][entry["fixture"]]}
            found[entry["id"]] = entry
    return found


class Goldens:
    """`golden("dpo")` is one entry; `golden.all("dpo")` those whose id is "dpo", "dpo@..." or "dpo.<...>"."""

    def __call__(self, id: str) -> dict[str, Any]:
        known = _goldens()
        if id not in known:
            raise KeyError(f"no golden {id!r}; near: {difflib.get_close_matches(id, known)}")
        return known[id]

    def all(self, family: str) -> list[dict[str, Any]]:
        entries = [
            e for id, e in _goldens().items() if id == family or id.startswith((f"{family}@", f"{family}."))
        ]
        if not entries:
            raise KeyError(f"no golden {family!r}; near: {difflib.get_close_matches(family, _goldens())}")
        return entries

    def ids(self) -> list[str]:
        return sorted(_goldens())


@pytest.fixture(scope="session")
def golden() -> Goldens:
    """The golden numbers: `golden(id)` is one entry, a dict with inputs, expected, tolerance and source."""
    return Goldens()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder that holds `data/`, the sample files: VALIGN_SHARED, else ../shared beside the
    repository.
    """
    folder = Path(os.environ.get("VALIGN_SHARED") or ROOT.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(
            f"no sample data: {folder / 'data'} is no folder; set VALIGN_SHARED to the one that holds data/"
        )
    return folder


@pytest.fixture(scope="session")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """`crew(file, check, size, strategy, folder)`: what `check_CHECK` of a test file gives in each of `size` processes
    that joined (tests/crew.py). With whole=False also of those that failed: {error, silent, at}.
    """
    command = [sys.executable, str(ROOT / "tests" / "crew.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None and program.stdout is not None
        to, back = program.stdin, program.stdout

        def run(file: str, check: str, size: int, strategy: str, folder: Path, *, whole: bool = True) -> list[Any]:
            out = tmp_path_factory.mktemp(check)
            job = {"file": file, "check": check, "size": size, "strategy": strategy}
            to.write(json.dumps({**job, "folder": str(folder), "out": str(out)}) + "\n")
            to.flush()
            while (line := back.readline()) != "done\n":
                assert line, "the program ended"
            files = [out / f"{rank}.json" for rank in range(size)]
            found = [json.loads(f.read_text()) if f.exists() else {} for f in files]
            assert not any("broken" in f for f in found), "\n".join(f.get("broken", "") for f in found)
            if not whole:
                return found
            assert all("found" in f for f in found), found
            return [f["found"] for f in found]

        yield run
        to.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """`serve(model)`: an OpenAI-compatible server of a `LoadedModel` (default: a tiny llama), closed after the test; see
    tests/endpoint_server.py.
    """
    from valign.models.tiny import tiny_model

    spec = importlib.util.spec_from_file_location("endpoint_server", ROOT / "tests" / "endpoint_server.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    servers: list[Any] = []

    def of(model: Any = None) -> Any:
        servers.append(module.Server(tiny_model("llama") if model is None else model))
        return servers[-1]

    yield of
    for server in servers:
        server.close()
