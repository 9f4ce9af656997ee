"""EPUB, PDF and DOCX as texts. These functions run in a sandbox: their input may hang or crash a parser.

An EPUB is read through its zip directory, member by member; nothing is unpacked to a path.
Scanned pages have no text and are not recognised optically.
"""

import posixpath
import re
import urllib.parse
import zipfile
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree  # noqa: S405 - entity declarations are refused before parsing

from chatwright.data import limits
from chatwright.data.decode import decode_html
from chatwright.data.formats.office import read_docx
from chatwright.data.formats.packages import Package, first_text, local_name, parse_xml
from chatwright.data.licences import licence_in
from chatwright.data.sandbox import Unreadable

_CONTAINER = "META-INF/container.xml"
_DAMAGED = "damaged_epub"
_DAMAGED_PDF = "damaged_pdf"
_PAGE_TYPES = {"application/xhtml+xml", "text/html", "application/xml", "text/xml"}
# PDFium marks a hyphen at a line's end, where a word goes on, with one of these.
_LINE_HYPHEN = re.compile("[\x02\ufffe\u00ad]\r?\n")

# What is no part of the work, by the EPUB Structural Semantics Vocabulary, by the guide of EPUB 2, and by file name. A
# name alone is a guess: `index.xhtml` is as often the whole book as its index. See `_sorted_out`.
_LICENCE_PAGES = {"copyright-page", "imprint", "uncopyright", "copyright", "licence", "license"}
_FRONT_MATTER = {
    *("cover", "titlepage", "title-page", "halftitlepage", "halftitle", "frontispiece", "dedication", "epigraph"),
    *("toc", "nav", "landmarks", "page-list", "loi", "lot", "loa", "lov", "contents", "index", "colophon"),
    *("acknowledgements", "acknowledgments", "contributors", "other-credits", "seriespage", "ad"),
}
_HEADING_WORDS = 15  # a page of fewer words between chapters is the title of a part
_NAMED_WORDS = 1_000  # a longer page is no front matter for its file's name
_BOILERPLATE = (
    ".pg-boilerplate, #pg-header, #pg-footer"  # Project Gutenberg's, around the text on its first and last page
)
# Marks of notes and printed pages, by `epub:type` or `role`: inside a sentence they are no words of it. Removed before
# parsing, since taking thousands of nodes out of a tree costs time with the square of their number.
_MARKS = re.compile(r"<(a|span|div)\s[^<>]{0,500}?(?:noteref|backlink|pagebreak)[^<>]{0,500}>[^<>]{0,40}</\1\s*>")


def read_book(path: str) -> dict[str, Any]:
    """Chapters, title, language and licence of an EPUB, PDF or DOCX file, as JSON.

    `chapters` are in reading order, each with `text`, `title` and the `place` it has in the file (a PDF or a DOCX is
    one chapter); `dropped` are pages that are no part of the work or could not be read, each with `place`,
    `reason` and `characters`. There is no chapter where all pages are no part of the work.

    Raises:
        Unreadable: damaged, encrypted, too large, or without text.
    """
    suffix = path[path.rfind(".") :].lower()
    if suffix == ".epub":
        book = _read_epub(Path(path))
    else:
        whole = _read_pdf(Path(path)) if suffix == ".pdf" else read_docx(Path(path))
        chapter = {"place": "", "title": "", "text": whole.pop("text")}
        book = {"dropped": [], **whole, "chapters": [chapter]}
    if not book["dropped"] and not any(chapter["text"].strip() for chapter in book["chapters"]):
        raise Unreadable("no_text", "scanned pages need optical recognition first" if suffix == ".pdf" else "")
    return book


def _read_pdf(path: Path) -> dict[str, Any]:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
        pages = len(document)
        if pages > limits.MAX_PDF_PAGES:
            raise Unreadable("too_large", f"{pages} pages")
        texts, dropped, total = [], [], 0
        for number in range(pages):
            try:
                text = document[number].get_textpage().get_text_bounded()
            except pypdfium2.PdfiumError:
                dropped.append({"place": str(number + 1), "reason": _DAMAGED_PDF, "characters": 0})
                continue
            total += len(text)
            if total > limits.MAX_DOCUMENT_CHARACTERS:
                raise Unreadable("too_large", f"more than {limits.MAX_DOCUMENT_CHARACTERS} characters")
            texts.append(_LINE_HYPHEN.sub("", text).replace("\r\n", "\n").strip())
        title = document.get_metadata_value("Title")
    except pypdfium2.PdfiumError as error:
        reason = "encrypted" if "assword" in str(error) else _DAMAGED_PDF
        raise Unreadable(reason, str(error)) from None
    if dropped and not any(texts):
        raise Unreadable(_DAMAGED_PDF, f"{len(dropped)} of {pages} pages, and there is no text on the others")
    text = "\n\n".join(filter(None, texts))
    return {"text": text, "title": title.strip(), "language": "", "dropped": dropped}


def _read_epub(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as file:
            return _epub_book(Package(file, damaged=_DAMAGED))
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise Unreadable(_DAMAGED, str(error)) from None


def _epub_book(archive: Package) -> dict[str, Any]:
    container = parse_xml(archive.read(_CONTAINER), _CONTAINER, damaged=_DAMAGED)
    root_file = next((node.get("full-path") for node in container.iter() if local_name(node) == "rootfile"), None)
    if not root_file:
        raise Unreadable(_DAMAGED, f"`{_CONTAINER}` names no package")
    package = parse_xml(archive.read(root_file), root_file, damaged=_DAMAGED)
    pages, total = [], 0
    failed: list[Unreadable] = []
    for name, roles in _spine(package, posixpath.dirname(root_file)).items():
        try:
            pages.append(_page(_text_of(archive, name), name, roles))
        except Unreadable as verdict:
            failed.append(verdict)
            pages.append(_Page(name, "", "", verdict.reason))
        total += len(pages[-1].text)
        if total > limits.MAX_DOCUMENT_CHARACTERS:
            raise Unreadable("too_large", f"more than {limits.MAX_DOCUMENT_CHARACTERS} characters")
    sorted_out = _sorted_out(pages)
    if failed and not sorted_out["chapters"]:
        raise failed[0]
    rights = licence_in(first_text(package, "rights"), said_by="EPUB dc:rights")
    return {
        **sorted_out,
        "title": first_text(package, "title"),
        "language": first_text(package, "language").split("-")[0].lower(),
        "licence": rights.name,
        "licence_evidence": rights.evidence,
        "url": next(
            (words for words in _texts(package, "identifier") if words.startswith(("https://", "http://"))), ""
        ),
    }


def _text_of(archive: Package, name: str) -> str:
    decoded = decode_html(archive.read(name))
    if decoded is None:
        raise Unreadable("encrypted", f"`{name}` is no text")
    return decoded.text


class _Page(NamedTuple):
    place: str
    text: str
    title: str
    reason: str  # why it is no part of the work or could not be read, empty if it is one
    is_guess: bool = False  # the reason is told by the file's name alone


def _sorted_out(pages: list[_Page]) -> dict[str, list[dict[str, Any]]]:
    """`chapters` and `dropped`. What only its name tells goes if it is short and the sure chapters are longer."""
    sure = sum(len(page.text.split()) for page in pages if not page.reason)
    chapters: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    for page in pages:
        is_guessed_wrong = page.is_guess and len(page.text.split()) > min(_NAMED_WORDS, sure)
        if page.reason and not is_guessed_wrong:
            dropped.append({"place": page.place, "reason": page.reason, "characters": len(page.text)})
        elif page.text:
            chapters.append({"place": page.place, "title": page.title, "text": page.text})
    return {"chapters": chapters, "dropped": dropped}


def _page(html: str, name: str, roles: set[str]) -> _Page:
    """One page of the spine as text, without marks of notes and pages, and what it is."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree: Any = HTMLTree.parse(_MARKS.sub("", html))
    if "pg-" in html:
        for node in tree.document.query_selector_all(_BOILERPLATE):
            node.decompose()
    text = extract_plain_text(tree, alt_texts=False).strip()
    title = " ".join((tree.title or "").split())[: limits.MAX_METADATA_CHARACTERS]
    if reason := _reason(roles | _semantics(tree)):
        return _Page(name, text, title, reason)
    named = _reason({posixpath.basename(name).rsplit(".", 1)[0].lower()})
    is_heading = 0 < len(text.split()) < _HEADING_WORDS and tree.document.query_selector("h1, h2, h3, h4, h5, h6")
    if is_heading:
        return _Page(name, text, title, named or "heading_only")
    return _Page(name, text, title, named, is_guess=bool(named))


def _reason(roles: set[str]) -> str:
    return "licence_page" if roles & _LICENCE_PAGES else "front_matter" if roles & _FRONT_MATTER else ""


def _semantics(tree: Any) -> set[str]:
    """Words of `epub:type` on the body's first element: on the body itself they only say where the page stands."""
    first = next((node for node in tree.body.child_nodes if node.tag and not node.tag.startswith("#")), None)
    return set() if first is None else set((first.getattr("epub:type") or "").lower().split())


def _spine(package: "ElementTree.Element", folder: str) -> dict[str, set[str]]:
    """Names of the pages in reading order, each with what the package says it is."""
    items = {node.get("id"): node for node in package.iter() if local_name(node) == "item"}
    guide = {
        _path(folder, node.get("href", "")): (node.get("type") or "").lower()
        for node in package.iter()
        if local_name(node) == "reference"
    }
    roles: dict[str, set[str]] = {}
    for reference in package.iter():
        item = items.get(reference.get("idref")) if local_name(reference) == "itemref" else None
        if item is not None and item.get("media-type") in _PAGE_TYPES and item.get("href"):
            name = _path(folder, item.get("href", ""))
            said = {guide.get(name, ""), *(item.get("properties") or "").split()}
            roles[name] = said - {"", "text", "start"}
    return roles


def _path(folder: str, href: str) -> str:
    return posixpath.normpath(posixpath.join(folder, urllib.parse.unquote(href).split("#")[0]))


def _texts(package: "ElementTree.Element", tag: str) -> list[str]:
    return [(node.text or "").strip() for node in package.iter() if local_name(node) == tag]
