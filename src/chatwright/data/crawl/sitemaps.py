"""Sitemaps: XML, index or plain text, gzipped or not, within the protocol's own limits (sitemaps.org).

A document type is refused: sitemaps need none, and entities are where XML parsers are attacked.
"""

import gzip
import io
import zlib
from typing import NamedTuple
from xml.parsers import expat  # noqa: S405 - document types are refused below

from chatwright.data import limits

_MAX_DEPTH = 16


class Sitemap(NamedTuple):
    """What a sitemap lists."""

    pages: tuple[str, ...] = ()
    sitemaps: tuple[str, ...] = ()
    problem: str = ""  # why it was not read to its end; what came before is kept


class _Enough(Exception):  # noqa: N818 - how a callback stops the parser
    pass


def read_sitemap(data: bytes) -> Sitemap:
    """Read what a server gave for a sitemap. Never raises: a broken one gives what came before the break."""
    if data.startswith(b"\x1f\x8b"):
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                most = max(limits.COMPRESSION_FLOOR_BYTES, limits.MAX_COMPRESSION_RATIO * len(data))
                data = file.read(min(most, limits.MAX_SITEMAP_BYTES) + 1)
        except (OSError, EOFError, zlib.error) as error:
            return Sitemap(problem=f"bad gzip: {error}")
        if len(data) > min(most, limits.MAX_SITEMAP_BYTES):
            return Sitemap(problem="it is larger than a sitemap may be")
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    return _Xml().read(data) if head.startswith(b"<") else _read_text(data)


def _read_text(data: bytes) -> Sitemap:
    lines = (line.strip() for line in data.decode("utf-8-sig", "replace").splitlines())
    pages = [line for line in lines if line.startswith(("http://", "https://"))]
    problem = "more URLs than a sitemap may have" if len(pages) > limits.MAX_SITEMAP_URLS else ""
    return Sitemap(tuple(pages[: limits.MAX_SITEMAP_URLS]), problem=problem)


class _Xml:
    """Collects the text of `loc` elements that stand in `url` or `sitemap`."""

    def __init__(self) -> None:
        self._stack: list[str] = []
        self._text: list[str] = []
        self._found: dict[str, list[str]] = {"url": [], "sitemap": []}

    def read(self, data: bytes) -> Sitemap:
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        problem = ""
        try:
            parser.Parse(data, True)
        except _Enough as reason:
            problem = str(reason)
        except (expat.ExpatError, ValueError, LookupError) as error:
            problem = f"not sound XML: {error}"
        return Sitemap(tuple(self._found["url"]), tuple(self._found["sitemap"]), problem)

    def _refuse(self, *_: object) -> None:
        raise _Enough("it declares a document type")

    def _start(self, name: str, _: dict[str, str]) -> None:
        if len(self._stack) >= _MAX_DEPTH:
            raise _Enough("elements are nested too deeply")
        self._stack.append(name.rpartition(":")[2])
        self._text = []

    def _end(self, _: str) -> None:
        if self._stack[-1] == "loc" and len(self._stack) >= 2 and self._stack[-2] in self._found:
            found = self._found[self._stack[-2]]
            if len(found) >= limits.MAX_SITEMAP_URLS:
                raise _Enough("more URLs than a sitemap may have")
            found.append("".join(self._text).strip()[: limits.MAX_URL_CHARACTERS + 1])
        self._stack.pop()

    def _characters(self, text: str) -> None:
        if self._stack and self._stack[-1] == "loc":
            self._text.append(text)
