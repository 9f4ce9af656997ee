"""How busy the machine is now: processor and memory, where the system tells (Linux). Not what one process takes."""

from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_IDLE = (3, 4)  # idle and waiting for input, in the first line of /proc/stat


class Usage(NamedTuple):
    """A look at the machine; None where it does not tell."""

    processor_share: float | None  # of all cores, since the look before
    memory_used_bytes: int | None
    memory_bytes: int | None


class UsageMeter:
    """Looks again and again; the share of the processor is what was busy between two looks."""

    def __init__(self, *, proc: Path = _PROC):
        self._proc = proc
        self._before = self._ticks()

    def look(self) -> Usage:
        """What is used now."""
        now, before = self._ticks(), self._before
        self._before = now
        share = None
        if now is not None and before is not None and now[1] > before[1]:
            share = 1 - (now[0] - before[0]) / (now[1] - before[1])
        total, free = self._memory("MemTotal"), self._memory("MemAvailable")
        return Usage(share, None if total is None or free is None else total - free, total)

    def _ticks(self) -> tuple[int, int] | None:
        """Idle and all ticks since the machine began."""
        try:
            first = (self._proc / "stat").read_text(encoding="ascii").splitlines()[0]
            numbers = [int(word) for word in first.split()[1:9]]
        except (OSError, ValueError, IndexError):
            return None
        return sum(numbers[place] for place in _IDLE), sum(numbers)

    def _memory(self, key: str) -> int | None:
        try:
            lines = (self._proc / "meminfo").read_text(encoding="ascii").splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
        except (OSError, ValueError, StopIteration):
            return None
