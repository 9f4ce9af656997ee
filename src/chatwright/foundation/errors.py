"""The errors a person can meet, each saying what happened, why, what is kept and what to do next.

One cause, one class. The exit code belongs to the class, so that programs can tell the cases apart.
Not for bugs of our own: those are assertions and show their traceback.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command says to the program that called it."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    STOPPED = 3
    REFUSED = 4


class ChatwrightError(Exception):
    """An error with a place and a next step, shown without a traceback.

    Args:
        what: what happened and where, with the value that was met.
        cause: why, if known.
        kept: what is still safe, if something might be feared lost.
        hint: what to do next.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, what: str, *, cause: str | None = None, kept: str | None = None, hint: str | None = None):
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.kept = kept
        self.hint = hint

    def __str__(self) -> str:
        """The error as a person reads it, one fact a line."""
        lines = [self.what]
        lines += [
            f"  {label} {text}"
            for label, text in (("cause:", self.cause), ("kept: ", self.kept), ("next: ", self.hint))
            if text
        ]
        return "\n".join(lines)


class UsageError(ChatwrightError):
    """A command or a call that cannot mean anything."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """A recipe with one or more problems, all of them reported."""

    def __init__(self, where: str, problems: list[str]):
        noun = "problem" if len(problems) == 1 else "problems"
        super().__init__(
            "\n".join([f"{where} has {len(problems)} {noun}:", *(f"  - {problem}" for problem in problems)]),
            hint="correct it, or override a key with `--set KEY=VALUE`; `chatwright new DIR` writes a commented recipe",
        )
        self.problems = problems


class DataError(ChatwrightError):
    """Documents or conversations that cannot be used, with the file and the line."""


class UnreachableError(DataError):
    """A disk, a server or a store that failed at reading; asking again may help."""


class StorageFullError(ChatwrightError):
    """The disk has no room for what was to be saved; what was there before is untouched."""


class OutOfMemoryError(ChatwrightError):
    """Memory ran out where the work cannot be made smaller; what was saved before is untouched."""


class StorageFailedError(ChatwrightError):
    """The disk failed at what was to be saved; what was there before is untouched."""


class DivergedError(ChatwrightError):
    """Training met more non-finite losses or gradients than its policy allows; it can go on from its checkpoint."""

    exit_code = ExitCode.STOPPED


class RankLostError(ChatwrightError):
    """Another process of a training ended or hangs; all end, and the same command goes on from the checkpoint."""

    exit_code = ExitCode.STOPPED


class StoppedError(ChatwrightError):
    """Stopped on request at a place from which the same command goes on."""

    exit_code = ExitCode.STOPPED


class RefusedError(ChatwrightError):
    """Input that is damaged, foreign or made by a newer version; nothing of it was used."""

    exit_code = ExitCode.REFUSED


class DamagedError(RefusedError):
    """What we wrote ourselves is not as it was written: cut, changed or unreadable. It can be made again."""


class BusyError(UsageError):
    """Another process works on the same run directory."""
