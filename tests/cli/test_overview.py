"""The list of commands: every one has its place, a line that fits, and examples that the command line accepts."""

import shlex

import pytest
import typer
from typer.testing import CliRunner

import chatwright
from chatwright.cli.main import app
from chatwright.cli.overview import ENTRIES

WIDTH = 80
FRAME = 4  # of a panel, both sides
GAP = 2
EXAMPLES = [example for entry in ENTRIES for example in entry.examples]


@pytest.fixture(scope="module")
def group():
    return typer.main.get_command(app)


def test_every_command_stands_in_the_table_and_in_its_order(group):
    assert group.list_commands(None) == [entry.name for entry in ENTRIES]


def test_every_line_fits_a_terminal_of_eighty_columns():
    longest = max(len(entry.name) for entry in ENTRIES)
    assert [entry.line for entry in ENTRIES if len(entry.line) > WIDTH - FRAME - longest - GAP] == []


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_call_that_the_command_takes(group, example):
    arguments = shlex.split(example)
    command, context = group, None
    while hasattr(command, "commands"):
        name = arguments.pop(0)
        command = command.commands[name]
        context = typer.Context(command, info_name=name, parent=context)
    command.make_context(command.name, arguments)  # raises on an unknown option or too many words


def test_a_command_shows_its_examples_and_no_other_s(group):
    for entry in ENTRIES:
        assert group.commands[entry.name].epilog.splitlines()[1:] == [f"  chatwright {one}" for one in entry.examples]
        assert {shlex.split(one)[0] for one in entry.examples} == {entry.name}


def test_the_version_is_told_and_nothing_else():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"chatwright {chatwright.__version__}\n")


def commands_below(command):
    below = getattr(command, "commands", {})
    return [command] + [deeper for one in below.values() for deeper in commands_below(one)]


def test_no_help_has_brackets_that_its_rendering_would_swallow(group):
    for command in commands_below(group):
        texts = [command.help, command.epilog, *(getattr(parameter, "help", None) for parameter in command.params)]
        assert [text for text in texts if text and "[" in text] == []
