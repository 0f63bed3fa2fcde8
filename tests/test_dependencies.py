"""What the package imports is declared, and every declared dependency has its reason in the documents."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OWN = {"valign"}
# Distributions whose module has another name and that need not be installed for the tests.
ELSEWHERE = {"mlflow": "mlflow-skinny", "wandb": "wandb", "trackio": "trackio", "tensorboard": "tensorboard"}


def normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", name.strip(), maxsplit=1)[0]).lower()


def declared() -> dict[str, list[str]]:
    """ "" and the extras -> the names declared there."""
    groups = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    return {group: [normal(n) for n in names if normal(n) not in OWN] for group, names in groups.items()}


def imported() -> dict[str, str]:
    """Third-party module -> the first file of the package that imports it."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        if path.name.startswith("test_") or path.name == "conftest.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in (n.split(".")[0] for n in names):
                if name not in sys.stdlib_module_names and name not in OWN:
                    found.setdefault(name, str(path.relative_to(ROOT)))
    return found


def test_every_import_is_declared():
    known = {name for names in declared().values() for name in names}
    distributions = packages_distributions()
    for module, path in imported().items():
        owners = {normal(d) for d in distributions.get(module, [])} or {ELSEWHERE.get(module, module)}
        assert owners & known, f"{path} imports {module}, which pyproject.toml does not declare"


def test_every_needed_dependency_is_imported():
    distributions = packages_distributions()
    used = {normal(d) for module in imported() for d in distributions.get(module, [module])}
    assert [name for name in declared()[""] if name not in used] == []


def test_every_dependency_has_a_reason():
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    reasons = {normal(row[0]): row[-1] for row in rows if len(row) > 1 and not row[0].startswith("`")}
    names = {normal(n) for group in declared().values() for n in group}
    assert [name for name in sorted(names) if not reasons.get(name)] == []
    assert sorted(set(reasons) - names - {"package", "what", "chromium", "make,"}) == []


@pytest.mark.parametrize("line", (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
def test_constraints_are_exact_versions_without_places(line):
    assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line


def test_constraints_hold_what_the_project_installs():
    pinned = {normal(line) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    for group in ("", "classifiers", "docs"):
        assert [name for name in declared()[group] if name not in pinned] == []
