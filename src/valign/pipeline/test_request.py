"""Requests: equal ones continue each other, other ones are refused with what changed, secrets are not
stored.
"""

from __future__ import annotations

import json

import pytest

from valign.errors import ValignError
from valign.pipeline.request import FILE, changes, is_repeated, text

REQUEST = {"method": "dpo", "config": {"beta": 0.1, "epochs": 1.0}, "base": "m", "data": "a" * 64}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / FILE).write_text(text(REQUEST))
    return tmp_path


def ask(folder, request, *, force=False, lost=True):
    return is_repeated(folder, folder / FILE, request, force=force, lost=lost)


def test_the_same_request_is_repeated_and_nothing_stored_is_not(folder, tmp_path):
    assert ask(folder, REQUEST)
    assert not is_repeated(tmp_path, tmp_path / "none.json", REQUEST, force=False, lost=True)
    assert not ask(folder, REQUEST, force=True)


def test_another_request_is_refused_with_every_change(folder):
    other = {**REQUEST, "config": {"beta": 0.2, "epochs": 1.0}, "data": "b" * 64, "goal": "core"}
    with pytest.raises(ValignError) as error:
        ask(folder, other)
    assert (
        "beta (0.1 -> 0.2), data (aaaaaaaaaaaaaaaa... -> bbbbbbbbbbbbbbbb...), goal (none -> core)" in error.value.what
    )
    assert any("--force" in how for how in error.value.how)
    assert not ask(folder, other, force=True)


def test_another_request_is_no_reason_to_refuse_where_nothing_would_be_lost(folder):
    assert not ask(folder, {**REQUEST, "base": "n"}, lost=False)


@pytest.mark.parametrize("content", ["{", "[1]", "3"])
def test_a_damaged_file_is_named(folder, content):
    (folder / FILE).write_text(content)
    with pytest.raises(ValignError, match="cannot be read"):
        ask(folder, REQUEST)
    assert not ask(folder, REQUEST, force=True)


def test_credentials_are_not_stored_and_their_change_is_none(folder):
    stored = text({**REQUEST, "base": "https://me:secret@host/v1"})
    assert "secret" not in stored
    (folder / FILE).write_text(stored)
    assert ask(folder, {**REQUEST, "base": "https://me:other@host/v1"})


def test_tuples_and_numbers_compare_as_json_does():
    assert changes(json.loads(text({"a": (1, 2), "b": {"c": 1.0}})), {"a": [1, 2], "b": {"c": 1}}) == []
