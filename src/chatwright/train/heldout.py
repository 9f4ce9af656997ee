"""Bits per byte on documents that training never saw, by domain. Used during training, after it, and for forgetting.

Legend: B rows, T positions, V vocabulary.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from chatwright.model.network import Network
from chatwright.tokens.shards import TokenDocument, TokenSplit
from chatwright.train.batches import IGNORED


class DocumentLoss(NamedTuple):
    """A document's total loss."""

    domain: str
    nats: float
    tokens: int
    num_bytes: int
    number: int  # position within its split

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers: bits the model needs for a byte of the raw text."""
        return self.nats / math.log(2) / max(1, self.num_bytes)


class _Window(NamedTuple):
    document: int
    inputs: list[int]
    targets: list[int]


def sample_documents(split: TokenSplit, *, tokens_per_domain: int) -> list[TokenDocument]:
    """Whole documents, the first of each domain in stored order, until a domain has its tokens."""
    taken: dict[str, int] = {}
    sample = []
    for document in split.documents():
        if taken.get(document.domain, 0) < tokens_per_domain:
            taken[document.domain] = taken.get(document.domain, 0) + len(document.ids)
            sample.append(document)
    return sample


def document_losses(
    network: Network, documents: Iterable[TokenDocument], *, begin: int, stride: int, batch_tokens: int = 16_384
) -> list[DocumentLoss]:
    """Loss of every token of every document, each token counted once.

    Windows of the model's context move on by `stride`; a token is scored in the first window that holds it, so it
    sees at least `context - stride` tokens before it where the document has them. The first token is predicted from
    `begin`, the token that begins a text (for our own tokenizers the one that ends the text before); the end of the
    document is not scored. `stride` equal to the context is the fastest.
    """
    listed = list(documents)
    length = network.config.context_length
    if not 1 <= stride <= length:
        raise ValueError(f"the stride must lie between 1 and the context of {length}: {stride}")
    windows: list[_Window] = []
    for index, document in enumerate(listed):
        windows += _windows(index, document.ids.tolist(), begin=begin, length=length, stride=stride)
    windows.sort(key=lambda window: len(window.inputs))  # rows of like length are padded least
    nats = [0.0] * len(listed)
    start = 0
    while start < len(windows):
        group = _next_group(windows, start, batch_tokens)
        for window, value in zip(group, _window_nats(network, group), strict=True):
            nats[window.document] += value
        start += len(group)
    return [
        DocumentLoss(document.domain, total, len(document.ids), document.num_bytes, document.number)
        for document, total in zip(listed, nats, strict=True)
    ]


def _windows(document: int, ids: Sequence[int], *, begin: int, length: int, stride: int) -> list[_Window]:
    stream = [begin, *ids]  # stream[i] predicts stream[i + 1]
    windows, scored, start = [], 0, 0
    while scored < len(ids):
        end = min(start + length, len(ids))
        targets = [IGNORED] * (scored - start) + stream[scored + 1 : end + 1]
        windows.append(_Window(document, stream[start:end], targets))
        scored = end
        start += stride
    return windows


def _next_group(windows: Sequence[_Window], start: int, batch_tokens: int) -> Sequence[_Window]:
    """As many windows from `start` as fit the batch when all are padded to the longest, which is the last."""
    end = start + 1
    while end < len(windows) and (end + 1 - start) * len(windows[end].inputs) <= batch_tokens:
        end += 1
    return windows[start:end]


@torch.no_grad()  # not inference mode: a network in shards cannot be gathered in it
def _window_nats(network: Network, group: Sequence[_Window]) -> list[float]:
    device = network.lm_head.weight.device
    width = max(len(window.inputs) for window in group)
    inputs_BT = torch.tensor([[*w.inputs, *[0] * (width - len(w.inputs))] for w in group], device=device)
    targets_BT = torch.tensor([[*w.targets, *[IGNORED] * (width - len(w.targets))] for w in group], device=device)
    hidden_BTD = network.hidden(inputs_BT)
    return [
        float(_row_nats(network, hidden_TD, targets_T))
        for hidden_TD, targets_T in zip(hidden_BTD, targets_BT, strict=True)
    ]


def _row_nats(network: Network, hidden_TD: Tensor, targets_T: Tensor) -> Tensor:
    return F.cross_entropy(network.lm_head(hidden_TD).float(), targets_T, ignore_index=IGNORED, reduction="sum")


def domain_shown(domain: str) -> str:
    """A domain as figures name it: `all` stands for all documents together, so one of that name is told apart."""
    return domain if domain != "all" else "all (domain)"


def by_domain(losses: Iterable[DocumentLoss]) -> dict[str, dict[str, Any]]:
    """Totals, bits per byte and perplexity per token of each domain, and of all together under `all`."""
    groups: dict[str, list[DocumentLoss]] = {"all": []}
    for loss in losses:
        groups["all"].append(loss)
        groups.setdefault(domain_shown(loss.domain), []).append(loss)
    result = {}
    for name, members in groups.items():
        nats = sum(member.nats for member in members)
        tokens = sum(member.tokens for member in members)
        num_bytes = sum(member.num_bytes for member in members)
        result[name] = {
            "bits_per_byte": round(nats / math.log(2) / max(1, num_bytes), 5),
            "perplexity": round(math.exp(min(50.0, nats / max(1, tokens))), 4),
            "documents": len(members),
            "tokens": tokens,
            "bytes": num_bytes,
        }
    return result


def worst(losses: Sequence[DocumentLoss], *, most: int = 3, least_bytes: int = 200) -> dict[str, Any]:
    """The domain with the most bits per byte, and the documents; documents too short to say much are left out."""
    domains = {name: values["bits_per_byte"] for name, values in by_domain(losses).items() if name != "all"}
    long_enough = [loss for loss in losses if loss.num_bytes >= least_bytes]
    ranked = sorted(long_enough, key=lambda loss: (-loss.bits_per_byte, loss.number))[:most]
    return {
        "domain": max(domains, key=lambda name: domains[name], default=None),
        "documents": [
            {"number": loss.number, "domain": loss.domain, "bits_per_byte": round(loss.bits_per_byte, 5)}
            for loss in ranked
        ],
    }


def heldout_loss(values: dict[str, Any]) -> float | None:
    """The figure by which checkpoints compare: bits per byte over all held-out documents, where they are measured."""
    bits = values.get("bits_per_byte")
    return bits.get("all") if isinstance(bits, dict) else None


class HeldoutCheck:
    """The measurement during training: a fixed sample of held-out documents, whole, by domain."""

    def __init__(self, network: Network, documents: Sequence[TokenDocument], *, begin: int):
        self._network = network
        self._documents = documents
        self._begin = begin

    def __call__(self) -> dict[str, Any]:
        """Bits per byte by domain, and one line for the person."""
        stride = self._network.config.context_length
        losses = document_losses(self._network, self._documents, begin=self._begin, stride=stride)
        domains = by_domain(losses)
        bits = {name: values["bits_per_byte"] for name, values in domains.items()}
        named = ", ".join(f"{name} {value:.3f}" for name, value in bits.items() if name != "all")
        return {
            "bits_per_byte": bits,
            "worst": worst(losses),
            "summary": f"held-out bits per byte {bits['all']:.3f} ({named})",
        }
