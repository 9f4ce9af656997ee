"""The text side of one answer: from tokens to pieces of whole characters, up to a stop text or token.

Knows neither scores nor memory.
"""

import re
from collections.abc import Iterable, Sequence

from chatwright.model.engine.choosing import Chosen
from chatwright.model.generation import Finish, GenerationRequest, Likely, Piece, ScoredToken
from chatwright.tokens.tokenizer import StreamDecoder, Tokenizer


def _byte_alphabet() -> dict[str, int]:
    """Which byte a letter of a byte-level vocabulary stands for (GPT-2's table).

    Bytes that print stand for themselves, the others for the letters from 256 on, in order.
    """
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_alphabet()
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # how a vocabulary made by sentencepiece spells one byte
_FEWEST_BEFORE = 4  # ids of a prompt before which an answer's beginning is read
_LONGEST_CHARACTER = 4  # bytes, so many tokens at most


class Speller:
    """How single tokens are told of.

    Args:
        tokenizer: whose vocabulary it is.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._known: dict[tuple[int, bool], tuple[str, bytes]] = {}

    def scored(self, chosen: Chosen, *, before: Iterable[int], is_first: bool = False) -> ScoredToken:
        """A chosen token with its text and bytes, and what else was likely.

        Args:
            chosen: the token.
            before: all ids before it, of which the first are looked at.
            is_first: whether nothing stands before it that it could have been chosen by.
        """
        opens = not any(map(self._says, before))
        token = self._likely(chosen.token, chosen.logprob or 0.0, opens=opens)
        top = tuple(self._likely(number, logprob, opens=opens) for number, logprob in chosen.top)
        return ScoredToken(token, top, is_first)

    def _says(self, number: int) -> bool:
        """Whether a token is more than a marker. Twice, since the first space of a text may be left out."""
        return bool(self._tokenizer.decode([number, number]))

    def _likely(self, number: int, logprob: float, *, opens: bool) -> Likely:
        if (number, opens) not in self._known:
            self._known[number, opens] = self._spelled(number, opens=opens)
        text, raw = self._known[number, opens]
        return Likely(number, text, raw, logprob)

    def _spelled(self, number: int, *, opens: bool) -> tuple[str, bytes]:
        """Text and bytes of a token at the beginning of a text, or behind others, where it keeps its space."""
        alone = self._tokenizer.decode([number])
        if "\ufffd" in alone:
            return alone, self._bytes(number) or alone.encode()
        text = alone if opens else self._tokenizer.decode([number, number])[len(alone) :]
        return text, text.encode()

    def _bytes(self, number: int) -> bytes | None:
        """What a token holds that is no whole character; None where its spelling does not tell."""
        spelling = self._tokenizer.token_text(number)
        if byte := _BYTE_TOKEN.fullmatch(spelling):
            return bytes([int(byte[1], 16)])
        if all(letter in _BYTES for letter in spelling):
            return bytes(_BYTES[letter] for letter in spelling)
        return None


class Writer:
    """One answer on its way to its reader.

    Args:
        request: what was asked.
        answer: which of its answers.
        tokenizer: whose ids they are.
    """

    def __init__(self, request: GenerationRequest, *, answer: int, tokenizer: Tokenizer):
        self._request = request
        self._answer = answer
        self._decoder = StreamDecoder(tokenizer, before=_last_words(tokenizer, request.prompt))
        self._stops = request.sampling.stop
        self._longest_stop = max((len(text) for text in self._stops), default=0)
        self._held = ""
        self._tokens: list[ScoredToken] = []
        self.num_tokens = 0

    def echo(self, text: str, tokens: Sequence[ScoredToken]) -> Piece:
        """The prompt itself."""
        return self._piece(text, None, tokens)

    def push(self, token: int, scored: ScoredToken | None) -> Piece | None:
        """Take a token up; the piece that it completes, or None. A piece that has an end is the last."""
        self.num_tokens += 1
        if token in self._request.stop_ids:
            return self.end("stop")
        if scored is not None:
            self._tokens.append(scored)
        self._held += self._decoder.push(token)
        position = _first_stop(self._held, self._stops)
        if position is not None:
            return self._ended(self._held[:position], "stop")
        if self.num_tokens >= self._request.sampling.max_tokens:
            return self.end("length")
        # What might be the beginning of a stop text is held back until it is certain.
        ready = len(self._held) - max(0, self._longest_stop - 1)
        if ready <= 0 and not self._tokens:
            return None
        text, self._held = self._held[: max(0, ready)], self._held[max(0, ready) :]
        return self._ended(text, None)

    def end(self, finish: Finish) -> Piece:
        """The last piece, with all that was held back."""
        text = self._held + self._decoder.flush()
        position = _first_stop(text, self._stops)
        if position is None or finish == "cancelled":
            return self._ended(text, finish)
        return self._ended(text[:position], "stop")

    def _ended(self, text: str, finish: Finish | None) -> Piece:
        tokens, self._tokens = self._tokens, []
        return self._piece(text, finish, tokens)

    def _piece(self, text: str, finish: Finish | None, tokens: Sequence[ScoredToken]) -> Piece:
        return Piece(text, finish, len(self._request.prompt), self.num_tokens, self._answer, tuple(tokens))


def _last_words(tokenizer: Tokenizer, prompt: Sequence[int]) -> Sequence[int]:
    """A prompt's last few ids, of whole characters; none where the prompt itself ends within one."""
    for count in range(_FEWEST_BEFORE, _FEWEST_BEFORE + _LONGEST_CHARACTER):
        last = prompt[-count:]
        text = tokenizer.decode(last)
        if not text.startswith("\ufffd"):
            return () if text.endswith("\ufffd") else last
    return ()


def _first_stop(text: str, stops: tuple[str, ...]) -> int | None:
    positions = [position for position in (text.find(stop) for stop in stops) if position >= 0]
    return min(positions, default=None)
