"""From a document to the shards and models that saw it, and out of them again."""

import json
import shutil

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
    """A run up to its base model; one document is too short to survive cleaning, two are copies of others."""
    folder = tmp_path_factory.mktemp("sightings")
    recipe = write_recipe(folder)
    (folder / "documents" / "short.txt").write_text("Too short.")
    (folder / "documents" / "zz-copy.txt").write_text((folder / "documents" / "005.txt").read_text())
    near = (folder / "documents" / "006.txt").read_text()
    (folder / "documents" / "zz-near.txt").write_text(f"{near.rstrip()[:-1]} indeed.\n")
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
def test_every_model_of_the_run_is_named_whichever_stage_or_round_made_it(run_dir, tmp_path):
    own = shutil.copytree(run_dir, tmp_path / "tiny")
    for stage in ("reward", "round-0001"):
        shutil.copytree(own / "pretrain" / "model", own / stage / "model")
    found = sightings.trace(own / "pretrain" / "model", "005.txt")["runs"][0]["models"]
    assert [model["model"] for model in found] == [
        str(own / stage / "model") for stage in ("pretrain", "reward", "round-0001")
    ]


@pytest.mark.slow
def test_a_document_that_cleaning_dropped_was_seen_by_no_model(run_dir):
    found = sightings.trace(run_dir / "pretrain" / "model", "short.txt")
    (entry,) = found["runs"][0]["documents"]
    assert (entry["dropped_in_cleaning"], entry["tokens"], entry["corpus"]) == (True, [], None)
    assert [model["saw"] for model in found["runs"][0]["models"]] == ["did not see it"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("copy", "original", "reason"),
    [("zz-copy.txt", "005.txt", "exact_duplicate"), ("zz-near.txt", "006.txt", "near_duplicate")],
)
def test_a_copy_that_went_leads_to_the_document_that_stands_for_it(run_dir, copy, original, reason):
    model = run_dir / "pretrain" / "model"
    texts = {document.path: document for document in iter_documents(run_dir / "corpus")}
    (kept,) = {copy, original} & texts.keys()
    (gone,) = {copy, original} - {kept}
    found = sightings.trace(model, gone)
    (entry,) = found["runs"][0]["documents"]
    assert entry["tokens"] == []
    assert (entry["stands_for_it"]["path"], entry["stands_for_it"]["reason"]) == (kept, reason)
    (place,) = entry["stands_for_it"]["tokens"]
    deed = {"train": "trained on", "heldout": "measured on"}[texts[kept].split]
    near = "" if reason == "exact_duplicate" else " a near copy of"
    assert [model["saw"] for model in found["runs"][0]["models"]] == [f"{deed}{near} it"]
    said = "\n".join(sightings.as_lines(found))
    assert "no tokens" not in said
    assert f"tokens/{place['shard']}" in said


@pytest.mark.slow
def test_what_goes_along_with_a_document_and_what_stays_is_said(run_dir):
    model = run_dir / "pretrain" / "model"
    found = sightings.trace(model, "005.txt")
    (copy,) = found["runs"][0]["documents"][0]["copies"]
    assert (copy["path"], copy["goes_along"], copy["in_corpus"]) == ("zz-copy.txt", True, False)
    assert sightings.as_lines(found)[-1] == "Copies with the same text go with it."
    found = sightings.trace(model, "006.txt")
    (copy,) = found["runs"][0]["documents"][0]["copies"]
    assert (copy["path"], copy["goes_along"]) == ("zz-near.txt", False)
    assert copy["id"] in sightings.as_lines(found)[-1]


@pytest.mark.slow
def test_a_corpus_that_does_not_name_its_copies_is_searched_by_the_hash_of_texts(run_dir, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run_dir, again)
    (again / "corpus" / "copies.parquet").unlink()
    (entry,) = sightings.trace(again / "pretrain" / "model", "zz-copy.txt")["runs"][0]["documents"]
    assert entry["stands_for_it"]["path"] == "005.txt"


@pytest.mark.slow
def test_the_text_of_a_document_that_is_taken_down_is_not_there_as_its_copy(run_dir):
    folder = run_dir.parent.parent
    settings = [f"runs={run_dir.parent}", "name=less", "collect.taken_down=['005.txt']"]
    run_recipe(load_recipe(folder / "recipe.toml", settings), until="clean")
    text = (folder / "documents" / "005.txt").read_text().strip()
    assert text not in {document.text.strip() for document in iter_documents(run_dir.parent / "less" / "corpus")}


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
