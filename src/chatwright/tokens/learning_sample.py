"""Which texts a tokenizer is learned from: an even sample of the training split, or each domain by its weight.

Everything is a function of the corpus and the settings alone, read in stored order, a row group at a time.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.data.document import iter_groups, num_groups
from chatwright.data.stretch import Stretch
from chatwright.foundation.stopping import StopFlag
from chatwright.tokens.mixture import require_domains

_STRETCH = 1_000  # characters read at once where a domain is read in part; words are cut at its ends alone
_KEPT = "the stages before this one"  # by a stop: what was read of the corpus is read again
_MEASURE = "measure texts"
_LEARN = "read texts"


def domains_of(corpus: Path, *, stop: StopFlag | None = None) -> list[str]:
    """Every domain of a corpus, in alphabetical order.

    Raises:
        StoppedError: a stop was asked for.
    """
    return sorted({row["domain"] for row in _rows(corpus, ["domain"], "list domains", stop, split=None)})


def learning_texts(corpus: Path, *, max_bytes: int, stop: StopFlag | None = None) -> Iterator[str]:
    """Texts of the training split to learn a tokenizer from, for whoever stops at `max_bytes`.

    The corpus stands source by source, so the beginning of a larger one would be one source alone. There an even sample
    of about `max_bytes` comes first: the documents whose id, a hash, is low enough as a fraction, the same ones each
    time. What it leaves out follows, since few or very unlike documents may give too little. All is in stored order.

    Raises:
        StoppedError: a stop was asked for.
    """
    total_bytes = sum(len(row["text"].encode()) for row in _rows(corpus, ["text"], _MEASURE, stop))
    for is_sample in (True, False) if total_bytes > max_bytes else (True,):
        for row in _rows(corpus, ["id", "text"], _LEARN, stop):
            is_low = int(row["id"], 16) * total_bytes < max_bytes << 4 * len(row["id"])  # four bits a digit
            if is_low is is_sample:
                yield row["text"]


def _rows(
    corpus: Path, columns: Sequence[str], label: str, stop: StopFlag | None, *, split: str | None = "train"
) -> Iterator[dict[str, Any]]:
    """Some columns of every document; a stop is heard between row groups."""
    groups = iter_groups(corpus, columns, split=split)
    for _, rows in Stretch(label, stop=stop, kept=_KEPT).through(groups, total=num_groups(corpus)):
        yield from rows


class Taken(NamedTuple):
    """What a domain gave to a sample."""

    domain: str
    bytes: int
    times: float  # its text was read


class _Reading(NamedTuple):
    copies: int  # of each text
    period: int  # characters of the domain of which the first stretch is read besides; 0: none


class WeightedTexts:
    """Texts of the training split in which each domain has the share that its weight gives it, whatever its size.

    There are as many bytes as without weights: those of the domains that have one, at most `max_bytes`. A domain that
    is to give more than it has is read more than once; of another, stretches spread evenly over all its text are read.

    Args:
        corpus: a published corpus.
        weights: by domain; need not sum to 1; others are not read.
        max_bytes: of the sample, but for a stretch of each domain.
        stop: asked now and then, also while texts are given; with it a long reading says how far it is.

    Raises:
        DataError: a domain is not in the corpus.
        StoppedError: a stop was asked for.
    """

    def __init__(self, corpus: Path, weights: Mapping[str, float], *, max_bytes: int, stop: StopFlag | None = None):
        wanted = {domain: Fraction(str(weight)) for domain, weight in weights.items() if weight > 0}
        require_domains(wanted, domains_of(corpus, stop=stop), where="`tokenizer.weights`, or else `pretrain.mixture`,")
        self._corpus = corpus
        self._stop = stop
        self._sizes: Counter[str] = Counter()
        for row in _rows(corpus, ["text", "domain"], _MEASURE, stop):
            if row["text"] and row["domain"] in wanted:
                self._sizes[row["domain"]] += len(row["text"].encode())
        total = min(max_bytes, self._sizes.total())
        whole = sum(wanted[domain] for domain in self._sizes)
        self._readings = {domain: _reading(total * wanted[domain] / whole / n) for domain, n in self._sizes.items()}
        self._given: Counter[str] = Counter()

    def __iter__(self) -> Iterator[str]:
        self._given.clear()
        passed: Counter[str] = Counter()
        for row in _rows(self._corpus, ["text", "domain"], _LEARN, self._stop):
            text, domain = row["text"], row["domain"]
            if domain in self._readings:
                for piece in _pieces(text, passed[domain], self._readings[domain]):
                    self._given[domain] += len(piece.encode())
                    yield piece
                passed[domain] += len(text)

    @property
    def taken(self) -> list[Taken]:
        """What each domain has given so far, most first."""
        ordered = sorted(self._given.items(), key=lambda one: (-one[1], one[0]))
        return [Taken(domain, size, round(size / self._sizes[domain], 3)) for domain, size in ordered]


def _reading(rate: Fraction) -> _Reading:
    """How a domain is read `rate` times."""
    copies = int(rate)
    period = round(_STRETCH / (rate - copies)) if rate > copies else 0
    return _Reading(copies, period) if period != _STRETCH else _Reading(copies + 1, 0)


def _pieces(text: str, start: int, reading: _Reading) -> Iterator[str]:
    """What is read of a text before which `start` characters of its domain stand."""
    for _ in range(reading.copies):
        yield text
    if reading.period:
        for place in range(-(start % reading.period), len(text), reading.period):
            piece = text[max(0, place) : max(0, place + _STRETCH)]
            if piece:
                yield piece
