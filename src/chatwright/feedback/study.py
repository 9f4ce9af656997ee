"""The words of a study: what is judged, by whom, in which order. What stores them is `ratings`."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from chatwright.feedback.conversations import Message
from chatwright.foundation.errors import UsageError

MAX_ITEMS = 100_000
DIMENSIONS = ("fluency", "coherence", "relevance")
FINISHES = ("stop", "length", "cancelled")  # how an answer ended: by itself, at its most tokens, by somebody
SCALE = (1, 5)
CHOICES = ("first", "second", "tie", "both_bad")

RaterKind = Literal["user", "expert"]
ItemKind = Literal["scale", "pair"]


class UnknownRaterError(UsageError):
    """No rater has this token."""


class JudgementError(UsageError):
    """A judgement that does not fit its item, or of an item that is not this rater's."""


@dataclass(frozen=True, kw_only=True)
class StudyItem:
    """Something to judge. The page never learns `models`, `check` or `reference`."""

    id: str
    asked: str
    answers: tuple[str, ...]  # one for scales, two for a pair
    models: tuple[str, ...]  # who gave each
    check: dict[str, Any] | None = None  # an attention check: what somebody who reads will say
    topic: str = ""
    reference: str = ""  # what should have been said; never shown, for setting automatic scores beside people's
    messages: tuple[Message, ...] = ()  # the turns of `asked`; absent: it is one question
    finishes: tuple[str, ...] = ()  # how each answer ended, of `FINISHES`; absent: not known

    @property
    def kind(self) -> ItemKind:
        """Scales for one answer, a choice between two."""
        return "scale" if len(self.answers) == 1 else "pair"


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """How items are given to raters."""

    title: str = "Rate answers"
    seed: int = 1
    shared_share: float = 1.0  # of the items that every rater judges; the others go to one each
    raters: int = 3  # people expected, over whom the items that are not shared are spread
    repeat_share: float = 0.1  # of a rater's items that come a second time, late
    open_names: bool = True  # anyone who reaches the page may join with a name; otherwise by invitation only


class Place(NamedTuple):
    """One step of a rater's work."""

    item: str
    occasion: int


class Rater(NamedTuple):
    """Somebody who judges."""

    number: int
    name: str
    kind: RaterKind
    token: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a rater said of an item."""

    item: str
    occasion: int
    key: str  # the client's name for this act: sent again, it is stored once
    scores: dict[str, int] = field(default_factory=dict)
    choice: str | None = None  # in the item's own order of answers, whatever side they were shown on
    note: str | None = None
    better: str | None = None  # an answer that the rater would have wanted


class Stored(NamedTuple):
    """Where a judgement stands, and whether this call wrote it."""

    id: int
    is_new: bool


class Shown(NamedTuple):
    """What a rater is to judge now."""

    place: Place | None  # None: all is done
    item: StudyItem | None
    is_swapped: bool  # the second answer stands first
    done: int
    total: int


def in_one_text(messages: Iterable[Message]) -> str:
    """A conversation as raters read it: its turns below each other."""
    return "\n\n".join(message.content for message in messages)


def passes(item: StudyItem, content: dict[str, Any]) -> bool:
    """Whether a judgement of an attention check says what somebody who reads would say."""
    check = item.check or {}
    if "choice" in check:
        return bool(content.get("choice") == check["choice"])
    most: dict[str, int] = check.get("at_most", {})
    return all(content.get("scores", {}).get(name, SCALE[1] + 1) <= value for name, value in most.items())
