"""The first signal asks, the second ends."""

import signal
import subprocess
import sys

import pytest

from chatwright.foundation.errors import ExitCode, StoppedError
from chatwright.foundation.stopping import StopFlag, stop_requested

IMPATIENT = """
import signal
from chatwright.foundation.stopping import stop_requested
with stop_requested() as stop:
    signal.raise_signal(signal.SIGINT)
    print("asked", stop.requested, flush=True)
    signal.raise_signal(signal.SIGINT)
    print("never")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sets_the_flag_and_work_leaves_at_its_next_check(number):
    with stop_requested() as stop:
        stop.check("nothing yet")
        signal.raise_signal(number)
        assert stop.requested
        with pytest.raises(StoppedError) as caught:
            stop.check("step 7")
    assert caught.value.kept == "step 7"
    assert caught.value.exit_code == ExitCode.STOPPED
    assert "run the same command again" in str(caught.value)


def test_the_handlers_of_before_are_back_afterwards():
    before = signal.getsignal(signal.SIGINT)
    with stop_requested():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_signal_ends_the_process_at_once():
    ended = subprocess.run([sys.executable, "-c", IMPATIENT], capture_output=True, text=True, check=False)
    assert ended.stdout == "asked True\n"
    assert ended.returncode == ExitCode.STOPPED


def test_a_flag_that_nobody_set_lets_work_go_on():
    StopFlag().check("anything")
