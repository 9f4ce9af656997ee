"""Pages of WARC files (ISO 28500) as records: responses with status 200 that hold HTML or plain text.

Reading is FastWARC's; the stream it reads is unpacked here, within limits. Requests and other records are not meant.
"""

from collections.abc import Iterator
from typing import IO, Any, cast

from chatwright.data import limits
from chatwright.data.decode import decode_as_declared, decode_html, decode_text
from chatwright.data.document import HTML, TEXT
from chatwright.data.formats.pages import page_record
from chatwright.data.formats.record import Record, counted
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable

_HTML_TYPES = {"text/html", "application/xhtml+xml"}
_TEXT_TYPES = {"text/plain", "text/markdown"}


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
    said = _headers_of(headers)
    is_html = kind in _HTML_TYPES
    otherwise = decode_html if is_html else decode_text
    text = counted(decode_as_declared(body, said.get("content-type", ""), otherwise=otherwise), tally)
    record = page_record(text, said, media=HTML if is_html else TEXT)
    return record._replace(place=place, url=url, fetched=response.headers.get("WARC-Date") or "")


def _headers_of(headers: Any) -> dict[str, str]:
    """Fields of a response as `rights_of` takes them: each `X-Robots-Tag` on a line, others joined by commas."""
    joined: dict[str, str] = {}
    for name, value in headers.astuples():
        key = name.lower()
        between = "\n" if key == "x-robots-tag" else ", "
        joined[key] = f"{joined[key]}{between}{value}" if key in joined else value
    return joined
