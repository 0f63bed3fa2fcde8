"""The page of proofs follows the tests' marks, and every promise is shown or says why it is not."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def proofs() -> ModuleType:
    """scripts/proofs.py as a module."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return importlib.import_module("proofs")
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def test_every_promise_is_shown_or_says_why_not(proofs):
    assert proofs.problems(proofs.promises(), proofs.marks(mark="proof")) == []


def test_the_page_is_the_one_that_the_marks_give(proofs):
    page = proofs.render(proofs.promises(), proofs.marks(mark="proof"))
    assert (ROOT / "docs" / "proofs.md").read_text(encoding="utf-8") == page, "run: make capabilities"


def test_all_thirty_are_there(proofs):
    rows = proofs.promises()
    assert [row.id for row in rows] == [f"E{i}" for i in range(1, 31)]
    page = proofs.render(rows, proofs.marks(mark="proof"))
    for row in rows:
        assert (f"| {row.id} |" in page) != (f"- {row.id}: {row.promise} (" in page), "in the table, or not shown"


@pytest.mark.parametrize(
    ("mark", "table", "word"),
    [
        ('proof("E99")', {}, "no promise"),
        ("proof(ID)", {"not_shown": "why"}, "plain text"),
        ('proof("E1")', {"not_shown": "why"}, "take its `not_shown:` away"),
        ('capability("E1")', {}, "no test is marked with it"),
        ('proof("E1")', {}, None),
        ('capability("E1")', {"not_shown": "why"}, None),
    ],
)
def test_what_does_not_fit_is_a_problem(proofs, tmp_path, mark, table, word):
    (tmp_path / "tests").mkdir()
    text = f"import pytest\n@pytest.mark.{mark}\ndef test_one(): ...\n"
    (tmp_path / "tests" / "test_sample.py").write_text(text, encoding="utf-8")
    rows = [proofs.Promise("E1", "all is well", "nothing", "equal", **table)]
    found = [p for p in proofs.problems(rows, proofs.marks(tmp_path, "proof")) if "E99" not in mark or "E99" in p]
    assert (len(found) == 1 and word in found[0]) if word else found == []
