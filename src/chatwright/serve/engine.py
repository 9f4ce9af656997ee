"""What the server and the terminal need of a model, and nothing more: the seam behind which the engine stands."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from chatwright.feedback.conversations import Message
from chatwright.model.generation import EngineLoad, GenerationRequest, Piece, Sampling


class Talker(Protocol):
    """A model that answers one conversation at a time, for the terminal."""

    @property
    def name(self) -> str:
        """The name under which clients ask for it."""

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of the prompt that these messages make."""

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, *, cancelled: Callable[[], bool]
    ) -> Iterator[Piece]:
        """Pieces of whole characters; the last one says how it ended.

        Raises:
            UsageError: the prompt is longer than the context.
        """


class ChatEngine(Talker, Protocol):
    """A model that writes many answers at once, step by step.

    `chat_request`, `text_request`, `count` and `load` may be called from any thread; all else by one at a time.
    """

    @property
    def digest(self) -> str:
        """SHA-256 of its files: which weights gave an answer."""

    def chat_request(
        self, messages: Sequence[Message], sampling: Sampling, *, num_answers: int = 1
    ) -> GenerationRequest:
        """A request for the assistant's next turn."""

    def text_request(
        self, prompt: str | Sequence[int], sampling: Sampling, *, num_answers: int = 1, echo: bool = False
    ) -> GenerationRequest:
        """A request to continue a plain text, given as text or as token ids.

        Raises:
            UsageError: an id that the vocabulary lacks.
        """

    def prepare(self) -> None:
        """Do now what the first request would otherwise wait for; harmless when it is done."""

    @property
    def free_answers(self) -> int:
        """Answers that could begin with the next step without waiting inside the engine."""

    def submit(self, request: GenerationRequest) -> int:
        """Take a request up; returns its number, under which its pieces come.

        Raises:
            UsageError: the prompt fills the context.
        """

    def cancel(self, number: int) -> None:
        """End a request with the next step: its last pieces say `cancelled`. Harmless after its end."""

    def step(self) -> list[tuple[int, Piece]]:
        """One step of everything that runs: pieces that came out, each with its request's number.

        Returns an empty list where nothing became certain; never blocks longer than one step.
        """

    def reset(self) -> None:
        """Forget every request, after a step that raised."""

    def load(self) -> EngineLoad:
        """What it does and has done; may be read from any thread, and is told at once."""


def sampling_as_json(sampling: Sampling) -> dict[str, Any]:
    """The settings of an answer as the feedback store keeps them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(sampling).items()}


def latest_that_fit(engine: Talker, messages: Sequence[Message], *, reserve: int) -> list[Message]:
    """The conversation without its oldest turns, so that `reserve` tokens stay free for the answer.

    A system message stays. The last message stays whatever its length: the engine refuses it where it must.
    """
    head = [message for message in messages[:1] if message.role == "system"]
    turns = list(messages[len(head) :])
    while len(turns) > 1 and engine.count([*head, *turns]) + reserve > engine.context_length:
        turns = turns[1:]
        while len(turns) > 1 and turns[0].role == "assistant":
            turns = turns[1:]
    return [*head, *turns]
