"""DOCX as text, read from its zip by the standard library (ECMA-376). Runs in a sandbox, like books.

Paragraphs and tables in their order, a row a line. Headers, footers, footnotes, comments and deleted text are left out.
"""

import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree  # noqa: S405 - entity declarations are refused before parsing

from chatwright.data.formats.packages import Package, first_text, local_name, parse_xml
from chatwright.data.sandbox import Unreadable

_BODY = "word/document.xml"
_PROPERTIES = "docProps/core.xml"
_DAMAGED = "damaged_docx"
_LEFT_OUT = {"del", "moveFrom", "Fallback", "instrText", "delText", "pPr", "rPr", "tblPr", "sectPr"}
_BREAKS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def read_docx(path: Path) -> dict[str, Any]:
    """Text, title and language of a DOCX file, as JSON.

    Raises:
        Unreadable: damaged, encrypted, or too large.
    """
    try:
        with zipfile.ZipFile(path) as file:
            package = Package(file, damaged=_DAMAGED)
            body = parse_xml(package.read(_BODY), _BODY, damaged=_DAMAGED)
            has_properties = _PROPERTIES in file.namelist()
            about = parse_xml(package.read(_PROPERTIES), _PROPERTIES, damaged=_DAMAGED) if has_properties else None
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        # A document with a password is no zip but an OLE file.
        is_locked = path.open("rb").read(4) == b"\xd0\xcf\x11\xe0"
        raise Unreadable("encrypted" if is_locked else _DAMAGED, str(error)) from None
    title = first_text(about, "title") if about is not None else ""
    language = first_text(about, "language") if about is not None else ""
    return {"text": "\n".join(_blocks(body)), "title": title, "language": language.split("-")[0].lower()}


def _blocks(root: "ElementTree.Element") -> list[str]:
    """Paragraphs and table rows, without recursion: a document may nest as deep as it likes."""
    lines: list[str] = []
    pieces: list[str] = []
    stack: list[tuple[ElementTree.Element, bool]] = [(root, False)]
    while stack:
        node, is_done = stack.pop()
        name = local_name(node)
        if is_done:
            _end(name, pieces, lines, in_cell=any(local_name(open_) == "tc" for open_, done in stack if done))
        elif name == "t":
            pieces.append(node.text or "")
        elif name in _BREAKS:
            pieces.append(_BREAKS[name])
        elif name not in _LEFT_OUT:
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(node))
    return lines


def _end(name: str, pieces: list[str], lines: list[str], *, in_cell: bool) -> None:
    """What the end of an element means: a paragraph outside tables and a row end a line, a cell a column."""
    if name == "p" and in_cell:
        pieces.append(" ")
    elif name == "tc":
        pieces.append("\t")
    elif (name == "p" and pieces) or name == "tr":
        line = "".join(pieces).strip()
        pieces.clear()
        if line:
            lines.append(line)
