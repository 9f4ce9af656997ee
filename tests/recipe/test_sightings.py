"""From a document to the shards and models that saw it, and out of them again."""

import json

import pytest
from tiny_recipe import write_recipe
from typer.testing import CliRunner

from chatwright.cli.main import app
from chatwright.data.document import iter_documents
from chatwright.foundation.errors import DataError
from chatwright.recipe import sightings
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.runner import run_recipe
from chatwright.tokens.shards import TokenData
from chatwright.tokens.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run up to its base model; one document is too short to survive cleaning."""
    folder = tmp_path_factory.mktemp("sightings")
    recipe = write_recipe(folder)
    (folder / "documents" / "short.txt").write_text("Too short.")
    run_recipe(load_recipe(recipe, [f"runs={folder / 'runs'}"]), until="pretrain")
    return folder / "runs" / "tiny"


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_tokens_that_are_named_are_those_of_the_document(run_dir, split):
    document = next(iter_documents(run_dir / "corpus", split=split))
    found = sightings.trace(run_dir / "pretrain" / "model", document.path)
    (entry,) = found["runs"][0]["documents"]
    (place,) = entry["tokens"]
    assert (entry["id"], place["split"], entry["raw_sha256"]) == (document.id, split, document.raw_sha256)
    shard = TokenData(run_dir / "tokens").split(split)
    ids = shard.slice(place["first_token"], place["num_tokens"])
    tokenizer = load_tokenizer(run_dir / "tokenizer")
    assert tokenizer.decode(ids[:-1].tolist()) == document.text
    (model,) = found["runs"][0]["models"]
    assert model["saw"] == {"train": "trained on it", "heldout": "measured on it"}[split]


@pytest.mark.slow
def test_a_document_that_cleaning_dropped_was_seen_by_no_model(run_dir):
    found = sightings.trace(run_dir / "pretrain" / "model", "short.txt")
    (entry,) = found["runs"][0]["documents"]
    assert (entry["dropped_in_cleaning"], entry["tokens"], entry["corpus"]) == (True, [], None)
    assert [model["saw"] for model in found["runs"][0]["models"]] == ["did not see it"]


@pytest.mark.slow
def test_an_unknown_document_says_what_a_name_may_be(run_dir):
    with pytest.raises(DataError, match=r"nowhere\.txt") as caught:
        sightings.trace(run_dir / "pretrain" / "model", "nowhere.txt")
    assert "URL" in caught.value.hint


@pytest.mark.slow
def test_the_command_names_shard_model_and_the_way_out(run_dir):
    model = str(run_dir / "pretrain" / "model")
    document = next(iter_documents(run_dir / "corpus", split="train"))
    shown = CliRunner().invoke(app, ["lineage", model, "--document", document.id])
    assert shown.exit_code == 0
    assert "tokens/train-00000" in shown.stdout
    assert "taken_down" in shown.stdout
    value = json.loads(CliRunner().invoke(app, ["lineage", model, "--document", document.id, "--json"]).stdout)
    assert value["runs"][0]["documents"][0]["path"] == document.path


@pytest.mark.slow
def test_a_document_that_is_taken_down_is_in_nothing_that_is_made_again(run_dir):
    document = next(iter_documents(run_dir / "corpus", split="train"))
    recipe = load_recipe(
        run_dir.parent.parent / "recipe.toml",
        [f"runs={run_dir.parent}", "name=again", f"collect.taken_down=['{document.path}']"],
    )
    run_recipe(recipe, until="tokenize")
    again = run_dir.parent / "again"
    assert document.id not in {one.id for one in iter_documents(again / "corpus")}
    assert TokenData(again / "tokens").find(document.id) == []
    report = json.loads((again / "documents" / "report.json").read_text())
    assert report["dropped"]["taken_down"]["count"] == 1
