"""Every call by which a save reaches the disk: killed there, refused there, or never made durable.

A child process is forked for each point. Calls are met through Python's audit events (open, rename, mkdir, remove,
rmdir) and `os.fsync`; writes of the tensors themselves happen outside Python: a tiny disk and strace stand for them.
"""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError
from chatwright.train.checkpoints import Checkpoint, Checkpoints, Retention

_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
MOST_POINTS = 400
UNHARMED = 7


def checkpoint(step, *, numbers=500):
    return Checkpoint({"w": torch.full((numbers,), float(step))}, {"m.w": torch.zeros(numbers)}, {"step": step})


def watch(place, act):
    """Call `act` before every call that concerns files below `place`, with its name and path."""

    def hook(event, arguments):
        if event in _EVENTS and str(arguments[0]).startswith(str(place)):
            act(event, str(arguments[0]), str(arguments[1]) if event == "os.rename" else "")

    sys.addaudithook(hook)
    real = os.fsync

    def fsync(handle):
        act("fsync", os.readlink(f"/proc/self/fd/{handle}"), "")
        real(handle)

    os.fsync = fsync


def in_child(place, act, work):
    """Fork a process that watches and works; its exit status: 0 done, 1 refused, 7 done unharmed, -9 killed."""
    process = os.fork()
    if process == 0:
        try:
            watch(place, act)
            work()
            os._exit(0 if getattr(act, "is_struck", True) else UNHARMED)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class At:
    """Strikes at one call of a process."""

    def __init__(self, number, error=None):
        self._left = number
        self._error = error

    @property
    def is_struck(self):
        return self._left <= 0

    def __call__(self, event, path, other):
        self._left -= 1
        if self._left != 0:
            return
        if self._error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(self._error, os.strerror(self._error))


def prepared(directory, *, newest):
    checkpoints = Checkpoints(directory, retention=Retention(newest))
    for step in (1, 2):
        checkpoints.save(step, checkpoint(step))
    return checkpoints


def is_whole(checkpoints, step):
    saved = checkpoints.load(step)
    return saved.state == {"step": step} and bool((saved.weights["w"] == step).all())


def hidden(directory):
    return [path.name for path in directory.glob(".step-*")]


@pytest.mark.parametrize("newest", [1, 2])
def test_a_kill_at_every_call_of_a_save_leaves_a_whole_newest_checkpoint(tmp_path, newest):
    found = []
    for point in range(1, MOST_POINTS):
        directory = tmp_path / str(point)
        checkpoints = prepared(directory, newest=newest)
        code = in_child(directory, At(point), lambda c=checkpoints: c.save(3, checkpoint(3)))
        step = Checkpoints(directory).newest_step()
        assert step in (2, 3), point
        assert is_whole(checkpoints, step)
        found.append(step)
        checkpoints.save(4, checkpoint(4))  # what the kill left does not stand in the way, nor stay
        assert hidden(directory) == []
        shutil.rmtree(directory)
        if code == UNHARMED:
            break
        assert code == -signal.SIGKILL
    assert len(found) > 20
    assert found == sorted(found)  # once published, it stays so


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["no space", "input/output error"])
def test_a_refusal_at_every_call_of_a_save_costs_no_older_checkpoint_and_leaves_nothing_half(tmp_path, error):
    refused = 0
    for point in range(1, MOST_POINTS):
        directory = tmp_path / str(point)
        checkpoints = prepared(directory, newest=2)
        code = in_child(directory, At(point, error), lambda c=checkpoints: c.save(3, checkpoint(3)))
        names = sorted(path.name for path in directory.glob("step-*"))
        if code == 1:
            refused += 1
            assert names in (["step-00000001", "step-00000002"], ["step-00000001", "step-00000002", "step-00000003"])
            assert not [name for name in hidden(directory) if name.endswith(".partial")], point
        assert is_whole(checkpoints, 2)
        assert is_whole(checkpoints, checkpoints.newest_step())
        shutil.rmtree(directory)
        if code == UNHARMED:
            break
    assert refused > 15


def test_a_save_whose_sync_failed_is_never_found(tmp_path):
    for point in range(1, 20):
        directory = tmp_path / str(point)
        checkpoints = prepared(directory, newest=2)
        left = [point]

        def strike(event, path, other, left=left):
            left[0] -= event == "fsync"
            if left[0] == 0 and event == "fsync":
                left[0] = -1
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        code = in_child(directory, strike, lambda c=checkpoints: c.save(3, checkpoint(3)))
        if code == 0:
            assert point > 4  # files, directory, parent
            return
        assert checkpoints.newest_step() == 2
    raise AssertionError("the sweep did not end")


def test_power_lost_at_any_instant_costs_no_checkpoint(tmp_path):
    """The order of calls, replayed on a disk that keeps a name only once its directory was synced, and data likewise."""
    directory = tmp_path / "run"
    checkpoints = prepared(directory, newest=1)
    log = tmp_path / "calls"

    def note(event, path, other):
        with open(tmp_path / "calls", "a") as file:
            file.write(f"{event}\t{path}\t{other}\n")

    assert in_child(directory, note, lambda: checkpoints.save(3, checkpoint(3))) == 0
    calls = [line.split("\t") for line in log.read_text().splitlines()]
    scratch, final = str(directory / ".step-00000003.partial"), str(directory / "step-00000003")
    synced: set[str] = set()
    files = {f"{scratch}/{path.name}" for path in (directory / "step-00000003").iterdir()}
    is_renamed = is_durable = False
    removals = 0
    for event, path, other in calls:
        if event == "fsync":
            synced.add(path)
            is_durable = is_durable or (is_renamed and path == str(directory))
        elif event == "os.rename" and path == scratch:
            assert other == final
            assert files | {scratch} <= synced  # all data and names are on the disk before the name that counts
            is_renamed = True
        elif event in ("os.rename", "os.remove", "os.rmdir") and "step-00000002" in path:
            assert is_durable  # the older one goes only when the newer one would survive
            removals += 1
    assert removals >= 2


def test_every_flipped_bit_and_every_cut_of_a_checkpoint_is_found_and_named(tmp_path):
    checkpoints = prepared(tmp_path, newest=2)
    chance = random.Random(5)
    files = sorted((tmp_path / "step-00000002").iterdir())
    for trial in range(400):
        path = files[trial % len(files)]
        sound = path.read_bytes()
        place = chance.randrange(min(64, len(sound)) if trial % 3 == 0 else len(sound))  # headers more often
        if trial % 2:
            path.write_bytes(sound[:place])
        else:
            path.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << chance.randrange(8)]) + sound[place + 1 :])
        assert checkpoints.newest_step() == 1, (path.name, place)
        with pytest.raises(RefusedError, match="step-00000002") as caught:
            checkpoints.load(2)
        assert caught.value.exit_code == 4
        path.write_bytes(sound)
    assert is_whole(checkpoints, 2)


def test_twenty_sizes_of_a_disk_that_fills_keep_the_older_checkpoint_whole(tiny_disk, monkeypatch):
    fill, directory = tiny_disk / "fill", tiny_disk / "checkpoints"
    monkeypatch.setattr(storage, "require_free_space", lambda *_: None)  # as if the room went after it was asked for
    outcomes = []
    for part in range(20):
        shutil.rmtree(directory, ignore_errors=True)
        fill.unlink(missing_ok=True)
        checkpoints = Checkpoints(directory)
        checkpoints.save(1, checkpoint(1, numbers=8_000))
        fill.write_bytes(bytes(max(0, shutil.disk_usage(tiny_disk).free - part * 6_000)))
        try:
            checkpoints.save(2, checkpoint(2, numbers=8_000))
            outcomes.append(2)
        except storage.StorageFullError:
            outcomes.append(1)
            assert hidden(directory) == []
        assert checkpoints.newest_step() == outcomes[-1]
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {1, 2}


def waiting_child(work):
    """A forked process that works once it is told to: its number, and where to tell it."""
    heard, told = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.read(heard, 1)
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.close(heard)
    return process, told


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace meets the calls that Python does not see")
@pytest.mark.parametrize(
    ("call", "how"),
    [(call, "signal=SIGKILL") for call in ("openat", "write", "fsync", "rename", "mkdir", "unlinkat", "rmdir")]
    + [("write", "error=ENOSPC"), ("fsync", "error=ENOSPC"), ("fsync", "error=EIO")],
)
def test_every_system_call_of_a_save_may_kill_or_fail(tmp_path, call, how):
    for point in range(1, MOST_POINTS):
        directory = tmp_path / str(point)
        checkpoints = prepared(directory, newest=2)
        process, told = waiting_child(lambda c=checkpoints: c.save(3, checkpoint(3)))
        tracer = subprocess.Popen(
            ["strace", "-f", "-q", "-o", str(tmp_path / "trace"), "-p", str(process), "-e", f"trace={call}"]
            + ["-e", f"inject={call}:{how}:when={point}"],
            stderr=subprocess.PIPE,
        )
        status = Path(f"/proc/{process}/status")
        while "TracerPid:\t0" in status.read_text():
            assert tracer.poll() is None, tracer.stderr.read()
        os.write(told, b"g")
        os.close(told)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        tracer.communicate(timeout=60)
        step = checkpoints.newest_step()
        assert step in (2, 3)
        assert is_whole(checkpoints, step)
        if call == "fsync" and code == 1:
            assert step == 2
        shutil.rmtree(directory)
        struck = (tmp_path / "trace").read_text()
        if code == 0 and "INJECTED" not in struck:
            assert point > 1  # this call does belong to a save
            return
    raise AssertionError("the sweep did not end")
