"""Where answers and what people thought of them are kept: SQLite by default, any SQLAlchemy URL by a setting.

Every write is one transaction that is on disk when the call returns. Not for making training data of it:
whoever trains reads `export`.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import sqlalchemy as sql
from sqlalchemy.engine import Connection, RowMapping

from chatwright.feedback import tables
from chatwright.feedback.conversations import Message
from chatwright.feedback.database import StoreError, open_database, reading, unavailable
from chatwright.feedback.history import History
from chatwright.feedback.people import People
from chatwright.foundation.errors import UsageError

__all__ = [
    "Answer",
    "Choice",
    "FeedbackStore",
    "Opinion",
    "Rating",
    "RatingConflictError",
    "Role",
    "Score",
    "StoreError",
    "StoredRating",
    "UnknownAnswerError",
    "thumbs_by_model",
]

EXPORT_BATCH = 256
Role = Literal["user", "expert"]

_answers, _ratings, _choices, _turns = tables.answers, tables.ratings, tables.choices, tables.turns
_scores = tables.scores


class UnknownAnswerError(UsageError):
    """A rating of an answer that this store never saw."""


class RatingConflictError(UsageError):
    """A rating's key was used before for another content."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer as it was given, with everything that made it."""

    id: str
    model: str
    model_digest: str
    messages: Sequence[Message]  # what the model was asked, without this answer
    answer: str
    sampling: dict[str, Any] = field(default_factory=dict)
    finish: Literal["stop", "length", "cancelled"]
    owner: str = ""  # who asked


@dataclass(frozen=True, kw_only=True)
class Rating:
    """What a person thought of an answer."""

    answer_id: str
    thumb: Literal[-1, 1]
    reason: str | None = None
    better_answer: str | None = None
    key: str | None = None  # the client's name for this act: sent again, it is stored once
    rater: str = ""  # whose opinion
    role: Role = "user"

    @property
    def answer_ids(self) -> tuple[str, ...]:
        """The answers that must be there for it."""
        return (self.answer_id,)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of two answers a person likes better, seen side by side."""

    first: str  # an answer's id, as the person saw them: left or above
    second: str
    choice: Literal["first", "second", "tie", "both_bad"]
    reason: str | None = None
    better_answer: str | None = None  # better than each that did not win
    key: str | None = None
    rater: str = ""
    role: Role = "user"

    @property
    def answer_ids(self) -> tuple[str, ...]:
        """The answers that must be there for it."""
        return (self.first, self.second)


@dataclass(frozen=True, kw_only=True)
class Score:
    """How good a person finds an answer, from 1 to 5, as on the page for raters."""

    answer_id: str
    score: float  # mean of the aspects
    aspects: dict[str, int] = field(default_factory=dict)
    reason: str | None = None
    better_answer: str | None = None
    key: str | None = None
    rater: str = ""
    role: Role = "user"

    @property
    def answer_ids(self) -> tuple[str, ...]:
        """The answers that must be there for it."""
        return (self.answer_id,)


Given = Rating | Choice | Score
_TABLES: dict[type, sql.Table] = {Rating: _ratings, Choice: _choices, Score: _scores}


class StoredRating(NamedTuple):
    """Where a rating stands in the store, and whether this call wrote it."""

    id: int
    created: float
    is_new: bool


class Opinion(NamedTuple):
    """What a person thinks of an answer by now: the last thumb, and the last choice as seen from this answer."""

    thumb: int | None = None
    choice: str | None = None


class FeedbackStore:
    """Answers and ratings in one database. Safe for use by several threads and processes.

    Args:
        place: a SQLite file, or any SQLAlchemy URL.
        clock: gives seconds since 1970.

    Raises:
        RefusedError: the file is not a database, not one of ours, or made by a newer version.
        UsageError: a URL that SQLAlchemy does not know, or a database in memory.
    """

    def __init__(self, place: str | Path, *, clock: Callable[[], float] = time.time):
        self._clock = clock
        self._engine = open_database(place)
        self.history = History(self._engine, clock=clock)
        self.people = People(self._engine, clock=clock)

    def add_answer(self, answer: Answer, *, created: float | None = None, is_turn: bool = False) -> None:
        """Store an answer; it is on disk when this returns.

        Args:
            answer: what was said.
            created: seconds since 1970, where it was given elsewhere before.
            is_turn: it was written into a kept conversation: where its turn was deleted meanwhile, nothing is stored.

        Raises:
            UsageError: an answer with this id is stored already.
            StoreError: the database cannot be written.
        """
        row = {**vars(answer), "messages": [message._asdict() for message in answer.messages]}
        row["created"] = self._clock() if created is None else created
        try:
            with self._engine.begin() as connection:
                # Where the answer is a turn of a kept conversation, both are whole, or neither. The turn comes first:
                # who deletes it waits for its row, and finds the answer then.
                ended = {"content": answer.answer, "finish": answer.finish}
                turn = connection.execute(_turns.update().where(_turns.c.answer == answer.id).values(**ended))
                if is_turn and not turn.rowcount:
                    return
                connection.execute(_answers.insert().values(**row))
        except sql.exc.IntegrityError as error:
            raise UsageError(f"an answer `{answer.id}` is stored already") from error
        except sql.exc.DBAPIError as error:
            raise unavailable(error) from error

    def add_rating(self, rating: Given, *, created: float | None = None) -> StoredRating:
        """Store an opinion; sent again with the same key it gives the row that is there.

        Args:
            rating: a thumb, a choice or a score.
            created: seconds since 1970, where it was given elsewhere before.

        Raises:
            UnknownAnswerError: an answer that it names is not stored.
            RatingConflictError: the key was used for this answer, or these two, with another content.
            StoreError: the database cannot be written.
        """
        try:
            with self._engine.begin() as connection:
                return self._insert(connection, rating, created)
        except sql.exc.IntegrityError:
            # Only where another process wrote the same key between our look and our insert: its row is there now.
            with self._engine.begin() as connection:
                return self._insert(connection, rating, created)
        except sql.exc.DBAPIError as error:
            raise unavailable(error) from error

    def _insert(self, connection: Connection, rating: Given, created: float | None) -> StoredRating:
        table = _TABLES[type(rating)]
        for answer_id in rating.answer_ids:
            if connection.execute(sql.select(_answers.c.id).where(_answers.c.id == answer_id)).first() is None:
                raise UnknownAnswerError(f"no answer `{answer_id}` is stored")
        names = ("first", "second", "key") if isinstance(rating, Choice) else ("answer_id", "key")
        if rating.key is not None:
            same = sql.and_(*(table.c[name] == getattr(rating, name) for name in names))
            before = connection.execute(table.select().where(same)).mappings().first()
            if before is not None:
                return self._again(connection, before, rating)
        created = self._clock() if created is None else created
        inserted = connection.execute(table.insert().values(**vars(rating), created=created))
        key = inserted.inserted_primary_key
        assert key is not None, "the table has a primary key"  # noqa: S101 - what we promise ourselves
        return StoredRating(key[0], created, is_new=True)

    def _again(self, connection: Connection, before: RowMapping, rating: Given) -> StoredRating:
        if not isinstance(rating, Choice) or before["better_answer"] is not None or rating.better_answer is None:
            return _replayed({**before}, rating)
        # Up to version 3 of the schema a choice had no place for it: imported again, it is put to the row.
        found = _replayed({**before, "better_answer": rating.better_answer}, rating)
        same = _choices.c.id == found.id
        connection.execute(_choices.update().where(same).values(better_answer=rating.better_answer))
        return found

    def answer(self, answer_id: str) -> Answer | None:
        """One answer as it was given, if it is stored."""
        with reading(self._engine) as connection:
            row = connection.execute(_answers.select().where(_answers.c.id == answer_id)).mappings().first()
        if row is None:
            return None
        messages = [Message(**message) for message in row["messages"]]
        names = ("id", "model", "model_digest", "answer", "sampling", "finish", "owner")
        return Answer(messages=messages, **{name: row[name] for name in names})

    def opinions(self, answer_ids: Sequence[str]) -> dict[str, Opinion]:
        """What is thought of each of these answers by now; those without an opinion are left out."""
        opinions: dict[str, Opinion] = {}
        with reading(self._engine) as connection:
            for start in range(0, len(answer_ids), EXPORT_BATCH):
                some = list(answer_ids[start : start + EXPORT_BATCH])
                for answer_id, given in _ratings_of(connection, some).items():
                    opinions[answer_id] = Opinion(thumb=given[-1]["thumb"])
                for answer_id, choices in _choices_of(connection, some).items():
                    before = opinions.get(answer_id, Opinion())
                    opinions[answer_id] = before._replace(choice=choices[-1]["choice"])
        return opinions

    def export(self, *, rated_only: bool = False) -> Iterator[dict[str, Any]]:
        """Every answer in the order of writing, with its ratings, oldest first; writers are not held up meanwhile.

        A choice stands with both of its answers: `against` names the other one, and `choice` is `won`, `lost`, `tie`
        or `both_bad`, as seen from the answer it stands with. `consent` says whether who asked, or whose opinion it is,
        agrees to being learned from.
        """
        after, agreed = 0, self.people.agreed()
        while True:
            with reading(self._engine) as connection:
                rows = _answers_after(connection, after, rated_only=rated_only)
                ids = [row["id"] for row in rows]
                ratings, choices, scores = (read(connection, ids) for read in (_ratings_of, _choices_of, _scores_of))
            for row in rows:
                content = {name: value for name, value in row.items() if name != "number"}
                opinions = {
                    name: [{**given, "consent": agreed(given["rater"])} for given in found.get(row["id"], [])]
                    for name, found in (("ratings", ratings), ("choices", choices), ("scores", scores))
                }
                yield {**content, "consent": agreed(row["owner"]), **opinions}
            if len(rows) < EXPORT_BATCH:
                return
            after = rows[-1]["number"]

    def export_lines(self, *, rated_only: bool = False) -> Iterator[str]:
        """`export` as JSON Lines, each with its line end."""
        for entry in self.export(rated_only=rated_only):
            yield json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"

    def close(self) -> None:
        """Give back the connections; the store cannot be used after it."""
        self._engine.dispose()


def thumbs_by_model(entries: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Answers, thumbs up and down of each model in an export; of several ratings of an answer the last counts."""
    counts: dict[str, dict[str, int]] = {}
    for entry in entries:
        count = counts.setdefault(entry["model"], {"answers": 0, "up": 0, "down": 0})
        count["answers"] += 1
        if entry["ratings"]:
            count["up" if entry["ratings"][-1]["thumb"] > 0 else "down"] += 1
    return counts


def _answers_after(connection: Connection, number: int, *, rated_only: bool) -> list[RowMapping]:
    query = _answers.select().where(_answers.c.number > number).order_by(_answers.c.number).limit(EXPORT_BATCH)
    if rated_only:
        chosen = (_choices.c.first == _answers.c.id) | (_choices.c.second == _answers.c.id)
        rated = sql.exists().where(_ratings.c.answer_id == _answers.c.id)
        scored = sql.exists().where(_scores.c.answer_id == _answers.c.id)
        query = query.where(rated | scored | sql.exists().where(chosen))
    return list(connection.execute(query).mappings())


def _ratings_of(connection: Connection, answer_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    query = _ratings.select().where(_ratings.c.answer_id.in_(answer_ids)).order_by(_ratings.c.id)
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in connection.execute(query).mappings():
        content = {name: row[name] for name in ("id", "thumb", "reason", "better_answer", "created", "rater", "role")}
        grouped.setdefault(row["answer_id"], []).append(content)
    return grouped


def _scores_of(connection: Connection, answer_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    query = _scores.select().where(_scores.c.answer_id.in_(answer_ids)).order_by(_scores.c.id)
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in connection.execute(query).mappings():
        content = {name: value for name, value in row.items() if name not in ("answer_id", "key")}
        grouped.setdefault(row["answer_id"], []).append(content)
    return grouped


def _choices_of(connection: Connection, answer_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    concerned = _choices.c.first.in_(answer_ids) | _choices.c.second.in_(answer_ids)
    query = _choices.select().where(concerned).order_by(_choices.c.id)
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in connection.execute(query).mappings():
        for mine, other in (("first", "second"), ("second", "first")):
            seen = {mine: "won", other: "lost"}.get(row["choice"], row["choice"])
            content = {"id": row["id"], "against": row[other], "choice": seen, "shown": mine}
            content |= {name: row[name] for name in ("reason", "better_answer", "created", "rater", "role")}
            grouped.setdefault(row[mine], []).append(content)
    return grouped


def _replayed(before: dict[str, Any], rating: Given) -> StoredRating:
    if any(before[name] != value for name, value in vars(rating).items()):
        raise RatingConflictError(
            f"the key `{rating.key}` was used before for another rating",
            kept="the earlier rating",
            hint="use a new key for a new rating",
        )
    return StoredRating(before["id"], before["created"], is_new=False)
