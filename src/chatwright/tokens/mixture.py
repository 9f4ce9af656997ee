"""Training windows drawn from domains by weight: a pure function of (seed, step), whose weights may change on the way.

A weight is a share of the training tokens, whatever the domains' sizes: a small domain is repeated, a large one is
not seen whole. Without a mixture, each domain has the share that its size gives it (`order.WindowOrder`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chatwright.foundation.config import Config
from chatwright.foundation.errors import DataError
from chatwright.foundation.streams import Permutation, seed_for
from chatwright.tokens.order import WindowOrder
from chatwright.tokens.shards import TokenSplit


class MixtureStage(Config):
    """Weights from a step on."""

    from_step: int = Field(ge=1)
    weights: dict[str, float]


class MixtureConfig(Config):
    """Shares of the training tokens by domain; a source's `domain` names it."""

    weights: dict[str, float]  # need not sum to 1; a domain that is not named is not trained on
    stages: tuple[MixtureStage, ...] = ()  # later weights, such as the best sources in the last tenth
    max_tokens: dict[str, int] = {}  # by domain: documents are taken in a random order up to so many tokens
    max_epochs: float = Field(default=4.0, gt=0)  # repeats of a domain beyond which the run is refused

    def problems(self) -> Iterator[str]:
        """Weights that can be shares, stages in order, caps of domains that have a weight."""
        named = set(self.weights).union(*(stage.weights for stage in self.stages))
        tables = {"weights": self.weights} | {f"stages.{i}": stage.weights for i, stage in enumerate(self.stages)}
        for where, weights in tables.items():
            yield from weight_problems(where, weights)
        steps = [stage.from_step for stage in self.stages]
        if steps != sorted(set(steps)):
            yield f"`stages` must follow each other: {steps}"
        for domain, tokens in self.max_tokens.items():
            if domain not in named:
                yield f"`max_tokens` has no effect on `{domain}`, which has no weight"
            if tokens < 1:
                yield f"`max_tokens` must be at least 1: {domain} = {tokens}"


def weight_problems(where: str, weights: Mapping[str, float]) -> Iterator[str]:
    """Whether numbers can be shares."""
    if not weights or sum(weights.values()) <= 0 or min(weights.values()) < 0:
        yield f"`{where}` needs weights of at least 0, one of them above: {weights}"


def require_domains(named: Iterable[str], known: Sequence[str], *, where: str) -> None:
    """Refuse weights of what is not there.

    Raises:
        DataError: a domain is not in the corpus.
    """
    unknown = sorted(set(named) - set(known))
    if unknown:
        raise DataError(
            f"{where} names domains that the corpus lacks: {', '.join(unknown)}",
            hint=f"its domains are: {', '.join(known)}; a source's `domain` names it",
        )


def overall_weights(config: MixtureConfig, *, first_row: Callable[[int], int], steps: int) -> dict[str, float]:
    """Shares of the domains over a whole training; where they never change they are its weights, whatever its length.

    Args:
        config: which domain has which share, from which step.
        first_row: of a step: the rows of all steps before it.
        steps: of the training.
    """
    if not config.stages:
        return {domain: weight for domain, weight in sorted(config.weights.items()) if weight > 0}
    rows = _rows_by_domain(_phases(config, first_row), first_row(steps))
    return {domain: float(number) for domain, number in sorted(rows.items()) if number}


class Share(NamedTuple):
    """What a domain gives to a training."""

    domain: str
    windows: int
    tokens: int  # of those windows
    stored_tokens: int  # in the domain, after its cap
    epochs: float  # times its tokens are seen


class DomainTokens:
    """The documents of one domain, one behind the other, as a stream of tokens.

    Args:
        split: the tokens of all domains.
        domain: whose documents are taken.
        max_tokens: their cap; documents are chosen in a random order that the seed gives, and keep their stored order.
        seed: of the run.
    """

    def __init__(self, split: TokenSplit, domain: str, *, max_tokens: int | None, seed: int):
        starts, lengths = split.spans(domain)
        if max_tokens is not None and len(starts):
            chosen = _within(lengths, max_tokens, seed_for(seed, f"cap/{domain}"))
            starts, lengths = starts[chosen], lengths[chosen]
        self._split = split
        self._starts = starts
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        """Tokens in all, end-of-text tokens included."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def slice(self, start: int, length: int) -> NDArray[np.int64]:
        """`length` ids from position `start`, across documents."""
        pieces = []
        index = int(np.searchsorted(self._ends, start, side="right"))
        while length > 0:
            begin = int(self._ends[index - 1]) if index else 0
            take = min(length, int(self._ends[index]) - start)
            pieces.append(self._split.slice(int(self._starts[index]) + start - begin, take))
            start, length, index = start + take, length - take, index + 1
        return np.concatenate(pieces)


def _within(lengths: NDArray[np.int64], max_tokens: int, seed: int) -> NDArray[np.int64]:
    """Positions of documents, drawn at random until one would cross the cap; it and the rest are left out."""
    permutation = Permutation(len(lengths), seed)
    order = np.array([permutation[position] for position in range(len(lengths))], dtype=np.int64)
    fits = int(np.searchsorted(np.cumsum(lengths[order]), max_tokens, side="right"))
    return np.sort(order[:fits])


class MixtureOrder:
    """Windows in the order of training, interleaved so that after any number of rows each share is met to a few rows.

    Where a row goes is integer arithmetic over its number (a balanced word, peeled off domain by domain), so no table
    is kept and any row is found at once. Within a domain its windows come in `WindowOrder`'s shuffled order.

    Args:
        split: the documents.
        length: tokens of a window.
        seed: of the order.
        config: which domain has which share, from which step.
        first_row: of a step: the rows of all steps before it.

    Raises:
        DataError: a domain is not in the corpus.
    """

    def __init__(
        self, split: TokenSplit, *, length: int, seed: int, config: MixtureConfig, first_row: Callable[[int], int]
    ):
        self._length = length
        self._config = config
        self._phases = _phases(config, first_row)
        domains = sorted({domain for phase in self._phases for domain, weight in phase.weights if weight > 0})
        require_domains(domains, split.domains, where="`pretrain.mixture`")
        caps = config.max_tokens
        self._streams = {name: DomainTokens(split, name, max_tokens=caps.get(name), seed=seed) for name in domains}
        self._orders = {
            name: WindowOrder(stream, length=length, seed=seed_for(seed, f"mixture/{name}"))
            for name, stream in self._streams.items()
        }

    def window(self, row: int) -> NDArray[np.int64]:
        """The row-th window of training, (length + 1,) ids."""
        domain, number = self.place(row)
        return self._orders[domain].window(number)

    def rows(self, first: int, count: int) -> NDArray[np.int64]:
        """`count` windows from row `first`, (count, length + 1)."""
        return np.stack([self.window(row) for row in range(first, first + count)])

    def place(self, row: int) -> tuple[str, int]:
        """The domain of a row and the number of its window there."""
        taken: dict[str, int] = {}
        for phase in self._phases:
            within = min(row, phase.end) - phase.start if phase.end is not None else row - phase.start
            if phase.end is None or row < phase.end:
                domain, number = _peel(phase.weights, within)
                return domain, taken.get(domain, 0) + number
            for domain, number in _counts(phase.weights, within).items():
                taken[domain] = taken.get(domain, 0) + number
        raise AssertionError("the last phase has no end")

    def shares(self, rows: int) -> list[Share]:
        """What each domain gives to a training of so many rows.

        Raises:
            DataError: a domain would be repeated more often than `max_epochs`.
        """
        counts = _rows_by_domain(self._phases, rows)
        shares = [self._share(domain, counts.get(domain, 0)) for domain in self._streams]
        over = [share for share in shares if share.epochs > self._config.max_epochs]
        if over:
            shown = "; ".join(f"`{one.domain}` {one.epochs:.1f} times its {one.stored_tokens:,} tokens" for one in over)
            raise DataError(
                f"`pretrain.mixture` would repeat domains more than {self._config.max_epochs:g} times: {shown}",
                hint="lower their weights or `pretrain.steps`, add documents, or raise `pretrain.mixture.max_epochs`",
            )
        return shares

    def _share(self, domain: str, windows: int) -> Share:
        stored = len(self._streams[domain])
        tokens = windows * self._length
        return Share(domain, windows, tokens, stored, round(tokens / max(1, stored), 3))


class _Phase(NamedTuple):
    start: int  # row
    end: int | None
    weights: tuple[tuple[str, Fraction], ...]  # heaviest first


def _phases(config: MixtureConfig, first_row: Callable[[int], int]) -> list[_Phase]:
    starts = [0, *(first_row(stage.from_step) for stage in config.stages)]
    ends = [*starts[1:], None]
    tables = [config.weights, *(stage.weights for stage in config.stages)]
    return [_Phase(start, end, _fractions(table)) for start, end, table in zip(starts, ends, tables, strict=True)]


def _rows_by_domain(phases: Sequence[_Phase], rows: int) -> dict[str, int]:
    """How many of the first rows of a training each domain has."""
    counts: dict[str, int] = {}
    for phase in phases:
        end = rows if phase.end is None else min(rows, phase.end)
        for domain, number in _counts(phase.weights, max(0, end - phase.start)).items():
            counts[domain] = counts.get(domain, 0) + number
    return counts


def _fractions(weights: dict[str, float]) -> tuple[tuple[str, Fraction], ...]:
    """Weights as exact numbers, heaviest first, names deciding between equals."""
    ordered = sorted(weights.items(), key=lambda one: (-one[1], one[0]))
    return tuple((name, Fraction(str(weight))) for name, weight in ordered if weight > 0)


def _peel(weights: Sequence[tuple[str, Fraction]], row: int) -> tuple[str, int]:
    """The domain of a row, and how many rows of that domain stand before it.

    The heaviest domain takes row r where floor((r + 1) p) exceeds floor(r p); the rows it leaves, numbered anew, are
    shared by the others in the same way.
    """
    left = sum(weight for _, weight in weights)
    for name, weight in weights:
        share = Fraction(weight) / left
        before = row * share.numerator // share.denominator
        if (row + 1) * share.numerator // share.denominator > before:
            return name, before
        row, left = row - before, left - weight
    raise AssertionError("the last domain takes what is left")


def _counts(weights: Sequence[tuple[str, Fraction]], rows: int) -> dict[str, int]:
    """How many of the first rows each domain has."""
    counts: dict[str, int] = {}
    left = sum(weight for _, weight in weights)
    for name, weight in weights:
        share: Any = Fraction(weight) / left if left else Fraction(0)
        counts[name] = rows * share.numerator // share.denominator
        rows, left = rows - counts[name], left - weight
    return counts
