"""Choosing the next token from scores: penalties, temperature, limits, and a draw that depends on its counter only.

Legend: B rows, V vocabulary, L likeliest tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from chatwright.foundation.streams import seed_for
from chatwright.model.generation import Sampling

_GREEDY_BELOW = 1e-6  # a temperature at which scores divided by it leave float32's range
_NUCLEUS_TRY = 256  # tokens among which a nucleus is looked for before the whole vocabulary is sorted


class Chosen(NamedTuple):
    """A token and, where asked for, how likely it and others were under the model itself."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


class Chooser:
    """Chooses one answer's tokens.

    Args:
        sampling: how.
        seed: of this request; each answer and each token of it draws by its own counter.
        answer: which of the request's answers.
        prompt: ids before the answer, for the repetition penalty.
    """

    def __init__(self, sampling: Sampling, *, seed: int, answer: int, prompt: Sequence[int]):
        self._sampling = sampling
        self._seed = seed
        self._answer = answer
        self._seen = set(prompt) if sampling.repetition_penalty != 1 else set()
        self._counts: dict[int, int] = {}
        self._num_chosen = 0

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token is all that is asked for."""
        sampling = self._sampling
        return sampling.temperature < _GREEDY_BELOW and sampling.top_logprobs is None and not self._has_penalties

    @property
    def _has_penalties(self) -> bool:
        sampling = self._sampling
        return (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) != (1, 0, 0)

    def choose(self, scores_V: Tensor) -> Chosen:
        """The next token; the scores are left as they are."""
        penalised_V = self._penalised(scores_V)
        if self._sampling.temperature < _GREEDY_BELOW:
            token = int(penalised_V.argmax())
        else:
            draw = seed_for(self._seed, "token", self._answer, self._num_chosen) / (1 << 63)
            token = drawn(penalised_V, self._sampling, draw=draw)
        self._count(token)
        if self._sampling.top_logprobs is None:
            return Chosen(token, None, ())
        return scored(torch.log_softmax(scores_V, -1), token, top=self._sampling.top_logprobs)

    def take_likeliest(self, token: int) -> Chosen:
        """Note a token that was found to be the likeliest, where `is_plain`."""
        self._num_chosen += 1
        return Chosen(token, None, ())

    def _count(self, token: int) -> None:
        self._num_chosen += 1
        if self._has_penalties:
            self._seen.add(token)
            self._counts[token] = self._counts.get(token, 0) + 1

    def _penalised(self, scores_V: Tensor) -> Tensor:
        sampling = self._sampling
        if not self._has_penalties or not (self._seen or self._counts):
            return scores_V
        scores_V = scores_V.clone()
        if sampling.repetition_penalty != 1:
            index = torch.tensor(sorted(self._seen), device=scores_V.device)
            picked = scores_V[index]
            penalty = sampling.repetition_penalty
            scores_V[index] = torch.where(picked > 0, picked / penalty, picked * penalty)
        if self._counts:
            index = torch.tensor(list(self._counts), device=scores_V.device)
            counts = torch.tensor(list(self._counts.values()), device=scores_V.device, dtype=scores_V.dtype)
            scores_V[index] -= sampling.presence_penalty + sampling.frequency_penalty * counts
        return scores_V


def scored(logprobs_V: Tensor, token: int, *, top: int) -> Chosen:
    """A token with its own log-probability and those of the `top` likeliest."""
    if not top:
        return Chosen(token, float(logprobs_V[token]), ())
    values_L, ids_L = logprobs_V.topk(min(top, len(logprobs_V)))
    likeliest = tuple(zip(ids_L.tolist(), values_L.tolist(), strict=True))
    return Chosen(token, float(logprobs_V[token]), likeliest)


def drawn(scores_V: Tensor, sampling: Sampling, *, draw: float) -> int:
    """The token on which a number of [0, 1) falls when the tokens' shares lie side by side.

    Limits come in the order top-k, min-p, nucleus, each over what the one before left; the temperature before all.
    """
    scores_V = (scores_V - scores_V.max()) / sampling.temperature
    if 0 < sampling.top_k < len(scores_V):
        scores_V = scores_V.masked_fill(scores_V < scores_V.topk(sampling.top_k).values[-1], -torch.inf)
    shares_V = torch.softmax(scores_V.double(), dim=-1)
    if sampling.min_p > 0:
        shares_V = shares_V.masked_fill(shares_V < sampling.min_p * shares_V.max(), 0)
        shares_V /= shares_V.sum()
    if sampling.top_p < 1:
        shares_V = _nucleus(shares_V, sampling.top_p)
    edges_V = shares_V.cumsum(-1)
    place = int(torch.searchsorted(edges_V, draw * edges_V[-1], right=True))
    # Rounding can put the last draw on the end of the line: then it is the last token that has a share.
    return place if place < len(shares_V) else int(shares_V.nonzero()[-1])


def _nucleus(shares_V: Tensor, top_p: float) -> Tensor:
    """The fewest likeliest tokens that have `top_p` together (Holtzman et al. 2020); the others' shares at zero."""
    for size in (_NUCLEUS_TRY, len(shares_V)):
        values_L, ids_L = shares_V.topk(min(size, len(shares_V)))
        before_L = values_L.cumsum(-1) - values_L
        if size == len(shares_V) or before_L[-1] + values_L[-1] >= top_p:
            break
    kept_L = before_L < top_p
    return torch.zeros_like(shares_V).index_copy_(0, ids_L[kept_L], values_L[kept_L])
