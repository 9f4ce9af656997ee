"""Opening the feedback database: SQLite by default, any SQLAlchemy URL; made, checked and brought up to date here.

A migration is one transaction, and a copy of a SQLite file is made before it. Not for queries.
"""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection, Engine

from chatwright.feedback import tables
from chatwright.foundation.errors import ChatwrightError, RefusedError, UsageError

SCHEMA_VERSION = 4
BUSY_TIMEOUT_S = 30


class StoreError(ChatwrightError):
    """The database cannot be read or written now; what was stored before is untouched."""


def open_database(place: str | Path) -> Engine:
    """The database, made or brought up to date where it has to be.

    Args:
        place: a SQLite file, or any SQLAlchemy URL.

    Raises:
        RefusedError: the file is not a database, not one of ours, or made by a newer version.
        UsageError: a URL that SQLAlchemy does not know, or a database in memory.
        StoreError: it cannot be opened now.
    """
    engine = open_engine(place)
    try:
        with engine.begin() as connection:
            version = _prepare_schema(connection)
        if version < SCHEMA_VERSION:
            _copy_aside(engine, version)
            with engine.begin() as connection:
                _migrate(connection)
    except sql.exc.OperationalError as error:
        raise StoreError(f"the feedback store cannot be opened: {error.orig}", hint="check its path or URL") from error
    except sql.exc.DatabaseError as error:
        raise RefusedError(f"the feedback store is not a sound database: {error.orig}") from error
    return engine


def require_store(place: str) -> None:
    """A store that is to be read must be there: opening it would make an empty one.

    Raises:
        UsageError: it is a file, and there is none. Whether a server has a database, it says itself.
    """
    path = place.removeprefix("sqlite:///")
    if "://" not in path and not Path(path).is_file():
        raise UsageError(
            f"there is no feedback store `{place}`",
            hint="`chatwright serve` makes one, `chatwright-feedback.db` in the folder of its call; name it or its URL",
        )


def unavailable(error: sql.exc.DBAPIError) -> StoreError:
    """What a caller is told when the database fails."""
    return StoreError(
        f"the feedback store cannot be used now: {error.orig}",
        kept="everything that was stored before",
        hint="check the disk's free space and that no other program holds the database",
    )


def open_engine(place: str | Path) -> Engine:
    """A connection pool to a database as it is, whatever stands in it.

    Raises:
        UsageError: a URL that SQLAlchemy does not know, or a database in memory.
    """
    if isinstance(place, str) and "://" in place:
        url: str | sql.URL = place
    else:  # not joined: a folder's name may hold `?` or `%`, which a URL would take for its own
        url = sql.URL.create("sqlite", database=str(Path(place).absolute()))
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
            "secure_delete = ON",  # what is deleted is overwritten
        ):
            connection.execute(f"PRAGMA {pragma}")

    @sql.event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # A write lock from the start: a transaction that reads first and then writes would fail, not wait.
        reads_only = connection.get_execution_options().get("chatwright_reads_only", False)
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")


def reading(engine: Engine) -> Connection:
    """A connection that only reads, and so waits for no writer."""
    return engine.connect().execution_options(chatwright_reads_only=True)


def overwrite_deleted(engine: Engine) -> None:
    """After people took back what was theirs: nothing of it stays in SQLite's log, or in copies of before migrations.

    Where another program reads meanwhile, the log goes when the last one closes the database.

    Raises:
        StoreError: a copy, or the log, cannot be removed now.
    """
    if engine.dialect.name != "sqlite":
        return
    path = Path(str(engine.url.database))
    copy = re.compile(rf"\.?{re.escape(path.name)}\.schema-\d+(\.partial)?")
    try:
        for beside in path.parent.iterdir():
            if copy.fullmatch(beside.name):
                beside.unlink(missing_ok=True)
        with closing(engine.raw_connection()) as raw:  # a transaction, as `begun` makes it, cannot hold a checkpoint
            raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"it was deleted from the feedback store, but an older copy of it could not be removed: {error}",
            hint=f"delete what begins with `{path.name}.schema-` beside it, and restart what has the store open",
        ) from error


def _prepare_schema(connection: Connection) -> int:
    """Make the tables where there are none; the version of those that are there.

    Raises:
        RefusedError: tables of others, or of a newer version.
    """
    names = set(sql.inspect(connection).get_table_names())
    if not names & set(tables.metadata.tables):
        tables.metadata.create_all(connection)
        connection.execute(tables.versions.insert().values(version=SCHEMA_VERSION))
        return SCHEMA_VERSION
    version = None
    if "schema_version" in names:
        version = connection.execute(sql.select(sql.func.max(tables.versions.c.version))).scalar()
    if version is not None and version > SCHEMA_VERSION:
        raise RefusedError(
            f"the feedback store was made by a newer version: schema {version}, this reads up to {SCHEMA_VERSION}",
            kept="everything in it; nothing was changed",
            hint="upgrade chatwright",
        )
    if version is None or not _tables_of(version) <= names:
        raise RefusedError("the database has tables of other programs under our names", hint="give another database")
    return int(version)


def _tables_of(version: int) -> set[str]:
    later = {table.name for number, added in tables.ADDED_IN.items() if number > version for table in added}
    return set(tables.metadata.tables) - later


def _copy_aside(engine: Engine, version: int) -> None:
    """A sound copy of a SQLite file beside it, before its shape changes; other databases have backups of their own."""
    if engine.dialect.name != "sqlite":
        return
    path = Path(str(engine.url.database))
    backup = path.with_name(f"{path.name}.schema-{version}")
    if backup.exists():  # from a migration that was killed: the older copy is the one to keep
        return
    scratch = path.with_name(f".{backup.name}.partial")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(scratch)) as target:
        source.backup(target)
    scratch.replace(backup)


def _migrate(connection: Connection) -> None:
    """Bring the tables from their version to ours, all steps in this one transaction."""
    found = connection.execute(sql.select(sql.func.max(tables.versions.c.version))).scalar()
    for version in range(int(found or 0) + 1, SCHEMA_VERSION + 1):
        tables.metadata.create_all(connection, tables=list(tables.ADDED_IN[version]))
        for column in tables.COLUMNS_ADDED_IN.get(version, ()):
            _add_column(connection, column)
        if version == 3:
            _name_owners(connection)
        connection.execute(tables.versions.insert().values(version=version))


def _add_column(connection: Connection, column: sql.Column[str]) -> None:
    """Add a column with its default and index; a table that this migration made has it already."""
    there = {entry["name"] for entry in sql.inspect(connection).get_columns(column.table.name)}
    if column.name in there:
        return
    text = sql.schema.CreateColumn(column).compile(dialect=connection.dialect)
    connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {text}")
    for index in column.table.indexes:
        if [part.name for part in index.columns] == [column.name]:
            index.create(connection)


def _name_owners(connection: Connection) -> None:
    """Answers and opinions of version 2 belong to whose conversation the answers stand in."""
    turns, conversations, answers = tables.turns, tables.conversations, tables.answers
    owner = (
        sql.select(conversations.c.owner)
        .join(turns, turns.c.conversation == conversations.c.id)
        .where(turns.c.answer == answers.c.id)
        .scalar_subquery()
    )
    connection.execute(answers.update().values(owner=sql.func.coalesce(owner, "")))
    for table, answer_id in ((tables.ratings, tables.ratings.c.answer_id), (tables.choices, tables.choices.c.first)):
        whose = sql.select(answers.c.owner).where(answers.c.id == answer_id).scalar_subquery()
        connection.execute(table.update().values(rater=sql.func.coalesce(whose, "")))
