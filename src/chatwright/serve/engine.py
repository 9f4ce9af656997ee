"""What the server and the terminal need of a model, and nothing more: the seam behind which the engine stands."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from chatwright.feedback.conversations import Message
from chatwright.model.generation import Piece, Sampling


class ChatEngine(Protocol):
    """A model that answers conversations piece by piece. It is called by one thread at a time."""

    @property
    def name(self) -> str:
        """The name under which clients ask for it."""

    @property
    def digest(self) -> str:
        """SHA-256 of its files: which weights gave an answer."""

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


def sampling_as_json(sampling: Sampling) -> dict[str, Any]:
    """The settings of an answer as the feedback store keeps them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(sampling).items()}


def latest_that_fit(engine: ChatEngine, messages: Sequence[Message], *, reserve: int) -> list[Message]:
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
