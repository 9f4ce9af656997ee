"""A faster encoder for byte-level BPE tokenizers with the Llama-3 split pattern: tiktoken on the same merges.

It is taken only for tokenizers whose parts are exactly ours, and only if it gives the ids of Hugging Face tokenizers
on a probe at start-up; whoever is refused goes on with the slower one. Not for training, and not for special tokens.
"""

import json
from collections.abc import Sequence
from typing import Any

import tiktoken
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import pre_tokenizers

_THREADS = 4  # of one batch; tiktoken leaves the interpreter's lock
# Longer texts without a break that the pattern sees go to Hugging Face's encoder, which is linear in them.
_MAX_UNBROKEN = 20_000
_PROBE = (
    "The harbour wakes before the town does; it's 04:17, and 1234567 gulls don't sleep.\r\n\r\n\tdef f(x):\n"
    "        return x**2  # naïve — but “fine”…   \n\n\n  Straße ÉTÉ été e\u0301 漁港の朝 доброе утро مرحبا שלום नमस्ते "
    "👩\u200d👩\u200d👧 <|im_end|> I'LL WE'VE \u00a0\u3000 \u2028 a\u0000b ſ K K 10⁵ ½ ٣٤٥٦ \ufffd "
    "http://example.org/a_b?c=d&e=%20#f "
    "{'k': [1, 2.5e-3]} -------- ======== aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"
)


def fast_encoder(backend: HfTokenizer, *, pattern: str) -> "FastEncoder | None":
    """An encoder with the ids of `backend`, or None if that cannot be had.

    Args:
        backend: a tokenizer.
        pattern: the split pattern that the fast encoder knows.
    """
    ranks = _ranks_of(json.loads(backend.to_str()), pattern)
    if ranks is None:
        return None
    encoder = FastEncoder(tiktoken.Encoding("chatwright", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}))
    pieces = [_PROBE, *_PROBE.split(" "), _PROBE.upper(), _PROBE.lower() * 3]
    expected = [item.ids for item in backend.encode_batch_fast(pieces, add_special_tokens=False)]
    return encoder if encoder.encode_batch(pieces) == expected else None


class FastEncoder:
    """Encodes plain text."""

    def __init__(self, encoding: tiktoken.Encoding):
        self._encoding = encoding

    def takes(self, text: str) -> bool:
        """Whether this encoder is quick for the text: it has breaks, and is sound Unicode."""
        if len(text) > _MAX_UNBROKEN and max(map(len, text.split())) > _MAX_UNBROKEN:
            return False
        return text.isascii() or _is_sound(text)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, on two threads and more."""
        return self._encoding.encode_ordinary_batch(list(texts), num_threads=_THREADS)


def _is_sound(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _ranks_of(parts: dict[str, Any], pattern: str) -> dict[bytes, int] | None:
    """Token bytes with their ids, if merging by least id is what the tokenizer's list of merges says."""
    model = parts["model"]
    split = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
    plain = model["type"] == "BPE" and not model.get("byte_fallback") and not model.get("ignore_merges")
    plain = plain and not any(model.get(key) for key in ("dropout", "unk_token", "continuing_subword_prefix"))
    if not plain or parts.get("normalizer") or (parts.get("pre_tokenizer") or {}).get("pretokenizers") != split:
        return None
    vocabulary = model["vocab"]
    merged = ["".join(pair) if isinstance(pair, list) else pair.replace(" ", "") for pair in model["merges"]]
    ids = [vocabulary.get(token, -1) for token in merged]
    if any(later <= earlier for earlier, later in zip(ids, ids[1:], strict=False)):
        return None
    special = {token["content"] for token in parts["added_tokens"]}
    alphabet = _byte_alphabet()
    ordinary = {token: number for token, number in vocabulary.items() if token not in special}
    if len(ordinary) != len(merged) + len(alphabet) or any(set(token) - alphabet.keys() for token in ordinary):
        return None
    return {bytes(alphabet[character] for character in token): number for token, number in ordinary.items()}


def _byte_alphabet() -> dict[str, int]:
    """Byte of each character of the byte-level alphabet (Radford et al. 2019): printable ones stand for themselves."""
    letters = set(pre_tokenizers.ByteLevel.alphabet())
    plain = {chr(code): code for code in range(256) if chr(code) in letters}
    others = iter(range(256, 512))
    return plain | {chr(next(others)): code for code in range(256) if chr(code) not in letters}
