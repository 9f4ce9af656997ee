"""Chat in the terminal: several turns, text as it comes, Ctrl-C stops an answer. Stores nothing; knows no HTTP."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

from chatwright.feedback.conversations import Message
from chatwright.foundation.errors import UsageError
from chatwright.foundation.stopping import StopFlag
from chatwright.model.generation import Sampling
from chatwright.serve.engine import Talker, latest_that_fit

HELP = "  /new   begin a new conversation\n  /quit  leave (so does the end of the input)\n  /help  this\n"
PROMPT = "you> "


def chat_in_terminal(model: Talker, *, sampling: Sampling, stdin: TextIO, stdout: TextIO) -> None:
    """Talk until `/quit` or the end of the input.

    Args:
        model: what answers.
        sampling: how it answers.
        stdin: where questions come from, one a line; a pipe too.
        stdout: where answers go; prompts too where a person types.
    """
    is_person = stdin.isatty()
    if is_person:
        stdout.write(f"{model.name}: type a question; /help tells what else.\n")
    history: list[Message] = []
    while (line := _read_line(stdin, stdout, is_person=is_person)) is not None:
        text = line.strip()
        if text == "/quit":
            return
        if text.startswith("/"):
            history = _command(text, history, stdout)
        elif text:
            history = _turn(model, [*history, Message("user", text)], sampling, stdout)


def _read_line(stdin: TextIO, stdout: TextIO, *, is_person: bool) -> str | None:
    """The next line, or None at the end of the input. Ctrl-C at the prompt gives up the line, not the chat."""
    try:
        if is_person and stdin is sys.stdin and stdout is sys.stdout:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - its import gives `input` line editing and a history
            return input(PROMPT)
        if is_person:
            stdout.write(PROMPT)
            stdout.flush()
        return stdin.readline() or None
    except EOFError:
        stdout.write("\n")
        return None
    except KeyboardInterrupt:
        stdout.write("\n(/quit leaves)\n")
        return ""


def _command(text: str, history: list[Message], stdout: TextIO) -> list[Message]:
    if text == "/new":
        stdout.write("(a new conversation)\n")
        return []
    stdout.write(HELP if text == "/help" else f"`{printable(text)}` is not a command:\n{HELP}")
    return history


def _turn(model: Talker, messages: list[Message], sampling: Sampling, stdout: TextIO) -> list[Message]:
    """Answer the last message; the conversation with the answer, or without the question where there is none."""
    fitting = latest_that_fit(model, messages, reserve=min(sampling.max_tokens, model.context_length // 4))
    if len(fitting) < len(messages):
        stdout.write("(the beginning of the conversation no longer fits and is left out)\n")
    parts: list[str] = []
    try:
        with _stoppable() as stop:
            for piece in model.stream(fitting, sampling, cancelled=lambda: stop.requested):
                parts.append(piece.text)
                stdout.write(printable(piece.text))
                stdout.flush()
    except UsageError as error:
        stdout.write(f"{error}\n")
        return messages[:-1]
    stdout.write("\n(stopped)\n" if stop.requested else "\n")
    stdout.flush()
    return [*fitting, Message("assistant", "".join(parts))]


@contextlib.contextmanager
def _stoppable() -> Iterator[StopFlag]:
    """While an answer is written, Ctrl-C asks it to stop instead of ending the program."""
    flag = StopFlag()

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature is the system's
        flag.requested = True

    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


def printable(text: str) -> str:
    """Text without control characters, so that a model cannot steer the terminal; line ends and tabs stay."""
    return "".join(letter for letter in text if letter in "\n\t" or not (ord(letter) < 32 or 127 <= ord(letter) < 160))
