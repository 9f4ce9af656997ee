"""What a person sees on the terminal: messages and one progress line on stderr while work goes on, answers on stdout.

Names, questions and answers come from guests, documents and models: nothing of them may steer the terminal.
"""

import sys
import time
from typing import TextIO

# The control characters of ASCII and of Latin-1 but line ends and tabs: what begins a terminal's own sequences.
_STEERING = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")})


def printable(text: str) -> str:
    """Text without control characters, so that it cannot steer the terminal; line ends and tabs stay."""
    return text.translate(_STEERING)


def out(text: object) -> None:
    """What a command answers, for a person, on stdout; not for JSON, which keeps every character."""
    sys.stdout.write(printable(str(text)) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """One line for the person, on stderr: stdout is for data."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """Seconds as people say them: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class ProgressLine:
    """One line that says how far, how fast and how long still.

    On a terminal it is rewritten in place; elsewhere a new line is printed every `every_s` seconds.
    """

    def __init__(self, label: str, total: int, *, start: int = 0, every_s: float = 10.0, stream: TextIO | None = None):
        self._label = label
        self._total = total
        self._start = start
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._every_s = 0.2 if self._is_terminal else every_s
        self._began = time.monotonic()
        self._shown = 0.0
        self._width = 0

    def update(self, done: int, text: str = "", *, total: int | None = None) -> None:
        """Show progress if it is time, or if the work is complete. `total` corrects what was known at the start."""
        self._total = self._total if total is None else total
        now = time.monotonic()
        if done < self._total and now - self._shown < self._every_s:
            return
        self._shown = now
        share = done / self._total if self._total else 1.0
        rate = (done - self._start) / (now - self._began) if now > self._began else 0.0
        left = f"{duration((self._total - done) / rate)} left" if rate > 0 and done < self._total else ""
        parts = [f"{self._label} {done}/{self._total} ({share:.0%})", text, left]
        line = "  " + " | ".join(part for part in parts if part)
        self._write(line)

    def close(self) -> None:
        """End the line, so that what follows begins on its own."""
        if self._is_terminal and self._width:
            self._stream.write("\n")
            self._stream.flush()

    def _write(self, line: str) -> None:
        line = printable(line).replace("\n", " ")
        if self._is_terminal:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
