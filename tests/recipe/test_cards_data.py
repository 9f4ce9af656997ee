"""The data card: people's feedback, replayed text, teachers, domain names, versions and tokens; and nobody's places."""

import contextlib
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_run import write_model, write_run

from chatwright.feedback.conversations import Message
from chatwright.feedback.store import Answer, FeedbackStore, Rating
from chatwright.foundation import storage
from chatwright.model.directory import save_model
from chatwright.recipe.cards import DATA_CARD, MODEL_CARD, README, cards_for, write_cards
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.runner import run_recipe
from chatwright.tokens.shards import ShardWriter, write_index

DASH = "\N{EN DASH}"
ALIGNED = """
name = "aligned"
[base]
model = "base"
[align]
store = "{store}"
objective = "kto"
batch_rows = 4
max_answer_tokens = 4
lora = {{ rank = 2 }}
device = "cpu"
precision = "float32"
threads = 1
"""


def fill_store(place):
    """Sixteen answers to as many questions, each with a thumb of a person who agrees to being learned from."""
    with contextlib.closing(FeedbackStore(place)) as store:
        store.people.set_consent("ann", agrees=True)
        for number in range(16):
            asked = (Message("user", f"Is {number} even?"),)
            store.add_answer(
                Answer(id=str(number), model="base", model_digest="d", messages=asked, answer="Yes.", finish="stop")
            )
            store.add_rating(Rating(answer_id=str(number), thumb=-1 if number % 2 else 1, rater="ann"))


def table_rows(card, title):
    """The cells of the table under a heading, its head left out."""
    section = card.partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return rows[1:]


@pytest.fixture(scope="module")
def aligned(tmp_path_factory, tiny_network, tiny_tokenizer):
    """A run that aligned a base from elsewhere with a feedback store, really."""
    folder = tmp_path_factory.mktemp("anna")
    save_model(folder / "base", tiny_network, tiny_tokenizer, lineage={})
    fill_store(folder / "feedback.db")
    (folder / "recipe.toml").write_text(ALIGNED.format(store=folder / "feedback.db"))
    recipe = load_recipe(folder / "recipe.toml", [f"runs={folder / 'runs'}"])
    run_recipe(recipe)
    return recipe


def test_what_was_learned_from_people_stands_in_the_data_card(aligned):
    cards = {path.name: path.read_text(encoding="utf-8") for path in write_cards(aligned.run_dir)}
    noted = storage.read_manifest(aligned.run_dir / "align").facts
    row = ["align", "learned from, people's feedback", "feedback.db", DASH, DASH, DASH]
    row += [noted["outside"]["store"]["digest"][:12], f"{noted['summary']['rows']} verdicts"]
    assert table_rows(cards[DATA_CARD], "Conversations and preferences") == [row]
    assert "## People's feedback, `align`" in cards[DATA_CARD]
    assert "16 opinions of 1 raters" in cards[DATA_CARD]
    assert f"stand in `{DATA_CARD}`" in cards[f"align-{MODEL_CARD}"]
    assert str(aligned.run_dir.parent.parent) not in cards[DATA_CARD]


def test_of_a_database_s_address_only_its_name_is_told(aligned, tmp_path):
    copied = shutil.copytree(aligned.run_dir, tmp_path / "copied")
    facts = storage.read_manifest(copied / "align").facts
    facts["outside"]["store"]["path"] = "postgresql://anna:***@db.acme.internal/opinions?sslmode=require"
    storage.write_manifest(copied / "align", facts)
    card = write_cards(copied)[-1].read_text(encoding="utf-8")
    assert table_rows(card, "Conversations and preferences")[0][2] == "opinions"
    assert "acme" not in card


def round_report(number):
    sides = {"bits": {"all": 2.25}, "right": 0.5, "questions": 10}
    first = {"bits": {"all": 2.0}, "right": 0.5, "questions": 10}
    won = {"share": 0.72, "low": 0.61, "high": 0.83, "comparisons": 40, "questions": 30}
    return {
        "round": number,
        "verdict": "promoted",
        "feedback": {
            "train": {"pairs": 30 + number, "thumbs": 7, "edits": 2},
            "heldout": {"pairs": 9, "thumbs": 3},
        },
        "learning": {"objective": "dpo", "rows": 38, "divergence_nats": 1.25},
        "measured": {"new": sides, "old": sides, "first": first, "heldout": won, "earlier": None, "taught": None},
    }


def write_round(run_dir, number, *, begins_with):
    """What a promoted round publishes, with figures that are known."""
    place = run_dir / f"round-{number:04}"
    with storage.publish(place) as scratch:
        write_model(scratch, family="llama")
        storage.write_json(scratch / "report.json", round_report(number))
        storage.write_json(scratch / "learned.json", {"opinions": [f"opinion-{number}"], "answers": []})
        told = f"# Data card: preferences from feedback\n\n{number} answers of `<b>`\n\n## What is in it\n\nPairs."
        (scratch / "data_card.md").write_text(told)
    facts = {
        "stage": place.name,
        "run": "sample",
        "inputs": {"base": {"path": begins_with, "content": "c" * 64}},
        "config": {"store": "/home/anna/feedback.db", "promote": {"confidence": 0.9}},
        "seconds": 12.0,
        "summary": {"round": number, "verdict": "promoted"},
    }
    (place / storage.MANIFEST).unlink()
    storage.write_manifest(place, facts)
    return place / "model"


def test_a_round_s_model_takes_its_cards_along(tmp_path):
    run_dir = write_run(tmp_path / "sample")
    write_round(run_dir, 1, begins_with="finetune/model")
    model = write_round(run_dir, 2, begins_with="round-0001/model")
    cards = cards_for(model)
    assert sorted(cards) == [README, DATA_CARD]
    card = cards[README]
    for told in (
        "# sample: model of improvement round 2\n\nMade by chatwright. ",
        "| method | dpo |",
        "| held-out feedback won against the model before it, 40 comparisons | 72.0% (61.0% to 83.0%) |",
        "the 90% interval",
        "| right answers, of 10 test questions | 50.0% |",
        "| bits per byte, held out, all | 2.250 |",
        "forget +0.250 bits per byte",
        "- round-0001 `",
        "chatwright chat MODEL",
    ):
        assert told in card, told
    assert json.loads(card.partition("tags: ")[2].splitlines()[0]) == ["chatwright", "conversational"]
    rows = table_rows(cards[DATA_CARD], "Conversations and preferences")
    digest = storage.digest_file(run_dir / "round-0002" / "learned.json")[:12]
    use, corrected = "learned from, people's feedback", "2 of the pairs are corrected answers"
    assert [row[0] for row in rows] == ["round-0001"] * 2 + ["round-0002"] * 2
    assert rows[2] == ["round-0002", use, "feedback.db", DASH, DASH, DASH, digest, f"32 pairs, 7 thumbs; {corrected}"]
    assert rows[3][1:3] == ["tested with, never learned", "feedback.db"]
    assert "2 answers of `&lt;b>`\n\n### What is in it" in cards[DATA_CARD]
    assert "1 answers of" not in cards[DATA_CARD]  # the newest round's card counts what stands of the earlier ones


def test_a_round_that_was_rolled_back_is_no_part_of_what_followed(tmp_path):
    run_dir = write_run(tmp_path / "sample")
    write_round(run_dir, 1, begins_with="finetune/model")
    model = write_round(run_dir, 2, begins_with="finetune/model")
    assert not any("round-0001" in card for card in cards_for(model).values())
    assert not any("round-" in card for card in cards_for(run_dir / "finetune" / "model").values())


def test_a_run_of_a_base_and_rounds_alone_has_cards(tmp_path):
    (tmp_path / "recipe.toml").write_text('name = "sample"\n')
    model = write_round(tmp_path, 1, begins_with="/models/base")
    assert [path.name for path in write_cards(tmp_path)] == [f"round-0001-{MODEL_CARD}", DATA_CARD]
    assert "| begun from | `base` |" in cards_for(model)[README]


def test_a_refused_round_has_no_card(tmp_path):
    run_dir = write_run(tmp_path / "sample")
    model = write_round(run_dir, 1, begins_with="finetune/model")
    shutil.rmtree(model)
    assert cards_for(model) == {}
    assert f"round-0001-{MODEL_CARD}" not in [path.name for path in write_cards(run_dir)]


def tell(run_dir, stage, **changed):
    """Change what a stage's manifest says."""
    storage.write_manifest(run_dir / stage, storage.read_manifest(run_dir / stage).facts | changed)


def test_text_of_another_run_that_was_replayed_is_told_with_its_size(tmp_path):
    shards = tmp_path / "old" / "tokens"
    shards.mkdir(parents=True)
    writer = ShardWriter(vocabulary_size=100, end_of_text=0)
    writer.add([1, 2, 3], domain=0, num_bytes=2_000)
    writer.add([4, 5], domain=0, num_bytes=1_000)
    write_index(
        shards,
        {"train": [writer.save(shards / "train-00000")], "heldout": []},
        tokenizer="t" * 64,
        vocabulary=100,
        domains=["books"],
    )
    run_dir = write_run(tmp_path / "sample", stages=("finetune",))
    digest = storage.digest_file(shards / "index.json")
    outside = {"replay_from": {"path": str(shards), "digest": digest}}
    config = {"replay_from": str(shards), "replay_share": 0.1}
    tell(run_dir, "finetune", config=config, outside=outside)
    card = write_cards(run_dir)[1].read_text(encoding="utf-8")
    row = ["finetune", "replayed, against forgetting", "tokens", DASH, DASH, "3 kB", digest[:12], "2 documents"]
    assert table_rows(card, "Conversations and preferences") == [row]
    tell(run_dir, "finetune", config={**config, "replay_share": 0})
    write_cards(run_dir)
    assert "| finetune | tested with, never learned | tokens |" in (run_dir / DATA_CARD).read_text(encoding="utf-8")
    (shards / "index.json").write_text("{}")
    write_cards(run_dir)
    assert "gone or have changed since" in (run_dir / DATA_CARD).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("teacher", "inputs", "told"),
    [
        ("/models/big", {}, "big"),
        (None, {"teacher": {"path": "finetune", "content": "c" * 64}}, "finetune"),
    ],
)
def test_a_teacher_is_told_as_the_source_of_what_it_wrote(tmp_path, teacher, inputs, told):
    with storage.publish(tmp_path / "distill") as scratch:
        write_model(scratch, family="llama")
    (tmp_path / "distill" / storage.MANIFEST).unlink()
    config = {"teacher": teacher, "by": "text", "data": "chats.jsonl"}
    storage.write_manifest(tmp_path / "distill", {"run": "sample", "summary": {}, "config": config, "inputs": inputs})
    card = write_cards(tmp_path)[1].read_text(encoding="utf-8")
    assert table_rows(card, "Written by models") == [["distill", "answers in place of the file's", told]]


def set_corpus(run_dir, rows):
    """Other documents in the sample's corpus."""
    pq.write_table(pa.Table.from_pylist(rows), run_dir / "corpus" / "part-00000.parquet")
    tell(run_dir, "corpus")


def card_of(run_dir):
    write_cards(run_dir)
    return (run_dir / DATA_CARD).read_text(encoding="utf-8")


def test_domain_names_are_those_of_the_pages_with_the_most_text_first(tmp_path):
    run_dir = write_run(tmp_path / "sample")
    addresses = ["https://A.example/1", "http://me:word@a.example:80/2?q=b.example", "https://b.example", "", None]
    addresses.append("s3://bucket/file")
    lengths = (10, 20, 50, 99, 99, 99)
    rows = [{"text": "x" * length, "url": url} for length, url in zip(lengths, addresses, strict=True)]
    set_corpus(run_dir, rows)
    assert table_rows(card_of(run_dir), "Internet domain names") == [
        ["b.example", "1", "50 B"],
        ["a.example", "2", "30 B"],
    ]


def test_of_many_domain_names_the_largest_tenth_is_shown_and_the_others_are_counted(tmp_path):
    run_dir = write_run(tmp_path / "sample")
    set_corpus(run_dir, [{"text": "x" * (number + 1), "url": f"https://{number:03}.example/"} for number in range(200)])
    card = card_of(run_dir)
    assert [row[0] for row in table_rows(card, "Internet domain names")] == [
        f"{number:03}.example" for number in range(199, 179, -1)
    ]
    assert "Of 200 domain names of web pages, those with the most text. 180 more with 180 documents and 16.3 kB" in card


def test_data_sets_of_the_hub_are_named_with_the_commits_that_were_read(tmp_path):
    run_dir = write_run(tmp_path / "sample")
    sources = ["hub:org/texts@0123abc", "hub:org/texts@0123abc", "hub:org/texts@4567def", "files:/home/anna/clients"]
    set_corpus(run_dir, [{"text": "words", "source": source} for source in sources])
    card = card_of(run_dir)
    assert table_rows(card, "Versions of data sets") == [
        ["org/texts", "0123abc", "2", "10 B"],
        ["org/texts", "4567def", "1", "5 B"],
    ]
    assert "anna" not in card


def test_the_size_is_told_in_tokens_too(tmp_path):
    assert "20,000 tokens to learn from and 1,200 held out." in card_of(write_run(tmp_path / "sample"))
    without = write_run(tmp_path / "without", stages=("documents", "corpus"))
    assert "tokens" not in card_of(without)


def test_places_of_the_machine_and_people_s_addresses_are_not_published(tmp_path):
    run_dir = write_run(tmp_path / "sample")
    sources = [
        {"kind": "files", "path": "/home/anna/clients/acme/mails", "include": ["**/*.eml"], "domain": None},
        {"kind": "warc", "path": "https://anna:word@data.example/all.paths", "prefix": "/home/anna/crawl/"},
        {
            "kind": "website",
            "start": ["https://site.example/docs"],
            "contact": "anna@acme.example",
            "store": "/home/anna/crawls/site",
            "allow_private": ["10.1.0.0/16"],
        },
    ]
    tell(run_dir, "documents", config={"sources": sources})
    card = card_of(run_dir)
    assert table_rows(card, "Sources") == [
        ["files", "path = mails; include = **/*.eml"],
        ["warc", "path = https://***@data.example/all.paths; prefix = crawl"],
        ["website", "start = https://site.example/docs"],
    ]
    for secret in ("anna", "acme", "10.1.0.0", "word@"):
        assert secret not in card, secret
