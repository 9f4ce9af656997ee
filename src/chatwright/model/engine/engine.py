"""The engine: requests join and leave at any step, and each step reads and writes for all of them at once.

Prompts are read in stretches between which others write on, and a prompt that begins like an earlier one is read from
where they part. Whatever shares the steps, an answer stays the same. Called by one thread at a time.
"""

import itertools
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from chatwright.foundation.errors import UsageError
from chatwright.model.engine.answering import Answering, by_row
from chatwright.model.engine.matrices import WeightFormat
from chatwright.model.engine.memory import BLOCK, PrefixStore, RowMemory, blocks_for
from chatwright.model.engine.planning import Stretch
from chatwright.model.engine.runner import Runner
from chatwright.model.engine.writing import Speller
from chatwright.model.generation import EngineLoad, Finish, GenerationRequest, Piece, ScoredToken
from chatwright.model.network import Network
from chatwright.tokens.tokenizer import Tokenizer

_LONGEST_STEP_S = 0.25  # what reading may add to a step, so that others write on and a cancel is heard
_STRETCHES = (BLOCK, 8 * BLOCK)  # fewest and most tokens of prompts that a step reads
_SHARE_OF_RAM = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """How much an engine does at once."""

    weights: WeightFormat = "float32"  # int8: matrices as whole numbers of 8 bits, on the CPU
    compiles: bool = True  # kernels for this CPU, where there is a C compiler; steps recorded as graphs on a GPU
    max_answers: int = 32  # read or written in one step; more wait
    memory_blocks: int | None = None  # for rows; None: enough for `max_answers`, within a share of the RAM
    shared_blocks: int | None = None  # for beginnings of prompts; None: half as many; 0: none are shared
    frees_network: bool = False  # whether the network's own parameters go once they are laid out, for who only writes


class Written(NamedTuple):
    """A whole answer."""

    ids: list[int]  # a stop token left out
    text: str
    finish: Finish
    tokens: tuple[ScoredToken, ...]


class Engine:
    """Writes answers for many requests at once.

    Args:
        network: the model; its parameters are copied into a layout for inference.
        tokenizer: of its ids.
        settings: how much at once.
        clock: monotonic seconds, to keep steps short.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        *,
        settings: EngineSettings | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.settings = settings or EngineSettings()
        asked = self.settings
        self.runner = Runner(network, weights=asked.weights, compiles=asked.compiles, frees=asked.frees_network)
        self.context_length = network.config.context_length
        self._tokenizer = tokenizer
        self._speller = Speller(tokenizer)
        self._clock = clock
        self._numbers = itertools.count(1)
        self._waiting: deque[Answering] = deque()
        self._active: list[Answering] = []
        self._cancelled: set[int] = set()
        self._read_seconds = 0.0  # per token of a prompt
        self._counts = dict.fromkeys(("prompt", "shared", "completion"), 0)
        self._forget()

    def _forget(self) -> None:
        shape = self.runner.shape
        total = self.settings.memory_blocks or _default_blocks(
            shape.block_bytes, self.context_length, self.settings.max_answers
        )
        shared = total // 2 if self.settings.shared_blocks is None else self.settings.shared_blocks
        self.memory = RowMemory(shape, total_blocks=total)
        self._store = PrefixStore(max_blocks=shared)

    @property
    def free_answers(self) -> int:
        """Answers that could begin with the next step without waiting."""
        return max(0, self.settings.max_answers - len(self._active) - len(self._waiting))

    def submit(self, request: GenerationRequest) -> int:
        """Take a request up; returns its number, under which its pieces come.

        Raises:
            UsageError: the prompt fills the context, or more is asked for than the memory can hold.
        """
        self._require_room(request)
        number = next(self._numbers)
        seed = secrets.randbits(63) if request.sampling.seed is None else request.sampling.seed
        first, *others = [
            Answering(
                number,
                request,
                answer=answer,
                seed=seed,
                tokenizer=self._tokenizer,
                speller=self._speller,
                context=self.context_length,
            )
            for answer in range(request.num_answers)
        ]
        first.siblings = others
        self._waiting.append(first)
        return number

    def _require_room(self, request: GenerationRequest) -> None:
        length = len(request.prompt)
        if length + (1 if request.sampling.max_tokens else -1) > self.context_length:
            raise UsageError(
                f"the prompt has {length} tokens, the model's context is {self.context_length}",
                hint="shorten the conversation, or begin a new one",
            )
        wanted = min(self.context_length, length + request.sampling.max_tokens)
        if not self.memory.could_ever_hold(wanted):
            raise UsageError(
                f"prompt and answer may have {wanted} tokens together, and the engine's memory holds "
                f"{self.memory.total_blocks * BLOCK}",
                hint="ask for fewer tokens",
            )

    def cancel(self, number: int) -> None:
        """End a request with the next step: its last pieces say `cancelled`. Harmless after its end."""
        self._cancelled.add(number)

    def reset(self) -> None:
        """Forget every request, after a step that raised."""
        self._waiting.clear()
        self._active.clear()
        self._cancelled.clear()
        self._forget()

    def load(self) -> EngineLoad:
        """What it does and has done; may be read from any thread."""
        waiting = sum(1 + len(answer.siblings) for answer in list(self._waiting))
        return EngineLoad(
            running=len(self._active),
            waiting=waiting,
            used_blocks=self.memory.used_blocks,
            total_blocks=self.memory.total_blocks,
            prompt_tokens=self._counts["prompt"],
            shared_tokens=self._counts["shared"],
            completion_tokens=self._counts["completion"],
        )

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Piece]]:
        """One step of everything that runs: pieces that came out, each with its request's number."""
        with self.runner.at_work():
            return self._step()

    def _step(self) -> list[tuple[int, Piece]]:
        pieces = self._drop_cancelled()
        self._admit()
        writing = by_row([answer for answer in self._active if not answer.is_reading])
        reading = self._stretches()
        if not writing and not reading:
            return pieces
        began = self._clock()
        states_ND = self.runner.read(
            self.memory, [answer.next_token() for answer in writing], [stretch for _, stretch in reading]
        )
        ready, places = list(writing), list(range(len(writing)))
        offset = len(writing)
        for answer, stretch in reading:
            end = offset + len(stretch.ids)
            if answer.scores_prompt or (answer.echoed and answer.answer == 0):
                answer.score_prompt(self.runner.scores, states_ND[offset:end], stretch.start)
            answer.num_read += len(stretch.ids)
            if not answer.is_reading:
                pieces += self._finish_reading(answer)
                if answer.finish is None:
                    ready.append(answer)
                    places.append(end - 1)
            offset = end
        for answer in writing:
            answer.num_read += 1
        self._note_seconds(began, offset - len(writing), len(writing))
        return pieces + self._write(ready, states_ND[places]) if ready else pieces

    def run(
        self, requests: Sequence[GenerationRequest], *, cancelled: Callable[[], bool] = lambda: False
    ) -> list[list[Written]]:
        """All answers to many requests, for evaluation and rollouts. Nothing else may run meanwhile.

        Raises:
            UsageError: as `submit`, before anything is begun.
        """
        for request in requests:
            self._require_room(request)
        numbers = {self.submit(request): place for place, request in enumerate(requests)}
        answers = {answer.number: [answer, *answer.siblings] for answer in self._waiting}
        heard: dict[int, list[list[Piece]]] = {n: [[] for _ in group] for n, group in answers.items()}
        while self._waiting or self._active:
            if cancelled():
                self._cancelled |= numbers.keys()
            for number, piece in self.step():
                heard[number][piece.answer].append(piece)
        return [[_written(*pair) for pair in zip(answers[n], heard[n], strict=True)] for n in numbers]

    def stream(self, request: GenerationRequest, *, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Piece]:
        """The pieces of one request as they come. Nothing else may run meanwhile.

        Raises:
            UsageError: as `submit`.
        """
        number = self.submit(request)
        left = request.num_answers
        try:
            while left:
                if cancelled():
                    self.cancel(number)
                for _, piece in self.step():
                    left -= piece.finish is not None
                    yield piece
        finally:
            if left:  # the reader went away
                self.cancel(number)
                self._drop_cancelled()

    def _drop_cancelled(self) -> list[tuple[int, Piece]]:
        """Answers of cancelled requests end, wherever they stand."""
        if not self._cancelled:
            return []
        pieces = []
        for answer in [*self._active, *self._waiting]:
            if answer.number in self._cancelled:
                for each in (answer, *answer.siblings):
                    pieces.append((each.number, each.writer.end("cancelled")))
                    each.finish = "cancelled"
                answer.siblings = []
                self._release(answer)
        self._active = [answer for answer in self._active if answer.finish is None]
        self._waiting = deque(answer for answer in self._waiting if answer.finish is None)
        self._cancelled.clear()
        return pieces

    def _admit(self) -> None:
        """Answers begin in their order while there are rows; the first that finds no room holds up the others."""
        while self._waiting and len(self._active) < self.settings.max_answers:
            answer = self._waiting[0]
            answer.row = self.memory.take(answer.capacity)
            if answer.row is None:
                return
            self._active.append(self._waiting.popleft())
            if not answer.scores_prompt:
                # Of what is to be read, not of the whole prompt: a text that is only told has one token less to read.
                known = answer.ids[: answer.num_to_read]
                answer.num_read = self._store.copy_into(self.memory, answer.row, known)
                self._counts["shared"] += answer.num_read

    def _stretches(self) -> list[tuple[Answering, Stretch]]:
        """What is read of prompts in this step, oldest first, in whole blocks."""
        least, most = _STRETCHES
        room = most
        if self._read_seconds > 0:
            room = max(least, min(most, int(_LONGEST_STEP_S / self._read_seconds) // BLOCK * BLOCK))
        found = []
        for answer in self._active:
            if answer.is_reading and room >= BLOCK:
                stretch = answer.next_stretch(room)
                found.append((answer, stretch))
                room -= -(-len(stretch.ids) // BLOCK) * BLOCK
        return found

    def _note_seconds(self, began: float, num_read: int, num_written: int) -> None:
        """How long a token of a prompt takes; steps that read little say little about it."""
        if num_read >= BLOCK and num_read > num_written:
            measured = (self._clock() - began) / num_read
            self._read_seconds = measured if not self._read_seconds else 0.5 * (self._read_seconds + measured)
        self._counts["prompt"] += num_read

    def _finish_reading(self, answer: Answering) -> list[tuple[int, Piece]]:
        """The prompt stands in its row: others may share it, and the same prompt's other answers begin."""
        if answer.row is not None:
            self._store.keep(self.memory, answer.row, answer.request.prompt[: answer.num_read])
        for sibling in reversed(answer.siblings):
            sibling.echoed = answer.echoed
            self._waiting.appendleft(sibling)
        answer.siblings = []
        piece = answer.echo()
        pieces = [] if piece is None else [(answer.number, piece)]
        if answer.request.sampling.max_tokens == 0:
            pieces.append((answer.number, answer.writer.end("length")))
            self._end(answer, "length")
        return pieces

    def _write(self, answers: list[Answering], states_ND: Tensor) -> list[tuple[int, Piece]]:
        """The next token of each answer."""
        scores_NV = self.runner.scores(states_ND)
        likeliest = scores_NV.argmax(-1).tolist()
        pieces = []
        for answer, scores_V, token in zip(answers, scores_NV, likeliest, strict=True):
            piece = answer.take(scores_V, token)
            self._counts["completion"] += 1
            if piece is not None:
                pieces.append((answer.number, piece))
                if piece.finish is not None:
                    self._end(answer, piece.finish)
        return pieces

    def _end(self, answer: Answering, finish: Finish) -> None:
        answer.finish = finish
        self._release(answer)
        self._active.remove(answer)

    def _release(self, answer: Answering) -> None:
        if answer.row is not None:
            self.memory.give_back(answer.row)
            answer.row = None


def _written(answer: Answering, pieces: Sequence[Piece]) -> Written:
    """What an answer's pieces were together."""
    stop_ids = answer.request.stop_ids
    ids = answer.written[:-1] if answer.written and answer.written[-1] in stop_ids else answer.written
    tokens = tuple(token for piece in pieces for token in piece.tokens)
    return Written(ids, "".join(piece.text for piece in pieces), answer.finish or "cancelled", tokens)


def _default_blocks(block_bytes: int, context_length: int, max_answers: int) -> int:
    """Blocks for `max_answers` rows of the whole context, or as many as a share of the machine's memory holds."""
    wanted = max_answers * blocks_for(context_length)
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if torch.cuda.is_available():
        ram = min(ram, torch.cuda.get_device_properties(0).total_memory)
    return max(blocks_for(min(context_length, BLOCK)), min(wanted, int(_SHARE_OF_RAM * ram) // block_bytes))
