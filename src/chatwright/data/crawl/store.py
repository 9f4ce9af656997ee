"""What a crawl keeps between runs: responses, bodies, rules of sites, and when a host may be asked again.

SQLite with WAL and synchronous=FULL: what was acknowledged survives a kill at any moment. A body is stored once,
whatever number of addresses gave it.
"""

import contextlib
import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.foundation.errors import RefusedError

FILE = "crawl.sqlite"
_FORMAT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bodies (digest TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS pages (
    url TEXT PRIMARY KEY, status INTEGER NOT NULL, headers TEXT NOT NULL, digest TEXT, size INTEGER NOT NULL,
    fetched REAL NOT NULL, checked REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS origins (
    origin TEXT PRIMARY KEY, outcome TEXT NOT NULL, robots TEXT NOT NULL, detail TEXT NOT NULL, tdmrep BLOB NOT NULL,
    checked REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hosts (
    host TEXT PRIMARY KEY, ready REAL NOT NULL, failures INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shapes (shape TEXT PRIMARY KEY, addresses INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS frontier (
    url TEXT PRIMARY KEY, kind TEXT NOT NULL, host TEXT NOT NULL, depth INTEGER NOT NULL, hops INTEGER NOT NULL,
    via TEXT NOT NULL, parent INTEGER NOT NULL, position INTEGER NOT NULL, place INTEGER NOT NULL DEFAULT -1,
    state TEXT NOT NULL DEFAULT 'found', reason TEXT NOT NULL DEFAULT '', detail TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0, facts TEXT NOT NULL DEFAULT '{}'
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS frontier_order ON frontier (state, depth, parent, position);
CREATE INDEX IF NOT EXISTS frontier_hosts ON frontier (state, host, place);
"""


class Page(NamedTuple):
    """The last response of an address that said something final."""

    url: str
    status: int
    headers: dict[str, str]
    digest: str | None  # of the body; None without one
    size: int  # bytes of the body
    fetched: float  # seconds since 1970, when this body came
    checked: float  # when the server last confirmed it


class Origin(NamedTuple):
    """What a site's files of rules said."""

    outcome: str
    robots: str
    detail: str
    tdmrep: bytes
    checked: float


class Store:
    """The pages and rules in one SQLite file; `frontier.Frontier` works on the same connection.

    Args:
        directory: of the store; made if it is missing, unless `is_read_only`.
        is_read_only: for reading partitions, in any process.

    Raises:
        RefusedError: the file is damaged, or of a newer version.
    """

    def __init__(self, directory: Path, *, is_read_only: bool = False):
        self.path = directory / FILE
        try:
            if is_read_only:
                self.connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)
                self._require_format()
                return
            directory.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(self.path, isolation_level=None, timeout=30.0)
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = FULL")
            self.connection.executescript(_SCHEMA)
            self.connection.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?)", (str(_FORMAT),))
            self._require_format()
        except sqlite3.DatabaseError as error:
            raise RefusedError(
                f"`{self.path}` is not a sound store of a crawl: {error}",
                hint="move it away and run the same command again: pages are then fetched anew",
            ) from error

    def _require_format(self) -> None:
        found = self.meta("format")
        if found != str(_FORMAT):
            raise RefusedError(f"`{self.path}` was made by another version: format {found}", hint="upgrade chatwright")

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block is kept, durably, or none of it."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def meta(self, key: str) -> str | None:
        """A note of the crawl."""
        row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Keep a note of the crawl."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def page(self, url: str) -> Page | None:
        """The last response of an address."""
        row = self.connection.execute("SELECT * FROM pages WHERE url = ?", (url,)).fetchone()
        return None if row is None else Page(row[0], row[1], json.loads(row[2]), *row[3:])

    def put_page(self, url: str, status: int, headers: dict[str, str], body: bytes | None, *, now: float) -> Page:
        """Keep a response in place of the one before."""
        digest = None if body is None else hashlib.sha256(body).hexdigest()
        page = Page(url, status, headers, digest, len(body or b""), now, now)
        if body is not None:
            data = zlib.compress(body, 6)
            self.connection.execute("INSERT OR IGNORE INTO bodies VALUES (?, ?)", (digest, data))
        values = (url, status, json.dumps(headers), *page[3:])
        self.connection.execute("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        return page

    def confirm_page(self, url: str, *, now: float) -> None:
        """Note that the server says the page has not changed."""
        self.connection.execute("UPDATE pages SET checked = ? WHERE url = ?", (now, url))

    def body(self, digest: str) -> bytes:
        """A stored body.

        Raises:
            RefusedError: it is missing or damaged.
        """
        row = self.connection.execute("SELECT data FROM bodies WHERE digest = ?", (digest,)).fetchone()
        try:
            body = b"" if row is None else zlib.decompress(row[0])
        except zlib.error:
            body = b""
        if hashlib.sha256(body).hexdigest() != digest:
            raise RefusedError(
                f"a page in `{self.path}` is missing or damaged: {digest}",
                hint="move the file away and run the same command again: pages are then fetched anew",
            )
        return body

    def origin(self, origin: str) -> Origin | None:
        """The rules of an origin as they were last fetched."""
        row = self.connection.execute(
            "SELECT outcome, robots, detail, tdmrep, checked FROM origins WHERE origin = ?", (origin,)
        ).fetchone()
        return None if row is None else Origin(*row)

    def put_origin(self, origin: str, rules: Origin) -> None:
        """Keep the rules of an origin."""
        self.connection.execute("INSERT OR REPLACE INTO origins VALUES (?, ?, ?, ?, ?, ?)", (origin, *rules))

    def host(self, host: str) -> tuple[float, int]:
        """When a host may be asked again, and how many of its pages failed in a row."""
        row = self.connection.execute("SELECT ready, failures FROM hosts WHERE host = ?", (host,)).fetchone()
        return (0.0, 0) if row is None else (float(row[0]), int(row[1]))

    def put_host(self, host: str, *, ready: float, failures: int) -> None:
        """Keep when a host may be asked again."""
        self.connection.execute("INSERT OR REPLACE INTO hosts VALUES (?, ?, ?)", (host, ready, failures))

    def execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        """One statement of the frontier."""
        return self.connection.execute(statement, values)
