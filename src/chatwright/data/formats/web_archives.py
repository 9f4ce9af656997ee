"""Pages of WARC files (ISO 28500) as records: responses with status 200 that hold HTML or plain text.

Reading is FastWARC's; the stream it reads is unpacked here, within limits. Requests and other records are not meant.
"""

import html
import re
from collections.abc import Iterator
from typing import IO, Any, cast

from chatwright.data import limits
from chatwright.data.crawl.rights import Rights, rights_of
from chatwright.data.crawl.robots import TOKEN
from chatwright.data.decode import Decoded, decode_html, decode_text
from chatwright.data.document import HTML, TEXT
from chatwright.data.formats.record import ALLOWED, DISALLOWED, Record
from chatwright.data.licences import licence_of_page
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable

_HTML_TYPES = {"text/html", "application/xhtml+xml"}
_TEXT_TYPES = {"text/plain", "text/markdown"}
_ROBOTS = ("robots", TOKEN)
_META_NAMES = (*_ROBOTS, "tdm-reservation")
# Read without a tree, which hostile pages make dear: a tag in a comment counts too, never wrong towards the owner.
_META = re.compile(r"<meta\s([^<>]{1,4000})>", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"""\b(name|content)\s{0,9}=\s{0,9}(?:"([^"]*)"|'([^']*)'|([^\s"']+))""", re.IGNORECASE)


def read_web_archive(file: IO[bytes], *, shown: str, tally: Tally) -> Iterator[Record]:
    """Records of a WARC stream; each response that gives no page is counted with its number and URL.

    Args:
        file: the unpacked stream.
        shown: its name in the report.
        tally: counts what is dropped, by `file#number`.

    Raises:
        Unreadable: the stream is damaged or no WARC at all; what came before is kept.
    """
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    try:
        responses = ArchiveIterator(
            cast("IO[bytes]", _Forward(file)),
            record_types=WarcRecordType.response,
            parse_http=True,
            auto_decode="all",
            max_header_len=limits.MAX_WARC_HEADER_BYTES,
            stream_detect=False,
        )
        number = 0
        for number, response in enumerate(responses, start=1):
            url = response.headers.get("WARC-Target-URI") or ""
            try:
                yield _page(response, url, str(number), tally)
            except Unreadable as verdict:
                detail = f"{url} {verdict.detail}".strip()
                tally.drop(verdict.reason, path=f"{shown}#{number}", detail=detail, characters=response.content_length)
    except OSError as error:
        raise Unreadable("damaged_warc", str(error)) from None
    if not number:
        raise Unreadable("no_text", "the archive holds no response")


class _Forward:
    """A stream that tells its position, which an unpacked one cannot, as FastWARC asks for it."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self._file.read(size)
        self._position += len(data)
        return data

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position


def _page(response: Any, url: str, place: str, tally: Tally) -> Record:
    """One response as a record.

    Raises:
        Unreadable: it holds no whole page.
    """
    headers = response.http_headers
    status = headers.status_code if headers is not None else None
    if status != 200:
        raise Unreadable("not_a_page", f"status {status}")
    kind = (response.http_content_type or "").lower()
    if kind not in _HTML_TYPES | _TEXT_TYPES:
        raise Unreadable("not_a_page", f"content type {kind or 'missing'}")
    cut = response.headers.get("WARC-Truncated")
    if cut:
        raise Unreadable("truncated", f"the crawler stopped at a limit of {cut}")
    expected = response.content_length
    body = response.reader.read(limits.MAX_HTML_BYTES + 1)
    if len(body) > limits.MAX_HTML_BYTES:
        raise Unreadable("too_large", f"more than {limits.MAX_HTML_BYTES} bytes")
    is_packed = headers.get("Content-Encoding") or headers.get("Transfer-Encoding")
    if len(body) < expected and not is_packed:
        raise Unreadable("damaged_warc", f"{len(body)} of {expected} bytes")
    decoded = _decoded(body, kind, response.http_charset, tally)
    licence = licence_of_page(decoded) if kind in _HTML_TYPES else None
    said = _headers_of(headers)
    meta = meta_of(decoded) if kind in _HTML_TYPES else {}
    rights = rights_of(said, meta)
    return Record(
        decoded,
        place,
        media=HTML if kind in _HTML_TYPES else TEXT,
        url=url,
        fetched=response.headers.get("WARC-Date") or "",
        licence=licence.name if licence else "",
        licence_evidence=licence.evidence if licence else "",
        robots=_robots_verdict(rights, said, meta),
        tdm=rights.tdm,
        tdm_evidence=rights.evidence,
    )


def meta_of(page: str) -> dict[str, str]:
    """What the `meta` tags of an HTML page say of robots and reservations, by their names in lower case."""
    found: dict[str, str] = {}
    for tag in _META.finditer(page):
        words = {name.lower(): html.unescape(a or b or c) for name, a, b, c in _ATTRIBUTE.findall(tag[1])}
        name = words.get("name", "").strip().lower()
        if name in _META_NAMES:
            content = words.get("content", "")
            found[name] = f"{found[name]}, {content}" if name in found else content
    return found


def _headers_of(headers: Any) -> dict[str, str]:
    """Fields of a response as `rights_of` takes them: each `X-Robots-Tag` on a line, others joined by commas."""
    joined: dict[str, str] = {}
    for name, value in headers.astuples():
        key = name.lower()
        between = "\n" if key == "x-robots-tag" else ", "
        joined[key] = f"{joined[key]}{between}{value}" if key in joined else value
    return joined


def _robots_verdict(rights: Rights, headers: dict[str, str], meta: dict[str, str]) -> str:
    """Empty where nothing is said: `robots.txt` is not a part of a page's record."""
    if rights.noindex:
        return DISALLOWED
    return ALLOWED if "x-robots-tag" in headers or any(name in meta for name in _ROBOTS) else ""


def _decoded(body: bytes, kind: str, charset: str | None, tally: Tally) -> str:
    """The page's text: the server's charset is believed where the bytes agree with it."""
    decoded: Decoded | None = None
    if charset and charset.lower() not in ("utf-8", "utf8"):
        try:
            decoded = Decoded(body.decode(charset), {})
        except (LookupError, UnicodeError, ValueError):
            decoded = None
    decoded = decoded or (decode_html(body) if kind in _HTML_TYPES else decode_text(body))
    if decoded is None:
        raise Unreadable("undecodable", "it is not text in any known encoding")
    for name, count in decoded.changes.items():
        tally.change(name, count)
    return decoded.text
