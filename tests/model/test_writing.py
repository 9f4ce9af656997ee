"""The text of an answer begins where the prompt's ends, and its tokens are told as they stand in it.

Byte-level tokens say their spaces; those of sentencepiece lose the first one at the beginning of a text, as in Llama 2.
"""

import pytest
import torch
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, normalizers

from chatwright.model.engine.answering import Answering
from chatwright.model.engine.writing import Speller
from chatwright.model.generation import GenerationRequest, Sampling
from chatwright.tokens.tokenizer import Tokenizer

SPACE = "\u2581"


def sentencepiece_like():
    """A vocabulary as Llama 2's: words with their space, a token for each byte, and a decoder that drops a space."""
    all_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = ["<unk>", "<s>", "</s>", *all_bytes, SPACE, *"abcdefghijklmnopqrstuvwxyz"]
    merges = []
    for word in ("the", "ferry", "leaves"):
        for end in range(1, len(word) + 1):
            left, right = SPACE + word[: end - 1], word[end - 1]
            if left + right not in vocabulary:
                merges.append((left, right))
                vocabulary.append(left + right)
    numbers = {token: number for number, token in enumerate(vocabulary)}
    backend = HfTokenizer(models.BPE(numbers, merges, unk_token=vocabulary[0], byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(backend, {"bos_token": "<s>", "eos_token": "</s>"})


@pytest.fixture(scope="module", params=["sentencepiece", "byte-level"])
def tokenizer(request, tiny_tokenizer):
    return sentencepiece_like() if request.param == "sentencepiece" else tiny_tokenizer


def answered(tokenizer, prompt, ids, *, unshown=0):
    """The echoed prompt and the answer that has these ids, each as pieces and as tokens with their scores."""
    sampling = Sampling(max_tokens=len(ids), temperature=0.0, top_logprobs=1)
    request = GenerationRequest(prompt=tuple(prompt), sampling=sampling, echo=True, unshown=unshown)
    speller = Speller(tokenizer)
    answer = Answering(1, request, answer=0, seed=0, tokenizer=tokenizer, speller=speller, context=256)
    answer.score_prompt(lambda states: torch.zeros(len(states), tokenizer.size), torch.zeros(len(prompt), 1), 0)
    echoed, pieces = answer.echo(), []
    for number in ids:
        scores = torch.zeros(tokenizer.size)
        scores[number] = 50.0
        pieces.append(answer.take(scores, number))
    told = [token.token for piece in pieces for token in piece.tokens]
    return echoed, "".join(piece.text for piece in pieces), told


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("the ferry", " leaves the pier"),
        ("the", "ferry"),
        ("the ferry\n", "at\n nine"),
        ("costs", " 5 \u20ac \U0001f600\U0001f600!"),
        ("\U0001f600\U0001f600", "\U0001f600 leaves"),
        ("at  ", "  nine"),
    ],
)
def test_prompt_and_answer_are_one_text_and_so_are_their_tokens(tokenizer, prompt, answer):
    whole = tokenizer.encode(prompt + answer)
    cut = len(tokenizer.encode(prompt))
    if tokenizer.decode(whole[:cut]) != prompt:
        pytest.skip("this vocabulary has a token over the border")
    begin = tokenizer.begin_of_text
    echoed, text, told = answered(tokenizer, [begin, *whole[:cut]], whole[cut:], unshown=1)
    assert (echoed.text, text) == (prompt, answer)
    assert b"".join(token.token.bytes for token in echoed.tokens) == prompt.encode()
    assert b"".join(token.bytes for token in told) == answer.encode()
    assert [token.id for token in told] == whole[cut:]
    assert all(token.text.encode() == token.bytes for token in told if "\ufffd" not in token.text)


def test_a_word_behind_a_prompt_has_its_space_and_at_the_beginning_of_a_text_it_has_none():
    tokenizer = sentencepiece_like()
    begin, word = tokenizer.begin_of_text, tokenizer.special(f"{SPACE}ferry")
    assert answered(tokenizer, [begin, word], [word])[1] == " ferry"
    echoed, text, told = answered(tokenizer, [begin], [word, word])
    assert (echoed.text, text) == ("", "ferry ferry")
    assert [token.text for token in told] == ["ferry", " ferry"]
    assert [token.token.bytes for token in echoed.tokens] == [b""]


def test_a_token_of_one_byte_is_told_as_that_byte():
    tokenizer = sentencepiece_like()
    euro = [tokenizer.special(f"<0x{byte:02X}>") for byte in "\u20ac".encode()]
    _, text, told = answered(tokenizer, [tokenizer.begin_of_text], euro)
    assert text == "\u20ac"
    assert [(token.text, token.bytes) for token in told] == [("\ufffd", bytes([byte])) for byte in "\u20ac".encode()]


def test_an_answer_to_half_of_a_character_is_read_alone(tokenizer):
    ids = tokenizer.encode("\U0001f600 leaves")
    whole = tokenizer.decode(ids)
    cut = next(number for number in range(1, len(ids)) if tokenizer.decode(ids[:number]).endswith("\ufffd"))
    _, text, _ = answered(tokenizer, [tokenizer.begin_of_text, *ids[:cut]], ids[cut:])
    assert text.endswith("leaves")
    assert whole.endswith(" leaves")
