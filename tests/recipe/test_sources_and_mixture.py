"""From sources with caps to a training that draws them by weight, through a recipe."""

import json

import pytest
from tiny_recipe import text_of, write_recipe

from chatwright.foundation import storage
from chatwright.foundation.errors import DataError
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.runner import run_recipe


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
