"""A child process for code that reads hostile bytes: it can hang, crash or eat memory without harm to a stage.

The kernel ends the child at its deadline, also inside C code and also when its parent is gone.
Not a security boundary against code that breaks out of its process.
"""

import json
import multiprocessing
import multiprocessing.connection
import resource
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from chatwright.data import limits
from chatwright.foundation.errors import DataError


class Unreadable(Exception):  # noqa: N818 - a verdict on an input, not an error of ours
    """An input that gives no document, with the reason under which it is counted."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class Sandbox:
    """Calls one function in a child that is started when needed and again after it died.

    Args:
        function: at module level; takes and returns JSON values.
        time_limit_s: wall time of one call.
        what: begins the reasons of drops: `{what}_timeout`, `{what}_crashed`.
    """

    def __init__(self, function: Callable[[Any], Any], *, time_limit_s: float, what: str):
        self._function = function
        self._time_limit_s = time_limit_s
        self._what = what
        self._child: multiprocessing.process.BaseProcess | None = None
        self._connection: multiprocessing.connection.Connection[Any, Any] | None = None

    def call(self, argument: Any) -> Any:
        """The function's value.

        Raises:
            Unreadable: the function said so, failed, took too long, or its process died.
            DataError: a library that it needs cannot be imported.
        """
        connection = self._connection or self._start()
        try:
            connection.send_bytes(_packed(argument))
            if not connection.poll(self._time_limit_s + limits.SANDBOX_GRACE_S):
                raise EOFError
            reply = json.loads(connection.recv_bytes(limits.SANDBOX_REPLY_BYTES))
        except (EOFError, OSError):
            raise self._verdict_on_death() from None
        if "missing" in reply:
            raise DataError(
                f"a library for reading documents cannot be imported: {reply['missing']}",
                hint="install chatwright's dependencies again: `pip install -e .`",
            )
        if "reason" in reply:
            raise Unreadable(reply["reason"] or f"{self._what}_failed", reply["detail"])
        return reply["value"]

    def close(self) -> None:
        """End the child, if there is one."""
        if self._connection is not None:
            self._connection.close()
        if self._child is not None:
            self._child.kill()
            self._child.join()
        self._child = self._connection = None

    def _start(self) -> "multiprocessing.connection.Connection[Any, Any]":
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        self._child = spawn.Process(target=_serve, args=(theirs, self._function, self._time_limit_s), daemon=True)
        self._child.start()
        theirs.close()
        self._connection = ours
        # Start-up is outside the limit of a call, or a slow import would count as a slow document.
        if not ours.poll(limits.SANDBOX_START_S) or ours.recv_bytes() != b"ready":
            self.close()
            raise DataError("the process that reads documents did not start", hint="run the same command again")
        return ours

    def _verdict_on_death(self) -> Unreadable:
        child = self._child
        if child is None:
            return Unreadable(f"{self._what}_crashed", "its process was gone")
        child.join(timeout=limits.SANDBOX_GRACE_S)
        code = child.exitcode
        self.close()
        if code is None or code == -signal.SIGALRM:
            return Unreadable(f"{self._what}_timeout", f"longer than {self._time_limit_s:g} s")
        return Unreadable(f"{self._what}_crashed", f"its process ended with {code}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _serve(
    connection: "multiprocessing.connection.Connection[Any, Any]", function: Callable[[Any], Any], time_limit_s: float
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default ends the process, whatever code it is in
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (limits.SANDBOX_MEMORY_BYTES, limits.SANDBOX_MEMORY_BYTES))
    connection.send_bytes(b"ready")
    while True:
        try:
            argument = json.loads(connection.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, time_limit_s)
        reply = _packed(_answer(function, argument))
        signal.setitimer(signal.ITIMER_REAL, 0)
        if len(reply) > limits.SANDBOX_REPLY_BYTES:
            reply = _packed({"reason": "too_large", "detail": f"a result of {len(reply)} bytes"})
        connection.send_bytes(reply)


def _packed(value: Any) -> bytes:
    """JSON with its letters as they are, since escapes would be most of the work; a text may hold lone surrogates."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _answer(function: Callable[[Any], Any], argument: Any) -> dict[str, Any]:
    try:
        return {"value": function(argument)}
    except Unreadable as verdict:
        return {"reason": verdict.reason, "detail": verdict.detail}
    except ImportError as error:
        return {"missing": str(error)}
    except MemoryError:
        return {"reason": "", "detail": "it needs too much memory"}
    except Exception as error:  # noqa: BLE001 - the border to foreign parsers, whose failures have no common class
        return {"reason": "", "detail": f"{type(error).__name__}: {error}"}
