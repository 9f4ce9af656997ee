"""What clients may send, with a bound on every number and text, and what the simple endpoints answer.

A field of OpenAI's API that this server cannot honour is refused by its name; one that asks for what happens anyway
(`n: 1`, no tools, penalties of zero) is accepted. Not for the answers' chunks: `completions` makes those.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from chatwright.feedback import conversations
from chatwright.model.generation import Sampling

MAX_TEXT = 1 << 20  # characters; the body's own limit in bytes comes first
MAX_TOKENS = 1_000_000


class Request(BaseModel):
    """Base of all requests: unknown fields refused, no silent conversion, no infinities."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain the character NUL")
    return text


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_without_nul)]
Word = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_without_nul)]
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
    refusal: Unused = None
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
StopText = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_without_nul)]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Penalty = Annotated[float, AfterValidator(_only(0))]


class ChatRequest(Request):
    """A request for one answer, as OpenAI's clients send it."""

    model: Word
    messages: Messages
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # Accepted with the one value that changes nothing.
    n: Annotated[int, AfterValidator(_only(1))] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logprobs: Annotated[bool, AfterValidator(_only(False))] | None = None
    top_logprobs: Annotated[int, AfterValidator(_only(0))] | None = None
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

    # Notes that clients make for their own books.
    user: Annotated[str, Field(max_length=1024)] | None = None
    safety_identifier: Annotated[str, Field(max_length=1024)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=1024)] | None = None
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=64)] | None = None
    store: bool | None = None
    service_tier: Literal["auto", "default"] | None = None

    @field_validator("stream_options")
    @classmethod
    def _needs_stream(cls, value: StreamOptions | None, info: Any) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise ValueError("is only allowed where `stream` is true")
        return value

    def turns(self) -> list[conversations.Message]:
        """The conversation as the model reads it."""
        return [message.turn() for message in self.messages]

    def sampling(self, default: Sampling) -> Sampling:
        """The server's settings with what this request says instead."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        asked = {
            "max_tokens": self.max_completion_tokens or self.max_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "seed": self.seed,
            "stop": stop or None,
        }
        given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        return replace(default, **given)


class FeedbackRequest(Request):
    """What a person thought of an answer."""

    answer_id: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_without_nul)]
    thumb: Literal["up", "down"]
    reason: Annotated[str, Field(max_length=4_000), AfterValidator(_without_nul)] | None = None
    better_answer: Annotated[str, Field(max_length=32_000), AfterValidator(_without_nul)] | None = None
    key: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_without_nul)] | None = Field(
        default=None, description="Your name for this rating: sent again, it is stored once."
    )


class FeedbackReceipt(BaseModel):
    """Where a rating is stored."""

    id: int
    object: Literal["feedback"] = "feedback"
    answer_id: str
    thumb: Literal["up", "down"]
    created: int


class Health(BaseModel):
    """Whether the server answers, for whoever watches over it."""

    status: Literal["ok"] = "ok"


class ModelCard(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "chatwright"


class ModelList(BaseModel):
    """Every model that can be asked."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class PageSettings(BaseModel):
    """What the page shows before anyone said anything."""

    title: str
    greeting: str
    model: str
    context_length: int
    starters: list[str]
    keeps_feedback: bool


class ErrorDetail(BaseModel):
    """What was wrong, for a person and for a program."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The one shape of every refusal."""

    error: ErrorDetail
