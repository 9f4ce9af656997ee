"""Partitions on a Ray cluster: plain tasks with retries over storage that all machines share. An extra.

The same functions as on one machine, so the same digests. Ray's report of its use is switched off before it is
imported, here and in its workers.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from chatwright.data.pool import MAX_ATTEMPTS, Call, Outcome, try_call
from chatwright.foundation.errors import ChatwrightError, UsageError

_QUEUED_PER_CPU = 2
_POLL_S = 1.0


def map_on_ray(call: Call, arguments: Sequence[Any], check: Callable[[], None], *, workers: int) -> Iterator[Outcome]:
    """Call on a cluster, in any order; `RAY_ADDRESS` names one, else Ray starts on this machine.

    Args:
        call: function at module level.
        arguments: cross to other machines; paths in them must mean the same there.
        check: called between results; may raise to stop.
        workers: processes where Ray starts here; a cluster has its own number.

    Raises:
        UsageError: Ray is not installed.
        ChatwrightError: raised by a call, which concerns the whole work.
    """
    ray = _ray()
    if not ray.is_initialized():
        here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="error", runtime_env={"env_vars": _worker_environment()}, **here)
    task = ray.remote(max_retries=MAX_ATTEMPTS - 1, retry_exceptions=False)(_call)
    limit = max(1, int(ray.cluster_resources().get("CPU", workers))) * _QUEUED_PER_CPU
    waiting = iter(enumerate(arguments))
    running: dict[Any, int] = {}
    try:
        while True:
            check()
            for number, argument in _take(waiting, limit - len(running)):
                running[task.remote(call, argument)] = number
            if not running:
                return
            finished, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_S)
            for reference in finished:
                yield _outcome(ray, running.pop(reference), reference)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _call(call: Call, argument: Any) -> tuple[str | None, ChatwrightError | None]:
    try:
        return try_call(call, argument), None
    except ChatwrightError as error:
        return None, error


def _outcome(ray: Any, number: int, reference: Any) -> Outcome:
    try:
        failure, error = ray.get(reference)
    except ray.exceptions.RayError as died:
        return Outcome(number, f"its process died each time: {type(died).__name__}")
    if error is not None:
        raise error
    return Outcome(number, failure)


def _take(waiting: Iterator[tuple[int, Any]], count: int) -> list[tuple[int, Any]]:
    return [item for _, item in zip(range(count), waiting, strict=False)]


def _worker_environment() -> dict[str, str]:
    environment = {"RAY_USAGE_STATS_ENABLED": "0"}
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return environment


def _ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError:
        raise UsageError(
            '`engine = "ray"` needs the package `ray`, which is not installed',
            hint="pip install 'chatwright[ray]', or leave `engine` out: one machine needs none",
        ) from None
    return ray
