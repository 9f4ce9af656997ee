import os
import signal
import time

import pytest

from chatwright.data import limits
from chatwright.data.sandbox import Sandbox, Unreadable
from chatwright.foundation.errors import DataError

pytestmark = pytest.mark.slow  # each test starts processes


def behave(how):
    if how == "hang":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        while True:
            pow(7, 10**6, 10**50)
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "eat":
        return len(bytearray(1 << 40))
    if how == "fail":
        raise KeyError("broken parser")
    if how == "refuse":
        raise Unreadable("encrypted", "chapter 1")
    if how == "import":
        raise ImportError("no module named x")
    if how == "flood":
        limits.SANDBOX_REPLY_BYTES = 500  # of this child
        return "x" * 1_000
    if how == "overflow":
        return "x" * 1_000
    return {"echo": how}


@pytest.fixture
def sandbox():
    with Sandbox(behave, time_limit_s=2.0, what="test") as made:
        yield made


def test_a_value_comes_back(sandbox):
    assert sandbox.call("täxt \ud800") == {"echo": "täxt \ud800"}


@pytest.mark.parametrize(
    ("how", "reason"),
    [("hang", "test_timeout"), ("crash", "test_crashed"), ("eat", "test_failed"), ("fail", "test_failed")],
)
def test_harm_stays_in_the_child_and_the_next_call_works(sandbox, how, reason):
    with pytest.raises(Unreadable) as caught:
        sandbox.call(how)
    assert caught.value.reason == reason
    assert sandbox.call("next") == {"echo": "next"}


def test_a_hanging_call_ends_at_its_limit(sandbox):
    sandbox.call("warm")
    began = time.monotonic()
    with pytest.raises(Unreadable):
        sandbox.call("hang")
    assert time.monotonic() - began < 20  # it would never end by itself


def test_a_reason_of_the_function_is_passed_on(sandbox):
    with pytest.raises(Unreadable) as caught:
        sandbox.call("refuse")
    assert (caught.value.reason, caught.value.detail) == ("encrypted", "chapter 1")


def test_a_result_beyond_the_limit_is_refused_by_the_child(sandbox):
    with pytest.raises(Unreadable, match="too_large"):
        sandbox.call("flood")
    assert sandbox.call("next") == {"echo": "next"}


def test_a_reply_beyond_the_limit_is_not_read(sandbox, monkeypatch):
    monkeypatch.setattr(limits, "SANDBOX_REPLY_BYTES", 500)
    monkeypatch.setattr(limits, "SANDBOX_GRACE_S", 0.1)
    with pytest.raises(Unreadable):
        sandbox.call("overflow")
    assert sandbox.call("next") == {"echo": "next"}


def test_a_missing_library_is_an_error_not_a_drop(sandbox):
    with pytest.raises(DataError, match="no module named x"):
        sandbox.call("import")
