"""The house stands: imports run downward, library code does not print, and start-up imports nothing heavy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "valign"

# A room may import itself and what stands below it.
FLOORS = (
    "cli",
    "pipeline",
    "report",
    "methods",
    "evaluation",
    "rewards",
    "goals",
    "engine",
    "models",
    "data",
    "theory",
    "errors",
)
DOORS = ("cli", "__main__")  # they speak to people: print and read standard input


def modules() -> list[Path]:
    """Every module of the package but the tests."""
    return [
        p
        for p in sorted(SOURCE.rglob("*.py"))
        if not p.name.startswith("test_") and p.name != "conftest.py" and p != SOURCE / "__init__.py"
    ]


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each import of valign, those inside functions and `if TYPE_CHECKING` too.

    After a plain `import valign` each `valign.name` counts as an import of that name.
    """
    package = ("valign", *path.relative_to(SOURCE).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.startswith("valign."))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "valign":
            yield node.lineno, f"valign.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name == "valign":  # `from valign import data` names the room in the list
                yield from ((node.lineno, f"valign.{a.name}") for a in node.names)
            elif name.startswith("valign."):
                yield node.lineno, name


def upward(path: Path, text: str) -> list[str]:
    """The imports of one module that go up, as "file:line: room imports room"."""
    room = room_of(path)
    wrong = []
    for line, name in imported(ast.parse(text), path):
        target = name.split(".")[1]
        if target.startswith("__") or target == room:  # valign.__version__
            continue
        if target not in FLOORS or FLOORS.index(target) < FLOORS.index(room):
            wrong.append(f"{path.relative_to(SOURCE)}:{line}: {room} imports {target}")
    return wrong


def prints(tree: ast.AST) -> list[int]:
    """The lines that write to standard output or ask at the terminal."""
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    streams = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    return [n.lineno for n in calls if ast.unparse(n.func) in ("print", "input")] + [
        n.lineno for n in streams if ast.unparse(n) in ("sys.stdout", "sys.stderr")
    ]


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_imports_run_downward(path):
    room = room_of(path)
    if room == "recipes":
        assert path.name == "__init__.py", "recipes/ holds data files only"
        return
    assert room in (*FLOORS, "__main__"), f"{path} stands on no floor of the house"
    if room in FLOORS:
        assert upward(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_library_code_does_not_print(path):
    if room_of(path) not in DOORS:
        assert prints(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "from valign.methods import table",
        "import valign.cli",
        "import valign\nvalign.align()",
        "from valign import report",
        "from ..methods import table",
        "def f():\n    from valign.rewards.base import Reward",
        "if TYPE_CHECKING:\n    from valign.goals import Goal",
        "from valign.nowhere import x",
    ],
)
def test_an_import_that_goes_up_is_found(line):
    assert upward(SOURCE / "engine" / "loop.py", line)


@pytest.mark.parametrize(
    "line",
    [
        "from valign.data.group import Group",
        "from valign import __version__",
        "import valign\nvalign.__version__",
        "from .tree import Tree",
        "import torch",
    ],
)
def test_an_import_that_goes_down_is_free(line):
    assert upward(SOURCE / "engine" / "loop.py", line) == []
