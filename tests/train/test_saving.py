"""Saves beside the training: the bits of their step, one at a time, and nothing lost where the disk fails."""

import os
import threading
import weakref

import pytest
import torch
from safetensors import SafetensorError
from tiny_training import DrawnSource, digest, metrics, new_network, new_trainer

from chatwright.foundation import storage
from chatwright.foundation.errors import ExitCode, StorageFailedError, StorageFullError, UsageError
from chatwright.train import checkpoints as module
from chatwright.train.checkpoints import Checkpoint, Checkpoints, Retention
from chatwright.train.metrics import MetricsLog
from chatwright.train.optimizers import Optimizer
from chatwright.train.saving import Saver


def checkpoint(step, *, score=None):
    return Checkpoint({"w": torch.full((100,), float(step))}, {"m.w": torch.zeros(100)}, {"step": step}, score)


def names(directory):
    return sorted(path.name for path in directory.iterdir() if path.name != ".lock")


class Gated(Checkpoints):
    """Real checkpoints on a disk that waits to be told."""

    def __init__(self, directory):
        super().__init__(directory)
        self.gate = threading.Event()
        self.begun = []

    def save(self, step, checkpoint):
        self.begun.append(step)
        assert self.gate.wait(30)
        super().save(step, checkpoint)


@pytest.fixture
def make_saver(tmp_path):
    savers = []

    def make(checkpoints, **fields):
        settings = {"in_background": True, "maximum_failures": 2} | fields
        savers.append(Saver(checkpoints, MetricsLog(tmp_path, is_writer=True), **settings))
        return savers[-1]

    yield make
    for saver in savers:
        saver.close()


def test_training_goes_on_while_a_slow_disk_writes_and_waits_for_the_second_save(tmp_path, make_saver):
    checkpoints = Gated(tmp_path / "checkpoints")
    saver = make_saver(checkpoints)
    saver.save(1, checkpoint(1))  # returns while the disk still waits
    assert names(tmp_path / "checkpoints") == []
    second = threading.Thread(target=saver.save, args=(2, checkpoint(2)))
    second.start()
    second.join(0.05)
    assert second.is_alive()
    assert checkpoints.begun == [1]  # never two at once
    checkpoints.gate.set()
    second.join(30)
    saver.wait()
    assert names(tmp_path / "checkpoints") == ["step-00000001", "step-00000002"]


def test_what_is_saved_are_the_bits_of_its_step_although_later_steps_change_them_meanwhile(tmp_path, monkeypatch):
    gate, real = threading.Event(), Checkpoints.save

    def slow(self, step, saved):
        if step == 4:
            assert gate.wait(30)
        real(self, step, saved)

    class Releasing(DrawnSource):
        def step(self, number):
            if number == 7:  # three steps have changed the weights since
                assert not (tmp_path / "run" / "checkpoints" / "step-00000004").exists()
                gate.set()
            return super().step(number)

    monkeypatch.setattr(Checkpoints, "save", slow)
    new_trainer(tmp_path / "run", source=Releasing(), keep_checkpoints=9).run()
    monkeypatch.undo()
    new_trainer(tmp_path / "plain", save_in_background=False, keep_checkpoints=9).run()
    for step in (4, 8, 12):
        one, other = (Checkpoints(tmp_path / name / "checkpoints").load(step) for name in ("run", "plain"))
        assert all(torch.equal(one.weights[key], other.weights[key]) for key in one.weights)
        assert all(torch.equal(one.optimizer[key], other.optimizer[key]) for key in one.optimizer)


def failing_sync(monkeypatch, *, number, times):
    """`fsync` fails so often."""
    real, left = os.fsync, [times]

    def fsync(handle):
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [28, 5], ids=["no space", "input/output error"])
def test_a_save_that_fails_is_an_event_and_training_goes_on(tmp_path, monkeypatch, capsys, number):
    straight, network = new_network(), new_network()
    new_trainer(tmp_path / "straight", network=straight).run()
    failing_sync(monkeypatch, number=number, times=2)
    new_trainer(tmp_path / "run", network=network).run()
    failed = [line for line in metrics(tmp_path / "run") if line["event"] == "checkpoint_failed"]
    assert [line["step"] for line in failed] == [4, 8]
    assert all(line["bytes_needed"] > 0 and line["bytes_free"] > 0 for line in failed)
    assert names(tmp_path / "run" / "checkpoints") == ["step-00000012"]
    assert digest(network) == digest(straight)
    assert "was not saved, training goes on" in capsys.readouterr().err


def test_a_save_that_fails_in_the_library_is_an_event_and_training_goes_on(tmp_path, monkeypatch):
    real, left = module.save_file, [1]

    def failing(tensors, path):
        if left[0]:
            left[0] -= 1
            raise SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)")
        real(tensors, path)

    monkeypatch.setattr(module, "save_file", failing)
    assert new_trainer(tmp_path).run()["steps"] == 12
    (failed,) = [line for line in metrics(tmp_path) if line["event"] == "checkpoint_failed"]
    assert failed["step"] == 4
    assert "os error 5" in failed["reason"]


def test_what_has_been_written_is_held_no_longer(tmp_path, make_saver):
    saver, saved = make_saver(Checkpoints(tmp_path / "checkpoints")), checkpoint(1)
    held = weakref.ref(saved.weights["w"])
    saver.save(1, saved)
    del saved
    saver.close()  # the thread has ended; nobody has asked yet how it went
    assert held() is None
    saver.wait()
    assert saver.last_step == 1


def test_the_next_copy_is_made_when_the_one_before_has_been_written(tmp_path, monkeypatch):
    order, copied, real_save, real_tensors = [], threading.Event(), Checkpoints.save, Optimizer.tensors

    def slow(self, step, saved):
        copied.clear()
        copied.wait(0.2)  # for a copy that comes meanwhile; where none does, this is only slow
        real_save(self, step, saved)
        order.append("written")

    def copying(self):
        order.append("copied")
        copied.set()
        return real_tensors(self)

    trainer = new_trainer(tmp_path)
    monkeypatch.setattr(Checkpoints, "save", slow)
    trainer._begin()  # what is counted at the start is no copy
    monkeypatch.setattr(Optimizer, "tensors", copying)
    for step in (1, 2, 3):
        trainer._done.step = step
        trainer._save(must_hold=step == 3)
    trainer._saver.close()
    assert order == ["copied", "written"] * 3


@pytest.mark.parametrize("number", [28, 5], ids=["no space", "input/output error"])
def test_too_many_failed_saves_in_a_row_end_the_run_and_keep_what_was_saved(tmp_path, monkeypatch, number):
    checkpoints = Checkpoints(tmp_path / "checkpoints")

    class Filling(DrawnSource):
        def step(self, step):
            if step == 5:
                failing_sync(monkeypatch, number=number, times=99)
            return super().step(step)

    with pytest.raises(StorageFullError if number == 28 else StorageFailedError) as caught:
        new_trainer(tmp_path, steps=40, source=Filling(), maximum_failed_saves=1, save_in_background=False).run()
    monkeypatch.undo()
    assert caught.value.exit_code == ExitCode.FAILED
    assert names(checkpoints.directory) == ["step-00000004"]
    assert checkpoints.newest_step() == 4
    assert new_trainer(tmp_path, steps=40).run()["steps"] == 40


def test_the_last_save_must_hold(tmp_path, monkeypatch):
    class Filling(DrawnSource):
        def step(self, step):
            if step == 11:
                failing_sync(monkeypatch, number=28, times=9)
            return super().step(step)

    with pytest.raises(StorageFullError):
        new_trainer(tmp_path, source=Filling()).run()
    monkeypatch.undo()
    assert Checkpoints(tmp_path / "checkpoints").newest_step() == 8


def test_permanent_checkpoints_and_the_best_one_stay_beside_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path, retention=Retention(newest=2, every=5, best=True))
    scores = {1: 3.0, 2: 2.5, 3: 1.5, 4: 1.6, 5: 1.7, 6: 1.9, 7: 1.5, 8: None, 9: 2.0, 10: 2.2, 11: 2.3, 12: None}
    for step, score in scores.items():
        checkpoints.save(step, checkpoint(step, score=score))
    assert names(tmp_path) == [f"step-{step:08d}" for step in (3, 5, 10, 11, 12)]
    assert checkpoints.best_step() == 3
    (tmp_path / "step-00000003" / "weights.safetensors").write_bytes(b"")
    assert checkpoints.best_step() == 5


def test_a_training_keeps_the_checkpoint_with_the_lowest_held_out_loss(tmp_path):
    bits = iter([9.0, 3.0, 1.0, 2.0, 4.0, 5.0, 6.0])
    trainer = new_trainer(
        tmp_path,
        evaluate=lambda: {"bits_per_byte": {"all": next(bits)}},
        evaluate_every=2,
        checkpoint_every=2,
        keep_checkpoints=1,
        keep_best=True,
    )
    trainer.run()
    assert names(tmp_path / "checkpoints") == ["step-00000004", "step-00000012"]
    assert Checkpoints(tmp_path / "checkpoints").load(4).score == 1.0


def test_the_best_cannot_be_kept_where_nothing_is_held_out(tmp_path):
    with pytest.raises(UsageError, match="need a training that measures held-out"):
        new_trainer(tmp_path, keep_best=True).run()


def test_nothing_older_goes_before_the_new_one_has_been_read_back(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, retention=Retention(newest=1))
    checkpoints.save(1, checkpoint(1))
    real = storage.finish

    def damaging(scratch, final, facts=None):
        manifest = real(scratch, final, facts)
        path = final / "weights.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
        return manifest

    monkeypatch.setattr(storage, "finish", damaging)
    with pytest.raises(storage.RefusedError):
        checkpoints.save(2, checkpoint(2))
    assert checkpoints.newest_step() == 1
