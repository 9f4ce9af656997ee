"""A model to talk with: conversations in, text out. The object behind `chatwright.load`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from chatwright.feedback.conversations import Message
from chatwright.foundation.errors import UsageError
from chatwright.model.directory import LoadedModel, load_model
from chatwright.model.generation import GenerationRequest, Piece, Sampling, greedy_batch, stream_text
from chatwright.model.prompts import ChatEncoder


class ChatModel:
    """A loaded model directory with its tokenizer and turn form."""

    def __init__(self, loaded: LoadedModel, *, name: str):
        self.name = name
        self.digest = loaded.digest
        self.network = loaded.network.eval()
        self.tokenizer = loaded.tokenizer
        self.context_length = loaded.network.config.context_length
        self._encoder: ChatEncoder | None = None

    @property
    def encoder(self) -> ChatEncoder:
        """The turn form; models without one still complete plain text."""
        if self._encoder is None:
            self._encoder = ChatEncoder(self.tokenizer)
        return self._encoder

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens that these messages take as a prompt."""
        return len(self.encoder.prompt(messages))

    def chat_request(
        self, messages: Sequence[Message], sampling: Sampling, *, num_answers: int = 1
    ) -> GenerationRequest:
        """A request for the assistant's next turn."""
        prompt = tuple(self.encoder.prompt(messages))
        return GenerationRequest(
            prompt=prompt, sampling=sampling, stop_ids=self.encoder.stop_ids(), num_answers=num_answers
        )

    def text_request(
        self, prompt: str | Sequence[int], sampling: Sampling, *, num_answers: int = 1, echo: bool = False
    ) -> GenerationRequest:
        """A request to continue a plain text, given as text or as token ids.

        Raises:
            UsageError: an id that the vocabulary lacks.
        """
        if isinstance(prompt, str):
            ids = (self.tokenizer.begin_of_text, *self.tokenizer.encode(prompt))
        else:
            ids = tuple(prompt)
        outside = [number for number in ids if not 0 <= number < self.tokenizer.size]
        if outside:
            raise UsageError(f"the vocabulary has {self.tokenizer.size} tokens, none with the id {outside[0]}")
        return GenerationRequest(
            prompt=ids,
            sampling=sampling,
            stop_ids=frozenset({self.tokenizer.end_of_text}),
            num_answers=num_answers,
            echo=echo,
        )

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, *, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Piece]:
        """The assistant's next turn, piece by piece.

        Raises:
            UsageError: the messages fill the model's context.
        """
        prompt = self.encoder.prompt(messages)
        stop_ids = self.encoder.stop_ids()
        yield from stream_text(self.network, self.tokenizer, prompt, sampling, stop_ids=stop_ids, cancelled=cancelled)

    def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> str:
        """The assistant's next turn, whole."""
        return "".join(piece.text for piece in self.stream(messages, sampling or Sampling())).strip()

    def generate(self, prompt: str, sampling: Sampling | None = None) -> str:
        """Plain text continued; the prompt itself is not repeated."""
        end = self.tokenizer.end_of_text
        ids = [self.tokenizer.begin_of_text, *self.tokenizer.encode(prompt)]
        pieces = stream_text(self.network, self.tokenizer, ids, sampling or Sampling(), stop_ids=frozenset({end}))
        return "".join(piece.text for piece in pieces)

    def answers(self, conversations: Sequence[Sequence[Message]], *, max_tokens: int) -> list[str]:
        """Greedy answers to many conversations, in one batch."""
        prompts = [self.encoder.prompt(messages) for messages in conversations]
        ids = greedy_batch(
            self.network,
            prompts,
            max_tokens=max_tokens,
            stop_ids=self.encoder.stop_ids(),
            end=self.tokenizer.end_of_text,
        )
        return [self.tokenizer.decode(row).strip() for row in ids]

    @torch.inference_mode()
    def logprobs(self, text: str) -> list[float]:
        """Natural-log probability of each token of a text, read as the beginning of a document.

        Raises:
            UsageError: the text does not fit the context.
        """
        ids = self.tokenizer.encode(text)
        if len(ids) > self.context_length:
            raise UsageError(f"the text has {len(ids)} tokens, the model's context is {self.context_length}")
        device = self.network.lm_head.weight.device
        inputs = torch.tensor([[self.tokenizer.begin_of_text, *ids[:-1]]], device=device)
        scores_TV = self.network(inputs)[0]
        picked = F.log_softmax(scores_TV, dim=-1).gather(1, torch.tensor(ids, device=device).unsqueeze(1))
        return [float(value) for value in picked[:, 0]]


def load(directory: str | Path, *, device: torch.device | str = "cpu") -> ChatModel:
    """Open a model directory for use from Python."""
    path = Path(directory)
    return ChatModel(load_model(path, device=device), name=_name_of(path))


def load_several(directories: Sequence[str | Path]) -> list[ChatModel]:
    """Open model directories for use beside each other; of two with one name the second gets a number."""
    models = [load(directory) for directory in directories]
    for index, model in enumerate(models):
        before = {other.name for other in models[:index]}
        if model.name in before:
            model.name = f"{model.name}-{index + 1}"
    return models


def _name_of(path: Path) -> str:
    """`runs/demo/finetune/model` is called `demo-finetune`, any other directory by its own name."""
    resolved = path.resolve()
    if resolved.name == "model" and len(resolved.parents) > 1:
        return f"{resolved.parents[1].name}-{resolved.parents[0].name}"
    return resolved.name
