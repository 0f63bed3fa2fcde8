"""The page of capabilities follows the tests' marks, and every mark names a row."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def capabilities() -> ModuleType:
    """scripts/capabilities.py as a module."""
    spec = importlib.util.spec_from_file_location("capabilities", ROOT / "scripts" / "capabilities.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["capabilities"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def marked(capabilities: ModuleType, folder: Path, text: str) -> object:
    (folder / "tests").mkdir(exist_ok=True)
    (folder / "tests" / "test_sample.py").write_text(text, encoding="utf-8")
    return capabilities.marks(folder)


def test_every_mark_names_a_row_that_says_how_it_is_used(capabilities):
    assert capabilities.problems(capabilities.families(), capabilities.marks()) == []


def test_the_page_is_the_one_that_the_marks_give(capabilities):
    page = capabilities.render(capabilities.families(), capabilities.marks())
    assert (ROOT / "docs" / "capabilities.md").read_text(encoding="utf-8") == page, "run: make capabilities"


def test_row_ids_are_unique(capabilities):
    ids = [row.id for family in capabilities.families() for row in family.rows]
    assert len(ids) == len(set(ids)) == 163


def test_marks_are_found_on_functions_classes_and_modules(capabilities, tmp_path):
    found = marked(
        capabilities,
        tmp_path,
        """
import pytest
pytestmark = pytest.mark.capability("F01")

@pytest.mark.capability("S10", "R08")
def test_one(): ...

class TestTwo:
    @pytest.mark.capability("S10")
    def test_three(self): ...
""",
    )
    assert found.tests == {
        "F01": ["tests/test_sample.py"],
        "S10": ["tests/test_sample.py::test_one", "tests/test_sample.py::TestTwo::test_three"],
        "R08": ["tests/test_sample.py::test_one"],
    }


@pytest.mark.parametrize("mark", ['"Z99"', "ROW", '"S10", why="it"', ""])
def test_a_mark_that_names_no_row_is_a_problem(capabilities, tmp_path, mark):
    text = f"import pytest\n@pytest.mark.capability({mark})\ndef test_one(): ...\n"
    assert capabilities.problems(capabilities.families(), marked(capabilities, tmp_path, text))
