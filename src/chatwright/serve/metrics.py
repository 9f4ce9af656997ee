"""What an operator watches, in Prometheus' text format. Written here: the format is a dozen lines, and small."""

import threading
from collections import Counter

from chatwright.serve.shelf import Shelf

DURATION_BOUNDS_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """Requests counted as they end; the engines are asked when somebody looks. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0
        self._count = 0
        self.open_requests = 0

    def count(self, route: str, *, method: str, status: int, seconds: float) -> None:
        """A request ended.

        Args:
            route: the endpoint as the application names it, never what a stranger wrote.
            method: HTTP's.
            status: what was answered.
            seconds: from its first byte to its last.
        """
        with self._lock:
            self._requests[route, method, status] += 1
            self._count += 1
            self._seconds += seconds
            for bound in DURATION_BOUNDS_S:
                self._buckets[bound] += seconds <= bound

    def text(self, shelf: Shelf) -> str:
        """Everything, a line each."""
        with self._lock:
            lines = [
                *_family("chatwright_requests_total", "counter", "Requests that ended."),
                *(
                    f'chatwright_requests_total{{route="{_safe(route)}",method="{method}",status="{status}"}} {number}'
                    for (route, method, status), number in sorted(self._requests.items())
                ),
                *_family("chatwright_request_seconds", "histogram", "Seconds from a request's first byte to its last."),
                *(f'chatwright_request_seconds_bucket{{le="{b}"}} {self._buckets[b]}' for b in DURATION_BOUNDS_S),
                f'chatwright_request_seconds_bucket{{le="+Inf"}} {self._count}',
                f"chatwright_request_seconds_sum {self._seconds:.6f}",
                f"chatwright_request_seconds_count {self._count}",
                *_family("chatwright_open_requests", "gauge", "Requests that are being answered."),
                f"chatwright_open_requests {self.open_requests}",
            ]
        return "\n".join([*lines, *_of_models(shelf)]) + "\n"


_MODEL_FAMILIES = (
    ("running_answers", "gauge", "Answers that are being read or written."),
    ("waiting_jobs", "gauge", "Requests that wait in the line."),
    ("cache_blocks_used", "gauge", "Blocks of the cache for keys and values that are in use."),
    ("cache_blocks", "gauge", "Blocks of the cache for keys and values."),
    ("prompt_tokens_total", "counter", "Tokens read."),
    ("shared_tokens_total", "counter", "Tokens of prompts that were in the cache already."),
    ("completion_tokens_total", "counter", "Tokens written."),
)


def _of_models(shelf: Shelf) -> list[str]:
    values = []
    for offer in shelf:
        load = offer.model.load()
        waiting = offer.worker.num_waiting + load.waiting
        tokens = (load.prompt_tokens, load.shared_tokens, load.completion_tokens)
        values.append((_safe(offer.model.name), (load.running, waiting, load.used_blocks, load.total_blocks, *tokens)))
    lines: list[str] = []
    for index, (name, kind, help_text) in enumerate(_MODEL_FAMILIES):
        lines += _family(f"chatwright_{name}", kind, help_text)
        lines += [f'chatwright_{name}{{model="{model}"}} {numbers[index]}' for model, numbers in values]
    return lines


def _family(name: str, kind: str, help_text: str) -> list[str]:
    return [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]


def _safe(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
