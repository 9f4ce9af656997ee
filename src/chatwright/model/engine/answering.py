"""One answer inside the engine: what it has read and written, and what it tells of it."""

from collections.abc import Callable, Sequence
from itertools import islice

import torch
from torch import Tensor

from chatwright.model.engine.choosing import Chooser, Chosen, scored
from chatwright.model.engine.memory import Row
from chatwright.model.engine.planning import NextToken, Stretch
from chatwright.model.engine.writing import Speller, Writer
from chatwright.model.generation import Finish, GenerationRequest, Piece, ScoredToken
from chatwright.tokens.tokenizer import Tokenizer

_SCORED_AT_ONCE = 64  # tokens of a prompt whose scores of the whole vocabulary are held together


class Answering:
    """An answer that waits, is read for, or is written.

    Args:
        number: of its request.
        request: what was asked.
        answer: which of the request's answers.
        seed: of the request.
        tokenizer: whose ids they are.
        speller: how single tokens are told of.
        context: tokens that a row can have.
    """

    def __init__(
        self,
        number: int,
        request: GenerationRequest,
        *,
        answer: int,
        seed: int,
        tokenizer: Tokenizer,
        speller: Speller,
        context: int,
    ):
        self.number = number
        self.request = request
        self.answer = answer
        self.ids = list(request.prompt)
        self.num_read = 0  # ids whose keys and values stand in the row
        self.row: Row | None = None
        self.siblings: list[Answering] = []  # answers to the same prompt, that begin once it is read
        self.echoed: list[ScoredToken] = []
        self.finish: Finish | None = None
        # The last token of a text that is only scored need not be read: nothing comes after it.
        self.num_to_read = max(1, len(self.ids) - (request.sampling.max_tokens == 0))
        self.capacity = min(context, len(self.ids) + request.sampling.max_tokens)
        self.chooser = Chooser(request.sampling, seed=seed, answer=answer, prompt=request.prompt)
        self.writer = Writer(request, answer=answer, tokenizer=tokenizer)
        self._tokenizer = tokenizer
        self._speller = speller

    @property
    def written(self) -> list[int]:
        """Ids of the answer so far, a stop token among them."""
        return self.ids[len(self.request.prompt) :]

    @property
    def is_reading(self) -> bool:
        """Whether some of the prompt is still to be read."""
        return self.num_read < self.num_to_read

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's own log-probabilities are asked for and not known yet."""
        request = self.request
        return request.echo and request.sampling.top_logprobs is not None and not self.echoed

    def next_token(self) -> NextToken:
        """What a row that is written to reads next."""
        return NextToken(self._row, self.num_read, self.ids[self.num_read])

    def next_stretch(self, num_tokens: int) -> Stretch:
        """At most so many tokens of the prompt."""
        end = min(self.num_read + num_tokens, self.num_to_read)
        return Stretch(self._row, self.num_read, self.ids[self.num_read : end])

    def echo(self) -> Piece | None:
        """The prompt, once it is read, where it is to be echoed."""
        if not self.request.echo:
            return None
        text = self._tokenizer.decode(self.request.prompt[self.request.unshown :])
        return self.writer.echo(text, self.echoed)

    def score_prompt(self, logits_of: Callable[[Tensor], Tensor], states_TD: Tensor, start: int) -> None:
        """Note the log-probabilities of the prompt's tokens that follow each of these states."""
        request = self.request
        top = request.sampling.top_logprobs or 0
        if start == 0 and request.unshown == 0:
            first = Chosen(request.prompt[0], 0.0, ())
            self.echoed.append(self._speller.scored(first, before=(), is_first=True))
        for begin in range(0, len(states_TD), _SCORED_AT_ONCE):
            logprobs_TV = torch.log_softmax(logits_of(states_TD[begin : begin + _SCORED_AT_ONCE]), -1)
            for offset, logprobs_V in enumerate(logprobs_TV, start=start + begin + 1):
                if request.unshown <= offset < len(request.prompt):
                    chosen = scored(logprobs_V, request.prompt[offset], top=top)
                    self.echoed.append(self._speller.scored(chosen, before=islice(request.prompt, offset)))

    def take(self, scores_V: Tensor, likeliest: int) -> Piece | None:
        """Choose the next token and tell what became certain with it."""
        chosen = self.chooser.take_likeliest(likeliest) if self.chooser.is_plain else self.chooser.choose(scores_V)
        told = None if chosen.logprob is None else self._speller.scored(chosen, before=self.ids)
        self.ids.append(chosen.token)
        piece = self.writer.push(chosen.token, told)
        if (piece is None or piece.finish is None) and len(self.ids) >= self.capacity:
            last = self.writer.end("length")
            piece = last if piece is None else joined(piece, last)
        return piece

    @property
    def _row(self) -> Row:
        if self.row is None:
            raise ValueError("an answer without a row reads nothing")
        return self.row


def joined(first: Piece, second: Piece) -> Piece:
    """Two pieces of an answer in one."""
    return second._replace(text=first.text + second.text, tokens=(*first.tokens, *second.tokens))


def by_row(answers: Sequence[Answering]) -> list[Answering]:
    """Answers in the order of their rows."""
    return sorted(answers, key=lambda answer: answer.row or Row(0, 0))
