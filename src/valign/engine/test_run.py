"""A run's folder has one owner, and its files are whole or absent."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from valign.engine.lock import is_held
from valign.engine.run import RunFolder, finite, read_log, write_whole
from valign.errors import ValignError


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


def own_for_ever(folder: Path) -> subprocess.Popen[bytes]:
    """Another process that owns the folder until it is killed."""
    code = "import pathlib, time; from valign.engine.run import RunFolder; "
    code += f"run = RunFolder(pathlib.Path({str(folder)!r})); run.__enter__();"
    child = subprocess.Popen([sys.executable, "-c", code + " print(flush=True); time.sleep(60)"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def test_another_process_is_respected_while_it_lives(tmp_path):
    """Its kill, which leaves the file behind, frees the folder."""
    other = own_for_ever(tmp_path)
    with pytest.raises(ValignError, match=rf"pid {other.pid}\) is writing here"), RunFolder(tmp_path):
        pass
    assert is_held(tmp_path)
    other.kill()
    other.wait()
    assert (tmp_path / "lock").exists() and not is_held(tmp_path)
    with RunFolder(tmp_path):
        assert f"pid {os.getpid()}" in (tmp_path / "lock").read_text()
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


@pytest.mark.parametrize("content", ["elsewhere 1", "", "host here, pid 1"])
def test_a_file_that_nobody_holds_is_no_lock(tmp_path, content):
    """Killed before it was signed, or signed by a process whose number another one has now."""
    (tmp_path / "lock").write_text(content)
    assert not is_held(tmp_path)
    with RunFolder(tmp_path):
        assert is_held(tmp_path)


def test_a_look_at_the_lock_does_not_refuse_a_run(tmp_path):
    """`valign report --watch` looks again and again while runs come and go."""
    stop = threading.Event()

    def look():
        while not stop.is_set():
            is_held(tmp_path)

    watcher = threading.Thread(target=look)
    watcher.start()
    entered = 0
    try:
        for _ in range(50):
            with RunFolder(tmp_path):
                entered += 1
    finally:
        stop.set()
        watcher.join()
    assert entered == 50 and not is_held(tmp_path)


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


def test_a_line_that_met_a_full_disk_takes_no_other_with_it(tmp_path, monkeypatch):
    """Half of it may be written; a run whose log was hurt otherwise is read without the broken lines."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunFolder(tmp_path) as run:
        run.log("step", step=1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
        try:
            with pytest.raises(OSError, match="too large"):
                run.log("step", text="x" * 1000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        run.log("step", step=2)
        assert (tmp_path / "log.jsonl").read_bytes().count(b"\n") == 2
        with (tmp_path / "log.jsonl").open("ab") as log:
            log.write(b'{"event": "st{"event"\n[1]\n\xff\n')
        run.log("step", step=3)
    assert [x["step"] for x in read_log(tmp_path)] == [1, 2, 3]


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

    def refuse(*_args, **_kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    run = RunFolder(tmp_path)
    monkeypatch.setattr(os, "open", refuse)
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


def test_numbers_that_are_not_finite_become_null():
    assert finite({"a": np.float64(1.5), "b": float("nan"), "c": float("inf")}) == {"a": 1.5, "b": None, "c": None}
