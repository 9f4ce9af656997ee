"""How tightly a tokenizer packs texts, and what of its vocabulary they use. Nothing is changed, learned or fetched."""

import heapq
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chatwright.data.document import UNKNOWN_LANGUAGE, Place, iter_groups
from chatwright.foundation.errors import DataError
from chatwright.tokens.tokenizer import Tokenizer

GPT2 = ("openai-community/gpt2", "gpt2")  # its names at Hugging Face, now and before
_LONGEST = 10
_SHOWN = 5  # of these in the table
_BATCH_TEXTS = 64  # whose ids are held at once
_BYTE_OF_SENTENCEPIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Text(NamedTuple):
    """One text and the groups that it is counted in."""

    domain: str
    language: str
    text: str


def cached_tokenizer(name: str, *, cache: Path | None = None) -> Path | None:
    """Folder of a tokenizer in Hugging Face's cache on this machine, or None.

    Args:
        name: as at Hugging Face.
        cache: the cache's folder; None: the one that its programs use.
    """
    from huggingface_hub import try_to_load_from_cache  # takes a while to import

    try:
        found = try_to_load_from_cache(name, "tokenizer.json", cache_dir=cache)
    except ValueError:  # what no name can be, such as a path of several folders
        return None
    return Path(found).parent if isinstance(found, str) else None


def sample_texts(place: Path, *, documents: int) -> list[Text]:
    """Documents from all over a corpus, held-out ones first, or a text file as one.

    Raises:
        DataError: there is no text.
    """
    if place.is_file():
        texts = [Text(place.name, UNKNOWN_LANGUAGE, place.read_text(encoding="utf-8", errors="replace"))]
    else:
        texts = list(_sampled(place, documents))
    if not any(item.text for item in texts):
        raise DataError(f"`{place}` holds no text", hint="name a run's `corpus` folder, or a text file")
    return texts


def _sampled(corpus: Path, documents: int) -> Iterator[Text]:
    """Those with the lowest ids, which are hashes: no source stands before others. Only their row groups are read."""
    ordered = (
        (row["split"] != "heldout", row["id"], place, number)
        for place, rows in iter_groups(corpus, ["id", "split"])
        for number, row in enumerate(rows)
    )
    chosen = sorted((place, number) for _, _, place, number in heapq.nsmallest(documents, ordered))
    for place, found in itertools.groupby(chosen, key=_place_of):
        _, rows = next(iter_groups(corpus, Text._fields, begin=place))
        yield from (Text(**rows[number]) for _, number in found)


def _place_of(chosen: tuple[Place, int]) -> Place:
    return chosen[0]


def measure(tokenizer: Tokenizer, texts: list[Text]) -> dict[str, Any]:
    """Figures of one tokenizer; domains and languages in alphabetical order."""
    counts = np.zeros(tokenizer.size, np.int64)
    sizes: dict[str, dict[str, list[int]]] = {"domain": defaultdict(_nothing), "language": defaultdict(_nothing)}
    words = 0
    for begin in range(0, len(texts), _BATCH_TEXTS):
        batch = texts[begin : begin + _BATCH_TEXTS]
        encoded = tokenizer.encode_arrays([item.text for item in batch])
        counts += np.bincount(np.concatenate(encoded).astype(np.int64), minlength=len(counts))
        for item, ids in zip(batch, encoded, strict=True):
            words += len(item.text.split())
            for group, name in (("domain", item.domain), ("language", item.language)):
                sizes[group][name][0] += len(item.text.encode())
                sizes[group][name][1] += len(ids)
    size, tokens = (sum(both[place] for both in sizes["domain"].values()) for place in (0, 1))
    by_group = {
        f"bytes_per_token_by_{group}": {name: _ratio(*both) for name, both in sorted(found.items())}
        for group, found in sizes.items()
    }
    used = int(np.count_nonzero(counts))
    return {
        "vocabulary_size": tokenizer.size,
        "bytes": size,
        "tokens": tokens,
        "bytes_per_token": _ratio(size, tokens),
        "tokens_per_word": _ratio(tokens, words),
        "vocabulary_used": round(used / tokenizer.size, 4),
        "unused_tokens": tokenizer.size - used,
        **_by_kind(tokenizer, counts),
        **by_group,
    }


def _nothing() -> list[int]:
    return [0, 0]  # bytes, tokens


def _ratio(part: int, whole: int) -> float:
    return round(part / max(1, whole), 4)


def _by_kind(tokenizer: Tokenizer, counts: NDArray[np.int64]) -> dict[str, Any]:
    """How single bytes, digits and white space come out, and the longest tokens that were met."""
    single = digits = with_digits = space = longest_space = 0
    met = set()
    for number in map(int, np.flatnonzero(counts)):
        text, count = tokenizer.decode([number]), int(counts[number])
        single += count * _is_one_byte(tokenizer.token_text(number), text)
        decimals = sum(character.isdecimal() for character in text)
        digits, with_digits = digits + count * decimals, with_digits + count * bool(decimals)
        if text.isspace():
            space, longest_space = space + count, max(longest_space, len(text))
        met.add(text)
    tokens = int(counts.sum())
    return {
        "single_byte_share": _ratio(single, tokens),
        "digits_per_token": _ratio(digits, with_digits),
        "space_share": _ratio(space, tokens),
        "longest_space": longest_space,
        "longest_tokens": sorted(met, key=lambda text: (-len(text), text))[:_LONGEST],
    }


def _is_one_byte(spelled: str, text: str) -> bool:
    """Whether a token is one byte, which need not be a character: byte-level vocabularies give each byte a letter."""
    if _BYTE_OF_SENTENCEPIECE.fullmatch(spelled):
        return True
    return len(spelled) == 1 and (text == "\ufffd" or len(text.encode()) == 1)


_FIGURES = (
    ("vocabulary", "vocabulary_size", "{:,}"),
    ("tokens of these texts", "tokens", "{:,}"),
    ("bytes per token", "bytes_per_token", "{:.3f}"),
    ("tokens per word", "tokens_per_word", "{:.3f}"),
    ("of the vocabulary not met here", "unused_tokens", "{:,}"),
    ("tokens of a single byte", "single_byte_share", "{:.1%}"),
    ("digits in a token that has any", "digits_per_token", "{:.2f}"),
    ("tokens of white space alone", "space_share", "{:.1%}"),
    ("longest white space in a token", "longest_space", "{:,}"),
)
_LABEL = 32
_COLUMN = 24  # of which a name may fill all but two


def as_lines(found: dict[str, dict[str, Any]]) -> list[str]:
    """A table for a person: a figure a line, a tokenizer a column."""
    rows = list(found.values())
    lines = [f"{rows[0]['bytes']:,} bytes of text".ljust(_LABEL) + "".join(map(_head, found))]
    for label, key, form in _FIGURES:
        lines.append(label.ljust(_LABEL) + "".join(form.format(row[key]).rjust(_COLUMN) for row in rows))
    for group in ("domain", "language"):
        key = f"bytes_per_token_by_{group}"
        if len(rows[0][key]) > 1:
            lines.append(f"bytes per token by {group}")
        for name in rows[0][key] if len(rows[0][key]) > 1 else ():
            figures = "".join(f"{row[key][name]:.3f}".rjust(_COLUMN) for row in rows)
            lines.append(f"  {name[: _LABEL - 3]}".ljust(_LABEL) + figures)
    lines.append("longest tokens met")
    lines += [f"  {name}: {'  '.join(map(repr, row['longest_tokens'][:_SHOWN]))}" for name, row in found.items()]
    return lines


def _head(name: str) -> str:
    """The end of a name, which tells one folder from another."""
    most = _COLUMN - 2
    return (name if len(name) <= most else f"…{name[1 - most :]}").rjust(_COLUMN)
