"""Chat in the terminal: several turns, text as it comes, Ctrl-C stops an answer. Stores nothing; knows no HTTP."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from chatwright.feedback.conversations import Message
from chatwright.foundation.console import printable
from chatwright.foundation.errors import UsageError
from chatwright.foundation.stopping import StopFlag
from chatwright.model.generation import Sampling
from chatwright.serve.engine import Talker, latest_that_fit

HELP = """  /new             begin a new conversation
  /again           answer the last question again
  /undo            take back the last question and its answer
  /system TEXT     what the model should know or be; without a text it shows what is set
  /set NAME VALUE  temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty, frequency_penalty,
                   max_tokens or seed; without a name it shows all of them
  /save FILE       write the conversation as Markdown
  /quit            leave (so does the end of the input)
  /help            this
  A line that ends with \\ goes on in the next one; a line with three quotes begins and ends a longer text.
"""
PROMPT = "you> "
MORE = "...> "
QUOTES = '"""'
SETTINGS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "max_tokens",
    "seed",
)
_WHOLE = frozenset({"top_k", "max_tokens", "seed"})


@dataclass
class _Chat:
    """A conversation in the terminal as it stands."""

    model: Talker
    sampling: Sampling
    stdin: TextIO
    stdout: TextIO
    is_person: bool
    history: list[Message] = field(default_factory=list)
    system: str = ""

    def write(self, text: str) -> None:
        self.stdout.write(printable(text))
        self.stdout.flush()

    def messages(self) -> list[Message]:
        return [*([Message("system", self.system)] if self.system else []), *self.history]


def chat_in_terminal(model: Talker, *, sampling: Sampling, stdin: TextIO, stdout: TextIO) -> None:
    """Talk until `/quit` or the end of the input.

    Args:
        model: what answers.
        sampling: how it answers.
        stdin: where questions come from, one a line; a pipe too.
        stdout: where answers go; prompts too where a person types.
    """
    chat = _Chat(model, sampling, stdin, stdout, is_person=stdin.isatty())
    if chat.is_person:
        chat.write(f"{model.name}: type a question; /help tells what else.\n")
    while (text := _read_text(chat)) is not None:
        if text == "/quit":
            return
        if text.startswith("/"):
            _command(chat, text)
        elif text:
            chat.history.append(Message("user", text))
            _answer(chat)


def _read_text(chat: _Chat) -> str | None:
    """The next question or command, of several lines where it says so; None at the end of the input."""
    line = _read_line(chat, PROMPT)
    if line is None:
        return None
    if line.strip() == QUOTES:
        lines = []
        while (line := _read_line(chat, MORE)) is not None and line.strip() != QUOTES:
            lines.append(line.rstrip("\n"))
        return "\n".join(lines).strip()
    lines = [line.rstrip("\n")]
    while lines[-1].endswith("\\") and (line := _read_line(chat, MORE)) is not None:
        lines[-1] = lines[-1][:-1]
        lines.append(line.rstrip("\n"))
    return "\n".join(lines).strip()


def _read_line(chat: _Chat, prompt: str) -> str | None:
    """The next line, or None at the end of the input. Ctrl-C at the prompt gives up the line, not the chat."""
    try:
        if chat.is_person and chat.stdin is sys.stdin and chat.stdout is sys.stdout:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - its import gives `input` line editing and a history
            return input(prompt)
        if chat.is_person:
            chat.write(prompt)
        return chat.stdin.readline() or None
    except EOFError:
        chat.write("\n")
        return None
    except KeyboardInterrupt:
        chat.write("\n(/quit leaves)\n")
        return ""


def _command(chat: _Chat, text: str) -> None:
    name, _, rest = text.partition(" ")
    rest = rest.strip()
    commands: dict[str, Callable[[_Chat, str], None]] = {
        "/new": _begin,
        "/again": _again,
        "/undo": _undo,
        "/system": _set_system,
        "/set": _set,
        "/save": _save,
        "/help": lambda chat, _: chat.write(HELP),
    }
    act = commands.get(name)
    if act is None:
        chat.write(f"`{text}` is not a command:\n{HELP}")
    else:
        act(chat, rest)


def _begin(chat: _Chat, _: str) -> None:
    chat.history.clear()
    chat.write("(a new conversation)\n")


def _again(chat: _Chat, _: str) -> None:
    if chat.history and chat.history[-1].role == "assistant":
        chat.history.pop()
    if chat.history:
        _answer(chat)
    else:
        chat.write("(there is no question to answer again)\n")


def _undo(chat: _Chat, _: str) -> None:
    had_any = bool(chat.history)
    while chat.history and chat.history.pop().role != "user":
        pass
    chat.write("(taken back)\n" if had_any else "(there is nothing to take back)\n")


def _set_system(chat: _Chat, text: str) -> None:
    chat.system = text or chat.system
    chat.write(f"system: {chat.system or '(none)'}\n")


def _set(chat: _Chat, rest: str) -> None:
    name, _, value = rest.partition(" ")
    if not name:
        chat.write("".join(f"  {known} = {getattr(chat.sampling, known)}\n" for known in SETTINGS))
        return
    if name not in SETTINGS:
        chat.write(f"`{name}` cannot be set; known: {', '.join(SETTINGS)}\n")
        return
    try:
        number: Any = int(value) if name in _WHOLE else float(value)
        if name == "max_tokens" and number < 1:
            raise UsageError("`max_tokens` must be 1 or more")
        chat.sampling = replace(chat.sampling, **{name: number})
    except ValueError:
        chat.write(f"`{name}` needs a {'whole ' * (name in _WHOLE)}number: {value}\n")
    except UsageError as error:
        chat.write(f"{error}\n")
    else:
        chat.write(f"  {name} = {number}\n")


def _save(chat: _Chat, name: str) -> None:
    names = {"system": "System", "user": "You", "assistant": "Model"}
    text = "\n\n".join(f"## {names[message.role]}\n\n{message.content.strip()}" for message in chat.messages())
    if not name:
        chat.write("(/save needs the name of a file)\n")
        return
    try:
        with Path(name).open("x", encoding="utf-8") as file:  # never over a file that is there
            file.write(f"# Conversation with {chat.model.name}\n\n{text}\n")
    except OSError as error:
        chat.write(f"(not saved: {error.strerror}: {name})\n")
    else:
        chat.write(f"(saved as {name})\n")


def _answer(chat: _Chat) -> None:
    """Answer the last question; where the model cannot read it, it is taken back."""
    answered = _turn(chat.model, chat.messages(), chat.sampling, chat.stdout)
    chat.history = [message for message in answered if message.role != "system"]


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
        stdout.write(printable(f"{error}\n"))
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
