"""A pool of processes in which one may die: what it worked on is done again alone, then set aside. Not for threads."""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from chatwright.foundation.errors import ChatwrightError

MAX_ATTEMPTS = 3
_QUEUED_PER_WORKER = 2

Call = Callable[[Any], None]


class Outcome(NamedTuple):
    """What became of one argument, by its number."""

    number: int
    failure: str | None  # None: done


def map_in_this_process(call: Call, arguments: Sequence[Any], check: Callable[[], None]) -> Iterator[Outcome]:
    """Call one by one; a call that fails `MAX_ATTEMPTS` times is given up."""
    for number, argument in enumerate(arguments):
        check()
        yield Outcome(number, try_call(call, argument))


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
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker) as pool:
        try:
            while queue or running:
                check()
                with contextlib.suppress(BrokenProcessPool):
                    while queue and len(running) < workers * _QUEUED_PER_WORKER:
                        running[pool.submit(try_call, call, arguments[queue[0]])] = queue[0]
                        queue.popleft()
                finished, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
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
            pool.shutdown(wait=True, cancel_futures=True)


def try_call(call: Call, argument: Any) -> str | None:
    """Call until it works; gives the last failure's own words if it never does."""
    failure = ""
    for _ in range(MAX_ATTEMPTS):
        try:
            call(argument)
        except ChatwrightError:
            raise
        except Exception as error:  # noqa: BLE001 - the border of one partition: its failure must not end the others
            failure = f"{type(error).__name__}: {error}"
        else:
            return None
    return failure


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and never outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
