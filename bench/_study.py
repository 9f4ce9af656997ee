"""What the studies share: results kept line by line so that a study goes on where it was, and means with their spread.

Not a benchmark. Figures are computed from the lines that stand in the file, never from what a process remembers.
"""

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from chatwright.foundation import storage


class Results:
    """A JSON Lines file with one line for each run, by name."""

    def __init__(self, path: Path):
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lines = {line["name"]: line for line in storage.read_lines(path)} if path.is_file() else {}

    def once(self, name: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The run's line; it is run only if there is none yet."""
        if name not in self.lines:
            line = {"name": name, **run()}
            storage.append_line(self._path, line)
            self.lines[name] = line
            print(line, flush=True)
        return self.lines[name]


def spread(values: Iterable[float | None], *, digits: int = 4) -> str:
    """Mean and sample standard deviation; `-` where nothing was measured, and how many of the runs were."""
    listed = list(values)
    found = [value for value in listed if value is not None]
    if not found:
        return "-"
    part = "" if len(found) == len(listed) else f" ({len(found)} of {len(listed)})"
    around = f" ± {statistics.stdev(found):.{digits}f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.{digits}f}{around}{part}"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
