"""Articles of a MediaWiki export (`pages-articles` XML) as text: a stream of pages, and wikitext without its markup.

Templates, tables, references, pictures and categories are left out; headings and the words of links stay.
Parsing wikitext runs in a sandbox: its input may take a parser long.
"""

import re
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from chatwright.data import limits
from chatwright.data.formats.packages import local_name, parse_xml
from chatwright.data.sandbox import Unreadable

_DAMAGED = "damaged_dump"
_LEFT_OUT = {
    "ref",
    "references",
    "table",
    "gallery",
    "math",
    "timeline",
    "imagemap",
    "score",
    "style",
    "templatestyles",
}
_FILE, _CATEGORY = 6, 14  # numbers of namespaces, the same in every wiki
_SPACES = re.compile(r"[ \t]{2,}")
_BLANK = re.compile(r"\n{3,}")
_EMPTY_BRACKETS = re.compile(r" ?\([ ,;:]{0,20}\)")  # what a template for pronunciation leaves behind


class Site(NamedTuple):
    """What the head of a dump says of its wiki."""

    base: str  # address of its articles, ending in `/`
    language: str
    left_out: tuple[str, ...]  # prefixes of links to pictures and categories, lower case


class Page(NamedTuple):
    """One page as the dump has it."""

    title: str
    number: str  # its id
    namespace: str
    redirects: bool
    model: str
    changed: str  # time of the revision
    wikitext: str


def read_site(head: bytes) -> Site:
    """The wiki's address, language and names of namespaces, from the first bytes of a dump."""
    language = re.search(rb'xml:lang="([\w-]{1,20})"', head)
    base = re.search(rb"<base>(https?://[^<>\s]{1,200}/)[^</]*</base>", head)
    names = {"file", "image", "category"}
    for key, name in re.findall(rb'<namespace key="(-?\d+)"[^<>]*>([^<>]{1,100})</namespace>', head):
        if int(key) in (_FILE, _CATEGORY):
            names.add(name.decode("utf-8", "replace").lower())
    return Site(base[1].decode() if base else "", language[1].decode() if language else "", tuple(sorted(names)))


def read_pages(file: IO[bytes]) -> Iterator[Page | Unreadable]:
    """Pages of a dump in their order; a page that cannot be read comes as the verdict on it.

    Args:
        file: the unpacked stream; text outside `<page>` is passed over.

    Raises:
        Unreadable: the stream is cut or damaged.
    """
    lines: list[bytes] = []
    size = 0
    while line := file.readline(limits.MAX_LINE_BYTES):
        is_start = line.strip() == b"<page>"
        if is_start:
            lines, size = [], 0
        if is_start or size:
            size += len(line)
            if size <= limits.MAX_WIKI_PAGE_BYTES:
                lines.append(line)
        if size and line.strip() == b"</page>":
            is_whole = size <= limits.MAX_WIKI_PAGE_BYTES
            yield _page(b"".join(lines)) if is_whole else Unreadable("too_large", f"{size} bytes")
            lines, size = [], 0
    if size:
        raise Unreadable(_DAMAGED, "it ends within a page")


def _page(data: bytes) -> Page | Unreadable:
    try:
        root = parse_xml(data, "page", damaged=_DAMAGED)
    except Unreadable as verdict:
        return verdict
    found: dict[str, str] = {}
    for node in root.iter():
        found.setdefault(local_name(node), node.text or "")
    return Page(
        title=found.get("title", ""),
        number=found.get("id", ""),
        namespace=found.get("ns", "0"),
        redirects="redirect" in found,
        model=found.get("model", "wikitext"),
        changed=found.get("timestamp", ""),
        wikitext=found.get("text", ""),
    )


def plain_text(argument: dict[str, Any]) -> dict[str, Any]:
    """Wikitext as plain text, as JSON: `text` and the number of `templates` that were left out.

    Args:
        argument: `wikitext`, and `left_out`, the prefixes of links that are no words.
    """
    import mwparserfromhell

    stripper = _Stripper(tuple(argument["left_out"]))
    code = mwparserfromhell.parse(argument["wikitext"], skip_style_tags=True)
    text = _SPACES.sub(" ", _EMPTY_BRACKETS.sub("", stripper.words(code)).replace("'''", "").replace("''", ""))
    return {"text": _without_empty_sections(text), "templates": stripper.templates}


_HEADING = "\0"  # marks a heading's line until empty sections are gone; NUL cannot stand in XML


class _Stripper:
    """Collects the words of a parsed page; the parser limits how deep it nests."""

    def __init__(self, left_out: tuple[str, ...]):
        self._left_out = left_out
        self.templates = 0

    def words(self, code: Any) -> str:
        """The text of nodes in their order."""
        return "".join(map(self._node, code.nodes)) if code is not None else ""

    def _node(self, node: Any) -> str:
        kind = type(node).__name__
        if kind == "Text":
            return str(node.value)
        if kind == "Heading":
            return f"\n\n{_HEADING}{self.words(node.title).strip()}\n"
        if kind == "Template":
            self.templates += 1
        return _WORDS[kind](self, node) if kind in _WORDS else ""

    def link(self, node: Any) -> str:
        """The words of a link to an article, none of one to a picture or category."""
        title = str(node.title).strip()
        if title.lower().split(":", 1)[0].strip() in self._left_out and ":" in title and not title.startswith(":"):
            return ""
        return self.words(node.text) if node.text is not None else title.lstrip(":")

    def tag(self, node: Any) -> str:
        """The words inside a tag, unless it is one of those left out."""
        name = str(node.tag).strip().lower()
        if name in _LEFT_OUT:
            return ""
        if name == "br":
            return "\n"
        return self.words(node.contents)


_WORDS: dict[str, Callable[[_Stripper, Any], str]] = {
    "Wikilink": _Stripper.link,
    "ExternalLink": lambda stripper, node: stripper.words(node.title),
    "Tag": _Stripper.tag,
    "HTMLEntity": lambda stripper, node: str(node.normalize()),  # noqa: ARG005
}


def _without_empty_sections(text: str) -> str:
    """Text without headings that nothing follows, such as the one over the references that were left out."""
    kept: list[str] = []
    for line in (piece.strip() for piece in text.split("\n")):
        if line.startswith(_HEADING):
            while kept and (not kept[-1] or kept[-1].startswith(_HEADING)):
                kept.pop()
            kept += ["", line, ""]
        else:
            kept.append(line)
    while kept and (not kept[-1] or kept[-1].startswith(_HEADING)):
        kept.pop()
    return _BLANK.sub("\n\n", "\n".join(kept)).replace(_HEADING, "").strip()
