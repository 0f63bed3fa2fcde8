"""The data sets of the package load, and hold what their audits ask for."""

import subprocess
import sys
from dataclasses import replace
from importlib import resources

import pytest

from valign.data import audit_demonstrations, audit_dilemmas, audit_instructions, builtin
from valign.data.builtin import BUILTIN, _load
from valign.data.group import Demonstration, VectorScore, Verdict
from valign.errors import DataError, UsageError


@pytest.fixture
def dilemmas():
    return there("dilemmas")


def there(name):
    if not (resources.files("valign.data") / "builtin" / f"{name}.jsonl").is_file():
        pytest.skip(f"{name}.jsonl is not in the package yet")
    return builtin(name)


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_every_set_loads_whole(name):
    data = there(name)
    assert data.format == name and data.source == f"builtin:{name}" and "Apache-2.0" in data.licence
    assert not data.report.dropped and len({g.id for g in data}) == len(data) >= 100
    assert {g.split for g in data} <= {"train", "dev", "test"}
    assert builtin(name) is data  # read once


def test_dilemmas_pass_their_audit(dilemmas):
    assert [line for line in audit_dilemmas(dilemmas.groups) if not line.ok] == []
    assert sum(map(len, (builtin("dilemmas", s) for s in ("train", "dev", "test")))) == len(dilemmas)
    for g in dilemmas:
        assert (
            g.cluster == g.id and len(list(g.of(VectorScore))) == len(g.responses) >= 4 and any(g.of(Verdict))
        )


def test_instructions_pass_their_audit():
    data = there("instructions")
    assert [line for line in audit_instructions(data.groups) if not line.ok] == []
    assert all(not g.responses and g.meta["checks"] for g in data)


def test_demonstrations_pass_their_audit(dilemmas):
    data = there("demonstrations")
    test = dilemmas.where(lambda g: g.split == "test").groups
    assert test and [line for line in audit_demonstrations(data.groups, test) if not line.ok] == []
    assert all(len(g.responses) == 1 and any(g.of(Demonstration)) for g in data)


def test_unknown_names_and_splits_are_refused(dilemmas):
    with pytest.raises(UsageError, match=r"(?s)unknown built-in data set 'dilemma'.*did you mean: dilemmas"):
        builtin("dilemma")
    with pytest.raises(DataError, match="no group is of split 'validation'"):
        builtin("dilemmas", "validation")


def test_a_broken_set_is_not_read_in_part(tmp_path, monkeypatch):
    """A row that cannot be read, or an id that stands twice, is an error for our own files and not a note."""
    (tmp_path / "builtin").mkdir()
    file = tmp_path / "builtin" / "demonstrations.jsonl"
    row = '{"id": "a", "topic": "t", "prompt": "p", "response": "r"}\n'
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    _load.cache_clear()
    try:
        for content, says in (
            (row + '{"id": "b", "topic": "t"}\n', "line 2, field prompt"),
            (row * 2, "stand twice"),
        ):
            file.write_text(content)
            with pytest.raises(DataError, match=says):
                builtin("demonstrations")
        with pytest.raises(DataError, match="does not hold dilemmas"):
            builtin("dilemmas")
    finally:
        _load.cache_clear()


def test_importing_the_room_imports_nothing_heavy():
    heavy = ("numpy", "pandas", "pyarrow", "datasets", "torch", "transformers")
    code = f"import sys, valign.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_functions_are_not_hidden_by_modules_of_their_name():
    import valign.data
    import valign.data.builtin
    import valign.data.inspect

    assert callable(valign.data.inspect) and callable(valign.data.builtin)
    assert replace(valign.data.Dataset.of([]), source="x").source == "x"
