"""Websites on loopback for tests: names that resolve to this machine, a log of what was asked, a clock that is told."""

import dataclasses
import gzip
import http.server
import ipaddress
import threading
import time
from collections.abc import Callable

from chatwright.data.crawl.wire import Connector
from chatwright.data.sources import website
from chatwright.data.sources.website import Website
from chatwright.foundation.stopping import StopFlag

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")


@dataclasses.dataclass
class Answer:
    """What a page of the site answers."""

    body: bytes | str = b""
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


Handler = Callable[[http.server.BaseHTTPRequestHandler], Answer | None]
Pages = dict[str, Answer | Handler]


def page(*links: str, text: str = "", head: str = "") -> Answer:
    """An HTML page with links; `text` makes it differ from others."""
    anchors = "".join(f'<a href="{link}">x</a>' for link in links)
    body = f"<!doctype html><html><head>{head}</head><body><p>{text or 'words'} {anchors}</p></body></html>"
    return Answer(body, headers={"Content-Type": "text/html; charset=utf-8"})


def text(body: str, **headers: str) -> Answer:
    return Answer(body, headers={"Content-Type": "text/plain"} | headers)


def redirect(location: str, status: int = 302) -> Answer:
    return Answer(status=status, headers={"Location": location})


def zipped(answer: Answer) -> Answer:
    body = answer.body.encode() if isinstance(answer.body, str) else answer.body
    return dataclasses.replace(answer, body=gzip.compress(body), headers=answer.headers | {"Content-Encoding": "gzip"})


class Site:
    """A server for any number of host names, each with its pages; what it does not know is 404."""

    def __init__(self) -> None:
        self.hosts: dict[str, Pages] = {}
        self.log: list[str] = []  # host and target of each request, in order
        self.agents: set[str] = set()
        self.headers: list[dict[str, str]] = []
        site = self

        class Requests(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                host = (self.headers["Host"] or "").partition(":")[0]
                site.log.append(f"{host}{self.path}")
                site.agents.add(self.headers["User-Agent"])
                site.headers.append({name.lower(): value for name, value in self.headers.items()})
                found = site.hosts.get(host, {}).get(self.path, Answer("none", 404))
                answer = found if isinstance(found, Answer) else found(self)
                if answer is None:
                    self.close_connection = True
                    return
                body = answer.body.encode() if isinstance(answer.body, str) else answer.body
                self.send_response(answer.status)
                for name, value in ({"Content-Length": str(len(body))} | answer.headers).items():
                    if value:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Requests)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def url(self, path: str = "/", host: str = "site.test") -> str:
        return f"http://{host}:{self.port}{path}"

    def asked(self, host: str = "site.test") -> list[str]:
        """Pages of a host in the order in which they were asked for, without the files of rules."""
        rules = {"/robots.txt", "/.well-known/tdmrep.json", "/sitemap.xml"}
        paths = [entry.removeprefix(host) for entry in self.log if entry.startswith(f"{host}/")]
        return [path for path in paths if path not in rules]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class ToldClock:
    """A clock that passes only when somebody waits."""

    def __init__(self) -> None:
        self.moment = time.time()
        self.slept = 0.0

    def now(self) -> float:
        return self.moment

    def sleep(self, seconds: float) -> None:
        self.moment += max(seconds, 0.001)
        self.slept += seconds


def loopback(host: str, port: int) -> list[str]:
    """Resolves every name to this machine."""
    return ["127.0.0.1"]


def crawl(config: Website, *, resolver=loopback, private=(LOOPBACK,), clock=None, stop=None, limit_s=5.0) -> ToldClock:
    """Crawl to the end with a clock that is told; returns it."""
    clock = clock or ToldClock()
    stopped = threading.Event()
    connector = Connector(resolver=resolver, private=private, stopped=stopped)
    seams = {"connector": connector, "clock": clock, "stop": stop or StopFlag(), "stopped": stopped}
    website.crawl(config, time_limit_s=limit_s, **seams)
    return clock


def verdicts(config: Website) -> dict[str, str]:
    """What became of each address: its reason, empty for a document."""
    return {entry["url"]: entry["reason"] for part in website.list_partitions(config) for entry in part.inputs}
