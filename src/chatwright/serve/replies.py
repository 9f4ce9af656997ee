"""What the endpoints answer, as the OpenAPI document tells it. Nothing is computed here."""

from typing import Literal

from pydantic import BaseModel


class FeedbackReceipt(BaseModel):
    """Where a rating or a choice is stored."""

    id: int
    object: Literal["feedback"] = "feedback"
    answer_id: str
    thumb: Literal["up", "down"] | None = None
    choice: str | None = None
    score: int | None = None
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
    models: list[str]
    context_length: int
    starters: list[str]
    keeps_feedback: bool
    sampling: dict[str, float | int]


class Usage(BaseModel):
    """Tokens counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Likely(BaseModel):
    """A token with its natural-log probability."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(Likely):
    """A token of an answer, and what else was likely there."""

    top_logprobs: list[Likely]


class ChatLogprobs(BaseModel):
    """The tokens of an answer."""

    content: list[ChatToken]
    refusal: None


class AnswerMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """Answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(BaseModel):
    """The tokens of a continued text; null where nothing came before."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One continuation."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class TextCompletion(BaseModel):
    """Texts continued."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class ErrorDetail(BaseModel):
    """What was wrong, for a person and for a program."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The one shape of every refusal."""

    error: ErrorDetail
