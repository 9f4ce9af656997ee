"""A pool of processes in which one may die: what it worked on is done again alone, then set aside. Not for threads.

What could not be read from a disk or a server is asked for again after a pause, longer each time. If that does not
help, the whole work ends there: a server that is down would set every partition aside.
"""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from typing import Any, NamedTuple

from chatwright.foundation.errors import ChatwrightError, UnreachableError

MAX_ATTEMPTS = 3
READ_ATTEMPTS = 4  # of what a disk or a server does not give
_PAUSE_S = 5.0  # before the second attempt; four times as long before each further one, and up to double by chance
_POLL_S = 0.25  # how soon a stop is noticed
_QUEUED_PER_WORKER = 2

Call = Callable[[Any], None]
Pause = Callable[[float], bool]  # waits so many seconds; whether the work is to stop


class Outcome(NamedTuple):
    """What became of one argument, by its number."""

    number: int
    failure: str | None  # None: done


def map_in_this_process(call: Call, arguments: Sequence[Any], check: Callable[[], None]) -> Iterator[Outcome]:
    """Call one by one; a call that fails `MAX_ATTEMPTS` times is given up."""

    def pause(seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            check()
            time.sleep(min(left, _POLL_S))
        return False

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
        check: called between results; may raise to stop.
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
    stopping = spawn.Event()
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=spawn, initializer=_start_worker, initargs=(stopping,)
    ) as pool:
        first = concurrent.futures.FIRST_COMPLETED
        try:
            while queue or running:
                check()
                with contextlib.suppress(BrokenProcessPool):
                    while queue and len(running) < workers * _QUEUED_PER_WORKER:
                        running[pool.submit(try_call, call, arguments[queue[0]])] = queue[0]
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
        finally:
            stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)


class _Worker:
    """What a process of the pool knows of it."""

    stopping: Event | None = None

    @classmethod
    def pause(cls, seconds: float) -> bool:
        """Wait, unless the pool ends."""
        if cls.stopping is not None:
            return cls.stopping.wait(seconds)
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
            _call_patiently(call, argument, pause)
        except ChatwrightError:
            raise
        except Exception as error:  # noqa: BLE001 - the border of one partition: its failure must not end the others
            failure = f"{type(error).__name__}: {error}"
        else:
            return None
    return failure


def _call_patiently(call: Call, argument: Any, pause: Pause) -> None:
    chance = random.Random()  # servers are not asked by all processes at once; no result depends on it
    for attempt in range(1, READ_ATTEMPTS + 1):
        try:
            call(argument)
        except UnreachableError as error:
            seconds = _PAUSE_S * 4.0 ** (attempt - 1) * (1.0 + chance.random())
            if attempt == READ_ATTEMPTS or pause(seconds):
                error.cause = f"{error.cause} (attempt {attempt} of {READ_ATTEMPTS})"
                raise
        else:
            return


def _start_worker(stopping: Event) -> None:
    """Leave Ctrl-C to the parent, and never outlive it."""
    _Worker.stopping = stopping
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
