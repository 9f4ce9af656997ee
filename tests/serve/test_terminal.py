"""The terminal chat: turns, commands, the end of the input, and stopping an answer."""

import io
import itertools
import os
import signal

from echo_server import EchoEngine

from chatwright.feedback.conversations import Message
from chatwright.model.generation import Piece, Sampling
from chatwright.serve.engine import latest_that_fit
from chatwright.serve.terminal import chat_in_terminal, printable


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
    assert printable("ä你👩‍👩‍👧") == "ä你👩‍👩‍👧"
