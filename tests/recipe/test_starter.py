"""`chatwright new`: a recipe that is sound from the first moment, and nothing of anyone's is touched."""

import pytest

from chatwright.foundation.errors import UsageError
from chatwright.recipe.preview import preview
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.starter import write_starter


def test_the_recipe_that_is_written_is_sound(tmp_path):
    write_starter(tmp_path / "mine")
    recipe = load_recipe(tmp_path / "mine" / "recipe.toml")
    assert recipe.name == "mine"
    assert recipe.collect.sources[0].path == str(tmp_path / "mine" / "documents")


def test_with_a_document_the_recipe_can_run(tmp_path):
    write_starter(tmp_path / "mine")
    (tmp_path / "mine" / "documents" / "one.txt").write_text("A first document.")
    recipe = load_recipe(tmp_path / "mine" / "recipe.toml", [f"runs={tmp_path / 'runs'}"])
    assert preview(recipe)["stages"]["pretrain"] == "would be done"


def test_the_conversations_of_the_comments_are_sound_too(tmp_path):
    write_starter(tmp_path)
    path = tmp_path / "recipe.toml"
    marks = ("# [finetune]", "# data =", "# test =", "# epochs =", "# answers =")
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.removeprefix("# ") if line.startswith(marks) else line for line in lines))
    recipe = load_recipe(path)
    assert recipe.finetune.data == str(tmp_path / "train.jsonl")
    assert recipe.evaluate.answers == str(tmp_path / "test.jsonl")


def test_the_next_steps_are_told(tmp_path):
    told = write_starter(tmp_path / "mine")
    assert str(tmp_path / "mine" / "documents") in told
    assert f"chatwright run {tmp_path / 'mine' / 'recipe.toml'}" in told


def test_an_empty_folder_is_taken(tmp_path):
    write_starter(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["documents", "recipe.toml"]


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        write_starter(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        write_starter(tmp_path / "mine")


@pytest.mark.parametrize("name", ["My documents", "évolution", "-", "x" * 200, "2026.notes"])
def test_any_name_of_a_folder_gives_a_sound_name_of_a_run(tmp_path, name):
    write_starter(tmp_path / name)
    assert load_recipe(tmp_path / name / "recipe.toml").name
