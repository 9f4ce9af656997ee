"""Cards: every figure is the run's, hostile names stay text, and what is unknown is said."""

import json

import pytest
from sample_run import HOSTILE, write_run

from chatwright.foundation import storage
from chatwright.foundation.errors import UsageError
from chatwright.recipe.cards import DATA_CARD, MODEL_CARD, write_cards


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
    assert "read on that day" in card


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
