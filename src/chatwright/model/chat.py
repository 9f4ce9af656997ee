"""A model to talk with: conversations in, text out. The object behind `chatwright.load`."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from chatwright.feedback.conversations import Message
from chatwright.foundation.errors import UsageError
from chatwright.model.directory import LoadedModel, load_model
from chatwright.model.engine.engine import Engine, EngineSettings, Written
from chatwright.model.generation import EngineLoad, GenerationRequest, Piece, Sampling
from chatwright.model.network import Network
from chatwright.model.prompts import ChatEncoder


class ChatModel:
    """A loaded model directory with its tokenizer and turn form.

    Args:
        loaded: what the directory holds.
        name: how clients call it.
        settings: how much its engine does at once.
    """

    def __init__(self, loaded: LoadedModel, *, name: str, settings: EngineSettings | None = None):
        self.name = name
        self.digest = loaded.digest
        self._network = loaded.network.eval()
        self.tokenizer = loaded.tokenizer
        self.context_length = loaded.network.config.context_length
        self._settings = settings
        self._engine: Engine | None = None
        self._making = threading.Lock()
        self._encoder: ChatEncoder | None = None

    @property
    def encoder(self) -> ChatEncoder:
        """The turn form; models without one still complete plain text."""
        if self._encoder is None:
            self._encoder = ChatEncoder(self.tokenizer)
        return self._encoder

    @property
    def network(self) -> Network:
        """The network itself.

        Raises:
            ValueError: its parameters were given up for the engine's, as the settings asked.
        """
        if self._engine is not None and self._engine.settings.frees_network:
            raise ValueError("the network's parameters were given up when the engine was made")
        return self._network

    @property
    def engine(self) -> Engine:
        """What writes; made from the network's parameters when first needed, and not of later changes to them.

        Made once, whoever asks at the same time: it may take the network's parameters with it.
        """
        with self._making:
            if self._engine is None:
                self._engine = Engine(self._network, self.tokenizer, settings=self._settings)
            return self._engine

    def prepare(self) -> None:
        """Make the engine now rather than with the first request."""
        _ = self.engine

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
            unshown=int(isinstance(prompt, str)),
        )

    @property
    def free_answers(self) -> int:
        """Answers that could begin with the next step without waiting."""
        return self.engine.free_answers

    def submit(self, request: GenerationRequest) -> int:
        """Take a request up; returns its number, under which its pieces come.

        Raises:
            UsageError: the prompt fills the context.
        """
        return self.engine.submit(request)

    def cancel(self, number: int) -> None:
        """End a request with the next step."""
        self.engine.cancel(number)

    def step(self) -> list[tuple[int, Piece]]:
        """One step of everything that runs: pieces that came out, each with its request's number."""
        return self.engine.step()

    def reset(self) -> None:
        """Forget every request, after a step that raised."""
        self.engine.reset()

    def load(self) -> EngineLoad:
        """What its engine does and has done: nothing while there is none. Makes none, and waits for none."""
        engine = self._engine
        return EngineLoad.nothing() if engine is None else engine.load()

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, *, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Piece]:
        """The assistant's next turn, piece by piece. Nothing else may run meanwhile.

        Raises:
            UsageError: the messages fill the model's context.
        """
        yield from self.engine.stream(self.chat_request(messages, sampling), cancelled=cancelled)

    def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> str:
        """The assistant's next turn, whole."""
        return self.engine.run([self.chat_request(messages, sampling or Sampling())])[0][0].text.strip()

    def generate(self, prompt: str, sampling: Sampling | None = None) -> str:
        """Plain text continued; the prompt itself is not repeated."""
        return self.engine.run([self.text_request(prompt, sampling or Sampling())])[0][0].text

    def answers(self, conversations: Sequence[Sequence[Message]], *, max_tokens: int) -> list[str]:
        """Greedy answers to many conversations, written together."""
        return [written.text.strip() for written in self.written(conversations, max_tokens=max_tokens)]

    def written(self, conversations: Sequence[Sequence[Message]], *, max_tokens: int) -> list[Written]:
        """The same with how each ended: by itself, or at the most tokens that it may have."""
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
        found = self.engine.run([self.chat_request(messages, sampling) for messages in conversations])
        return [answer for (answer,) in found]

    def logprobs(self, text: str) -> list[float]:
        """Natural-log probability of each token of a text, read as the beginning of a document.

        Raises:
            UsageError: the text does not fit the context.
        """
        sampling = Sampling(max_tokens=0, temperature=0.0, top_logprobs=0)
        ((written,),) = self.engine.run([self.text_request(text, sampling, echo=True)])
        return [scored.token.logprob for scored in written.tokens]


def load(
    directory: str | Path, *, device: torch.device | str = "cpu", settings: EngineSettings | None = None
) -> ChatModel:
    """Open a model directory for use from Python."""
    path = Path(directory)
    return ChatModel(load_model(path, device=device), name=_name_of(path), settings=settings)


def load_several(directories: Sequence[str | Path], *, settings: EngineSettings | None = None) -> list[ChatModel]:
    """Open model directories for use beside each other; of two with one name the second gets a number."""
    models = [load(directory, settings=settings) for directory in directories]
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
