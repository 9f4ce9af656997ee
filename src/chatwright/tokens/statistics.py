"""How tightly a tokenizer packs texts, and how much of its vocabulary they use. Nothing is changed or learned."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.data.document import iter_documents
from chatwright.foundation.errors import DataError
from chatwright.tokens.tokenizer import Tokenizer

_LONGEST = 10


class Text(NamedTuple):
    """One text and the group that it is counted in."""

    domain: str
    text: str


def sample_texts(place: Path, *, documents: int) -> list[Text]:
    """Documents of a corpus, held-out ones first, or a text file as one.

    Raises:
        DataError: there is no text.
    """
    if place.is_file():
        texts = [Text(place.name, place.read_text(encoding="utf-8", errors="replace"))]
    else:
        ordered = itertools.chain(iter_documents(place, split="heldout"), iter_documents(place, split="train"))
        texts = [Text(one.domain, one.text) for one in itertools.islice(ordered, documents)]
    if not any(item.text for item in texts):
        raise DataError(f"`{place}` holds no text", hint="name a run's `corpus` folder, or a text file")
    return texts


def measure(tokenizer: Tokenizer, texts: list[Text]) -> dict[str, Any]:
    """Figures of one tokenizer; the domains in alphabetical order."""
    used: Counter[int] = Counter()
    by_domain: dict[str, list[int]] = {}
    for item, ids in zip(texts, tokenizer.encode_batch([item.text for item in texts]), strict=True):
        used.update(ids)
        counts = by_domain.setdefault(item.domain, [0, 0, 0])
        for place, number in enumerate((len(item.text.encode()), len(ids), len(item.text.split()))):
            counts[place] += number
    size, tokens, words = (sum(counts[place] for counts in by_domain.values()) for place in range(3))
    longest = sorted({tokenizer.decode([number]) for number in used}, key=lambda text: (-len(text), text))
    return {
        "vocabulary_size": tokenizer.size,
        "bytes": size,
        "tokens": tokens,
        "bytes_per_token": round(size / max(1, tokens), 4),
        "tokens_per_word": round(tokens / max(1, words), 4),
        "vocabulary_used": round(len(used) / tokenizer.size, 4),
        "longest_tokens": longest[:_LONGEST],
        "bytes_per_token_by_domain": {
            domain: round(counts[0] / max(1, counts[1]), 4) for domain, counts in sorted(by_domain.items())
        },
    }


def as_lines(found: dict[str, dict[str, Any]]) -> list[str]:
    """A table for a person: a tokenizer a line, then the domains."""
    lines = [f"{'tokenizer':40}{'vocabulary':>12}{'bytes/token':>13}{'tokens/word':>13}{'in use':>9}"]
    for name, row in found.items():
        head = f"{name[-40:]:40}{row['vocabulary_size']:>12,}{row['bytes_per_token']:>13.3f}"
        lines.append(f"{head}{row['tokens_per_word']:>13.3f}{row['vocabulary_used']:>9.1%}")
    domains = sorted({domain for row in found.values() for domain in row["bytes_per_token_by_domain"]})
    for domain in domains:
        figures = "".join(f"{row['bytes_per_token_by_domain'].get(domain, 0):>13.3f}" for row in found.values())
        lines.append(f"  {domain[:38]:38}{figures}")
    return lines
