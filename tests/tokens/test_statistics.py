"""What `tokenizer stats` counts: by hand on bytes, by domain and language, from all over a corpus, as a table."""

import pytest

from chatwright.data import limits
from chatwright.data.document import CORPUS_SCHEMA, Document, PartWriter, document_id
from chatwright.foundation.errors import DataError, RefusedError
from chatwright.tokens.statistics import Text, as_lines, cached_tokenizer, measure, sample_texts
from chatwright.tokens.tokenizer import TokenizerConfig, train_tokenizer

BYTES = train_tokenizer(["bytes need no text"], TokenizerConfig(kind="bytes"))
TEXTS = [Text("letters", "en", "ab  12"), Text("notes", "de", "ö 3"), Text("letters", "en", "a")]


def test_figures_of_single_bytes_are_those_counted_by_hand():
    found = measure(BYTES, TEXTS)
    assert (found["bytes"], found["tokens"], found["vocabulary_size"]) == (11, 11, 259)
    assert found["bytes_per_token"] == 1
    assert found["tokens_per_word"] == round(11 / 5, 4)
    assert found["unused_tokens"] == 259 - 8  # a, b, space, 1, 2, two bytes of ö, 3
    assert found["vocabulary_used"] == round(8 / 259, 4)
    assert found["single_byte_share"] == 1
    assert found["digits_per_token"] == 1
    assert (found["space_share"], found["longest_space"]) == (round(3 / 11, 4), 1)
    assert found["bytes_per_token_by_domain"] == {"letters": 1, "notes": 1}


def test_tokens_are_counted_by_domain_and_language_and_by_what_they_hold():
    learned = train_tokenizer(["123456 " * 50, "the    ferry " * 50], TokenizerConfig(vocabulary_size=300))
    found = measure(learned, [Text("x", "en", "the    ferry"), Text("y", "de", "123456123"), Text("y", "de", "qq")])
    assert found["digits_per_token"] == 3
    assert found["longest_space"] == 3  # the last one goes with the word
    assert found["tokens"] == 3 + 3 + 2
    assert found["single_byte_share"] == round(2 / 8, 4)
    assert found["bytes_per_token_by_domain"] == {"x": 4.0, "y": round(11 / 5, 4)}
    assert found["bytes_per_token_by_language"] == {"de": round(11 / 5, 4), "en": 4.0}
    assert found["longest_tokens"][:2] == [" ferry", "   "]


def test_ids_are_counted_in_every_batch_of_texts(tiny_tokenizer):
    text = Text("x", "en", "The ferry leaves at nine.")
    one, many = measure(tiny_tokenizer, [text]), measure(tiny_tokenizer, [text] * 200)
    assert many["tokens"] == 200 * one["tokens"]
    assert many["unused_tokens"] == one["unused_tokens"]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Two domains, one behind the other, in row groups of seven; every second document is held out."""
    monkeypatch.setattr(limits, "ROW_GROUP_DOCUMENTS", 7)
    for part, domain in enumerate(("letters", "notes")):
        with PartWriter(tmp_path / f"part-{part:05d}.parquet", CORPUS_SCHEMA) as writer:
            for number in range(40):
                name, split = f"{domain}-{number}", "heldout" if number % 2 else "train"
                where = {"source": "files:x", "path": name, "domain": domain, "split": split, "language": "en"}
                writer.add(Document(id=document_id("files:x", name), text=f"{split} {name}", **where))
    return tmp_path


def test_a_sample_is_from_all_over_the_held_out_documents(corpus):
    found = sample_texts(corpus, documents=20)
    assert len(found) == 20
    assert all(item.text.startswith(f"heldout {item.domain}-") for item in found)
    assert 5 <= sum(item.domain == "letters" for item in found) <= 15
    assert sample_texts(corpus, documents=20) == found


def test_training_documents_follow_where_few_are_held_out(corpus):
    found = sample_texts(corpus, documents=50)
    assert sum(item.text.startswith("heldout") for item in found) == 40
    assert len({item.text for item in found}) == 50
    assert len(sample_texts(corpus, documents=1000)) == 80


def test_a_text_file_is_one_text_and_an_empty_one_is_told(tmp_path):
    path = tmp_path / "some.txt"
    path.write_text("The ferry leaves.")
    assert sample_texts(path, documents=9) == [Text("some.txt", "und", "The ferry leaves.")]
    path.write_text("")
    with pytest.raises(DataError, match="no text"):
        sample_texts(path, documents=9)
    with pytest.raises(RefusedError, match="no directory"):
        sample_texts(tmp_path / "missing", documents=9)


def test_the_table_has_a_column_for_each_tokenizer_and_fits_a_terminal(tiny_tokenizer):
    names = ["runs/a-run-with-a-long-name/tokenizer", "other"]
    lines = as_lines({name: measure(one, TEXTS) for name, one in zip(names, (tiny_tokenizer, BYTES), strict=True)})
    assert max(map(len, lines[:-2])) == 80
    assert lines[0].split() == ["11", "bytes", "of", "text", "…a-long-name/tokenizer", "other"]
    shown = {line.split("  ")[0].strip() or line.split("  ")[1].strip(): line for line in lines}
    assert shown["bytes per token"].endswith("1.000")
    assert shown["tokens of a single byte"].endswith("100.0%")
    assert shown["letters"].endswith("1.000")
    assert {"de", "en", "notes"} <= shown.keys()
    assert "other: ' '  '1'" in lines[-1]


def test_groups_of_one_are_left_out_of_the_table():
    lines = as_lines({"bytes": measure(BYTES, TEXTS[:1])})
    assert not [line for line in lines if line.startswith("bytes per token by")]


def test_a_tokenizer_in_hugging_faces_cache_is_found_by_its_name(tmp_path, tiny_tokenizer):
    assert cached_tokenizer("openai-community/gpt2", cache=tmp_path) is None
    repository = tmp_path / "models--openai-community--gpt2"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    tiny_tokenizer.save(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert cached_tokenizer("openai-community/gpt2", cache=tmp_path) == snapshot
    assert cached_tokenizer("runs/some/tokenizer", cache=tmp_path) is None
