"""A run's folder has one owner, and its files are whole or absent."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from valign.engine.run import RunFolder, read_log, write_whole
from valign.errors import ValignError


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_second_run_is_refused(tmp_path):
    """The lock names host and pid of the owner; the folder is free again when the owner leaves."""
    with RunFolder(tmp_path):
        with (
            pytest.raises(ValignError, match=rf"{socket.gethostname()}, pid {os.getpid()}[\s\S]*another --out"),
            RunFolder(tmp_path),
        ):
            pass
        assert (tmp_path / "lock").exists(), "the refused run took nothing away"
    with RunFolder(tmp_path):
        pass
    assert not (tmp_path / "lock").exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    (tmp_path / "lock").write_text(f"{socket.gethostname()} {dead_pid()}")
    with RunFolder(tmp_path):
        assert (tmp_path / "lock").read_text().split()[1] == str(os.getpid())


@pytest.mark.parametrize("content", ["elsewhere 1", "", "nonsense", f"{socket.gethostname()} 1"])
def test_a_lock_that_may_be_alive_is_respected(tmp_path, content):
    """Another host, a live process, a lock that cannot be read: refused, with the file to remove."""
    (tmp_path / "lock").write_text(content)
    with pytest.raises(ValignError, match=r"remove .*lock"), RunFolder(tmp_path):
        pass
    assert (tmp_path / "lock").read_text() == content


def test_the_lock_leaves_with_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path):
        raise ZeroDivisionError
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("half", [b'{"event": "st', b'{"event": "step"}', "é".encode()[:1]])
def test_half_a_last_line_is_cut_when_the_run_goes_on(tmp_path, half):
    """A line is whole when its newline is there; the lines before it stay byte for byte."""
    with RunFolder(tmp_path) as run:
        run.log("a", x=1)
        run.log("b", text="ü\n")
    whole = (tmp_path / "log.jsonl").read_bytes()
    (tmp_path / "log.jsonl").write_bytes(whole + half)
    with RunFolder(tmp_path) as run:
        assert (tmp_path / "log.jsonl").read_bytes() == whole
        run.log("c")
    assert [e["event"] for e in read_log(tmp_path)] == ["a", "b", "c"]


def test_a_log_that_is_being_written_can_be_read(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"event": "a"}\n{"event"')
    assert [e["event"] for e in read_log(tmp_path)] == ["a"]
    assert list(read_log(tmp_path / "nowhere")) == []


def test_only_half_a_line_leaves_an_empty_log(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"event"')
    with RunFolder(tmp_path):
        assert (tmp_path / "log.jsonl").read_text() == ""


def test_a_place_that_cannot_be_written_gives_one_clear_error(tmp_path):
    """No folder there; no file there: place, cause, next step."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ValignError, match=r"file/run: cannot make the folder[\s\S]*--out"):
        RunFolder(tmp_path / "file" / "run")
    with pytest.raises(ValignError, match="cannot write"):
        write_whole(tmp_path / "file" / "x", "")


def test_a_read_only_folder_gives_one_clear_error(tmp_path, monkeypatch):
    """Injected, since root may write anywhere."""

    def refuse(self, *_args, **_kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    run = RunFolder(tmp_path)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValignError, match=r"cannot write here: Read-only file system[\s\S]*--out"):
        run.__enter__()


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """A disk that fills up keeps the old file, leaves no half one and says so."""
    write_whole(tmp_path / "run.json", "old")

    def full(_fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValignError, match=r"No space left[\s\S]*free space"):
        write_whole(tmp_path / "run.json", "new")
    assert (tmp_path / "run.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_log_line_is_json_with_a_time(tmp_path):
    with RunFolder(tmp_path) as run:
        run.log("step", loss=1.5)
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] == 1.5 and json.loads(line)["time"] > 1e9
