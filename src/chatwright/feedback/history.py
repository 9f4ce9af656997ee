"""The conversations of the chat page: kept turn by turn as trees, found again, renamed, deleted.

A turn's parent is what it answers, so an edited question and a second answer are siblings, and nothing is overwritten.
Each conversation belongs to one owner; to everybody else it does not exist. Not for ratings, which `store` keeps.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import sqlalchemy as sql
from sqlalchemy.engine import Connection, Engine

from chatwright.feedback import tables
from chatwright.feedback.conversations import Message, Role
from chatwright.feedback.database import overwrite_deleted, reading, unavailable
from chatwright.foundation.errors import UsageError

MAX_TURNS = 2_000  # of one conversation, branches counted
MAX_CONVERSATIONS = 20_000  # of one owner
TITLE_LENGTH = 80

_conversations, _turns = tables.conversations, tables.turns


class UnknownConversationError(UsageError):
    """No conversation, or no turn in it, has this id for this owner."""


class HistoryConflictError(UsageError):
    """An id that was used before for another content, or a turn that does not fit where it should stand."""


class HistoryFullError(UsageError):
    """More turns or conversations than are kept."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message of a conversation's tree."""

    id: str
    parent: str | None
    role: Role
    content: str
    created: float = 0.0
    finish: str | None = None  # of an answer: stop, length, cancelled, failed, broken, edited; None while written
    answer: str | None = None
    model: str | None = None
    pair: str | None = None
    side: Literal["left", "right"] | None = None


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A conversation as it is kept; its turns in the order of writing."""

    id: str
    title: str
    created: float
    updated: float
    system: str = ""
    settings: dict[str, Any]
    leaf: str | None = None
    turns: tuple[Turn, ...] = ()

    def turn(self, turn_id: str) -> Turn:
        """One turn by its id.

        Raises:
            UnknownConversationError: there is none.
        """
        for turn in self.turns:
            if turn.id == turn_id:
                return turn
        raise UnknownConversationError("there is no such turn in this conversation")

    def path(self, leaf: str | None) -> list[Turn]:
        """The turns from the first one down to `leaf`."""
        known = {turn.id: turn for turn in self.turns}
        path: list[Turn] = []
        while leaf is not None and len(path) <= len(known):
            path.append(known[leaf])
            leaf = known[leaf].parent
        return path[::-1]

    def messages(self, leaf: str) -> list[Message]:
        """What a model reads when it answers at `leaf`, the system prompt first where there is one."""
        system = [Message("system", self.system)] if self.system.strip() else []
        return [*system, *(Message(turn.role, turn.content) for turn in self.path(leaf))]


class Listed(NamedTuple):
    """A line of the list of conversations."""

    id: str
    title: str
    created: float
    updated: float


class History:
    """Conversations in the feedback database. Safe for use by several threads and processes.

    Args:
        engine: the opened database.
        clock: gives seconds since 1970.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time):
        self._engine = engine
        self._clock = clock

    def find(self, owner: str, *, query: str = "", before: float | None = None, limit: int = 50) -> list[Listed]:
        """The owner's conversations, the latest first; with `query` those whose title or turns contain it.

        Args:
            owner: whose.
            query: a part of a text, capitals ignored where the database can.
            before: only those touched last before this time, for the next page.
            limit: at most so many.
        """
        columns = [_conversations.c[name] for name in Listed._fields]
        found = sql.select(*columns).where(_conversations.c.owner == owner)
        if before is not None:
            found = found.where(_conversations.c.updated < before)
        if query:
            said = sql.exists().where(
                _turns.c.conversation == _conversations.c.id, _turns.c.content.icontains(query, autoescape=True)
            )
            found = found.where(_conversations.c.title.icontains(query, autoescape=True) | said)
        found = found.order_by(_conversations.c.updated.desc(), _conversations.c.id).limit(limit)
        with self._reading() as connection:
            return [Listed(*row) for row in connection.execute(found)]

    def get(self, owner: str, conversation_id: str) -> Kept:
        """A conversation with all of its turns.

        Raises:
            UnknownConversationError: the owner has none with this id.
        """
        with self._reading() as connection:
            return _whole(connection, owner, conversation_id)

    def create(self, owner: str, *, id: str, title: str, system: str, settings: dict[str, Any]) -> Kept:
        """Begin a conversation; asked again with the same id, it gives the one that is there.

        Raises:
            HistoryConflictError: the id is taken by somebody else.
            HistoryFullError: the owner keeps too many.
        """
        with self._writing() as connection:
            there = connection.execute(sql.select(_conversations.c.owner).where(_conversations.c.id == id)).scalar()
            if there is None:
                mine = sql.select(sql.func.count()).where(_conversations.c.owner == owner)
                if (connection.execute(mine).scalar() or 0) >= MAX_CONVERSATIONS:
                    raise HistoryFullError(f"{MAX_CONVERSATIONS} conversations are kept at most", hint="delete some")
                now = self._clock()
                row = {"id": id, "owner": owner, "title": title, "system": system, "settings": settings}
                connection.execute(_conversations.insert().values(**row, created=now, updated=now))
            elif there != owner:
                raise HistoryConflictError("this id is taken", hint="use another one")
            return _whole(connection, owner, id)

    def change(self, owner: str, conversation_id: str, **changes: Any) -> Kept:
        """Set some of `title`, `system`, `settings` and `leaf`.

        Raises:
            UnknownConversationError: there is no such conversation, or the leaf is no turn of it.
        """
        with self._writing() as connection:
            kept = _whole(connection, owner, conversation_id)
            if changes.get("leaf") is not None:
                kept.turn(changes["leaf"])
            if changes:
                connection.execute(
                    _conversations.update().where(_conversations.c.id == conversation_id).values(**changes)
                )
            return _whole(connection, owner, conversation_id)

    def delete(self, owner: str, conversation_id: str) -> None:
        """Remove a conversation, its answers, and what was thought of them.

        Raises:
            UnknownConversationError: there is no such conversation.
        """
        with self._writing() as connection:
            _whole(connection, owner, conversation_id)
            answers = sql.select(_turns.c.answer).where(
                _turns.c.conversation == conversation_id, _turns.c.answer.is_not(None)
            )
            ids = [row[0] for row in connection.execute(answers)]
            # The turns first: an answer that is being stored holds its turn's row, and is there when that is free.
            connection.execute(_turns.delete().where(_turns.c.conversation == conversation_id))
            _remove_answers(connection, ids)
            connection.execute(_conversations.delete().where(_conversations.c.id == conversation_id))
        overwrite_deleted(self._engine)

    def add(self, owner: str, conversation_id: str, turns: Sequence[Turn]) -> list[Turn]:
        """Put turns below their parents; the last one is where the person stands then.

        A turn that is there already with the same content is left as it is, so that a request can be sent again.

        Raises:
            UnknownConversationError: there is no such conversation or parent.
            HistoryConflictError: the id was used for another turn, or the roles do not alternate.
            HistoryFullError: the conversation is as long as it can be.
        """
        with self._writing() as connection:
            kept = _whole(connection, owner, conversation_id)
            if len(kept.turns) + len(turns) > MAX_TURNS:
                raise HistoryFullError(f"a conversation keeps {MAX_TURNS} turns at most", hint="begin a new one")
            now = self._clock()
            for turn in turns:
                self._insert(connection, kept, turn, now=now)
            touched: dict[str, Any] = {"leaf": turns[-1].id, "updated": now}
            if not kept.title and turns[0].role == "user":
                touched["title"] = title_of(turns[0].content)
            connection.execute(_conversations.update().where(_conversations.c.id == kept.id).values(**touched))
            after = _whole(connection, owner, conversation_id)
            return [after.turn(turn.id) for turn in turns]

    def _insert(self, connection: Connection, kept: Kept, turn: Turn, *, now: float) -> None:
        there = connection.execute(_turns.select().where(_turns.c.id == turn.id)).mappings().first()
        if there is not None:
            mine = (kept.id, turn.parent, turn.role, turn.content)
            if (there["conversation"], there["parent"], there["role"], there["content"]) != mine:
                raise HistoryConflictError("this turn's id was used before", hint="use a new id for a new turn")
            return
        expected = "user" if turn.parent is None or kept.turn(turn.parent).role == "assistant" else "assistant"
        if turn.role != expected:
            raise HistoryConflictError(f"a turn of the {expected} must stand here, not one of the {turn.role}")
        connection.execute(_turns.insert().values(**{**vars(turn), "conversation": kept.id, "created": now}))

    def write(self, turn_id: str, content: str, *, finish: str | None = None) -> None:
        """Keep what is written of an answer so far; with `finish` it is over. A finished one stays as it is."""
        with self._writing() as connection:
            open_turn = (_turns.c.id == turn_id) & _turns.c.finish.is_(None)
            connection.execute(_turns.update().where(open_turn).values(content=content, finish=finish))

    def take_back(self, turn_ids: Sequence[str], *, leaf: str | None) -> None:
        """Remove answers of which nothing was written, and their records; the person stands at `leaf` again."""
        with self._writing() as connection:
            mine = _turns.c.id.in_(turn_ids)
            conversation = connection.execute(sql.select(_turns.c.conversation).where(mine)).scalar()
            empty = _turns.delete().where(mine & (_turns.c.content == "")).returning(_turns.c.answer)
            _remove_answers(connection, [row.answer for row in connection.execute(empty) if row.answer is not None])
            connection.execute(_conversations.update().where(_conversations.c.id == conversation).values(leaf=leaf))

    def mark_broken(self) -> int:
        """Say of answers that were being written when a server died that they are incomplete; how many they were."""
        with self._writing() as connection:
            changed = connection.execute(_turns.update().where(_is_open()).values(finish="broken"))
            return int(changed.rowcount)

    @contextmanager
    def _writing(self) -> Any:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sql.exc.DBAPIError as error:
            raise unavailable(error) from error

    def _reading(self) -> AbstractContextManager[Connection]:
        try:
            return reading(self._engine)
        except sql.exc.DBAPIError as error:
            raise unavailable(error) from error


def title_of(text: str) -> str:
    """The beginning of a question as a title: one line, cut at a word."""
    line = " ".join(text.split())
    return line if len(line) <= TITLE_LENGTH else line[:TITLE_LENGTH].rsplit(" ", 1)[0] + "…"


def _remove_answers(connection: Connection, ids: Sequence[str]) -> None:
    """The records of these answers, and what was thought of them."""
    choices, answers = tables.choices, tables.answers
    connection.execute(choices.delete().where(choices.c.first.in_(ids) | choices.c.second.in_(ids)))
    for table in (tables.ratings, tables.scores):
        connection.execute(table.delete().where(table.c.answer_id.in_(ids)))
    connection.execute(answers.delete().where(answers.c.id.in_(ids)))


def _is_open() -> Any:
    return (_turns.c.role == "assistant") & _turns.c.finish.is_(None)


def _whole(connection: Connection, owner: str, conversation_id: str) -> Kept:
    mine = (_conversations.c.id == conversation_id) & (_conversations.c.owner == owner)
    row = connection.execute(_conversations.select().where(mine)).mappings().first()
    if row is None:
        raise UnknownConversationError("there is no such conversation")
    below = _turns.select().where(_turns.c.conversation == conversation_id).order_by(_turns.c.number)
    names = Turn.__dataclass_fields__
    turns = tuple(Turn(**{name: found[name] for name in names}) for found in connection.execute(below).mappings())
    return Kept(**{name: row[name] for name in row if name != "owner"}, turns=turns)
