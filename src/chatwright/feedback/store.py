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
from sqlalchemy.engine import Connection, Engine, RowMapping

from chatwright.feedback.conversations import Message
from chatwright.foundation.errors import ChatwrightError, RefusedError, UsageError

SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 30
EXPORT_BATCH = 256

_metadata = sql.MetaData()
_versions = sql.Table("schema_version", _metadata, sql.Column("version", sql.Integer, primary_key=True))
_answers = sql.Table(
    "answers",
    _metadata,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),  # the order of writing, for export
    sql.Column("id", sql.String(128), nullable=False, unique=True),
    sql.Column("created", sql.Float, nullable=False),  # seconds since 1970
    sql.Column("model", sql.Text, nullable=False),
    sql.Column("model_digest", sql.Text, nullable=False),
    sql.Column("messages", sql.JSON, nullable=False),
    sql.Column("answer", sql.Text, nullable=False),
    sql.Column("sampling", sql.JSON, nullable=False),
    sql.Column("finish", sql.String(16), nullable=False),
)
_ratings = sql.Table(
    "ratings",
    _metadata,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("answer_id", sql.ForeignKey("answers.id"), nullable=False, index=True),
    sql.Column("thumb", sql.SmallInteger, sql.CheckConstraint("thumb IN (-1, 1)"), nullable=False),
    sql.Column("reason", sql.Text),
    sql.Column("better_answer", sql.Text),
    sql.Column("key", sql.String(128)),
    sql.Column("created", sql.Float, nullable=False),
    sql.UniqueConstraint("answer_id", "key", name="ratings_once_per_key"),
)


class UnknownAnswerError(UsageError):
    """A rating of an answer that this store never saw."""


class RatingConflictError(UsageError):
    """A rating's key was used before for another content."""


class StoreError(ChatwrightError):
    """The database cannot be read or written now; what was stored before is untouched."""


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


@dataclass(frozen=True, kw_only=True)
class Rating:
    """What a person thought of an answer."""

    answer_id: str
    thumb: Literal[-1, 1]
    reason: str | None = None
    better_answer: str | None = None
    key: str | None = None  # the client's name for this act: sent again, it is stored once


class StoredRating(NamedTuple):
    """Where a rating stands in the store, and whether this call wrote it."""

    id: int
    created: float
    is_new: bool


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
        self._engine = _open_engine(place)
        try:
            with self._engine.begin() as connection:
                _prepare_schema(connection)
        except sql.exc.OperationalError as error:
            raise StoreError(
                f"the feedback store cannot be opened: {error.orig}", hint="check its path or URL"
            ) from error
        except sql.exc.DatabaseError as error:
            raise RefusedError(f"the feedback store is not a sound database: {error.orig}") from error

    def add_answer(self, answer: Answer) -> None:
        """Store an answer; it is on disk when this returns.

        Raises:
            UsageError: an answer with this id is stored already.
            StoreError: the database cannot be written.
        """
        row = {**vars(answer), "messages": [message._asdict() for message in answer.messages]}
        try:
            with self._engine.begin() as connection:
                connection.execute(_answers.insert().values(**row, created=self._clock()))
        except sql.exc.IntegrityError as error:
            raise UsageError(f"an answer `{answer.id}` is stored already") from error
        except sql.exc.DBAPIError as error:
            raise _unavailable(error) from error

    def add_rating(self, rating: Rating) -> StoredRating:
        """Store a rating; sent again with the same key it gives the row that is there.

        Raises:
            UnknownAnswerError: no answer has this id.
            RatingConflictError: the key was used for this answer with another content.
            StoreError: the database cannot be written.
        """
        try:
            with self._engine.begin() as connection:
                return self._insert_rating(connection, rating)
        except sql.exc.IntegrityError:
            # Only where another process wrote the same key between our look and our insert: its row is there now.
            with self._engine.begin() as connection:
                return self._insert_rating(connection, rating)
        except sql.exc.DBAPIError as error:
            raise _unavailable(error) from error

    def _insert_rating(self, connection: Connection, rating: Rating) -> StoredRating:
        known = connection.execute(sql.select(_answers.c.id).where(_answers.c.id == rating.answer_id)).first()
        if known is None:
            raise UnknownAnswerError(f"no answer `{rating.answer_id}` is stored")
        if rating.key is not None:
            same = (_ratings.c.answer_id == rating.answer_id) & (_ratings.c.key == rating.key)
            before = connection.execute(_ratings.select().where(same)).mappings().first()
            if before is not None:
                return _replayed(before, rating)
        created = self._clock()
        inserted = connection.execute(_ratings.insert().values(**vars(rating), created=created))
        key = inserted.inserted_primary_key
        assert key is not None, "the table has a primary key"  # noqa: S101 - what we promise ourselves
        return StoredRating(key[0], created, is_new=True)

    def export(self, *, rated_only: bool = False) -> Iterator[dict[str, Any]]:
        """Every answer in the order of writing, with its ratings, oldest first; writers are not held up meanwhile."""
        after = 0
        while True:
            with self._engine.connect().execution_options(chatwright_reads_only=True) as connection:
                rows = _answers_after(connection, after, rated_only=rated_only)
                ratings = _ratings_of(connection, [row["id"] for row in rows])
            for row in rows:
                content = {name: value for name, value in row.items() if name != "number"}
                yield {**content, "ratings": ratings.get(row["id"], [])}
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


def _open_engine(place: str | Path) -> Engine:
    url = place if isinstance(place, str) and "://" in place else f"sqlite:///{Path(place).absolute()}"
    try:
        engine = sql.create_engine(url, pool_pre_ping=True)
    except (sql.exc.ArgumentError, ModuleNotFoundError) as error:
        raise UsageError(
            f"no database can be opened by this URL: {error}",
            hint="give a file, `sqlite:///PATH` or `postgresql://...`",
        ) from error
    if engine.dialect.name == "sqlite":
        _set_up_sqlite(engine)
    return engine


def _set_up_sqlite(engine: Engine) -> None:
    if engine.url.database in (None, "", ":memory:"):
        raise UsageError("a feedback store in memory would forget every rating", hint="give a file")
    Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)

    @sql.event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:  # noqa: ARG001 - the signature is SQLAlchemy's
        connection.isolation_level = None  # transactions begin where `begun` says, not where the driver guesses
        for pragma in (
            f"busy_timeout = {BUSY_TIMEOUT_S * 1000}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @sql.event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # A write lock from the start: a transaction that reads first and then writes would fail, not wait.
        reads_only = connection.get_execution_options().get("chatwright_reads_only", False)
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")


def _prepare_schema(connection: Connection) -> None:
    names = set(sql.inspect(connection).get_table_names())
    ours = set(_metadata.tables)
    if not names & ours:
        _metadata.create_all(connection)
        connection.execute(_versions.insert().values(version=SCHEMA_VERSION))
        return
    if not ours <= names:
        raise RefusedError("the database has tables of other programs under our names", hint="give another database")
    version = connection.execute(sql.select(sql.func.max(_versions.c.version))).scalar()
    if version is None or version > SCHEMA_VERSION:
        raise RefusedError(
            f"the feedback store was made by a newer version: schema {version}, this reads up to {SCHEMA_VERSION}",
            kept="everything in it; nothing was changed",
            hint="upgrade chatwright",
        )


def _answers_after(connection: Connection, number: int, *, rated_only: bool) -> list[RowMapping]:
    query = _answers.select().where(_answers.c.number > number).order_by(_answers.c.number).limit(EXPORT_BATCH)
    if rated_only:
        query = query.where(sql.exists().where(_ratings.c.answer_id == _answers.c.id))
    return list(connection.execute(query).mappings())


def _ratings_of(connection: Connection, answer_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    query = _ratings.select().where(_ratings.c.answer_id.in_(answer_ids)).order_by(_ratings.c.id)
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in connection.execute(query).mappings():
        content = {name: row[name] for name in ("id", "thumb", "reason", "better_answer", "created")}
        grouped.setdefault(row["answer_id"], []).append(content)
    return grouped


def _replayed(before: RowMapping, rating: Rating) -> StoredRating:
    if any(before[name] != value for name, value in vars(rating).items()):
        raise RatingConflictError(
            f"the key `{rating.key}` was used before for another rating of `{rating.answer_id}`",
            kept="the earlier rating",
            hint="use a new key for a new rating",
        )
    return StoredRating(before["id"], before["created"], is_new=False)


def _unavailable(error: sql.exc.DBAPIError) -> StoreError:
    return StoreError(
        f"the feedback store cannot be used now: {error.orig}",
        kept="everything that was stored before",
        hint="check the disk's free space and that no other program holds the database",
    )
