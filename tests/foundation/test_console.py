"""What a person sees while work goes on, on stderr."""

import io

import pytest

from chatwright.foundation.console import ProgressLine, duration, out, printable, say


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_are_written_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_messages_leave_stdout_to_data(capsys):
    say("hello")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello\n")


def test_progress_elsewhere_than_on_a_terminal_is_lines():
    stream = io.StringIO()
    progress = ProgressLine("train", 4, every_s=0, stream=stream)
    for step in range(1, 5):
        progress.update(step, f"loss {step}")
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("  train 1/4 (25%) | loss 1 | ")
    assert lines[0].endswith("left")
    assert lines[-1] == "  train 4/4 (100%) | loss 4"


def test_progress_on_a_terminal_rewrites_its_line_and_leaves_no_rest():
    stream = Terminal()
    progress = ProgressLine("work", 2, stream=stream)
    progress.update(2, "a long remark")
    progress.update(2, "short")
    progress.close()
    first, second = stream.getvalue().removeprefix("\r").removesuffix("\n").split("\r")
    assert len(second) == len(first)
    assert second.rstrip() == "  work 2/2 (100%) | short"


def test_progress_is_not_shown_more_often_than_it_should():
    stream = io.StringIO()
    progress = ProgressLine("work", 100, every_s=3600, stream=stream)
    for step in range(1, 100):
        progress.update(step)
    assert len(stream.getvalue().splitlines()) <= 1
    progress.update(100)
    assert stream.getvalue().splitlines()[-1] == "  work 100/100 (100%)"


def test_progress_over_nothing_is_complete():
    stream = io.StringIO()
    ProgressLine("work", 0, stream=stream).update(0)
    assert stream.getvalue() == "  work 0/0 (100%)\n"


def test_progress_that_resumed_counts_its_own_speed_only():
    stream = io.StringIO()
    ProgressLine("work", 10, start=5, every_s=0, stream=stream).update(5)
    assert "left" not in stream.getvalue()


STEERING = "\x1b[2J\x1b]0;title\x07\x9b31m\rover\x08\x7f"


def test_what_steers_a_terminal_goes_and_every_script_line_and_tab_stays(capsys):
    kept = "ä你👩‍👩‍👧\tone\ntwo"
    assert printable(STEERING + kept) == "[2J]0;title31mover" + kept
    say(STEERING)
    out(STEERING)
    assert capsys.readouterr() == ("[2J]0;title31mover\n", "[2J]0;title31mover\n")


def test_a_document_s_name_cannot_leave_its_progress_line():
    stream = Terminal()
    ProgressLine("collect", 1, stream=stream).update(1, "a\nb\x1b[2J\r.txt")
    assert stream.getvalue() == "\r  collect 1/1 (100%) | a b[2J.txt"
