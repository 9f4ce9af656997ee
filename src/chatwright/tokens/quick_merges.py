"""Merges of a byte-level BPE learned by rustbpe, several times faster than by Hugging Face tokenizers. An extra.

Which merges are learned is the trainer's affair (where pairs are equally frequent they choose differently), so a recipe
names it; what a tokenizer then gives is Hugging Face's, whoever learned its merges. Not for encoding.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from chatwright.foundation.errors import UsageError
from chatwright.tokens.fast import byte_alphabet

_BYTES = 256


class Merges(NamedTuple):
    """A vocabulary's merges in their order, spelled as tokenizer files spell bytes."""

    pairs: list[tuple[str, str]]


def learn_merges(texts: Iterable[str], *, count: int, pattern: str) -> Merges:
    """At most `count` merges of the bytes of the pieces that `pattern` cuts from texts.

    Raises:
        UsageError: the extra is not installed.
    """
    try:
        import rustbpe
    except ImportError:
        raise UsageError(
            '`tokenizer.trainer = "rustbpe"` needs the package `rustbpe`, which is not installed',
            hint="pip install 'chatwright[fast]', or leave `trainer` out",
        ) from None
    trainer: Any = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), _BYTES + count, pattern=pattern)
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    return Merges([_spelled(*_halves(token, ranks)) for token in sorted(ranks, key=ranks.__getitem__)[_BYTES:]])


def _halves(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that were merged to this one: what is left of its bytes when all earlier merges are done."""
    parts = [token[place : place + 1] for place in range(len(token))]
    limit = ranks[token]
    while len(parts) > 2:
        joined = [ranks.get(first + second, limit) for first, second in zip(parts, parts[1:], strict=False)]
        place = min(range(len(joined)), key=joined.__getitem__)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]


def _spelled(first: bytes, second: bytes) -> tuple[str, str]:
    letters = {code: character for character, code in byte_alphabet().items()}
    return "".join(letters[code] for code in first), "".join(letters[code] for code in second)
