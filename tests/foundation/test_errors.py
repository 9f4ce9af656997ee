"""An error says what happened, why, what is kept and what to do next; its class has the exit code."""

from chatwright.foundation import errors
from chatwright.foundation.errors import ChatwrightError, ExitCode


def test_an_error_tells_one_fact_a_line_and_only_those_it_has():
    error = ChatwrightError("it broke", cause="rust", kept="the old one", hint="oil it")
    assert str(error) == "it broke\n  cause: rust\n  kept:  the old one\n  next:  oil it"
    assert str(ChatwrightError("it broke")) == "it broke"


def test_exit_codes_are_those_of_the_commands():
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 4]
    assert errors.DataError("x").exit_code == ExitCode.FAILED
    assert errors.StorageFullError("x").exit_code == ExitCode.FAILED
    assert errors.UsageError("x").exit_code == ExitCode.USAGE
    assert errors.BusyError("x").exit_code == ExitCode.USAGE
    assert errors.StoppedError("x").exit_code == ExitCode.STOPPED
    assert errors.RefusedError("x").exit_code == ExitCode.REFUSED
