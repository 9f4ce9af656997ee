"""Perplexity and bits per byte of texts: windows of a stated context that move on by a stated stride.

Every token of a document is predicted exactly once, the first from the token that begins a text; the end of a document
is not predicted. Bits per byte divide by the bytes of the raw text, so models with other tokenizers compare.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chatwright.evaluate.likelihood import Row, score_rows
from chatwright.evaluate.resampling import RESAMPLES, Interval, least_p_value, percentiles, resampled_sums
from chatwright.evaluate.texts import Text
from chatwright.foundation.errors import UsageError
from chatwright.foundation.streams import seed_for
from chatwright.model.chat import ChatModel
from chatwright.tokens.tokenizer import StreamDecoder, Tokenizer
from chatwright.train.heldout import domain_shown

_BITS = 1 / math.log(2)
_TOGETHER = 512  # documents tokenized and scored at once, so that memory does not grow with their number


class Windows(NamedTuple):
    """How a long document is read: `context` tokens at once, moving on by `stride`."""

    context: int
    stride: int

    @classmethod
    def of(cls, model: ChatModel, *, context: int | None = None, stride: int | None = None) -> "Windows":
        """The model's whole context and half of it as the stride, unless said otherwise.

        Raises:
            UsageError: a context beyond the model's, or a stride beyond the context.
        """
        length = model.context_length if context is None else context
        if not 1 <= length <= model.context_length:
            raise UsageError(f"the context must lie between 1 and the model's {model.context_length}: {length}")
        step = max(1, length // 2) if stride is None else stride
        if not 1 <= step <= length:
            raise UsageError(f"the stride must lie between 1 and the context of {length}: {step}")
        return cls(length, step)


@dataclass(frozen=True, kw_only=True)
class TextLoss:
    """A document's loss, token by token."""

    id: str
    domain: str
    num_bytes: int
    ids: NDArray[np.int32]
    nats: NDArray[np.float32]  # of each token

    @property
    def total(self) -> float:
        """Nats of the whole document."""
        return float(self.nats.sum(dtype=np.float64))

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs for a byte of this document."""
        return self.total * _BITS / self.num_bytes


def rows_of(ids: Sequence[int], *, begin: int, windows: Windows) -> list[Row]:
    """The windows over one document; the targets of all rows together are its tokens, in order.

    The rule is that of the transformers guide on perplexity of fixed-length models: a token is scored in the first
    window that holds it, so it sees at least `context - stride` tokens before it where the document has them.
    """
    stream = [begin, *ids]  # stream[i] is read where ids[i] is predicted
    rows, scored, start = [], 0, 0
    while scored < len(ids):
        end = min(start + windows.context, len(ids))
        rows.append(Row(stream[start:end], ids[scored:end]))
        scored = end
        start += windows.stride
    return rows


def text_losses(model: ChatModel, texts: Sequence[Text], *, windows: Windows) -> list[TextLoss]:
    """Loss of every token of every text."""
    losses: list[TextLoss] = []
    for start in range(0, len(texts), _TOGETHER):
        group = texts[start : start + _TOGETHER]
        encoded = model.tokenizer.encode_batch([text.text for text in group])
        begin = model.tokenizer.begin_of_text
        rows = [rows_of(ids, begin=begin, windows=windows) for ids in encoded]
        scored = iter(score_rows(model.network, [row for document in rows for row in document]))
        for text, ids, document in zip(group, encoded, rows, strict=True):
            nats = -np.concatenate([next(scored).logprobs for _ in document] or [np.zeros(0, dtype=np.float32)])
            assert len(nats) == len(ids), "each token is scored once"  # noqa: S101 - what we promise ourselves
            losses.append(
                TextLoss(
                    id=text.id,
                    domain=text.domain,
                    num_bytes=len(text.text.encode()),
                    ids=np.asarray(ids, dtype=np.int32),
                    nats=nats,
                )
            )
    return losses


class Totals(NamedTuple):
    """Sums of each document, by which figures over several are ratios."""

    nats: NDArray[np.float64]
    num_bytes: NDArray[np.float64]
    tokens: NDArray[np.float64]


def by_domain(losses: Sequence[TextLoss], *, seed: int = 1, resamples: int = RESAMPLES) -> dict[str, dict[str, Any]]:
    """Figures of each domain, and of all documents under `all`, with intervals by bootstrap over documents.

    Documents are drawn with replacement and the ratio of their sums is taken (Efron and Tibshirani 1993, chapter 13:
    percentiles). A single document gives no interval: there is nothing to resample.
    """
    groups: dict[str, list[TextLoss]] = {"all": list(losses)}
    for loss in losses:
        groups.setdefault(domain_shown(loss.domain), []).append(loss)
    return {
        name: _figures(members, seed=seed_for(seed, f"bootstrap {name}"), resamples=resamples)
        for name, members in groups.items()
    }


def _totals(losses: Iterable[TextLoss]) -> Totals:
    listed = [(loss.total, loss.num_bytes, len(loss.ids)) for loss in losses]
    columns = np.asarray(listed, dtype=np.float64).reshape(-1, 3)
    return Totals(columns[:, 0], columns[:, 1], columns[:, 2])


def _figures(members: Sequence[TextLoss], *, seed: int, resamples: int) -> dict[str, Any]:
    totals = _totals(members)
    nats, num_bytes, tokens = (float(column.sum()) for column in totals)
    figures: dict[str, Any] = {
        "bits_per_byte": round(nats * _BITS / num_bytes, 6),
        "perplexity": _perplexity(nats / max(1.0, tokens)),
        "byte_perplexity": _perplexity(nats / num_bytes),
        "documents": len(members),
        "tokens": int(tokens),
        "bytes": int(num_bytes),
        "nats": round(nats, 4),
    }
    return figures | ratio_intervals(totals, seed=seed, resamples=resamples)


def _perplexity(rate: float) -> float:
    return round(math.exp(min(700.0, rate)), 6)


def ratio_intervals(totals: Totals, *, seed: int, resamples: int = RESAMPLES) -> dict[str, list[float]]:
    """95 % intervals of bits per byte and of perplexity by bootstrap over documents; of one document there are none.

    Args:
        totals: a row a document.
        seed: of the draws.
        resamples: draws.
    """
    if len(totals.nats) < 2:
        return {}
    nats, num_bytes, tokens = resampled_sums(np.stack(totals, axis=1), seed=seed, resamples=resamples).T
    rates = percentiles(nats / np.maximum(1.0, tokens))
    return {
        "bits_per_byte_95": percentiles(nats * _BITS / np.maximum(1.0, num_bytes)).rounded(6),
        "perplexity_95": [_perplexity(rates.low), _perplexity(rates.high)],
    }


class LossDifference(NamedTuple):
    """Bits per byte of a second model less those of a first, on the same documents."""

    difference: float
    interval: Interval
    p_value: float  # two-sided, by bootstrap: how often the resampled difference has the other sign, twice; not below
    # what so few documents can show


def loss_difference(
    first: Sequence[TextLoss], second: Sequence[TextLoss], *, seed: int = 1, resamples: int = RESAMPLES
) -> LossDifference:
    """Whether two models differ on the same documents, by bootstrap over pairs; tokenizers may differ.

    Raises:
        UsageError: the two were not measured on the same documents.
    """
    if [(loss.id, loss.num_bytes) for loss in first] != [(loss.id, loss.num_bytes) for loss in second]:
        raise UsageError("two models can be compared on the same documents only")
    one, other = _totals(first), _totals(second)
    gain = (other.nats - one.nats) * _BITS
    columns = np.stack([gain, one.num_bytes], axis=1)
    above, below = resampled_sums(columns, seed=seed_for(seed, "difference"), resamples=resamples).T
    drawn = above / below
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p_value = min(1.0, max(2 * (beyond + 1) / (resamples + 1), least_p_value(len(gain))))
    return LossDifference(float(gain.sum() / one.num_bytes.sum()), percentiles(drawn), p_value)


def worst_documents(losses: Sequence[TextLoss], *, count: int, min_bytes: int = 500) -> list[dict[str, Any]]:
    """The documents that cost most bits a byte, of those long enough to judge."""
    judged = sorted((loss for loss in losses if loss.num_bytes >= min_bytes), key=lambda loss: -loss.bits_per_byte)
    return [
        {
            "id": loss.id,
            "domain": loss.domain,
            "bits_per_byte": round(loss.bits_per_byte, 4),
            "bytes": loss.num_bytes,
            "tokens": len(loss.ids),
        }
        for loss in judged[:count]
    ]


def worst_spans(
    losses: Sequence[TextLoss], tokenizer: Tokenizer, *, count: int, length: int = 64
) -> list[dict[str, Any]]:
    """The stretches of `length` tokens with the highest mean loss, at most one a document, with each token's loss."""
    found = []
    for loss in losses:
        size = min(length, len(loss.nats))
        if size < length // 2:
            continue
        sums = np.convolve(loss.nats.astype(np.float64), np.ones(size), mode="valid")
        start = int(sums.argmax())
        found.append((float(sums[start]) / size, start, size, loss))
    found.sort(key=lambda item: -item[0])
    return [
        {
            "id": loss.id,
            "domain": loss.domain,
            "first_token": start,
            "nats_per_token": round(mean, 4),
            "tokens": spelled(tokenizer, loss.ids[start : start + size].tolist(), loss.nats[start : start + size]),
        }
        for mean, start, size, loss in found[:count]
    ]


def spelled(tokenizer: Tokenizer, ids: Sequence[int], nats: Sequence[float] | NDArray[np.float32]) -> list[list[Any]]:
    """Pairs of text and nats; tokens that make up one character together are one pair with their sum."""
    decoder = StreamDecoder(tokenizer)
    pairs: list[list[Any]] = []
    waiting = 0.0
    for token, value in zip(ids, nats, strict=True):
        waiting += float(value)
        text = decoder.push(token)
        if text:
            pairs.append([text, round(waiting, 4)])
            waiting = 0.0
    rest = decoder.flush()
    if rest:
        pairs.append([rest, round(waiting, 4)])
    return pairs
