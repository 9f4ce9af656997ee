"""Small real inputs for the data layer: books, contexts and documents made on the spot."""

import zipfile
from pathlib import Path

import pytest

from chatwright.data.document import Document, document_id
from chatwright.foundation.stage import StageContext

PROSE = (
    "The harbour wakes before the town does. Boats come in with the tide, and the first buyers stand on the quay "
    "with their hands in their pockets, waiting for the baskets to be lifted over the side. Nobody says much; "
    "prices are made with a nod, and by eight o'clock the stones are washed clean again."
)


@pytest.fixture
def prose():
    """A paragraph that every rule keeps."""
    return PROSE


@pytest.fixture
def make_document():
    """A document of a text, its path made from a number."""

    def make(text: str = PROSE, *, number: int = 0, **fields) -> Document:
        path = f"{number}.txt"
        return Document(id=document_id("files:x", path), text=text, source="files:x", path=path, domain="x", **fields)

    return make


@pytest.fixture
def stage(tmp_path):
    """A context for a stage, with an output directory of its own."""

    def make(config, *, name: str = "output", workers: int = 1, **inputs: Path) -> StageContext:
        output = tmp_path / name
        output.mkdir(exist_ok=True)
        return StageContext(config=config, inputs=inputs, output=output, seed=0, workers=workers)

    return make


@pytest.fixture
def write_epub():
    """Writes an EPUB of two chapters, the second before the first in the archive."""

    def write(path: Path, *, chapters: dict[str, str] | None = None, package_head: str = "") -> None:
        pages = chapters or {"b.xhtml": f"The second chapter tells of the sea. {PROSE}", "a.xhtml": f"{PROSE}"}
        items = "".join(f'<item id="{n}" href="text/{n}" media-type="application/xhtml+xml"/>' for n in pages)
        spine = "".join(f'<itemref idref="{n}"/>' for n in sorted(pages))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
            book.writestr("mimetype", "application/epub+zip")
            container = '<container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>'
            book.writestr("META-INF/container.xml", container)
            head = '<metadata xmlns:dc="d"><dc:title>Harbour</dc:title><dc:language>en-GB</dc:language></metadata>'
            package = f"<package>{head}<manifest>{items}</manifest><spine>{spine}</spine></package>"
            book.writestr("OPS/book.opf", package_head + package)
            for name, text in pages.items():
                book.writestr(f"OPS/text/{name}", f"<html><body><h1>{name[0]}</h1><p>{text}</p></body></html>")

    return write


@pytest.fixture
def write_pdf():
    """Writes a PDF of one page with lines of text, by hand."""

    def write(path: Path, lines: list[str]) -> None:
        shown = "".join(f"({line}) Tj 0 -14 Td " for line in lines)
        stream = f"BT /F1 10 Tf 40 780 Td {shown}ET"
        objects = [
            "<</Type/Catalog/Pages 2 0 R>>",
            "<</Type/Pages/Kids[3 0 R]/Count 1>>",
            "<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
            f"<</Length {len(stream)}>>stream\n{stream}\nendstream",
            "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        ]
        body, offsets = "%PDF-1.4\n", []
        for number, content in enumerate(objects, start=1):
            offsets.append(len(body))
            body += f"{number} 0 obj{content}endobj\n"
        table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
        tail = f"xref\n0 6\n0000000000 65535 f \n{table}trailer<</Size 6/Root 1 0 R>>\nstartxref\n{len(body)}\n%%EOF"
        path.write_text(body + tail, encoding="ascii")

    return write
