"""Pages and cards describe the model that was made: its shape as saved, and the base that it began from."""

import re

import pytest
from sample_run import write_model, write_run

from chatwright.foundation import storage
from chatwright.recipe.cards import write_cards
from chatwright.recipe.report import write_report
from chatwright.recipe.report.facts import read_run
from chatwright.recipe.report.lineage_map import lineage_map
from chatwright.recipe.report.models import Base, base_of, hub_id, name_of, shape_of

BASE = "/models/smol-135"
SHAPE = {"family": "llama", "context_length": 2048, "layers": 2}


def begin(run_dir, stage, *, base=BASE, keep=()):
    """Make it so that a stage of a sample run began from a base, whose shape is not the recipe's."""
    facts = storage.read_manifest(run_dir / stage).facts
    kept = {name: item for name, item in facts["inputs"].items() if name in keep}
    facts["inputs"] = {"base": {"path": base, "content": "c" * 64}, **kept}
    storage.write_json(run_dir / stage / "model" / "config.json", {})
    for path in (run_dir / stage / "model").iterdir():
        path.unlink()
    (run_dir / stage / "model").rmdir()
    write_model(run_dir / stage, **SHAPE)
    storage.write_manifest(run_dir / stage, facts)
    return run_dir


@pytest.fixture
def pretrained(tmp_path):
    """[base] and [pretrain]: the section `model` says the defaults, the model is the base's."""
    return begin(write_run(tmp_path / "sample"), "pretrain", keep=("tokens", "tokenizer"))


@pytest.fixture
def tuned(tmp_path):
    """[base] and [finetune] alone."""
    return begin(write_run(tmp_path / "sample", stages=("finetune", "evaluate")), "finetune")


def words_of(page):
    return re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8"))


def card_of(run_dir, name):
    write_cards(run_dir)
    return (run_dir / name).read_text(encoding="utf-8")


def test_a_pretraining_that_begins_from_a_base_is_told_in_the_base_s_shape_and_with_its_name(pretrained):
    page = words_of(write_report(pretrained))
    assert "in the Llama shape, begun from the base `smol-135`, learned from" in page
    assert "Qwen3" not in page.partition("How it was made")[0]
    card = card_of(pretrained, "pretrain-model-card.md")
    for row in ("| begun from | `smol-135` |", "| family | llama |", "| context | 2,048 tokens |", "- base `smol-135`"):
        assert row in card, row


def test_a_pretraining_without_a_base_is_told_by_what_was_saved(tmp_path):
    run_dir = write_run(tmp_path / "sample")
    facts = storage.read_manifest(run_dir / "pretrain").facts
    (run_dir / "pretrain" / "model" / "config.json").unlink()
    (run_dir / "pretrain" / "model").rmdir()
    write_model(run_dir / "pretrain", context_length=96)  # as `chunk = "auto"` chose it
    facts["config"]["model"]["context_length"] = 1024
    storage.write_manifest(run_dir / "pretrain", facts)
    card = card_of(run_dir, "pretrain-model-card.md")
    assert "| context | 96 tokens |" in card
    assert "begun from" not in card
    assert "in the Qwen3 shape learned from" in words_of(write_report(run_dir))


def test_a_fine_tune_of_a_base_names_it_on_the_page_in_the_map_and_on_the_card(tuned):
    page = words_of(write_report(tuned))
    assert "a base model of 123,456 parameters in the Llama shape, `smol-135`, was fine-tuned" in page
    drawn = str(lineage_map(read_run(tuned)))
    assert drawn.count("<rect") == 3
    assert drawn.count('marker-end="url(#arrow)"') == 2  # from the base, and to the evaluation
    assert "finetune from the base smol-135" in drawn
    assert "smol-135</text>" in drawn
    card = card_of(tuned, "finetune-model-card.md")
    assert "| begun from | `smol-135` |" in card
    assert "| family | llama |" in card
    assert "- base `smol-135`, from elsewhere" in card


def test_the_base_of_a_fine_tune_is_found_through_the_pretraining(pretrained):
    begin(pretrained, "finetune", base="pretrain/model")
    run = read_run(pretrained)
    assert base_of(run, "finetune") == Base("smol-135", BASE, "c" * 64)
    assert shape_of(run.stages["finetune"]).family == "llama"
    assert str(lineage_map(run)).count("<rect") == 8


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/smol", "smol"),
        ("/runs/demo/finetune/model", "demo-finetune"),
        ("/home/me/.cache/huggingface/hub/models--org--name/snapshots/0123abcd", "org/name"),
        ("/model", "model"),
    ],
)
def test_a_base_is_called_as_people_know_it(path, name):
    assert name_of(path) == name


def test_the_hub_s_name_of_a_base_is_its_cache_s_or_what_its_own_files_say(tmp_path):
    cached = "/cache/models--org--name/snapshots/0123abcd"
    assert hub_id(Base(name_of(cached), cached, "")) == "org/name"
    mine = Base("smol", str(tmp_path), "")
    assert hub_id(mine) is None
    for named, expected in (("org/name", "org/name"), ("./here", None), ("/a/b", None), (str(tmp_path), None)):
        storage.write_json(tmp_path / "config.json", {"_name_or_path": named})
        assert hub_id(mine) == expected
