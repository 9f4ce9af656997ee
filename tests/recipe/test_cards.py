"""Cards: every figure is the run's, hostile names stay text, and what is unknown is said."""

import json
import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_run import HOSTILE, write_model, write_run
from tiny_recipe import write_recipe

from chatwright.foundation import storage
from chatwright.foundation.errors import UsageError
from chatwright.model.directory import load_model, save_model
from chatwright.recipe import cards_hub
from chatwright.recipe.cards import DATA_CARD, MODEL_CARD, README, cards_for, write_cards, write_cards_for
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.runner import run_recipe


@pytest.fixture
def cards(tmp_path):
    run_dir = write_run(tmp_path / "sample")
    return {path.name: path.read_text(encoding="utf-8") for path in write_cards(run_dir)}


def head_of(card):
    """The YAML head as keys and JSON values."""
    begin, head, _ = card.split("---\n", 2)
    assert begin == ""
    return {key: json.loads(value) for key, value in (line.split(": ", 1) for line in head.splitlines())}


def test_a_run_gets_a_card_for_each_model_and_one_for_its_data(cards):
    assert sorted(cards) == [DATA_CARD, f"finetune-{MODEL_CARD}", f"pretrain-{MODEL_CARD}"]


def test_the_head_is_what_the_hub_reads(cards):
    head = head_of(cards[f"finetune-{MODEL_CARD}"])
    assert head["library_name"] == "transformers"
    assert head["pipeline_tag"] == "text-generation"
    assert "conversational" in head["tags"]
    assert "conversational" not in head_of(cards[f"pretrain-{MODEL_CARD}"])["tags"]


def test_the_model_card_carries_the_runs_figures_with_their_signatures(cards):
    card = cards[f"finetune-{MODEL_CARD}"]
    for figure in ("123,456", "1.950", "75", "61.2", "nrefs:1|case:mixed".replace("|", "\\|"), "+0.031", "b" * 64):
        assert figure in card, figure


def test_the_weakest_domain_is_that_of_the_highest_loss_and_not_that_of_the_worst_document(tmp_path):
    run_dir = write_run(tmp_path / "sample")
    place = run_dir / "evaluate" / "scores.json"
    scores = storage.read_json(place)
    scores["models"]["finetune"]["heldout"] = {
        name: {"bits_per_byte": bits} for name, bits in {"all": 2.0, "books": 1.9, "news": 2.4}.items()
    }
    storage.write_json(place, scores)
    storage.write_manifest(place.parent, storage.read_manifest(place.parent).facts)
    write_cards(run_dir)
    card = (run_dir / f"finetune-{MODEL_CARD}").read_text(encoding="utf-8")
    assert "- Weakest on `news`: 2.400 bits per byte, held out.\n" in card
    assert "- The hardest held-out document, of `books`: 3.300 bits per byte.\n" in card


def test_the_data_card_counts_licences_and_drops_and_names_what_is_unknown(cards):
    card = cards[DATA_CARD]
    for row in ("| MIT | 60 |", "| documents | not_text | 25 |", "| corpus | too_few_words | 9 |", "| books | 80 |"):
        assert row in card, row
    assert "They were read at a time that was not noted; when they were written is not known." in card


def test_hostile_names_become_neither_tags_nor_table_cells(cards):
    for card in cards.values():
        assert "<script>" not in card
    assert HOSTILE.split("<")[1].split(">")[0] in cards[DATA_CARD]


def test_a_run_without_documents_says_where_to_look_for_them(tmp_path):
    run_dir = write_run(tmp_path / "sample", stages=("finetune",))
    (path,) = write_cards(run_dir)
    assert "its base model's own card" in path.read_text(encoding="utf-8")


def test_a_folder_that_is_no_run_is_told(tmp_path):
    with pytest.raises(UsageError, match="not a run"):
        write_cards(tmp_path)


def test_the_heads_say_what_is_known_in_the_hub_s_words(tmp_path):
    run_dir = write_run(tmp_path / "sample")
    facts = storage.read_manifest(run_dir / "documents").facts
    facts["config"] = {"sources": [{"kind": "hub", "dataset": "org/texts"}, {"kind": "files", "path": "/books"}]}
    storage.write_manifest(run_dir / "documents", facts)
    columns = {"licence": ["CC-BY-SA-4.0"] * 3, "language": ["en", "en", "und"]}
    set_corpus(run_dir, columns)
    write_cards(run_dir)
    model = head_of((run_dir / f"pretrain-{MODEL_CARD}").read_text(encoding="utf-8"))
    assert (model["license"], model["language"], model["datasets"]) == ("cc-by-sa-4.0", ["en"], ["org/texts"])
    assert "base_model" not in model
    data = head_of((run_dir / DATA_CARD).read_text(encoding="utf-8"))
    assert (data["license"], data["language"], data["size_categories"]) == ("cc-by-sa-4.0", ["en"], ["n<1K"])


def test_the_head_names_a_base_of_the_hub_and_counts_its_licence(tmp_path):
    base = tmp_path / "models--org--small" / "snapshots" / "0123"
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Small\n")
    run_dir = write_run(tmp_path / "sample", stages=("finetune",))
    facts = storage.read_manifest(run_dir / "finetune").facts
    facts["inputs"] = {"base": {"path": str(base), "content": "c" * 64}}
    storage.write_manifest(run_dir / "finetune", facts)
    (path,) = write_cards(run_dir)
    head = head_of(path.read_text(encoding="utf-8"))
    assert (head["base_model"], head["license"]) == ("org/small", "apache-2.0")


@pytest.mark.parametrize(
    ("labels", "head"),
    [
        (["MIT"], {"license": "mit"}),
        (["GPL-3.0-or-later"], {"license": "gpl-3.0"}),
        (["PSF-2.0"], {"license": "other", "license_name": "PSF-2.0"}),
        (["MIT", "CC0-1.0"], {"license": "other", "license_name": "several"}),
        (["MIT", "unknown"], {"license": "unknown"}),
        (["Apache-2.0", "apache-2.0"], {"license": "apache-2.0"}),
        (["Zlib"], {"license": "zlib"}),
        ([], {"license": "unknown"}),
    ],
)
def test_the_licence_of_a_model_is_claimed_only_where_all_it_was_made_of_has_one(labels, head):
    assert cards_hub.licence_of_model(labels) == head


@pytest.mark.parametrize(
    ("number", "category"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (5 * 10**6, "1M<n<10M"), (10**13, "n>1T")]
)
def test_sizes_are_the_hub_s_classes(number, category):
    assert cards_hub.size_categories(number) == [category]


def set_corpus(run_dir, columns):
    """Other documents in the sample's corpus."""
    number = len(next(iter(columns.values())))
    pq.write_table(pa.table({"text": ["words"] * number, **columns}), run_dir / "corpus" / "part-00000.parquet")
    facts = storage.read_manifest(run_dir / "corpus").facts
    storage.write_manifest(run_dir / "corpus", facts)


def test_the_period_is_that_of_the_documents_and_the_same_in_a_copied_run(tmp_path):
    run_dir = write_run(tmp_path / "sample")
    facts = storage.read_manifest(run_dir / "documents").facts
    storage.write_manifest(run_dir / "documents", facts | {"finished": 1_700_000_000.0})
    set_corpus(run_dir, {"fetched": ["2023-05-06T07:08:09+00:00", "", "2023-06-07T00:00:00+00:00"]})
    write_cards(run_dir)
    told = (run_dir / DATA_CARD).read_text(encoding="utf-8")
    assert "2 pages were fetched from 2023-05-06 to 2023-06-07. The others were read on 2023-11-14;" in told
    copied = shutil.copytree(run_dir, tmp_path / "copied")
    os.utime(copied / "documents" / storage.MANIFEST, (0, 0))
    (copied / DATA_CARD).unlink()
    write_cards(copied)
    assert (copied / DATA_CARD).read_text(encoding="utf-8") == told


@pytest.mark.parametrize(
    ("name", "title", "figure"),
    [
        ("align", "aligned model", "| divergence: nats an answer from the model it began as | 1.234 |"),
        ("distill", "distilled model", "| student: bits per byte of the same documents | 1.220 |"),
    ],
)
def test_improved_models_have_cards_with_their_figures(tmp_path, name, title, figure):
    summary = {
        "align": {"objective": "dpo", "divergence_nats": 1.234, "forgetting": {"all": 0.02}, "model_digest": "e" * 64},
        "distill": {"by": "scores", "total": 1000, "student_bits_per_byte": {"all": 1.22}, "model_digest": "f" * 64},
    }[name]
    with storage.publish(tmp_path / name) as scratch:
        write_model(scratch, family="llama")
    facts = {"run": "sample", "summary": summary, "config": {"teacher": "/runs/big/align/model"}}
    storage.write_manifest(tmp_path / name, facts)
    (path,) = write_cards(tmp_path)
    card = path.read_text(encoding="utf-8")
    assert path.name == f"{name}-{MODEL_CARD}"
    for part in (f"# sample: {title}", figure, "| family | llama |", summary["model_digest"]):
        assert part in card, part
    assert ("conversational" in head_of(card)["tags"]) is (name == "align")
    assert ("| taught by | `big-align` |" in card) is (name == "distill")


TUNED = """
name = "tuned"
[base]
model = "base"
[finetune]
data = "chats/train.jsonl"
test = "chats/test.jsonl"
epochs = 1
batch_rows = 4
lora = { rank = 2 }
device = "cpu"
precision = "float32"
threads = 1
"""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny_network, tiny_tokenizer):
    """A run that fine-tuned a base from elsewhere, really."""
    folder = tmp_path_factory.mktemp("tuned")
    path = write_recipe(folder, documents=1)
    path.write_text(TUNED)
    save_model(folder / "base", tiny_network, tiny_tokenizer, lineage={})
    recipe = load_recipe(path, [f"runs={folder / 'runs'}"])
    run_recipe(recipe)
    return recipe


def test_a_stage_notes_when_it_was_done_and_what_it_read(tuned):
    facts = storage.read_manifest(tuned.run_dir / "finetune").facts
    digests = [storage.digest_file(Path(one)) for one in (tuned.finetune.data, tuned.finetune.test)]
    assert [facts["outside"][key]["digest"] for key in ("data", "test")] == digests
    assert 0 <= time.time() - facts["finished"] < 3600


def test_conversations_are_in_the_data_card_of_a_run_that_only_fine_tuned(tuned):
    paths = write_cards(tuned.run_dir)
    assert [path.name for path in paths] == [f"finetune-{MODEL_CARD}", DATA_CARD]
    card = paths[1].read_text(encoding="utf-8")
    digest = storage.digest_file(Path(tuned.finetune.data))[:12]
    assert "| finetune | learned from | train.jsonl | 9 | 18 |" in card
    assert "| finetune | tested with, never learned | test.jsonl | 3 | 6 |" in card
    assert digest in card
    assert head_of(card)["pretty_name"] == "tuned conversations"
    model = paths[0].read_text(encoding="utf-8")
    assert "| begun from | `base` |" in model
    assert "The 9 conversations" in model


def test_conversations_that_changed_since_are_not_counted(tuned, tmp_path):
    copied = shutil.copytree(tuned.run_dir, tmp_path / "copied")
    facts = storage.read_manifest(copied / "finetune").facts
    facts["outside"]["data"]["digest"] = "0" * 64
    storage.write_manifest(copied / "finetune", facts)
    card = write_cards(copied)[1].read_text(encoding="utf-8")
    assert "| finetune | learned from | train.jsonl | \N{EN DASH} | \N{EN DASH} | \N{EN DASH} | 000000000000 |" in card
    assert "gone or have changed since" in card


def test_a_model_takes_its_cards_along_where_it_is_published(tuned, tmp_path, tiny_network, tiny_tokenizer):
    model = tuned.run_dir / "finetune" / "model"
    cards = cards_for(model)
    assert sorted(cards) == [README, DATA_CARD]
    save_model(tmp_path / "exported", tiny_network, tiny_tokenizer, lineage={})
    write_cards_for(cards, tmp_path / "exported")
    assert head_of((tmp_path / "exported" / README).read_text(encoding="utf-8"))["library_name"] == "transformers"
    assert load_model(tmp_path / "exported").tokenizer.digest == tiny_tokenizer.digest
    storage.verify(tuned.run_dir / "finetune")  # and the stage is as it was published


def test_a_model_outside_any_run_has_no_card(tuned):
    assert cards_for(tuned.run_dir.parent.parent / "base") == {}
    assert cards_for(tuned.run_dir / "finetune" / "adapter") == {}
