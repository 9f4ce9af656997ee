"""What the page sends and gets about kept conversations. Not OpenAI's shapes: `schemas` has those."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from chatwright.feedback.history import Kept, Turn
from chatwright.feedback.store import Opinion
from chatwright.model.generation import Sampling
from chatwright.serve.replies import ChatToken
from chatwright.serve.schemas import MAX_TOKENS, Request, SamplingFields, Word, without_nul

MAX_QUERY = 256

Id = Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="32 hexadecimal digits that the client draws")]
Title = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(without_nul)]
System = Annotated[str, Field(max_length=32_000), AfterValidator(without_nul)]
TurnText = Annotated[str, Field(min_length=1, max_length=200_000), AfterValidator(without_nul)]
Query = Annotated[str, Field(max_length=MAX_QUERY), AfterValidator(without_nul)]


class KeptSettings(SamplingFields):
    """How answers of a conversation are made; what is left out is as the server is set."""

    model: Word | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None

    def kept_sampling(self, default: Sampling) -> Sampling:
        """The server's settings with what this conversation says instead."""
        return self.sampling(default, max_tokens=self.max_tokens)


class NewConversation(Request):
    """A conversation to begin. Sent again with the same id, it begins nothing new."""

    id: Id
    title: Title | None = None
    system: System = ""
    settings: KeptSettings = KeptSettings()


class ChangedConversation(Request):
    """What shall be different."""

    title: Title | None = None
    system: System | None = None
    settings: KeptSettings | None = None
    leaf: Id | None = None

    def changes(self) -> dict[str, Any]:
        """Only what was said."""
        told = self.model_dump(exclude_none=True, exclude={"settings"})
        return {**told, "settings": as_json(self.settings)} if self.settings is not None else told


class NewTurn(Request):
    """A message of the person, or an answer as the person would have it."""

    id: Id
    parent: Id | None = None
    role: Literal["user", "assistant"] = "user"
    content: TurnText


class NewAnswer(Request):
    """The wish for an answer to a turn."""

    parent: Id
    model: Word | None = None
    compare: bool = Field(default=False, description="Two models side by side, and which is which is not told.")


class ListedConversation(BaseModel):
    """A line of the list."""

    id: str
    title: str
    created: float
    updated: float


class ConversationList(BaseModel):
    """Conversations, the latest first."""

    object: Literal["list"] = "list"
    data: list[ListedConversation]
    has_more: bool


class ShownTurn(BaseModel):
    """A turn as the page shows it. The model of a pair is told after the choice only."""

    id: str
    parent: str | None
    role: str
    content: str
    created: float
    finish: str | None
    answer_id: str | None
    model: str | None
    pair: str | None
    side: str | None
    thumb: Literal["up", "down"] | None
    choice: str | None


class ShownConversation(BaseModel):
    """A conversation with all of its turns, branches too."""

    id: str
    object: Literal["conversation"] = "conversation"
    title: str
    created: float
    updated: float
    system: str
    settings: dict[str, Any]
    leaf: str | None
    turns: list[ShownTurn]


class Deleted(BaseModel):
    """What is gone."""

    id: str
    object: Literal["conversation"] = "conversation"
    deleted: Literal[True] = True


class Probabilities(BaseModel):
    """The tokens of an answer with what else was likely."""

    object: Literal["probabilities"] = "probabilities"
    tokens: list[ChatToken]


def as_json(settings: KeptSettings) -> dict[str, Any]:
    """Settings as they are kept: only what was said."""
    return settings.model_dump(exclude_none=True)


def shown(kept: Kept, opinions: dict[str, Opinion]) -> ShownConversation:
    """A conversation as the page gets it."""
    turns = [_shown_turn(turn, opinions.get(turn.answer or "", Opinion())) for turn in kept.turns]
    fields = {name: getattr(kept, name) for name in ("id", "title", "created", "updated", "system", "settings", "leaf")}
    return ShownConversation(**fields, turns=turns)


def _shown_turn(turn: Turn, opinion: Opinion) -> ShownTurn:
    is_blind = turn.pair is not None and opinion.choice is None
    names = ("id", "parent", "role", "content", "created", "finish", "pair", "side")
    return ShownTurn(
        **{name: getattr(turn, name) for name in names},
        answer_id=turn.answer,
        model=None if is_blind else turn.model,
        thumb=None if opinion.thumb is None else "up" if opinion.thumb > 0 else "down",
        choice=opinion.choice,
    )
