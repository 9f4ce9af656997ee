"""A pool of processes in which one may die: what it worked on is done again alone, then set aside. Not for threads.

What could not be read from a disk or a server is asked for again after a pause, longer each time. If that does not
help, the whole work ends there: a server that is down would set every partition aside. A stop ends the processes
where they are: what is finished stands, and nothing else was published.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeVar

from chatwright.foundation.console import say
from chatwright.foundation.errors import ChatwrightError, StoppedError, UnreachableError

MAX_ATTEMPTS = 3
READ_ATTEMPTS = 4  # of what a disk or a server does not give
_PAUSE_S = 5.0  # before the second attempt; four times as long before each further one, and up to double by chance
_POLL_S = 0.25  # how soon a stop is noticed
_QUEUED_PER_WORKER = 2
_LEAVE_S = 5.0  # for a process that is to end, to remove what it has half written
_LEFT = "its process was left"

Call = Callable[[Any], None]
Pause = Callable[[float], bool]  # waits so many seconds; whether the work is to stop
Given = TypeVar("Given")


class Outcome(NamedTuple):
    """What became of one argument, by its number."""

    number: int
    failure: str | None  # None: done


def pause_with(check: Callable[[], None]) -> Pause:
    """A pause in the process that started the work: `check` is called all the while, and may raise to stop."""

    def pause(seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            check()
            time.sleep(min(left, _POLL_S))
        return False

    return pause


def map_in_this_process(call: Call, arguments: Sequence[Any], check: Callable[[], None]) -> Iterator[Outcome]:
    """Call one by one; a call that fails `MAX_ATTEMPTS` times is given up."""
    pause = pause_with(check)
    for number, argument in enumerate(arguments):
        check()
        yield Outcome(number, try_call(call, argument, pause=pause))


def map_in_processes(
    call: Call, arguments: Sequence[Any], check: Callable[[], None], *, workers: int
) -> Iterator[Outcome]:
    """Call in processes, in any order, a bounded number waiting.

    A process that dies takes the whole pool with it, and nobody can say which call it was: all that ran are called
    again one at a time, so that only the guilty one fails again.

    Args:
        call: function at module level.
        arguments: cross to another process.
        check: called between results; may raise to stop. A `StoppedError` ends the calls that are running, too.
        workers: processes.

    Raises:
        ChatwrightError: raised by a call, which concerns the whole work and not the one argument.
    """
    waiting, alone = deque(range(len(arguments))), deque[int]()
    died: Counter[int] = Counter()
    while waiting or alone:
        queue = deque([alone.popleft()]) if alone else waiting
        lost: list[int] = []
        yield from _one_pool(call, arguments, queue, check, 1 if queue is not waiting else workers, lost)
        for number in sorted(lost):
            died[number] += 1
            if died[number] >= MAX_ATTEMPTS:
                yield Outcome(number, "its process died each time: it crashed, was killed, or ran out of memory")
            else:
                alone.append(number)


def _one_pool(  # noqa: PLR0917 - one caller, and every argument is needed
    call: Call, arguments: Sequence[Any], queue: deque[int], check: Callable[[], None], workers: int, lost: list[int]
) -> Iterator[Outcome]:
    """Work through `queue` until it is empty or a process dies; what ran then is in `lost`."""
    spawn = multiprocessing.get_context("spawn")  # forking a process with threads can deadlock
    running: dict[concurrent.futures.Future[str | None], int] = {}
    # Pipes, since a process that died holds up whoever sets an event that it waited for.
    over_heard, over = spawn.Pipe(duplex=False)
    leave_heard, leave = spawn.Pipe(duplex=False)
    with over_heard, over, leave_heard, leave:
        pool = concurrent.futures.ProcessPoolExecutor(
            workers, mp_context=spawn, initializer=_start_worker, initargs=(over_heard, leave_heard)
        )
        first = concurrent.futures.FIRST_COMPLETED
        try:
            while queue or running:
                check()
                with contextlib.suppress(BrokenProcessPool):
                    while queue and len(running) < workers * _QUEUED_PER_WORKER:
                        running[pool.submit(_in_worker, call, arguments[queue[0]])] = queue[0]
                        queue.popleft()
                finished, _ = concurrent.futures.wait(running, timeout=_POLL_S, return_when=first)
                for future in finished:
                    number = running.pop(future)
                    try:
                        yield Outcome(number, future.result())
                    except BrokenProcessPool:
                        lost.append(number)
                if lost:
                    lost.extend(running.values())
                    return
        except StoppedError:
            os.write(leave.fileno(), bytes(workers))  # one for each
            raise
        except ChatwrightError:
            if running:
                say(f"  waiting for partitions that are at work, to keep them: {min(len(running), workers)}")
            raise
        finally:
            over.close()
            pool.shutdown(wait=True, cancel_futures=True)


class _Worker:
    """What a process of the pool knows of it."""

    over: Connection | None = None  # closed at the other end when the pool ends
    is_at_work = False
    is_leaving = False  # was told to

    @classmethod
    def pause(cls, seconds: float) -> bool:
        """Wait, unless the pool ends."""
        if cls.over is not None:
            return bool(multiprocessing.connection.wait([cls.over], timeout=seconds))
        time.sleep(seconds)
        return False


def try_call(call: Call, argument: Any, *, pause: Pause = _Worker.pause) -> str | None:
    """Call until it works; gives the last failure's own words if it never does.

    Raises:
        ChatwrightError: what concerns the whole work; `UnreachableError` after `READ_ATTEMPTS`.
    """
    failure = ""
    for _ in range(MAX_ATTEMPTS):
        try:
            patiently(functools.partial(call, argument), pause=pause)
        except ChatwrightError:
            raise
        except Exception as error:  # noqa: BLE001 - the border of one partition: its failure must not end the others
            failure = f"{type(error).__name__}: {error}"
        else:
            return None
    return failure


def patiently(call: Callable[[], Given], *, pause: Pause) -> Given:
    """Call, and again after a pause where a disk or a server did not give what was asked for.

    Raises:
        UnreachableError: after `READ_ATTEMPTS`, or where the pause says that the work is to stop.
    """
    chance = random.Random()  # servers are not asked by all processes at once; no result depends on it
    attempt = 1
    while True:
        try:
            return call()
        except UnreachableError as error:
            seconds = _PAUSE_S * 4.0 ** (attempt - 1) * (1.0 + chance.random())
            if attempt == READ_ATTEMPTS or pause(seconds):
                error.cause = f"{error.cause} (attempt {attempt} of {READ_ATTEMPTS})"
                raise
        attempt += 1


def _in_worker(call: Call, argument: Any) -> str | None:
    if _Worker.is_leaving:
        return _LEFT
    try:
        _Worker.is_at_work = True
        return try_call(call, argument)
    except SystemExit:  # of `_leave`, or of a library
        return _LEFT
    finally:
        _Worker.is_at_work = False


def _leave(*_: object) -> None:
    """Have the call that runs clean up behind itself, and let no other begin: the process ends when the pool does."""
    _Worker.is_leaving = True
    if _Worker.is_at_work:
        sys.exit(1)


def _start_worker(over: Connection, leave: Connection) -> None:
    """Leave Ctrl-C to the parent, end when it says so, and never outlive it."""
    _Worker.over = over
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, _leave)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel, leave), daemon=True).start()


def _end_with(parent: int, leave: Connection) -> None:
    """End at once with the parent; where it asks for it, soon."""
    ready = multiprocessing.connection.wait([parent, leave])
    if parent not in ready and os.read(leave.fileno(), 1):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)  # calls `_leave` there
        time.sleep(_LEAVE_S)
    os._exit(1)
