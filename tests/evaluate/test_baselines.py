"""What no network gets: a trigram model that is a distribution, and xz."""

import lzma
import math

import numpy as np
import pytest

from chatwright.evaluate import baselines
from chatwright.evaluate.baselines import ByteTrigram, xz_bits_per_byte

TEXTS = ("the ferry leaves at nine", "the fen, the fern, the fence", "Zwölf Minuten zu Fuß")


@pytest.fixture(scope="module")
def trigram():
    return ByteTrigram().learn(TEXTS)


@pytest.mark.parametrize("context", [b"th", b"fe", b"\xc3\xb6", b"zz", b"t\xff"])
def test_the_shares_of_all_bytes_after_a_context_sum_to_one(trigram, context):
    data = b"".join(context + bytes([byte]) for byte in range(256))
    assert trigram.shares(data)[2::3].sum() == pytest.approx(1.0, abs=1e-12)


def test_shares_are_witten_bell_s_by_hand():
    shares = ByteTrigram().learn(["aab"]).shares(b"aab")
    first = {"a": (2 + 2 / 256) / 5, "b": (1 + 2 / 256) / 5}  # three bytes seen, two kinds
    after_a = {letter: (1 + 2 * first[letter]) / 4 for letter in "ab"}  # "a" then "a", "a" then "b"
    begin = (1 + first["a"]) / 2
    assert shares == pytest.approx([(1 + begin) / 2, (1 + after_a["a"]) / 2, (1 + after_a["b"]) / 2])


def test_nothing_learned_is_eight_bits_a_byte():
    assert ByteTrigram().bits_per_byte(["any text", "at all"]) == pytest.approx(8.0)


def test_bits_per_byte_are_over_all_bytes_of_all_texts(trigram):
    texts = ["the ferry", "öß"]
    bits = -sum(float(np.log2(trigram.shares(text.encode())).sum()) for text in texts)
    assert trigram.bits_per_byte(iter(texts)) == pytest.approx(bits / (9 + 4))
    assert trigram.bits_per_byte(TEXTS) < 4 < trigram.bits_per_byte(["0123456789"])


def test_a_text_taken_in_pieces_gives_the_same_shares(trigram, monkeypatch):
    data = b"the fen leaves, the ferry " * 20
    whole = trigram.shares(data)
    monkeypatch.setattr(baselines, "_ROWS", 7)
    assert np.array_equal(trigram.shares(data), whole)


def test_no_text_is_no_bits(trigram):
    assert trigram.bits_per_byte([]) == 0.0


def test_xz_is_the_size_of_all_texts_together():
    texts = ["again and again " * 50, "again and again " * 50]
    data = "\n".join(texts).encode()
    expected = 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)
    assert xz_bits_per_byte(texts) == pytest.approx(expected)
    assert math.isnan(xz_bits_per_byte([]))
