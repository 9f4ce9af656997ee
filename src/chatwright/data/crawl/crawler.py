"""The crawl: takes due addresses host by host, asks for them politely, and settles each in one transaction.

One thread owns the store and decides; others only wait for servers, one for each host at a time. A kill between two
transactions loses what was under way and nothing that was settled.
"""

import concurrent.futures
import random
import threading
import time
from typing import Any, NamedTuple

from chatwright.data import limits
from chatwright.data.crawl import frontier as states
from chatwright.data.crawl.clock import Clock
from chatwright.data.crawl.fetch import PAGE_BOUNDS, Bounds, Response, Session
from chatwright.data.crawl.frontier import Entry, Frontier, Limits
from chatwright.data.crawl.harvest import Harvest
from chatwright.data.crawl.robots import UNREACHABLE
from chatwright.data.crawl.rules import Rules, fetch_origin
from chatwright.data.crawl.settings import CrawlSettings
from chatwright.data.crawl.store import Origin, Store
from chatwright.data.crawl.urls import Url, parse_url
from chatwright.data.crawl.verdicts import Unfetchable
from chatwright.data.crawl.visit import require_final, wants_page, wants_sitemap
from chatwright.data.crawl.wire import Connector
from chatwright.foundation.console import ProgressLine
from chatwright.foundation.stopping import StopFlag

_POLL_S = 0.25  # how soon a stop is noticed
_KEPT = "the pages fetched so far"
_SITEMAP_BOUNDS = Bounds(limits.MAX_SITEMAP_BYTES)
_MAX_SESSIONS = 64
_SHOW_EVERY_S = 1.0


class _Job(NamedTuple):
    """One thing to ask a host for: an entry's page, or first the rules of its origin."""

    entry: Entry
    url: Url
    is_rules: bool
    headers: dict[str, str]


class Crawler:
    """Runs one crawl to its end.

    Args:
        config: what to fetch.
        store: where it is kept; held exclusively by the caller.
        connector: opens connections to checked addresses.
        clock: by which hosts are left alone.
        stop: asked between requests.
        stopped: set when a stop is asked for, so that waiting threads end.
        seed: of the chance in waiting times.
        time_limit_s: of one request.
    """

    def __init__(
        self,
        config: CrawlSettings,
        *,
        store: Store,
        connector: Connector,
        clock: Clock,
        stop: StopFlag,
        stopped: threading.Event,
        seed: int = 0,
        time_limit_s: float = limits.FETCH_TIME_LIMIT_S,
    ):
        self._config = config
        self._store = store
        self._connector = connector
        self._clock = clock
        self._stop = stop
        self._stopped = stopped
        self._chance = random.Random(seed)
        self._time_limit_s = time_limit_s
        self._frontier = Frontier(store)
        self._rules = Rules(store, clock)
        self._harvest = Harvest(config, store=store, frontier=self._frontier, rules=self._rules)
        self._sessions: dict[str, Session] = {}
        self._ready: dict[str, float] = {}
        self._shown = 0.0
        self._progress = ProgressLine(f"crawl {config.name}", 0)

    def run(self) -> None:
        """Crawl until every address is settled.

        Raises:
            StoppedError: a stop was asked for; the same call goes on from there.
        """
        self._frontier.begin(self._config.traversal, now=self._clock.now())
        with self._store.transaction():
            for position, url in enumerate(self._config.start_urls):
                self._frontier.add(url, position=position)
        bounds = Limits(self._config.max_pages, self._config.max_fetched_bytes, self._config.max_alike)
        threads = concurrent.futures.ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="fetch")
        try:
            with self._harvest:
                while self._frontier.allot(bounds):
                    self._round(threads)
            with self._store.transaction():
                self._frontier.end(self._config.traversal)
        finally:
            self._stopped.set()
            threads.shutdown(wait=True, cancel_futures=True)
            for session in self._sessions.values():
                session.close()
            self._progress.close()

    def _round(self, threads: concurrent.futures.Executor) -> None:
        """Settle all due addresses, with at most one request under way for each host."""
        waiting = self._frontier.due_hosts()
        running: dict[concurrent.futures.Future[Any], _Job] = {}
        while waiting or running:
            self._stop.check(_KEPT)
            now = self._clock.now()
            for host in list(waiting):
                if len(running) >= self._config.concurrency:
                    break
                if self._ready_at(host) <= now:
                    waiting.remove(host)
                    job = self._next_job(host)
                    if job is not None:
                        running[threads.submit(self._ask, job, self._session(host))] = job
            if running:
                self._settle_finished(running, waiting)
            elif waiting:
                soonest = min(map(self._ready_at, waiting)) - self._clock.now()
                self._clock.sleep(min(max(soonest, 0.0), _POLL_S))

    def _settle_finished(self, running: dict[concurrent.futures.Future[Any], _Job], waiting: list[str]) -> None:
        first = concurrent.futures.FIRST_COMPLETED
        finished, _ = concurrent.futures.wait(running, timeout=_POLL_S, return_when=first)
        for future in finished:
            job = running.pop(future)
            self._settle(job, future)
            if self._frontier.next_due(job.entry.host) is not None:
                waiting.append(job.entry.host)
            self._show_progress(job.entry.url)

    def _show_progress(self, url: str) -> None:
        """Counting takes a pass over the frontier, so it is done as often as a person looks."""
        now = time.monotonic()
        if now - self._shown >= _SHOW_EVERY_S:
            self._shown = now
            settled, known = self._frontier.tally()
            self._progress.update(settled, url[:80], total=known)

    def _next_job(self, host: str) -> _Job | None:
        """The next request for a host; what needs none is settled on the way. None if the host has nothing left."""
        while (entry := self._frontier.next_due(host)) is not None:
            self._stop.check(_KEPT)
            url = parse_url(entry.url)
            if not self._rules.is_known(url) and not self._harvest.is_at_hand(entry.url):
                return _Job(entry, url, is_rules=True, headers={})
            with self._store.transaction():
                self._harvest.note_sitemaps(url)
                is_settled = self._harvest.settle_without_asking(entry, url)
            if not is_settled:
                return _Job(entry, url, is_rules=False, headers=self._harvest.conditions(entry.url))
        return None

    def _ask(self, job: _Job, session: Session) -> Response | Origin:
        """Ask a server. Runs in a thread of its own and touches neither the store nor the crawl's state."""
        if job.is_rules:
            return fetch_origin(job.url, session.get, now=self._clock.now())
        is_page = job.entry.kind == states.PAGE
        response = session.get(
            job.url,
            headers=job.headers,
            bounds=PAGE_BOUNDS if is_page else _SITEMAP_BOUNDS,
            wants_body=wants_page if is_page else wants_sitemap,
        )
        require_final(response)
        return response

    def _settle(self, job: _Job, future: "concurrent.futures.Future[Any]") -> None:
        """Put what came of a request into the store, all of it or nothing."""
        host, now = job.entry.host, self._clock.now()
        try:
            answer = future.result()
        except Unfetchable as verdict:
            if verdict.reason == "stopped":
                return
            self._settle_failure(job, verdict)
            return
        wait_s = max(self._config.delay_s, self._rules.delay_s(job.url))
        with self._store.transaction():
            if isinstance(answer, Origin):
                self._rules.put(job.url, answer)
                if answer.outcome == UNREACHABLE:
                    self._frontier.note_passing()
                wait_s = max(self._config.delay_s, self._rules.delay_s(job.url))
            else:
                self._harvest.settle_response(job.entry, job.url, answer, now=now)
            self._leave_alone(host, wait_s, failures=0)

    def _settle_failure(self, job: _Job, verdict: Unfetchable) -> None:
        """Try again later, or give an address up; after several in a row, give the host up for this round."""
        host, attempts = job.entry.host, job.entry.attempts + 1
        _, failures = self._store.host(host)
        is_last = not verdict.may_pass or attempts >= limits.FETCH_ATTEMPTS
        with self._store.transaction():
            self._frontier.count_attempt(job.entry.url)
            if not is_last:
                self._leave_alone(host, self._patience_s(verdict, attempts), failures=failures)
                return
            if verdict.may_pass:
                self._frontier.note_passing()
            if job.is_rules:
                self._rules.give_up(job.url, verdict)
            else:
                self._harvest.settle_failure(job.entry, job.url, verdict)
            failures = failures + 1 if verdict.may_pass and not job.is_rules else failures
            if failures >= limits.HOST_FAILURES:
                detail = f"{failures} addresses in a row failed, the last with {verdict.reason}"
                self._frontier.settle_host(host, reason="host_given_up", detail=detail)
            self._leave_alone(host, self._config.delay_s, failures=failures)

    def _patience_s(self, verdict: Unfetchable, attempts: int) -> float:
        """How long a host is left alone after a failure: what it asked for, or twice as long as the last time."""
        if verdict.wait_s is not None:
            return max(self._config.delay_s, min(verdict.wait_s, limits.MAX_RETRY_AFTER_S))
        return limits.RETRY_BASE_S * 2.0 ** (attempts - 1) * (1.0 + self._chance.random())

    def _leave_alone(self, host: str, seconds: float, *, failures: int) -> None:
        self._ready[host] = self._clock.now() + seconds
        self._store.put_host(host, ready=self._ready[host], failures=failures)

    def _ready_at(self, host: str) -> float:
        """When a host may be asked again; also across a restart, and never later than it could have asked for."""
        if host not in self._ready:
            stored, _ = self._store.host(host)
            self._ready[host] = min(stored, self._clock.now() + limits.MAX_RETRY_AFTER_S)
        return self._ready[host]

    def _session(self, host: str) -> Session:
        if host not in self._sessions:
            while len(self._sessions) >= max(_MAX_SESSIONS, 2 * self._config.concurrency):
                self._sessions.pop(next(iter(self._sessions))).close()
            self._sessions[host] = Session(
                self._connector, agent=self._config.agent, contact=self._config.contact, time_limit_s=self._time_limit_s
            )
        return self._sessions[host]
