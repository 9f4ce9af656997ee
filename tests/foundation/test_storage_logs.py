"""Logs lose at most their last line, and one process at a time works in a directory."""

import os
import subprocess
import sys

import pytest

from chatwright.foundation import storage
from chatwright.foundation.errors import BusyError, ExitCode, StorageFullError

HOLDER = """
import sys
from pathlib import Path
from chatwright.foundation import storage
with storage.exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_log_on_a_full_disk_says_so_and_the_lock_too(tiny_disk):
    log = tiny_disk / "metrics.jsonl"
    storage.append_line(log, {"step": 1})

    def fill_up() -> None:
        while True:
            storage.append_line(log, {"text": "x" * 4000})

    with pytest.raises(StorageFullError):
        fill_up()
    assert next(storage.read_lines(log)) == {"step": 1}
    with pytest.raises(StorageFullError), storage.exclusive(tiny_disk):
        pass


def test_a_second_holder_is_refused_and_told_who_holds(tmp_path):
    with storage.exclusive(tmp_path / "run"):
        with pytest.raises(BusyError, match=f"process {os.getpid()}") as caught, storage.exclusive(tmp_path / "run"):
            pass
        assert caught.value.exit_code == ExitCode.USAGE
    with storage.exclusive(tmp_path / "run"):
        pass


def test_whether_a_directory_is_held_can_be_asked_without_taking_it(tmp_path):
    assert not storage.is_held(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with storage.exclusive(tmp_path / "run"):
        assert storage.is_held(tmp_path / "run")
        assert storage.is_held(tmp_path / "run")
    assert not storage.is_held(tmp_path / "run")
    with storage.exclusive(tmp_path / "run"):
        pass


def test_the_lock_dies_with_its_holder(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert storage.is_held(tmp_path)
        with pytest.raises(BusyError, match=f"process {holder.pid}"), storage.exclusive(tmp_path):
            pass
        holder.kill()
        holder.wait()
        assert not storage.is_held(tmp_path)
        with storage.exclusive(tmp_path):
            pass


def test_a_torn_last_line_is_passed_over_and_swallows_no_later_one(tmp_path):
    log = tmp_path / "metrics.jsonl"
    assert list(storage.read_lines(log)) == []
    storage.append_line(log, {"step": 1, "text": "Grüße\nzwei"})
    with log.open("ab") as file:
        file.write('{"step": 2, "text": "ü'.encode()[:-1])
    storage.append_line(log, {"step": 3})
    assert list(storage.read_lines(log)) == [{"step": 1, "text": "Grüße\nzwei"}, {"step": 3}]


def test_lines_that_are_no_objects_are_passed_over(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('1\nnull\n[2]\n\n{"step": 4}\n')
    assert list(storage.read_lines(log)) == [{"step": 4}]
