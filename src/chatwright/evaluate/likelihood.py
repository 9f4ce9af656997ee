"""Log-probabilities of given tokens, many rows at once: what perplexity, multiple choice and the harness stand on.

Not for making text, and not for windows: whoever calls decides what a row reads and which of its tokens count.
Legend: B rows, T positions, N scored positions of a batch, V vocabulary, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from chatwright.foundation.errors import UsageError
from chatwright.model.engine.reading import Reader, suits
from chatwright.model.network import Network

CPU_BATCH_TOKENS = 1_024  # padded positions that a thread reads at once; more leave a processor's cache
BATCH_TOKENS = 32_768  # the same on other devices
_SCORES = 1 << 19  # scores held at once: few enough to stay in a processor's cache


class Row(NamedTuple):
    """What the network reads, and the tokens that follow its last `len(targets)` positions."""

    inputs: Sequence[int]
    targets: Sequence[int]


class Scored(NamedTuple):
    """One row's figures."""

    logprobs: NDArray[np.float32]  # natural logarithm, of each target
    is_greedy: bool  # every target is the likeliest token; False where it was not asked for


class _Flat(NamedTuple):
    """The same for all scored positions of a batch, one after the other."""

    logprobs: NDArray[np.float32]
    is_likeliest: NDArray[np.bool_] | None


def score_rows(
    network: Network, rows: Sequence[Row], *, with_greedy: bool = False, batch_tokens: int | None = None
) -> list[Scored]:
    """Score every row, in the order given; each as it would be alone.

    Only scored positions cost an output projection, and scores never stand in memory for more than a few hundred of
    them.

    Args:
        network: the model, in evaluation mode.
        rows: what to score.
        with_greedy: also find out whether the targets are the likeliest tokens.
        batch_tokens: padded positions read at once; None: what suits the device.

    Raises:
        UsageError: a row exceeds the model's context, or has no target or more targets than inputs.
    """
    _require_sound(rows, network.config.context_length)
    found: list[Scored | None] = [None] * len(rows)
    on_cpu = network.lm_head.weight.device.type == "cpu"
    groups = list(_groups(rows, batch_tokens or (CPU_BATCH_TOKENS if on_cpu else BATCH_TOKENS)))
    read = partial(_score_group, _reading_of(network), with_greedy=with_greedy)
    together = [[rows[index] for index in group] for group in groups]
    for group, flat in zip(groups, _each(read, together, on_cpu=on_cpu), strict=True):
        begin = 0
        for index in group:
            end = begin + len(rows[index].targets)
            likeliest = flat.is_likeliest is not None and bool(flat.is_likeliest[begin:end].all())
            found[index] = Scored(flat.logprobs[begin:end], likeliest)
            begin = end
    return [scored for scored in found if scored is not None]


class _Reading(NamedTuple):
    """The two halves of a forward pass."""

    hidden: Callable[[Tensor], Tensor]  # (B, T) to (B, T, D)
    logprobs: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (N, D) and targets to (N,) and scores, (N, V)
    device: torch.device
    vocabulary: int


def _reading_of(network: Network) -> _Reading:
    """The network itself, or a copy of its weights in the layout that is fastest on this processor."""
    device, vocabulary = network.lm_head.weight.device, network.config.vocabulary_size
    if suits(network):
        reader = Reader(network)
        return _Reading(reader.hidden, reader.logprobs, device, vocabulary)

    def logprobs(hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        scores_NV = network.lm_head(hidden_ND).float()
        return -F.cross_entropy(scores_NV, targets_N, reduction="none"), scores_NV

    return _Reading(network.hidden, logprobs, device, vocabulary)


def _require_sound(rows: Sequence[Row], context: int) -> None:
    for row in rows:
        if len(row.inputs) > context:
            raise UsageError(f"a row of {len(row.inputs)} tokens exceeds the model's context of {context}")
        if not 1 <= len(row.targets) <= len(row.inputs):
            raise UsageError(f"a row of {len(row.inputs)} tokens cannot have {len(row.targets)} scored ones")


def _groups(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[int]]:
    """Rows of like length together, longest first: whether the memory suffices shows at once."""
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index].inputs))
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // len(rows[order[start]].inputs))
        yield order[start : start + size]
        start += size


def _each(read: Callable[[Sequence[Row]], _Flat], groups: Sequence[Sequence[Row]], *, on_cpu: bool) -> Iterator[_Flat]:
    """What is read of each group, in order. On a CPU a group is one thread's: threads that share a product wait.

    PyTorch keeps the number of threads for each thread that asks, and a default for those to come.
    """
    threads = min(torch.get_num_threads(), len(groups)) if on_cpu else 1
    if threads <= 1:
        yield from map(read, groups)
        return
    before = torch.get_num_threads()
    with ThreadPoolExecutor(threads, "scoring", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from pool.map(read, groups)
        finally:
            torch.set_num_threads(before)


@torch.inference_mode()
def _score_group(reading: _Reading, rows: Sequence[Row], *, with_greedy: bool) -> _Flat:
    device = reading.device
    width = max(len(row.inputs) for row in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    is_scored = np.zeros((len(rows), width), dtype=np.bool_)
    for number, row in enumerate(rows):
        length = len(row.inputs)
        ids[number, :length] = row.inputs
        is_scored[number, length - len(row.targets) : length] = True
    hidden_ND = reading.hidden(torch.from_numpy(ids).to(device)).flatten(0, 1)
    if not is_scored.all():
        hidden_ND = hidden_ND[torch.from_numpy(is_scored.ravel()).to(device)]
    targets_N = torch.from_numpy(np.concatenate([np.asarray(row.targets, dtype=np.int64) for row in rows])).to(device)
    step = max(1, _SCORES // reading.vocabulary)
    found, likeliest = [], []
    for start in range(0, len(targets_N), step):
        wanted_N = targets_N[start : start + step]
        logprobs_N, scores_NV = reading.logprobs(hidden_ND[start : start + step], wanted_N)
        found.append(logprobs_N)
        if with_greedy:
            likeliest.append(scores_NV.argmax(-1) == wanted_N)
    flags = torch.cat(likeliest).cpu().numpy() if with_greedy else None
    return _Flat(torch.cat(found).cpu().numpy(), flags)
