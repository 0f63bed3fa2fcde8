"""Folders appear whole or not at all."""

from __future__ import annotations

import hashlib

import pytest

from valign.errors import ModelError
from valign.models.cache import cache_root, lock, sha256_file, sha256_files, whole_folder


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("VALIGN_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_root() == tmp_path / "a"
    monkeypatch.delenv("VALIGN_CACHE")
    assert cache_root() == tmp_path / "b" / "valign"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root().parts[-2:] == (".cache", "valign")


def test_hashes(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 10_000_000)
    (tmp_path / "b").write_bytes(b"")
    expected = {n: hashlib.sha256((tmp_path / n).read_bytes()).hexdigest() for n in "ab"}
    assert sha256_files([tmp_path / "a", tmp_path / "b"]) == expected
    (tmp_path / "a").write_bytes(b"y")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"y").hexdigest()


def test_a_folder_is_whole_or_not_there(tmp_path):
    final = tmp_path / "deep" / "final"
    with pytest.raises(RuntimeError), whole_folder(final) as partial:
        (partial / "file").write_text("half")
        assert not final.exists()
        raise RuntimeError
    assert list(final.parent.iterdir()) == []
    with whole_folder(final) as partial:
        (partial / "file").write_text("whole")
    assert [p.name for p in final.parent.iterdir()] == ["final"] and (final / "file").read_text() == "whole"


def test_nothing_is_overwritten_unless_asked(tmp_path):
    final = tmp_path / "final"
    final.mkdir()
    (final / "theirs").write_text("precious")
    with pytest.raises(ModelError, match="nothing was overwritten"), whole_folder(final):
        pass
    with pytest.raises(RuntimeError), whole_folder(final, replace=True):
        raise RuntimeError
    assert (final / "theirs").read_text() == "precious"
    with whole_folder(final, replace=True) as partial:
        (partial / "ours").write_text("new")
    assert [p.name for p in final.iterdir()] == ["ours"] and [p.name for p in tmp_path.iterdir()] == ["final"]


def test_a_lock_is_held(tmp_path):
    from filelock import FileLock, Timeout

    with lock(tmp_path / "x"), pytest.raises(Timeout):
        FileLock(tmp_path / "x.lock", timeout=0, is_singleton=False).acquire()
    FileLock(tmp_path / "x.lock", timeout=0).acquire().lock.release()
