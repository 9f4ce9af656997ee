"""Every command that does a recipe, or a part of it, takes what they have in common."""

import pytest
from tiny_recipe import write_recipe

from chatwright.cli.main import app
from chatwright.foundation.errors import UsageError
from chatwright.recipe import runner

COMMANDS = "run collect clean tokenize pretrain finetune reward align distill evaluate".split()


@pytest.mark.parametrize("command", COMMANDS)
def test_each_tries_again_what_was_set_aside_where_it_is_asked_to(command, tmp_path, monkeypatch):
    path, asked = write_recipe(tmp_path), []
    monkeypatch.setattr(runner, "run_recipe", lambda _recipe, *, again, **_: asked.append(again) or [])
    for options in ([], ["--again"]):
        app([command, str(path), *options], standalone_mode=False)
    assert asked == [False, True]


@pytest.mark.parametrize("option", [("--again",), ("--set", "name=other")])
def test_a_model_directory_takes_no_option_of_recipes(option, tmp_path):
    with pytest.raises(UsageError, match=f"`{option[0]}` has no effect on a model directory"):
        app(["evaluate", str(tmp_path), *option], standalone_mode=False)
