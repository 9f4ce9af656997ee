"""How tightly a tokenizer will pack documents of which a sample was read: neither overstated nor one book's figure."""

import random

from chatwright.recipe.plan import corpus as corpora
from chatwright.recipe.plan import size_of_documents

LEARNED = 150_000  # bytes: less than there is, as of every larger folder


def write_invented(folder, *, documents=200):
    """Documents of some nine hundred bytes: three words that no other has, again and again."""
    folder.mkdir()
    for number in range(documents):
        chance = random.Random(number)
        words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=8)) for _ in range(3)]
        (folder / f"{number:03d}.txt").write_text(" ".join(words * 33))


def packed(folder):
    """Bytes a token: nine where words are known, about two where they are not."""
    return size_of_documents(folder, vocabulary_size=4096).bytes_per_token


def test_what_a_tokenizer_packs_is_measured_on_texts_that_it_has_not_learned(tmp_path, monkeypatch):
    write_invented(tmp_path / "documents")
    monkeypatch.setattr(corpora, "_LEARN_BYTES", LEARNED)
    assert packed(tmp_path / "documents") < 3


def test_what_a_tokenizer_packs_is_measured_throughout_the_sample(tmp_path, monkeypatch):
    """The first documents may be alike, as the chapters of one book are."""
    write_invented(tmp_path / "documents")
    for number in range(100):
        (tmp_path / "documents" / f"0-{number:03d}.txt").write_text("The ferry leaves at nine. " * 35)
    monkeypatch.setattr(corpora, "_LEARN_BYTES", LEARNED)
    assert packed(tmp_path / "documents") < 3


def test_of_one_long_text_the_second_half_is_measured(tmp_path, monkeypatch):
    write_invented(tmp_path / "parts")
    (tmp_path / "documents").mkdir()
    texts = [path.read_text() for path in sorted((tmp_path / "parts").iterdir())]
    (tmp_path / "documents" / "one.txt").write_text(" ".join(texts))
    monkeypatch.setattr(corpora, "_LEARN_BYTES", LEARNED)
    assert packed(tmp_path / "documents") < 3


def test_a_small_folder_that_was_read_whole_is_what_the_tokenizer_will_have_seen(tmp_path):
    write_invented(tmp_path / "documents", documents=100)
    assert packed(tmp_path / "documents") > 8
