"""Merges learned by rustbpe make a tokenizer like any other."""

import json

import pytest

from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError
from chatwright.tokens.tokenizer import SPECIAL_TOKENS, TokenizerConfig, load_tokenizer, train_tokenizer

pytest.importorskip("rustbpe", reason="the extra `fast` is not installed")

WORDS = "the ferry leaves the harbour before the gulls wake and nobody on the quay says much about it".split()
TEXTS = [" ".join(WORDS[n % 7 :] + WORDS[: n % 5]) + f". It is {n}; naïve, 漁港 👩\u200d👧!" for n in range(200)]


@pytest.fixture(scope="module")
def quick():
    return train_tokenizer(TEXTS, TokenizerConfig(vocabulary_size=400, trainer="rustbpe"))


def test_it_has_the_size_asked_for_and_gives_back_every_text(quick):
    assert quick.size == 400
    assert [quick.special(token) for token in SPECIAL_TOKENS] == [0, 1, 2]
    for text in [*TEXTS[:20], "<|im_end|> Straße\x00 доброе"]:
        ids = quick.encode(text)
        assert quick.decode(ids) == text
        assert not set(ids) & {0, 1, 2}


def test_its_ids_are_hugging_faces_and_the_fast_encoder_is_taken(quick):
    assert quick._fast is not None
    for text in TEXTS[:20]:
        assert quick.encode(text) == quick._backend.encode(text, add_special_tokens=False).ids


def test_it_packs_as_tightly_as_hugging_faces_merges(quick):
    usual = train_tokenizer(TEXTS, TokenizerConfig(vocabulary_size=400))
    counts = [sum(len(tokenizer.encode(text)) for text in TEXTS) for tokenizer in (quick, usual)]
    assert counts[0] == pytest.approx(counts[1], rel=0.02)


def test_the_same_texts_give_the_same_tokenizer_and_it_survives_its_files(quick, tmp_path):
    again = train_tokenizer(TEXTS, TokenizerConfig(vocabulary_size=400, trainer="rustbpe"))
    assert again.digest == quick.digest
    quick.save(tmp_path)
    assert load_tokenizer(tmp_path).encode(TEXTS[3]) == quick.encode(TEXTS[3])
    merges = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    assert len(merges) == 400 - 256 - len(SPECIAL_TOKENS)


def test_a_trainer_of_merges_has_no_effect_on_words():
    with pytest.raises(ConfigError, match="`trainer` has no effect"):
        validate(TokenizerConfig, {"kind": "words", "trainer": "rustbpe"}, where="x")
