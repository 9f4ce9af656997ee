"""Faster encoders for byte-level BPE tokenizers with the Llama-3 split pattern: tiktoken, and gigatoken for a corpus.

They are taken only for tokenizers whose parts are exactly ours, and only if they give the ids of Hugging Face
tokenizers on a probe at start-up; whoever is refused goes on with the slower one. gigatoken (an extra) is compared with
tiktoken on the first texts of every shard besides. Not for training, and not for special tokens.
"""

import contextlib
import functools
import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import pre_tokenizers

_THREADS = 4  # of one batch; tiktoken leaves the interpreter's lock
# Longer texts without a break that the pattern sees go to Hugging Face's encoder, which is linear in them.
_MAX_UNBROKEN = 20_000
_LONG_SPACE = re.compile(rf"(?<!\s)\s{{{_MAX_UNBROKEN + 1}}}")  # in millions of spaces tiktoken's pattern overflows
_CACHED_PIECES = 10_000  # what tokenizers itself begins with
_BULK_RENEWED = 256 << 20  # characters
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
    encoding = tiktoken.Encoding("chatwright", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    encoder = FastEncoder(encoding, _BulkEncoder.of(backend))
    pieces = [_PROBE, *_PROBE.split(" "), _PROBE.upper(), _PROBE.lower() * 3]
    with _without_cache(backend):
        expected = [item.ids for item in backend.encode_batch_fast(pieces, add_special_tokens=False)]
    return encoder if encoder.encode_batch(pieces) == expected else None


@contextlib.contextmanager
def _without_cache(backend: HfTokenizer) -> Iterator[None]:
    """Encode a few pieces and keep none: tokenizers 0.23 leaves a cache behind with each thread that has encoded.

    It outlives the tokenizer: 30 to 70 KiB for every one that is opened, in a process that opens thousands.
    """
    resize = getattr(backend.model, "_resize_cache", None)
    if resize is None:  # another version
        yield
        return
    resize(0)
    yield
    resize(_CACHED_PIECES)


class FastEncoder:
    """Encodes plain text.

    Args:
        encoding: with the ids of the tokenizer.
        bulk: a still faster one for many texts, which has to show first that its ids are the same.
    """

    def __init__(self, encoding: tiktoken.Encoding, bulk: "_BulkEncoder | None" = None):
        self._encoding = encoding
        self._bulk = bulk
        self._is_bulk_trusted = False

    def takes(self, text: str) -> bool:
        """Whether this encoder is quick for the text: it has breaks, and is sound Unicode."""
        if len(text) > _MAX_UNBROKEN:
            longest = max(map(len, text.split()), default=0)
            if longest > _MAX_UNBROKEN or _LONG_SPACE.search(text) is not None:
                return False
        return text.isascii() or _is_sound(text)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, on two threads and more."""
        return self._encoding.encode_ordinary_batch(list(texts), num_threads=_THREADS)

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """The same as arrays; no list of numbers is made in between."""
        if self._bulk is not None and self._is_bulk_trusted:
            return self._bulk.encode(texts)
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(self._array, texts))
        if self._bulk is not None:
            probed = self._bulk.encode([*texts, _PROBE])
            expected = [*found, self._array(_PROBE)]
            self._is_bulk_trusted = all(map(np.array_equal, probed, expected))
            self._bulk = self._bulk if self._is_bulk_trusted else None
        return found

    def _array(self, text: str) -> NDArray[Any]:
        array: NDArray[Any] = self._encoding.encode_to_numpy(text, disallowed_special=())
        return array


class _BulkEncoder:
    """gigatoken on the same vocabulary, made anew now and then: what it remembers of words has no bound."""

    def __init__(self, parts: str):
        self._parts = parts
        self._tokenizer: Any = None
        self._left = 0

    @classmethod
    def of(cls, backend: HfTokenizer) -> "_BulkEncoder | None":
        """One for a tokenizer whose special tokens are made ordinary, so that no text can spell them."""
        if importlib.util.find_spec("gigatoken") is None:
            return None
        parts = json.loads(backend.to_str())
        parts["added_tokens"] = []
        return cls(json.dumps(parts))

    def encode(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Token ids of many texts, on all cores."""
        import awkward
        import gigatoken

        if self._left <= 0:
            self._tokenizer, self._left = gigatoken.Tokenizer.from_json(self._parts), _BULK_RENEWED
        self._left -= sum(map(len, texts))
        if not texts:
            return []
        found = self._tokenizer.encode_batch(list(texts))
        ids, counts = awkward.to_numpy(awkward.flatten(found)), awkward.to_numpy(awkward.num(found))
        return np.split(ids, np.cumsum(counts)[:-1])


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
    if not all(token["special"] for token in parts["added_tokens"]):
        return None  # text may become one of these, and only Hugging Face's encoder sees them
    special = {token["content"] for token in parts["added_tokens"]}
    alphabet = byte_alphabet()
    ordinary = {token: number for token, number in vocabulary.items() if token not in special}
    if len(ordinary) != len(merged) + len(alphabet) or any(set(token) - alphabet.keys() for token in ordinary):
        return None
    return {bytes(alphabet[character] for character in token): number for token, number in ordinary.items()}


@functools.cache
def byte_alphabet() -> dict[str, int]:
    """Byte of each character of the byte-level alphabet (Radford et al. 2019): printable ones stand for themselves."""
    letters = set(pre_tokenizers.ByteLevel.alphabet())
    plain = {chr(code): code for code in range(256) if chr(code) in letters}
    others = iter(range(256, 512))
    return plain | {chr(next(others)): code for code in range(256) if chr(code) not in letters}
