"""Checkpoints: whole or not there, the newest sound one found, the last good one never removed, full disks named."""

import collections
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from chatwright.foundation import storage
from chatwright.foundation.errors import ExitCode, StorageFailedError, StorageFullError
from chatwright.train import checkpoints as module
from chatwright.train.checkpoints import Checkpoint, Checkpoints, Retention

Usage = collections.namedtuple("Usage", "total used free")


def checkpoint(step, *, numbers=1000):
    return Checkpoint({"w": torch.full((numbers,), float(step))}, {"m.w": torch.zeros(numbers)}, {"step": step})


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_newest_checkpoint_comes_back_as_it_was_saved(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest() is None
    for step in (1, 2):
        checkpoints.save(step, checkpoint(step))
    found = Checkpoints(tmp_path).newest()
    assert found.state == {"step": 2}
    assert torch.equal(found.weights["w"], torch.full((1000,), 2.0))
    assert torch.equal(found.optimizer["m.w"], torch.zeros(1000))


def test_only_the_newest_ones_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, retention=Retention(2))
    for step in (5, 10, 15, 20):
        checkpoints.save(step, checkpoint(step))
    assert names(tmp_path) == ["step-00000015", "step-00000020"]


def own_bytes():
    """Memory of this process behind which no file stands."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon:"))) << 10


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system does not say what a process holds")
def test_a_checkpoint_that_is_loaded_takes_no_memory_for_what_stands_in_its_files(tmp_path):
    saved = checkpoint(1, numbers=1 << 24)
    Checkpoints(tmp_path).save(1, saved)
    before = own_bytes()
    found = Checkpoints(tmp_path).load(1)
    assert torch.equal(found.weights["w"], saved.weights["w"])  # all of it was looked at
    assert own_bytes() - before < found.num_bytes / 8


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_a_damaged_file_of_the_newest_makes_the_older_one_the_newest(tmp_path, name, how, capsys):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, checkpoint(step))
    path = tmp_path / "step-00000002" / name
    if how == "flip":
        damage(path)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        path.unlink()
    assert checkpoints.newest().state == {"step": 1}
    assert "step-00000002" in capsys.readouterr().err


@pytest.mark.parametrize("keep", [1, 2])
def test_retention_never_counts_a_damaged_newer_one_among_those_it_keeps(tmp_path, keep):
    checkpoints = Checkpoints(tmp_path, retention=Retention(3))
    for step in (2, 4, 6):
        checkpoints.save(step, checkpoint(step))
    damage(tmp_path / "step-00000006" / "weights.safetensors")
    again = Checkpoints(tmp_path, retention=Retention(keep))
    assert again.newest().state == {"step": 4}
    again.save(5, checkpoint(5))
    assert again.newest().state == {"step": 5}
    assert names(tmp_path) == ["step-00000004", "step-00000005"][-keep:]


def test_what_a_kill_left_half_written_is_removed_at_the_next_save(tmp_path):
    (tmp_path / ".step-00000007.partial").mkdir()
    (tmp_path / ".step-00000007.partial" / "weights.safetensors").write_bytes(b"half")
    Checkpoints(tmp_path).save(8, checkpoint(8))
    assert names(tmp_path) == ["step-00000008"]


def test_too_little_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, checkpoint(1))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 30, 1 << 30, 1000))
    with pytest.raises(StorageFullError, match="bytes needed, 1000 free") as caught:
        checkpoints.save(2, checkpoint(2))
    assert "step-00000001" in caught.value.kept
    assert "run the same command again" in caught.value.hint
    assert names(tmp_path) == ["step-00000001"]


def test_a_disk_that_fills_while_saving_leaves_the_older_checkpoint_and_nothing_half(tiny_disk, monkeypatch):
    directory = tiny_disk / "checkpoints"
    checkpoints = Checkpoints(directory)
    with monkeypatch.context() as patch:  # as if another program took the room after it was asked for
        patch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 30, 0, 1 << 30))
        checkpoints.save(1, checkpoint(1, numbers=12_000))
        with pytest.raises(StorageFullError) as caught:
            checkpoints.save(2, checkpoint(2, numbers=24_000))
    error = caught.value
    assert error.exit_code == ExitCode.FAILED
    assert str(directory) in error.what
    assert "step-00000001" in error.kept
    assert "free some space" in error.hint
    assert names(directory) == ["step-00000001"]
    storage.verify(directory / "step-00000001")
    assert checkpoints.newest().state == {"step": 1}


def test_a_state_that_no_json_can_carry_leaves_the_older_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, checkpoint(1))
    with pytest.raises(ValueError, match="JSON"):
        checkpoints.save(2, checkpoint(2)._replace(state={"loss": float("nan")}))
    assert names(tmp_path) == ["step-00000001"]
    assert json.loads((tmp_path / "step-00000001" / "state.json").read_text()) == {"step": 1}


def test_a_newest_checkpoint_that_the_disk_does_not_give_makes_the_older_one_the_newest(tmp_path, monkeypatch, capsys):
    checkpoints, real = Checkpoints(tmp_path), storage.digest_file
    for step in (1, 2):
        checkpoints.save(step, checkpoint(step))

    def failing(path):
        if path.parent.name == "step-00000002":
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(storage, "digest_file", failing)
    assert checkpoints.newest().state == {"step": 1}
    told = capsys.readouterr().err
    assert "step-00000002` cannot be read: Input/output error" in told


def test_what_the_library_says_of_a_disk_that_fails_is_told_as_any_failure_of_a_disk(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, checkpoint(1))

    def failing(*_):
        raise SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)")

    monkeypatch.setattr(module, "save_file", failing)
    with pytest.raises(StorageFailedError, match="step 2 could not be written: .*os error 5") as caught:
        checkpoints.save(2, checkpoint(2))
    assert "step-00000001" in caught.value.kept
    assert names(tmp_path) == ["step-00000001"]
