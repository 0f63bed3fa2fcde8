"""A checkpoint is complete or not there, whenever the process that writes it dies."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import time

import pytest
import torch

from valign.engine import checkpoint
from valign.engine.checkpoint import complete, latest, load, prune, save
from valign.errors import ValignError


def tensors(step):
    torch.manual_seed(step)
    return {"a": torch.randn(50, 20, dtype=torch.float64), "b.c": torch.randn(7)}


def put(folder, step):
    return save(
        folder,
        step,
        tensors(step),
        {"a/step": torch.tensor(float(step))},
        {"step": step, "best": float("inf")},
    )


def is_whole(saved):
    return (
        all(torch.equal(saved.weights[k], v) for k, v in tensors(saved.step).items())
        and saved.state["step"] == saved.step
    )


def in_child(work):
    """Run `work` in a forked process; its pid. The child never returns to pytest."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    finally:
        os._exit(0)


def test_a_checkpoint_reads_back_bitwise(tmp_path):
    saved = load(put(tmp_path, 3))
    assert is_whole(saved) and saved.step == 3
    assert saved.optimizer["a/step"].item() == 3 and saved.state["best"] == float("inf")
    assert saved.weights["a"].dtype == torch.float64


@pytest.mark.proof("E21")
@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("moment", range(20))
def test_a_kill_at_any_moment_of_saving_leaves_a_loadable_checkpoint(tmp_path, moment, before):
    """E21: SIGKILL at the k-th call to the file system while step 2 is saved, beside step 1 or in place
    of itself.
    """
    put(tmp_path, before)

    def dying(real, calls=[0]):  # noqa: B006 - one counter for all wrapped calls
        def call(*args, **kwargs):
            if calls[0] == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            calls[0] += 1
            return real(*args, **kwargs)

        return call

    def work():
        import pathlib

        import safetensors.torch

        for owner, name in (
            (safetensors.torch, "save_file"),
            (pathlib.Path, "write_text"),
            (pathlib.Path, "rename"),
            (pathlib.Path, "mkdir"),
            (os, "fsync"),
            (os, "open"),
            (checkpoint, "_sha256"),
            (checkpoint.shutil, "rmtree"),
        ):
            setattr(owner, name, dying(getattr(owner, name)))
        put(tmp_path, 2)

    _, status = os.waitpid(in_child(work), 0)
    saved, notes = latest(tmp_path)
    assert saved is not None and is_whole(saved) and notes == []
    assert saved.step == 2 if os.WIFEXITED(status) else saved.step in (before, 2)
    put(tmp_path, 2)  # what the dead process left does not stand in the way
    assert latest(tmp_path)[0].step == 2


def test_what_kills_left_behind_goes_with_the_next_save(tmp_path):
    """Half a checkpoint, and an old one that was taken aside and not yet deleted: each as large as the model."""
    for name in ("step-000003.partial", "step-000001.removed"):
        (tmp_path / name).mkdir()
    for step in (4, 5, 6):
        put(tmp_path, step)
    prune(tmp_path, 2, {4})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000004", "step-000005", "step-000006"]


@pytest.mark.proof("E21")
def test_a_kill_at_random_times_leaves_a_loadable_checkpoint(tmp_path):
    """E21: 20 times SIGKILL at some moment of a process that saves and prunes one checkpoint after
    another.
    """
    began = time.perf_counter()
    put(tmp_path, 1)
    long, rng, newest = 3 * (time.perf_counter() - began), random.Random(0), [1]

    def work():
        for step in range(newest[-1], 1000):
            put(tmp_path, step)
            prune(tmp_path, 2, set())

    for _ in range(20):
        pid = in_child(work)
        time.sleep(rng.uniform(0, long))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        saved, notes = latest(tmp_path)
        assert saved is not None and is_whole(saved) and notes == []
        assert saved.step >= newest[-1] - 1, "at most the one that was being replaced is gone"
        if saved.step <= newest[-1]:  # killed before its first save: a slow or busy disk needs a longer life
            long *= 1.5
        newest.append(saved.step)
    assert max(newest) > 1, "no process lived long enough to save"


@pytest.mark.proof("E21")
@pytest.mark.parametrize("name", [*checkpoint.FILES, checkpoint.MANIFEST])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, name, damage):
    """E21: whatever file is hurt, and however."""
    put(tmp_path, 1)
    file = put(tmp_path, 2) / name
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        data[len(data) // 2] ^= 0x5A
        file.write_bytes({"cut": data[: len(data) // 2], "flip": data, "empty": b""}[damage])
    saved, notes = latest(tmp_path)
    assert saved.step == 1 and is_whole(saved)
    assert len(notes) == 1 and "step-000002" in notes[0]


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"sha256": {}}', '{"sha256": null}'])
def test_a_manifest_that_says_nothing_vouches_for_nothing(tmp_path, content):
    (put(tmp_path, 1) / checkpoint.MANIFEST).write_text(content)
    with pytest.raises(ValignError, match="no readable manifest"):
        load(tmp_path / "step-000001")


def test_nothing_loads_from_nothing(tmp_path):
    assert latest(tmp_path) == (None, [])
    assert latest(tmp_path / "nowhere") == (None, [])


def test_steps_are_ordered_by_number_and_other_names_left_alone(tmp_path):
    for name in ("step-999999", "step-1000000", "step-000007.partial", "step-old", "notes"):
        (tmp_path / name).mkdir()
    assert [p.name for p in complete(tmp_path)] == ["step-999999", "step-1000000"]
    prune(tmp_path, 1, set())
    assert {p.name for p in tmp_path.iterdir()} == {"step-1000000", "step-old", "notes"}


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step in range(1, 6):
        put(tmp_path, step)
    prune(tmp_path, 2, {1})
    assert [p.name for p in complete(tmp_path)] == ["step-000001", "step-000004", "step-000005"]


def test_a_full_disk_raises_and_leaves_nothing_half(tmp_path):
    """Truly full: the kernel refuses a file over 1000 bytes. The writer's own error arrives as an OSError."""
    put(tmp_path, 1)

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            put(tmp_path, 2)
        except OSError:
            os.kill(os.getpid(), signal.SIGTERM)

    _, status = os.waitpid(in_child(work), 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM, "no OSError was raised"
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    assert is_whole(latest(tmp_path)[0])


def test_an_error_while_flushing_leaves_the_old_one(tmp_path, monkeypatch):
    put(tmp_path, 1)

    def full(_fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        put(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_the_manifest_comes_last(tmp_path):
    """It lists every other file with its sha256."""
    folder = put(tmp_path, 1)
    listed = json.loads((folder / checkpoint.MANIFEST).read_text())["sha256"]
    assert set(listed) == set(checkpoint.FILES) == {p.name for p in folder.iterdir()} - {checkpoint.MANIFEST}
