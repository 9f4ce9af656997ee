"""What clients may send, with a bound on every number and text, and what the simple endpoints answer.

A field of OpenAI's API that this server cannot honour is refused by its name; one that asks for what happens anyway
(no tools, plain text) is accepted. Not for what is
answered (`replies`), nor for the page's conversations (`routes.kept`).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from chatwright.feedback import conversations
from chatwright.model.generation import Sampling

MAX_TEXT = 1 << 20  # characters; the body's own limit in bytes comes first
MAX_TOKENS = 1_000_000
MAX_ANSWERS = 16  # to one prompt
DEFAULT_TEXT_TOKENS = 16  # of a text completion that does not say, as in OpenAI's API


class Request(BaseModel):
    """Base of all requests: unknown fields refused, no silent conversion, no infinities."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def without_nul(text: str) -> str:
    """A check: databases cannot hold the character NUL."""
    if "\0" in text:
        raise ValueError("must not contain the character NUL")
    return text


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(without_nul)]
Word = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(without_nul)]
Unused = Annotated[None, Field(description="Not supported: leave it out, or null.")]


def _only(*allowed: Any) -> Callable[[Any], Any]:
    """A check for fields that may stand in a request but cannot change the answer."""
    shown = ", ".join(str(value) for value in allowed)

    def check(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"is not supported here with this value; allowed: {shown}")
        return value

    return check


class TextPart(Request):
    """A part of a message; images, audio and files are not supported."""

    type: Literal["text"]
    text: Text


class ChatMessage(Request):
    """One turn. `developer` is another name for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=64)]
    name: Annotated[str, Field(max_length=256)] | None = None
    # Of answers that clients send back as they got them; empty, since none of it is written here.
    refusal: Unused = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: Unused = None
    function_call: Unused = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    def turn(self) -> conversations.Message:
        """The message as the model reads it, its parts joined by line ends."""
        role = "system" if self.role == "developer" else self.role
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return conversations.Message(role, text)


class StreamOptions(Request):
    """What a stream brings beside the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ResponseFormat(Request):
    """Plain text is the only format."""

    type: Literal["text"]


def _in_order(messages: list[ChatMessage]) -> list[ChatMessage]:
    roles = [message.turn().role for message in messages]
    if "system" in roles[1:]:
        raise ValueError("may have a system message in the first place only")
    if roles[-1] != "user":
        raise ValueError("must end with a message of the user")
    if not all(message.turn().content.strip() for message in messages if message.role == "user"):
        raise ValueError("must not have an empty message of the user")
    return messages


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=1024), AfterValidator(_in_order)]
StopText = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(without_nul)]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
NumAnswers = Annotated[int, Field(ge=1, le=MAX_ANSWERS)]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]
Note = Annotated[str, Field(max_length=1024), AfterValidator(without_nul)]


class SamplingFields(Request):
    """How tokens are chosen, alike in every request; what is left out is as the server is set."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None

    def sampling(self, default: Sampling, **more: Any) -> Sampling:
        """The server's settings with what this request says instead, and `more` where it is not None."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        asked = {name: getattr(self, name) for name in SamplingFields.model_fields if name != "stop"}
        asked |= {"stop": stop or None, **more}
        return replace(default, **{name: value for name, value in asked.items() if value is not None})


class Books(Request):
    """Notes that clients make for their own books, and what every request may say of its delivery."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Note | None = None
    metadata: Annotated[dict[str, Note], Field(max_length=64)] | None = None
    store: bool | None = None

    @field_validator("stream_options")
    @classmethod
    def _needs_stream(cls, value: StreamOptions | None, info: Any) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise ValueError("is only allowed where `stream` is true")
        return value

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the count of its tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(SamplingFields, Books):
    """A request for answers to a conversation, as OpenAI's clients send it."""

    model: Word
    messages: Messages
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: NumAnswers | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None

    # Accepted with the one value that changes nothing.
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    response_format: ResponseFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    audio: Unused = None
    prediction: Unused = None
    web_search_options: Unused = None

    # More notes.
    safety_identifier: Note | None = None
    prompt_cache_key: Note | None = None
    service_tier: Literal["auto", "default"] | None = None

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, value: int | None, info: Any) -> int | None:
        if value is not None and not info.data.get("logprobs"):
            raise ValueError("is only allowed where `logprobs` is true")
        return value

    def turns(self) -> list[conversations.Message]:
        """The conversation as the model reads it."""
        return [message.turn() for message in self.messages]

    def chat_sampling(self, default: Sampling) -> Sampling:
        """The server's settings with what this request says instead."""
        top = (self.top_logprobs or 0) if self.logprobs else None
        return self.sampling(default, max_tokens=self.max_completion_tokens or self.max_tokens, top_logprobs=top)


TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_TEXT)]
MAX_PROMPTS = 64


class CompletionRequest(SamplingFields, Books):
    """A request to continue plain texts, as OpenAI's older clients and evaluation harnesses send it."""

    model: Word
    prompt: Text | TokenIds | Annotated[list[Text] | list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    n: NumAnswers | None = None
    echo: bool | None = None
    logprobs: TopLogprobs | None = None

    # Accepted with the one value that changes nothing.
    best_of: Annotated[int, AfterValidator(_only(1)), Field(json_schema_extra={"const": 1})] | None = None
    suffix: Unused = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None

    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        whole: list[Any] = list(self.prompt)
        return [whole] if isinstance(whole[0], int) else whole

    def text_sampling(self, default: Sampling) -> Sampling:
        """The server's settings with what this request says instead; OpenAI's own default length."""
        max_tokens = DEFAULT_TEXT_TOKENS if self.max_tokens is None else self.max_tokens
        return self.sampling(default, max_tokens=max_tokens, top_logprobs=self.logprobs)


AnswerId = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(without_nul)]
Key = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(without_nul)]
Reason = Annotated[str, Field(max_length=4_000), AfterValidator(without_nul)]


class RatingRequest(Request):
    """What a person thought of an answer."""

    answer_id: AnswerId
    thumb: Literal["up", "down"]
    reason: Reason | None = None
    better_answer: Annotated[str, Field(max_length=32_000), AfterValidator(without_nul)] | None = None
    key: Key | None = Field(default=None, description="Your name for this rating: sent again, it is stored once.")


class ChoiceRequest(Request):
    """Which of two answers a person likes better."""

    first: AnswerId
    second: AnswerId
    choice: Literal["first", "second", "tie", "both_bad"]
    reason: Reason | None = None
    key: Key | None = Field(default=None, description="Your name for this choice: sent again, it is stored once.")


class ScoreRequest(Request):
    """How good a person finds an answer, from 1 (bad) to 5 (good)."""

    answer_id: AnswerId
    score: Annotated[int, Field(ge=1, le=5)]
    reason: Reason | None = None
    better_answer: Annotated[str, Field(max_length=32_000), AfterValidator(without_nul)] | None = None
    key: Key | None = Field(default=None, description="Your name for this score: sent again, it is stored once.")


def _kind_of(body: Any) -> str:
    told = body if isinstance(body, dict) else {}
    return "a_choice" if "choice" in told else "a_score" if "score" in told else "a_rating"


FeedbackRequest = Annotated[
    Annotated[RatingRequest, Tag("a_rating")]
    | Annotated[ChoiceRequest, Tag("a_choice")]
    | Annotated[ScoreRequest, Tag("a_score")],
    Discriminator(_kind_of),
]
