"""Files of groups: whole or not at all, and errors that name the place."""

import errno
import json
import os

import pytest

from valign.data import jsonl
from valign.data.group import Group, Response, user
from valign.data.jsonl import atomic, json_lines, read_groups, write
from valign.errors import DataError

GROUPS = [Group("a", user("one\u2028line\x85still"), (Response("é 漢字 🎈\n\r\t"),)), Group("b", user("two"))]


def test_written_groups_are_read_back(tmp_path):
    """Line separators inside texts do not end a line."""
    path = write(GROUPS, tmp_path / "g.jsonl")
    assert read_groups(path) == tuple(GROUPS)
    assert path.read_bytes().count(b"\n") == 2
    assert list(tmp_path.iterdir()) == [path]


def test_lines_of_json_end_at_newlines_alone():
    """Not at the signs that end a line for `str.splitlines` and that JSON leaves as they are."""
    rows = [{"text": "one\u2028line\x85still\u2029here\r\n"}, {"text": ""}]
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    assert [json.loads(x) for x in json_lines(text)] == rows
    assert json_lines(text.removesuffix("\n")) == json_lines(text)
    assert json_lines("") == []


def test_byte_order_mark_and_blank_lines_are_accepted(tmp_path):
    path = write(GROUPS, tmp_path / "g.jsonl")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert read_groups(path) == tuple(GROUPS)


def lines(*rows):
    return "\n".join(json.dumps(r) for r in rows).encode()


GOOD = {"id": "a", "prompt": [["user", "hi"]]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "g.jsonl: the file is empty"),
        (b" \n\n", "g.jsonl: the file is empty"),
        (lines(GOOD) + b'\n{"id": "b", "prom', r"g.jsonl:2: the line ends in the middle of a JSON value"),
        (lines(GOOD) + b"\n{'id': 1}", r"g.jsonl:2: not JSON: .*column 2"),
        (b"[1, 2]", r"g.jsonl:1: a line must be a JSON object, not list"),
        (lines(GOOD, {"id": "b"}), r"g.jsonl:2: group: field 'prompt' is missing"),
        (lines(GOOD, {**GOOD, "id": "b", "gold": "x"}), r"g.jsonl:2: group b, field gold"),
        (lines(GOOD, GOOD), r"g.jsonl:2: field id: 'a' stands already in line 1"),
        (lines(GOOD) + b'\n{"id": "\xe9t\xe9"}', r"g.jsonl:2: byte 9 of the line \(0xe9\) is not UTF-8"),
        (json.dumps(GOOD).encode("utf-16"), "is UTF-16, not UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "Git LFS pointer"),
    ],
)
def test_a_file_that_is_not_groups_says_where_and_why(tmp_path, content, says):
    path = tmp_path / "g.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_groups(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        read_groups(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="this is a folder"):
        read_groups(tmp_path)


def test_a_failure_while_writing_leaves_the_old_file_and_no_partial_one(tmp_path):
    path = write(GROUPS, tmp_path / "g.jsonl")
    before = path.read_bytes()

    def broken():
        yield GROUPS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(broken(), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("meta", [{"x": float("nan")}, {"x": {1, 2}}, {"x": "half \ud83d"}])
def test_what_json_cannot_hold_is_refused_before_anything_appears(tmp_path, meta):
    with pytest.raises(DataError, match="group a: cannot be written as JSON"):
        write([Group("a", user("q"), meta=meta)], tmp_path / "g.jsonl")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(jsonl.os, "fsync", full)
    with pytest.raises(DataError, match=r"g\.jsonl: cannot write: the disk is full"):
        write(GROUPS, tmp_path / "g.jsonl")
    assert not list(tmp_path.iterdir())


def test_no_such_folder_and_no_permission_are_said(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="cannot write: no such file or folder"):
        write(GROUPS, tmp_path / "no" / "g.jsonl")

    def refused(self, *args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(jsonl.Path, "open", refused)
    with pytest.raises(DataError, match="cannot write: no permission"):
        write(GROUPS, tmp_path / "g.jsonl")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere"
)
def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="no permission"):
        write(GROUPS, tmp_path / "g.jsonl")


def test_atomic_is_open_to_other_rooms(tmp_path):
    with atomic(tmp_path / "x.bin") as out:
        out.write(b"abc")
        assert not (tmp_path / "x.bin").exists()
    assert (tmp_path / "x.bin").read_bytes() == b"abc"
