"""The terminal chat: turns, commands, the end of the input, and stopping an answer."""

import io
import itertools
import os
import pty
import signal
import sys

from echo_server import EchoEngine

from chatwright.feedback.conversations import Message
from chatwright.model.generation import Piece, Sampling
from chatwright.serve.engine import latest_that_fit
from chatwright.serve.terminal import chat_in_terminal


class Listener(EchoEngine):
    """Remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def stream(self, messages, sampling, *, cancelled):
        self.heard.append([message.content for message in messages])
        yield from super().stream(messages, sampling, cancelled=cancelled)


def talk(text, model=None):
    stdout = io.StringIO()
    chat_in_terminal(model or EchoEngine(), sampling=Sampling(max_tokens=20), stdin=io.StringIO(text), stdout=stdout)
    return stdout.getvalue()


def test_a_pipe_is_answered_line_by_line_without_prompts():
    assert talk("Hello\n\n  there  \n") == "You said: Hello\nYou said: there\n"


def test_earlier_turns_are_part_of_the_next_question():
    model = Listener()
    talk("one\ntwo\n", model)
    assert model.heard[1] == ["one", "You said: one", "two"]


def test_new_forgets_and_quit_leaves():
    model = Listener()
    shown = talk("one\n/new\ntwo\n/quit\nthree\n", model)
    assert model.heard == [["one"], ["two"]]
    assert "three" not in shown


def test_help_and_unknown_commands_tell_the_commands():
    assert "/quit" in talk("/help\n")
    assert "`/dance` is not a command" in talk("/dance\n")


def test_a_line_without_its_end_is_answered_too():
    assert talk("Hello") == "You said: Hello\n"


def test_a_question_that_is_too_long_is_refused_and_the_chat_goes_on():
    shown = talk("word " * 300 + "\nHello\n")
    assert "longer than the context" in shown
    assert shown.endswith("You said: Hello\n")


def test_a_long_conversation_loses_its_beginning_and_says_so():
    shown = talk(("word " * 40 + "\n") * 5)
    assert "no longer fits" in shown
    assert shown.count("You said") == 5


def test_what_is_left_out_is_the_oldest_and_never_the_system_message():
    turns = [Message("system", "Be kind"), *[Message("user", "a b c"), Message("assistant", "d e f")] * 40]
    kept = latest_that_fit(EchoEngine(), [*turns, Message("user", "last")], reserve=100)
    assert kept[0].content == "Be kind"
    assert kept[1].role == "user"
    assert kept[-1].content == "last"
    assert EchoEngine().count(kept) <= 100


def test_ctrl_c_stops_the_answer_and_not_the_chat():
    class Interrupted(EchoEngine):
        def _words(self, text):
            yield "begun "
            if text == "stop me":
                os.kill(os.getpid(), signal.SIGINT)
                yield from itertools.repeat(None)
            yield "ended"

    assert talk("stop me\nHello\n", Interrupted()) == "begun \n(stopped)\nbegun ended\n"


def test_a_model_cannot_steer_the_terminal():
    class Rude(EchoEngine):
        def stream(self, messages, sampling, *, cancelled):
            yield Piece("\x1b[2Jred\x9b31m\rline\n\tend\x07", "stop", 1, 1)

    assert talk("x\n", Rude()) == "[2Jred31mline\n\tend\n"


def talk_lines(lines):
    return talk("\n".join(lines) + "\n")


def test_lines_go_on_after_a_backslash_and_between_quotes():
    assert "You said: one\ntwo\n" in talk_lines(["one\\", "two"])
    assert "You said: three\n\nfour\n" in talk_lines(['"""', "three", "", "four", '"""'])


def test_settings_are_set_shown_and_refused():
    told = talk_lines(["/set max_tokens 2", "a b c", "/set top_p 0", "/set seed x", "/set nonsense 1", "/set"])
    assert "You said: \n" in told
    assert "`top_p` must be above 0" in told
    assert "`seed` needs a whole number" in told
    assert "`nonsense` cannot be set" in told
    assert "  max_tokens = 2\n" in told


def test_the_last_turn_is_answered_again_or_taken_back(tmp_path):
    path = tmp_path / "talk.md"
    told = talk_lines(
        [
            "Hello",
            "/again",
            "Bye",
            "/undo",
            "/system Be kind.",
            f"/save {path}",
            f"/save {path}",
            "/undo",
            "/undo",
            "/again",
        ]
    )
    assert told.count("You said: Hello") == 2
    assert "## System\n\nBe kind.\n\n## You\n\nHello\n\n## Model\n\nYou said: Hello\n" in path.read_text()
    assert "Bye" not in path.read_text()
    assert "not saved: File exists" in told
    assert "nothing to take back" in told
    assert "no question to answer again" in told


def test_a_person_at_a_terminal_is_prompted_and_answered():
    program = (
        "import sys; sys.path[:0] = ['tests/serve']; from echo_server import EchoEngine; "
        "from chatwright.model.generation import Sampling; from chatwright.serve.terminal import chat_in_terminal; "
        "chat_in_terminal(EchoEngine(), sampling=Sampling(max_tokens=50), stdin=sys.stdin, stdout=sys.stdout)"
    )
    child, screen = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", program])  # noqa: S606 - our own interpreter
    seen = b""
    for line, shown in ((None, b"you> "), (b"Hello", b"You said: Hello"), (b"/quit", b"")):
        if line is not None:
            os.write(screen, line + b"\n")
        while shown not in seen:
            seen += os.read(screen, 4096)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(screen)
    assert b"/help tells what else" in seen
