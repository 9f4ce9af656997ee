"""Whose the cores are while the engine steps: the compiled kernels' own threads, or PyTorch's.

PyTorch's threads (libgomp's) go on spinning for milliseconds after each of its operations, and would hold the cores on
which the kernels' threads are to work: a step of eight rows took 1.6 times as long. So PyTorch works alone meanwhile.
"""

import contextlib
import threading
from collections.abc import Iterator

import torch

_here = threading.local()  # its `inside`: whether this thread is
_lock = threading.Lock()
_inside = 0
_usual = 1


@contextlib.contextmanager
def for_kernels() -> Iterator[None]:
    """PyTorch takes no second thread in this one; `kernel_threads` goes on telling how many there are."""
    global _inside, _usual  # noqa: PLW0603 - the number of PyTorch's threads is one of the process, too
    if getattr(_here, "inside", False):
        yield
        return
    with _lock:
        if not _inside:
            _usual = torch.get_num_threads()
        _inside += 1
        usual = _usual  # of the process: a thread that begins while others are inside would find one
    torch.set_num_threads(1)
    _here.inside = True
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
        _here.inside = False
        torch.set_num_threads(usual)


def kernel_threads() -> int:
    """How many threads the kernels take: as many as PyTorch would."""
    return _usual if _inside else torch.get_num_threads()
