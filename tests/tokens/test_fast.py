"""The faster encoder gives the ids of Hugging Face's, or is not taken."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer

from chatwright.tokens import fast
from chatwright.tokens.fast import _BulkEncoder, fast_encoder
from chatwright.tokens.tokenizer import LLAMA3_PATTERN

PIECES = [
    "the",
    " ferry",
    "'LL",
    "\r\n",
    "  ",
    "\u3000",
    "1234567",
    "é",
    "e\u0301",
    "漁",
    "👩\u200d👩",
    "<|im_end|>",
    "\0",
    "ſ",
    "--",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=20).map("".join))
def test_ids_are_those_of_hugging_face(tiny_tokenizer, text):
    backend = tiny_tokenizer._backend
    encoder = fast_encoder(backend, pattern=LLAMA3_PATTERN)
    assert encoder is not None
    assert encoder.encode(text) == backend.encode(text, add_special_tokens=False).ids


def changed(tokenizer, change):
    value = json.loads(tokenizer._backend.to_str())
    change(value)
    return HfTokenizer.from_str(json.dumps(value))


def test_a_tokenizer_of_other_parts_keeps_its_own_encoder(tiny_tokenizer, word_tokenizer):
    def other_pattern(value):
        value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W+"

    def other_order(value):
        value["model"]["merges"][0], value["model"]["merges"][1] = (
            value["model"]["merges"][1],
            value["model"]["merges"][0],
        )

    def normalised(value):
        value["normalizer"] = {"type": "NFC"}

    assert fast_encoder(word_tokenizer._backend, pattern=LLAMA3_PATTERN) is None
    for change in (other_pattern, other_order, normalised):
        assert fast_encoder(changed(tiny_tokenizer, change), pattern=LLAMA3_PATTERN) is None


def test_long_unbroken_text_goes_to_the_slower_encoder_with_the_same_ids(tiny_tokenizer):
    text = "ab" * 15_000
    assert not tiny_tokenizer._fast.takes(text)
    assert tiny_tokenizer._fast.takes("ab " * 15_000)
    assert tiny_tokenizer.encode(text) == tiny_tokenizer._backend.encode(text, add_special_tokens=False).ids


def test_long_whitespace_goes_to_the_slower_encoder_too(tiny_tokenizer):
    for text in (" " * 20_001, "\n\t " * 7_000, "a" + "\n" * 20_001 + "b"):
        assert not tiny_tokenizer._fast.takes(text)
        assert tiny_tokenizer.decode(tiny_tokenizer.encode(text)) == text


@pytest.fixture(scope="module")
def bulk(tiny_tokenizer):
    pytest.importorskip("gigatoken", reason="the extra `fast` is not installed")
    encoder = _BulkEncoder.of(tiny_tokenizer._backend)
    assert encoder is not None
    return encoder


@given(st.lists(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=9).map("".join), max_size=6))
def test_the_encoder_for_a_corpus_gives_the_same_ids(tiny_tokenizer, bulk, texts):
    expected = [item.ids for item in tiny_tokenizer._backend.encode_batch(texts, add_special_tokens=False)]
    assert [ids.tolist() for ids in bulk.encode(texts)] == expected


def test_what_it_remembers_is_dropped_now_and_then(tiny_tokenizer, bulk, monkeypatch):
    monkeypatch.setattr(fast, "_BULK_RENEWED", 10)
    encoder = _BulkEncoder.of(tiny_tokenizer._backend)
    first = encoder.encode(["a text of more than ten characters"])
    before = encoder._tokenizer
    assert np.array_equal(encoder.encode(["a text of more than ten characters"])[0], first[0])
    assert encoder._tokenizer is not before


def test_one_that_gives_other_ids_is_left_after_the_first_texts(tiny_tokenizer, bulk):
    """Its vocabulary is real and sound, and another's: merges are missing."""

    def without_merges(value):
        value["model"]["merges"] = value["model"]["merges"][:2]

    wrong = _BulkEncoder.of(changed(tiny_tokenizer, without_merges))
    encoder = fast_encoder(tiny_tokenizer._backend, pattern=LLAMA3_PATTERN)
    encoder._bulk = wrong
    texts = ["the ferry leaves the harbour", "and the gulls follow"]
    for _ in range(2):
        assert [ids.tolist() for ids in encoder.encode_arrays(texts)] == encoder.encode_batch(texts)
    assert encoder._bulk is None
