"""The order in which a crawl looks at addresses: by depth, and within a depth in the order of pages and their links.

Work goes in rounds. A round takes all addresses found at the smallest depth, in an order that depends on pages alone,
never on who answered first; so limits cut the same pages off on every run, and a depth is the true number of links.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from chatwright.data import limits
from chatwright.data.crawl.scope import shape
from chatwright.data.crawl.store import Store
from chatwright.data.crawl.urls import Url, parse_url

PAGE = "page"
SITEMAP = "sitemap"
INNER_SITEMAP = "sitemap of an index"  # which may list no further sitemaps (sitemaps.org)
GUESSED_SITEMAP = "guessed sitemap"  # where sitemaps often are; it is no news if there is none

KEPT = "kept"
REDIRECTED = "redirected"
REFUSED = "refused"
FAILED = "failed"
_FOUND = "found"
_DUE = "due"
_TRANSIENT = "transient"  # note of the store: a failure of this crawl may pass

_ADD = """
INSERT INTO frontier (url, kind, host, depth, hops, via, parent, position) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (url) DO UPDATE SET
    depth = excluded.depth, hops = excluded.hops, via = excluded.via, parent = excluded.parent,
    position = excluded.position
WHERE state = 'found' AND (excluded.depth, excluded.parent, excluded.position) < (depth, parent, position)
"""


class Entry(NamedTuple):
    """An address of a crawl."""

    url: str
    kind: str
    host: str
    depth: int
    hops: int  # redirects since the last link
    via: str  # the page that named it; empty for a start
    place: int  # in the order of the crawl
    attempts: int


class Settled(NamedTuple):
    """What became of an address."""

    url: str
    kind: str
    state: str
    reason: str
    detail: str
    via: str
    facts: dict[str, Any]


class Limits(NamedTuple):
    """What ends a crawl early."""

    max_pages: int
    max_bytes: int
    max_alike: int


def has_ended(store: Store, traversal: str) -> bool:
    """Whether every address of the crawl with these settings is settled, one way or the other."""
    return store.meta("complete") == traversal


def may_be_better(store: Store) -> bool:
    """Whether the crawl gave something up that may be had later: a server in trouble, a name that did not resolve."""
    return bool(store.meta(_TRANSIENT))


class Frontier:
    """Addresses found, due and settled, on a store's connection. The caller holds the transactions."""

    def __init__(self, store: Store):
        self._store = store

    def begin(self, traversal: str, *, now: float) -> None:
        """Go on with a crawl of the same settings, or begin one anew; stored pages stay.

        One that ended with failures that may pass follows its links anew from the stored pages and asks for the rest:
        so order and limits are those of a crawl in which nothing failed. When it began and how long hosts are left
        alone stay as they were, so that what was fetched is fresh and `Retry-After` is kept.
        """
        is_same = self._store.meta("traversal") == traversal
        if is_same and not (has_ended(self._store, traversal) and may_be_better(self._store)):
            return
        with self._store.transaction():
            for table in ("frontier", "shapes"):
                self._store.execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own
            if is_same:
                self._store.execute("UPDATE hosts SET failures = 0")
            else:
                self._store.execute("DELETE FROM hosts")
                self._store.set_meta("traversal", traversal)
                self._store.set_meta("begun", repr(now))
            self._store.set_meta("complete", "")
            self._store.set_meta(_TRANSIENT, "")

    def note_passing(self) -> None:
        """Something was given up that another run may get: this crawl, once it has ended, may be run again."""
        self._store.set_meta(_TRANSIENT, "yes")

    def end(self, traversal: str) -> None:
        """Every address is settled."""
        self._store.set_meta("complete", traversal)

    def add(
        self,
        url: Url,
        *,
        position: int,
        kind: str = PAGE,
        depth: int = 0,
        hops: int = 0,
        via: str = "",
        parent: int = -1,
    ) -> None:
        """Note an address; one known already keeps the earlier place of the two, until its round has begun."""
        self._store.execute(_ADD, (str(url), kind, url.host, depth, hops, via, parent, position))

    def allot(self, bounds: Limits) -> bool:
        """Begin the next round if none is under way; False if nothing is left."""
        if self._one("SELECT 1 FROM frontier WHERE state = ? LIMIT 1", _DUE) is not None:
            return True
        depth = self._one("SELECT min(depth) FROM frontier WHERE state = ?", _FOUND)
        if depth is None:
            return False
        rows = self._store.execute(
            "SELECT url, kind FROM frontier WHERE state = ? AND depth = ? ORDER BY parent, position, url",
            (_FOUND, depth),
        ).fetchall()
        with self._store.transaction():
            place = self._one("SELECT max(place) FROM frontier") + 1
            counts = self._counts()
            for number, (url, kind) in enumerate(rows):
                reason = self._over(url, kind, counts, bounds)
                state = REFUSED if reason else _DUE
                values = (state, reason, place + number, url)
                self._store.execute("UPDATE frontier SET state = ?, reason = ?, place = ? WHERE url = ?", values)
        return True

    def _counts(self) -> dict[str, int]:
        allotted = "SELECT count(*) FROM frontier WHERE place >= 0 AND state != 'refused' AND kind {} 'page'"
        size = "SELECT coalesce(sum(size), 0) FROM pages JOIN frontier USING (url)"
        return {
            PAGE: self._one(allotted.format("=")),
            SITEMAP: self._one(allotted.format("!=")),
            "bytes": self._one(size),
        }

    def _over(self, url: str, kind: str, counts: dict[str, int], bounds: Limits) -> str:
        """Why an address of this round is left, if a limit is reached; counts it otherwise."""
        if counts["bytes"] >= bounds.max_bytes:
            return "byte_limit"
        if kind != PAGE:
            counts[SITEMAP] += 1
            return "sitemap_limit" if counts[SITEMAP] > limits.MAX_SITEMAPS else ""
        if counts[PAGE] >= bounds.max_pages:
            return "page_limit"
        alike = shape(parse_url(url))
        if (self._one("SELECT addresses FROM shapes WHERE shape = ?", alike) or 0) >= bounds.max_alike:
            return "trap_alike"
        counts[PAGE] += 1
        statement = "INSERT INTO shapes VALUES (?, 1) ON CONFLICT DO UPDATE SET addresses = addresses + 1"
        self._store.execute(statement, (alike,))
        return ""

    def due_hosts(self) -> list[str]:
        """Hosts with addresses in this round, those with the first places first."""
        statement = "SELECT host FROM frontier WHERE state = ? GROUP BY host ORDER BY min(place)"
        return [str(row[0]) for row in self._store.execute(statement, (_DUE,))]

    def next_due(self, host: str) -> Entry | None:
        """The first address of a host in this round that is not settled."""
        row = self._store.execute(
            "SELECT url, kind, host, depth, hops, via, place, attempts FROM frontier "
            "WHERE state = ? AND host = ? ORDER BY place LIMIT 1",
            (_DUE, host),
        ).fetchone()
        return None if row is None else Entry(*row)

    def settle(
        self, url: str, state: str, *, reason: str = "", detail: str = "", facts: dict[str, Any] | None = None
    ) -> None:
        """Note what became of an address of this round."""
        self._store.execute(
            "UPDATE frontier SET state = ?, reason = ?, detail = ?, facts = ? WHERE url = ? AND state = ?",
            (state, reason, detail[:500], json.dumps(facts or {}), url, _DUE),
        )

    def settle_host(self, host: str, *, reason: str, detail: str) -> None:
        """Leave all addresses of a host in this round."""
        statement = "UPDATE frontier SET state = ?, reason = ?, detail = ? WHERE state = ? AND host = ?"
        self._store.execute(statement, (FAILED, reason, detail[:500], _DUE, host))

    def count_attempt(self, url: str) -> None:
        """One more try of this address gave nothing."""
        self._store.execute("UPDATE frontier SET attempts = attempts + 1 WHERE url = ?", (url,))

    def redirected_from(self, url: str) -> Iterator[str]:
        """The addresses that redirected here, the last first."""
        for _ in range(limits.MAX_REDIRECTS + 2):
            row = self._store.execute("SELECT via, hops FROM frontier WHERE url = ?", (url,)).fetchone()
            if row is None or row[1] == 0:
                return
            url = row[0]
            yield url

    def tally(self) -> tuple[int, int]:
        """Addresses settled, and all that are known."""
        open_ = self._one("SELECT count(*) FROM frontier WHERE state IN ('found', 'due')")
        known = self._one("SELECT count(*) FROM frontier")
        return known - open_, known

    def settled(self) -> Iterable[Settled]:
        """Every address with what became of it, in the order of the crawl."""
        rows = self._store.execute(
            "SELECT url, kind, state, reason, detail, via, facts FROM frontier ORDER BY depth, place, url"
        )
        return (Settled._make((*row[:6], json.loads(row[6]))) for row in rows)

    def _one(self, statement: str, *values: Any) -> Any:
        row = self._store.execute(statement, values).fetchone()
        return None if row is None else row[0]
