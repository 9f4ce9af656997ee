"""How much memory this process may still take, and one error for what is raised where it may take no more."""

import contextlib
import re
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from chatwright.foundation.errors import OutOfMemoryError

# What PyTorch's allocators, the libraries below it and the system's threads say where memory ran out; only CUDA's has a
# class of its own.
_SIGNS = (
    "DefaultCPUAllocator",
    "bad_alloc",
    "out of memory",
    "ALLOC_FAILED",
    "could not create a memory object",
    "can't start new thread",
    "Cannot allocate memory",
)


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """What the elements of tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(sign in str(error) for sign in _SIGNS)


@contextlib.contextmanager
def memory_named(*, kept: str, hint: str) -> Iterator[None]:
    """Turn what is raised where memory runs out into one error, with what was needed and what there is.

    Args:
        kept: what is not lost.
        hint: what to do next.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(_said(error), cause=_first_line(error), kept=kept, hint=hint) from error


def _said(error: Exception) -> str:
    """The need, where the error tells it, and the limit."""
    needed = re.search(r"allocate (\d+) bytes", str(error))
    need = f"{int(needed[1]):,} bytes more were needed" if needed else "a little more was needed"
    return f"memory ran out: {need}; {_limit()}"


def _limit() -> str:
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if allowed != resource.RLIM_INFINITY:
        return f"this process may take {allowed:,} bytes of addresses (`ulimit -v`)"
    free = available_bytes()
    return "the system does not say how much there is" if free is None else f"{free:,} bytes are free"


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__


def available_bytes(*, meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that can be taken without swapping; None where the system does not say (it is not Linux)."""
    known = [number for number in (_of_machine(meminfo), _of_group(group)) if number is not None]
    return min(known, default=None)


def _of_machine(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None


def _of_group(group: Path) -> int | None:
    """Version 2 of control groups, as containers have it; files that the kernel would drop count as free."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        facts = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    return max(0, int(limit) - used + int(facts.get("inactive_file", 0)))
