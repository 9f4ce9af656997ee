"""From sources with caps to a training that draws them by weight, through a recipe."""

import json

import pytest
from tiny_recipe import text_of, write_recipe

from chatwright.foundation import storage
from chatwright.foundation.config import without_habits
from chatwright.foundation.errors import DataError
from chatwright.recipe.preview import preview
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.runner import run_recipe
from chatwright.recipe.stages import stages_of


@pytest.fixture
def recipe(tmp_path):
    """Two sources, the second of them capped, and a mixture that turns their sizes round."""
    path = write_recipe(tmp_path)
    (tmp_path / "letters").mkdir()
    for number in range(100, 160):
        (tmp_path / "letters" / f"{number}.txt").write_text(text_of(number))
    more = '[[collect.sources]]\nkind = "files"\npath = "letters"\nmax_documents = 20\n\n[clean]'
    mixture = "[pretrain.mixture]\nweights = { documents = 1, letters = 3 }\nmax_epochs = 50\n\n[finetune]"
    path.write_text(path.read_text().replace("[clean]", more).replace("[finetune]", mixture))
    return path


@pytest.mark.slow
def test_the_reports_say_what_each_source_gave_and_what_was_drawn(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_recipe(load_recipe(recipe), until="pretrain")
    run_dir = tmp_path / "runs" / "tiny"
    sources = json.loads((run_dir / "documents" / "report.json").read_text())["sources"]
    assert [(one["source"].rsplit("/")[-1].split()[-1], one["documents"]) for one in sources] == [
        ("documents", 60),
        ("letters", 20),
    ]
    assert sources[1]["dropped"]["over_cap"] >= 1
    tokens = storage.read_manifest(run_dir / "tokens").facts["summary"]
    assert set(tokens["by_domain"]) == {"documents", "letters"}
    assert sum(tokens["by_domain"].values()) == tokens["train"]["tokens"]
    drawn = storage.read_manifest(run_dir / "pretrain").facts["summary"]["mixture"]
    assert drawn["letters"]["tokens"] == 3 * drawn["documents"]["tokens"]


@pytest.mark.slow
def test_a_mixture_that_repeats_too_much_stops_before_training(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = load_recipe(recipe, ["pretrain.mixture.max_epochs=0.01"])
    with pytest.raises(DataError, match="letters"):
        run_recipe(loaded, until="pretrain")


def tokenizer_settings(recipe):
    (stage,) = (one for one in stages_of(recipe) if one.name == "tokenizer")
    return stage.config(recipe)


def test_a_tokenizer_is_learned_by_the_weights_of_training(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_recipe(load_recipe(recipe), until="tokenize")
    facts = storage.read_manifest(tmp_path / "runs" / "tiny" / "tokenizer").facts
    assert facts["config"]["weights"] == {"documents": 1.0, "letters": 3.0}
    sample = {name: one["bytes"] for name, one in facts["summary"]["sample"].items()}
    assert sample["letters"] == pytest.approx(3 * sample["documents"], rel=0.2)
    states = preview(load_recipe(recipe, ["pretrain.steps=7"]))["stages"]
    assert states["tokenizer"] == "unchanged"


def test_a_tokenizer_keeps_the_settings_of_a_recipe_without_weights_and_those_it_has_itself(recipe, tmp_path):
    plain = load_recipe(write_recipe(tmp_path / "plain"))
    assert "weights" not in without_habits(tokenizer_settings(plain))
    assert tokenizer_settings(load_recipe(recipe, ["tokenizer.weights.letters=1.0"])).weights == {"letters": 1.0}
    assert tokenizer_settings(load_recipe(recipe, ["tokenizer.weights={}"])).weights == {}
    assert tokenizer_settings(load_recipe(recipe, ['tokenizer.kind="bytes"'])).weights is None
