"""EPUB and PDF as text. These functions run in a sandbox: their input may hang or crash a parser.

An EPUB is read through its zip directory, member by member; nothing is unpacked to a path.
Scanned pages have no text and are not recognised optically.
"""

import posixpath
import re
import urllib.parse
import zipfile
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree  # noqa: S405 - entity declarations are refused before parsing

from chatwright.data import limits
from chatwright.data.decode import decode_html
from chatwright.data.sandbox import Unreadable

_CONTAINER = "META-INF/container.xml"
_CHAPTER_TYPES = {"application/xhtml+xml", "text/html", "application/xml", "text/xml"}
# PDFium marks a hyphen at a line's end, where a word goes on, with one of these.
_LINE_HYPHEN = re.compile("[\x02\ufffe\u00ad]\r?\n")


def read_book(path: str) -> dict[str, Any]:
    """Text, title and language of an EPUB or PDF file, as JSON.

    Raises:
        Unreadable: damaged, encrypted, too large, or without text.
    """
    book = _read_pdf(Path(path)) if path.lower().endswith(".pdf") else _read_epub(Path(path))
    if not book["text"].strip():
        raise Unreadable(
            "no_text", "scanned pages need optical recognition first" if path.lower().endswith(".pdf") else ""
        )
    return book


def _read_pdf(path: Path) -> dict[str, Any]:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
        pages = len(document)
        if pages > limits.MAX_PDF_PAGES:
            raise Unreadable("too_large", f"{pages} pages")
        texts, total = [], 0
        for number in range(pages):
            text = document[number].get_textpage().get_text_bounded()
            total += len(text)
            if total > limits.MAX_DOCUMENT_CHARACTERS:
                raise Unreadable("too_large", f"more than {limits.MAX_DOCUMENT_CHARACTERS} characters")
            texts.append(_LINE_HYPHEN.sub("", text).replace("\r\n", "\n").strip())
        title = document.get_metadata_value("Title")
    except pypdfium2.PdfiumError as error:
        reason = "encrypted" if "assword" in str(error) else "damaged_pdf"
        raise Unreadable(reason, str(error)) from None
    return {"text": "\n\n".join(filter(None, texts)), "title": title.strip(), "language": ""}


class _Archive:
    """Members of a zip file, counted as they are read."""

    def __init__(self, file: zipfile.ZipFile):
        self._file = file
        self._left = limits.MAX_ARCHIVE_BYTES
        if len(file.namelist()) > limits.MAX_ARCHIVE_MEMBERS:
            raise Unreadable("too_many_members", f"{len(file.namelist())}")

    def read(self, name: str) -> bytes:
        """One member's bytes, whatever size its header claims."""
        try:
            info = self._file.getinfo(name)
            if info.flag_bits & 1:
                raise Unreadable("encrypted", name)
            allowed = max(limits.COMPRESSION_FLOOR_BYTES, info.compress_size * limits.MAX_COMPRESSION_RATIO)
            allowed = min(allowed, limits.MAX_ARCHIVE_MEMBER_BYTES, self._left)
            with self._file.open(info) as member:
                data = member.read(allowed + 1)
        except KeyError:
            raise Unreadable("damaged_epub", f"`{name}` is missing") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            raise Unreadable("damaged_epub", f"`{name}`: {error}") from None
        if len(data) > allowed:
            raise Unreadable("compression_ratio", f"`{name}` gives more than {allowed} bytes")
        self._left -= len(data)
        return data


def _read_epub(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as file:
            return _epub_text(_Archive(file))
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise Unreadable("damaged_epub", str(error)) from None


def _epub_text(archive: _Archive) -> dict[str, Any]:
    from resiliparse.extract.html2text import extract_plain_text

    container = _xml(archive.read(_CONTAINER), _CONTAINER)
    root_file = next((node.get("full-path") for node in container.iter() if _tag(node) == "rootfile"), None)
    if not root_file:
        raise Unreadable("damaged_epub", f"`{_CONTAINER}` names no package")
    package = _xml(archive.read(root_file), root_file)
    chapters = []
    for name in _spine(package, posixpath.dirname(root_file)):
        page = decode_html(archive.read(name))
        if page is None:
            raise Unreadable("encrypted", f"`{name}` is no text")
        chapters.append(extract_plain_text(page.text, alt_texts=False).strip())
    return {
        "text": "\n\n".join(filter(None, chapters)),
        "title": _first(package, "title"),
        "language": _first(package, "language").split("-")[0].lower(),
    }


def _spine(package: "ElementTree.Element", folder: str) -> list[str]:
    """Names of the chapters in reading order."""
    items = {node.get("id"): node for node in package.iter() if _tag(node) == "item"}
    names = []
    for reference in package.iter():
        item = items.get(reference.get("idref")) if _tag(reference) == "itemref" else None
        if item is not None and item.get("media-type") in _CHAPTER_TYPES and item.get("href"):
            path = urllib.parse.unquote(item.get("href", "")).split("#")[0]
            names.append(posixpath.normpath(posixpath.join(folder, path)))
    return list(dict.fromkeys(names))


def _xml(data: bytes, name: str) -> "ElementTree.Element":
    if b"<!ENTITY" in data or b"<\0!\0E\0N" in data:
        raise Unreadable("damaged_epub", f"`{name}` declares entities")
    try:
        return ElementTree.fromstring(data)  # noqa: S314 - no entities, and sizes are limited
    except ElementTree.ParseError as error:
        raise Unreadable("damaged_epub", f"`{name}`: {error}") from None


def _tag(node: "ElementTree.Element") -> str:
    return str(node.tag).rsplit("}", 1)[-1]


def _first(package: "ElementTree.Element", tag: str) -> str:
    return next(((node.text or "").strip() for node in package.iter() if _tag(node) == tag), "")
