"""What a response means: a page to keep, a place to look at instead, a reason to wait, or a reason to leave it.

Everything here is decided from the response alone; nothing is asked of a server and nothing is stored.
"""

from typing import Any, NamedTuple

from chatwright.data import limits
from chatwright.data.crawl.fetch import Head, Response
from chatwright.data.crawl.frontier import PAGE
from chatwright.data.crawl.links import read_page
from chatwright.data.crawl.robots import retry_after_s
from chatwright.data.crawl.store import Page
from chatwright.data.crawl.urls import RefusedUrl, Url, parse_url
from chatwright.data.crawl.verdicts import Unfetchable
from chatwright.data.decode import Decoded, decode_as_declared, decode_html
from chatwright.data.document import HTML, TEXT
from chatwright.data.formats.stored import status_may_pass
from chatwright.data.sandbox import Sandbox, Unreadable

REDIRECTS = (301, 302, 303, 307, 308)
_MEDIA = {"text/html": HTML, "application/xhtml+xml": HTML, "text/plain": TEXT, "text/markdown": TEXT}
# What is kept of a response's headers: to ask again, to read the body, to know its owner's will.
_KEPT_HEADERS = (
    "content-type",
    "etag",
    "last-modified",
    "location",
    "x-robots-tag",
    "tdm-reservation",
    "tdm-policy",
    "content-usage",
)


class PageFacts(NamedTuple):
    """What a page says, in JSON values."""

    media: str
    links: list[str]
    refused: dict[str, int]
    nofollow: int
    canonical: str
    licence: str
    language: str
    meta: dict[str, str]


def media_of(headers: dict[str, str]) -> str | None:
    """HTML, TEXT, or None for what is no page; a response that does not say is taken for HTML."""
    kind = headers.get("content-type", "text/html").partition(";")[0].strip().lower()
    return _MEDIA.get(kind or "text/html")


def wants_page(head: Head) -> bool:
    """A body is read only if it is a page: no film is downloaded to find out that it is one."""
    return head.status == 200 and media_of(head.headers) is not None


def wants_sitemap(head: Head) -> bool:
    """Sitemaps come with any type."""
    return head.status == 200


def require_final(response: Response) -> None:
    """Refuse a response after which the same request may give another one.

    Raises:
        Unfetchable: with what the server asked to wait.
    """
    if response.status >= 400 and status_may_pass(response.status):
        wait_s = retry_after_s(response)
        raise Unfetchable(f"http_{response.status}", "", may_pass=True, wait_s=wait_s)


def kept_headers(response: Response) -> dict[str, str]:
    """The headers that later decisions need."""
    return {name: response.headers[name][:2_000] for name in _KEPT_HEADERS if name in response.headers}


def conditional_headers(page: Page | None) -> dict[str, str]:
    """Fields that let a server answer `not modified` (RFC 9110, 13.1); none for a page without a body."""
    if page is None or page.digest is None:
        return {}
    fields = {"if-none-match": page.headers.get("etag"), "if-modified-since": page.headers.get("last-modified")}
    return {name: value for name, value in fields.items() if value and value.isascii() and value.isprintable()}


def require_page(page: Page, kind: str) -> None:
    """Refuse a stored response that holds no page.

    Raises:
        Unfetchable: `http_404` and the like, or `wrong_type`.
    """
    if page.status != 200:
        raise Unfetchable(f"http_{page.status}")
    if kind == PAGE and media_of(page.headers) is None:
        raise Unfetchable("wrong_type", page.headers.get("content-type", ""))


def redirect_target(page: Page, url: Url) -> Url:
    """Where a response points.

    Raises:
        Unfetchable: `redirect_refused`: nowhere, somewhere that cannot be fetched, or from https to http.
    """
    try:
        target = parse_url(page.headers.get("location", ""), base=url)
    except RefusedUrl as refused:
        raise Unfetchable("redirect_refused", f"{refused.reason}: {refused.detail}") from None
    if not page.headers.get("location"):
        raise Unfetchable("redirect_refused", "no location")
    if url.scheme == "https" and target.scheme == "http":
        raise Unfetchable("redirect_downgrade", f"to {target}")
    return target


def decode_page(body: bytes, headers: dict[str, str]) -> Decoded | None:
    """A body as text: as `decode_as_declared` reads it, else by what the page says of itself, or by statistics."""
    return decode_as_declared(body, headers.get("content-type", ""), otherwise=decode_html)


def new_reader() -> Sandbox:
    """The child process in which pages are read for their links."""
    return Sandbox(read_page, time_limit_s=limits.LINKS_TIME_LIMIT_S, what="links")


def page_facts(url: str, body: bytes, headers: dict[str, str], reader: Sandbox) -> PageFacts:
    """What a page says.

    Raises:
        Unfetchable: `undecodable`, `links_timeout`, `links_crashed`.
    """
    media = media_of(headers) or HTML
    decoded = decode_page(body, headers)
    if decoded is None:
        raise Unfetchable("undecodable", "it is not text in any known encoding")
    said: dict[str, Any] = {"links": [], "refused": {}, "nofollow": 0, "meta": {}}
    said |= {"canonical": "", "licence": "", "language": ""}
    if media == HTML:
        try:
            said |= reader.call({"url": url, "html": decoded.text.encode("utf-8", "replace").decode()})
        except Unreadable as verdict:
            raise Unfetchable(verdict.reason, verdict.detail) from None
    return PageFacts(media=media, **said)
