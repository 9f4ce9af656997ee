"""The people whose answers and opinions the store keeps: who agreed to being learned from, and forgetting somebody.

A person is the name that goes with a token; without tokens everybody is the server's owner, whose name is empty.
"""

import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sql
from sqlalchemy.engine import Connection, Engine

from chatwright.feedback import tables
from chatwright.feedback.database import overwrite_deleted, reading, unavailable

_people = tables.people


class Forgotten(NamedTuple):
    """What was kept of a person and is gone."""

    conversations: int
    answers: int
    opinions: int
    answer_ids: tuple[str, ...]  # of what was learned from, if anything was


class People:
    """Consent and deletion. Safe for use by several threads and processes.

    Args:
        engine: the opened database.
        clock: gives seconds since 1970.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time):
        self._engine = engine
        self._clock = clock

    def consent(self, name: str) -> bool | None:
        """What a person said; None where they were not asked yet."""
        with reading(self._engine) as connection:
            found: bool | None = connection.execute(
                sql.select(_people.c.consents).where(_people.c.name == name)
            ).scalar()
        return found

    def set_consent(self, name: str, *, agrees: bool) -> None:
        """Keep what a person says; it counts from now on for everything they ever said.

        Raises:
            StoreError: the database cannot be written.
        """
        with self._writing() as connection:
            values = {"consents": agrees, "changed": self._clock()}
            changed = connection.execute(_people.update().where(_people.c.name == name).values(**values))
            if not changed.rowcount:
                connection.execute(_people.insert().values(name=name, **values))

    def agreed(self) -> Callable[[str], bool]:
        """Whether a person agrees to being learned from: guests must have said so, the owner must not have refused."""
        with reading(self._engine) as connection:
            told = {row.name: bool(row.consents) for row in connection.execute(_people.select())}
        return lambda name: told.get(name, name == "")

    def forget(self, name: str) -> Forgotten:
        """Remove a person's conversations, answers and opinions, other people's opinions of these, and their consent.

        Raises:
            StoreError: the database cannot be written, and nothing was removed; or older copies cannot be removed.
        """
        answers, turns, conversations = tables.answers, tables.turns, tables.conversations
        with self._writing() as connection:
            talks, mine = (
                [row.id for row in connection.execute(sql.select(table.c.id).where(table.c.owner == name))]
                for table in (conversations, answers)
            )
            of_talks = sql.select(turns.c.answer).where(turns.c.conversation.in_(talks), turns.c.answer.is_not(None))
            known = sorted({*mine, *(row.answer for row in connection.execute(of_talks))})
            opinions = sum(self._remove_opinions(connection, table, name, known) for table in _OPINIONS)
            for table, column, values in (
                (turns, turns.c.conversation, talks),
                (conversations, conversations.c.id, talks),
                (answers, answers.c.id, known),
            ):
                _remove(connection, table, column, values)
            connection.execute(_people.delete().where(_people.c.name == name))
        overwrite_deleted(self._engine)
        return Forgotten(len(talks), len(known), opinions, tuple(known))

    @staticmethod
    def _remove_opinions(connection: Connection, table: sql.Table, name: str, answer_ids: list[str]) -> int:
        removed = connection.execute(table.delete().where(table.c.rater == name)).rowcount
        columns = [table.c[column] for column in ("answer_id", "first", "second") if column in table.c]
        return int(removed) + sum(_remove(connection, table, column, answer_ids) for column in columns)

    @contextmanager
    def _writing(self) -> Any:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sql.exc.DBAPIError as error:
            raise unavailable(error) from error


_OPINIONS = (tables.ratings, tables.choices, tables.scores)
_AT_ONCE = 500  # values of one statement: databases bound them


def _remove(connection: Connection, table: sql.Table, column: Any, values: list[str]) -> int:
    return sum(
        int(connection.execute(table.delete().where(column.in_(values[start : start + _AT_ONCE]))).rowcount)
        for start in range(0, len(values), _AT_ONCE)
    )
