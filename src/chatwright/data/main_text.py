"""The main text of an HTML page by one walk over its elements: as exact as trafilatura, at several times its speed.

The page becomes blocks of text in nested containers. A container whose tag, class or id says that it holds something
else (a menu, comments, related pages) is left out, unless a large part of all running text lies in it: some themes name
the whole page after its sidebar. From the body down, the child that holds nearly all running text is entered, sooner
where its marks say that it is the article. What stands between the title and the article is its introduction; a short
line such as "Related" near the end closes it. Running text is told from menus by length and share of links
(Kohlschütter et al. 2010, "Boilerplate detection using shallow text features"); class names as hints are Readability's
idea. Words and thresholds were set on one half of trafilatura's evaluation pages and checked on the other:
`docs/log.md`. Not here: limits of time and memory (`extract.py` calls this in a child process).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from lxml import etree


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SKIPPED = _names(
    "script style noscript template svg math iframe object embed applet audio video canvas map button select option "
    "optgroup input textarea datalist dialog head progress meter link meta img picture source track area frame "
    "frameset rp rt label legend title base param col colgroup hr"
)
_BESIDE = _names("nav aside footer menu figure figcaption")
_INLINE = _names(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd mark q ruby s samp small span strike strong "
    "sub sup time tt u var wbr nobr"
)
_HEADINGS = _names("h1 h2 h3 h4 h5 h6")
_CELLS = _names("td th")
_ITEMS = _CELLS | _names("li dd dt")  # judged with the others of their list
_PARTS = _ITEMS | _names("p tr tbody thead table ul ol dl blockquote pre")  # never a whole article
_NEVER_BESIDE = _HEADINGS | _names("html body article main")

# Words of a class or id, between hyphens, that say that its element is not the article.
_BESIDE_WORDS = _names(
    "nav menu foot footer share sharing tag tags byline banner ad ads advert promo teaser widget rating reply respond "
    "caption credit credits pager author date crumb crumbs prev previous next login hide modal skip popup legal bio "
    "topic topics addthis avatar disclaimer nomobile noprint"
)
_BESIDE_MARK = re.compile(
    "nav(?:bar|igation)|sidebar|breadcrumb|newsletter|subscri|comment|disqus|related|recommend|popular|trending|social|"
    "shar(?:ing|ebar|edaddy)|addtoany|paginat|(?:post|entry)-?meta|tag(?:cloud|list)|outbrain|taboola|cookie|consent|"
    "gdpr|copyright|screen-reader|sponsor|advertis|masthead|author-?(?:box|bio|info)|signup|donat|feedback|yarpp|"
    "jp-post-flair|more-?(?:stories|articles|news|posts)|read-?(?:more|next|also)|most-?(?:read|viewed)|mobile-?menu|"
    "cat-links|no-print|embed|textbox|factbox|disclosure|notice|flyout|metadata|dateline|callout|recirc|rec-?post|"
    "app-?store"
)
_BODY_MARK = re.compile(
    "article[_-]?(?:body|content|text|copy|main|inner)|(?:post|entry|story|blog|news)[_-]?(?:body|content|text|entry|"
    "copy)|bodytext|fulltext|field-name-body|^hentry$"
)
_END = re.compile(
    r"related|more (?:from|on|stories)|read (?:more|next|also)|comments?|leave a (?:reply|comment)|\d+ (?:comments?|"
    r"kommentare?|responses?|thoughts)|kommentare?|share (?:this|on)|teilen|ähnliche|verwandte|das könnte|mehr (?:zum|"
    r"zu|aus)|weitere|schreibe einen|about the author|über den autor|recent posts|you (?:may|might)|tags|schlagw|"
    r"popular|sign up|newsletter|articles? (?:liés|similaires)|commentaires?|laisser un|à lire",
    re.IGNORECASE,
)
_LINE = "\v"  # for `<br>`: no other character of a page means a new line
_DEEPEST = 200  # levels that are walked; what lies deeper is taken as plain text
_MARK_CHARACTERS = 400  # of a class and an id that are looked at

_PLAIN, _BODY, _ARTICLE, _MAIN = range(4)  # what a container's marks say that it is
_ENTERED_FROM = (0.9, 0.5, 0.5, 0.4)  # of its parent's running text that a container of each kind must hold
_PARDONED_FROM = 0.3  # of the page's running text: an element marked as something else holds the article after all
_RUNNING_FROM = 25  # characters outside links: shorter blocks are no running text
_MARK_WORTH, _MOST_MARKS = 30, 10  # characters that a comma or the end of a sentence counts as, and how many count
_MOSTLY_LINKS = 0.6  # of a block's characters: a menu
_INTRODUCTION_FROM, _INTRODUCTION_LINKS, _INTRODUCTIONS = 80, 0.3, 2
_END_WITHIN, _END_LINE = 0.35, 60  # of the text's characters; characters that a closing line has at most


class Block(NamedTuple):
    """A stretch of text without a block element inside."""

    container: int
    tag: str  # of its container
    text: str
    linked: int  # characters of it in links


def main_text(html: str) -> tuple[str, str]:
    """The main text of a page and its title.

    Paragraphs are parted by an empty line, items of a list by a line break and cells of a row by a bar.

    Args:
        html: the whole page; damaged markup is read as libxml2 reads it.
    """
    root = etree.fromstring(html.encode("utf-8", "replace"), _parser())
    if root is None:
        return "", ""
    page = _Page()
    page.read(root, 0, 0, 0)
    page.end_block(0)
    title = root.findtext("head/title") or root.findtext(".//title") or ""
    return _joined(_kept(page), page), " ".join(title.split())


@lru_cache(maxsize=1)
def _parser() -> etree.HTMLParser:
    return etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)


@lru_cache(maxsize=1 << 14)
def _marks(class_: str | None, id_: str | None) -> tuple[bool, bool]:
    """Whether class and id say that the element is beside the article; or that it is the article's body."""
    words = f"{class_ or ''} {id_ or ''}"[:_MARK_CHARACTERS].lower().split()
    told = [_told(word) for word in words]
    is_body = any(body for _, body in told)
    return not is_body and any(beside for beside, _ in told), is_body


@lru_cache(maxsize=1 << 14)
def _told(word: str) -> tuple[bool, bool]:
    is_beside = not _BESIDE_WORDS.isdisjoint(word.replace("_", "-").split("-"))
    return is_beside or _BESIDE_MARK.search(word) is not None, _BODY_MARK.search(word) is not None


class _Page:
    """Containers by number, each after its parent, and the blocks of text in them."""

    def __init__(self) -> None:
        self.parents = [0]
        self.tags = ["body"]
        self.kinds = [_PLAIN]
        self.is_out = [False]
        self.blocks: list[Block] = []
        self._parts: list[str] = []
        self._linked = 0

    def read(self, element: Any, container: int, links: int, depth: int) -> None:
        """Take in what is inside an element that lies in so many links and levels."""
        parts = self._parts
        if depth > _DEEPEST:
            parts.append(" ".join(element.itertext()))
            return
        text = element.text
        if text:
            parts.append(text)
            if links:
                self._linked += len(text.strip())
        for child in element:
            tag = child.tag
            if tag in _INLINE:
                class_ = child.get("class")
                if class_ is None or not _marks(class_, None)[0]:
                    self.read(child, container, links + (tag == "a"), depth + 1)
            elif tag == "br":
                parts.append(_LINE)
            elif tag not in _SKIPPED:
                self._read_container(child, container, links, depth + 1)
            text = child.tail
            if text:
                parts.append(text)
                if links:
                    self._linked += len(text.strip())

    def _read_container(self, element: Any, parent: int, links: int, depth: int) -> None:
        if self._parts:
            self.end_block(parent)
        number = self._opened(element, parent)
        self.read(element, number, links, depth)
        if self._parts:
            self.end_block(number)

    def end_block(self, container: int) -> None:
        """What was taken in since the last block is one."""
        tag, joined = self.tags[container], "".join(self._parts)
        if tag == "pre":
            text = joined.replace(_LINE, "\n").strip("\n").rstrip()
        elif _LINE in joined:
            text = "\n".join(filter(None, (" ".join(line.split()) for line in joined.split(_LINE))))
        else:
            text = " ".join(joined.split())
        if text:
            self.blocks.append(Block(container, tag, text, self._linked))
        self._parts.clear()
        self._linked = 0

    def _opened(self, element: Any, parent: int) -> int:
        """A new container's number."""
        tag, get = element.tag, element.get
        class_, id_, style = get("class"), get("id"), get("style")
        is_beside, is_body = _marks(class_, id_) if class_ or id_ else (False, False)
        if style and "none" in style and "display" in style:
            is_beside = True
        if is_body or get("itemprop") == "articleBody":
            kind = _BODY
        elif tag == "article":
            kind = _ARTICLE
        else:
            kind = _MAIN if tag == "main" or get("role") == "main" else _PLAIN
        self.parents.append(parent)
        self.tags.append(tag)
        self.kinds.append(kind)
        self.is_out.append(tag in _BESIDE or (is_beside and tag not in _NEVER_BESIDE))
        return len(self.parents) - 1

    def list_of(self, block: Block) -> int:
        """The container whose blocks are judged together with this one."""
        return self.parents[block.container] if block.tag in _ITEMS else block.container


def _kept(page: _Page) -> list[Block]:
    """The blocks of the main text in their order."""
    article = _article(page, _left_out(page))
    is_in = [False] * len(page.parents)
    is_in[article] = True
    for number in range(article + 1, len(is_in)):
        is_in[number] = is_in[page.parents[number]]
    blocks = [block for block in page.blocks if not page.is_out[block.container]]
    characters, linked = Counter[int](), Counter[int]()
    for block in blocks:
        characters[page.list_of(block)] += len(block.text)
        linked[page.list_of(block)] += block.linked

    def is_text(block: Block) -> bool:
        if block.tag in _HEADINGS or block.linked <= _MOSTLY_LINKS * len(block.text):
            return True
        its = page.list_of(block)
        return block.tag == "p" and linked[its] <= _MOSTLY_LINKS * characters[its]

    inside = [block for block in blocks if is_in[block.container] and is_text(block)]
    before = blocks[: blocks.index(inside[0])] if inside else []
    inside = _without_end(inside)
    while inside and inside[-1].tag in _HEADINGS:
        inside.pop()
    return [*_introduction(before), *inside]


def _left_out(page: _Page) -> list[int]:
    """Settle which containers are left out; the running text of each, with what lies inside."""
    own = [0] * len(page.parents)
    for block in page.blocks:
        own[block.container] += _running(block)
    whole = _with_inner(page, own)
    least = _PARDONED_FROM * whole[0]
    for number in range(1, len(whole)):
        is_marked = page.is_out[number] and whole[number] < least
        page.is_out[number] = is_marked or page.is_out[page.parents[number]]
    return _with_inner(page, [0 if is_out else size for size, is_out in zip(own, page.is_out, strict=True)])


def _running(block: Block) -> int:
    """How much running text a block is: its characters outside links, more where it has sentences; 0: none."""
    size = len(block.text) - block.linked
    if size < _RUNNING_FROM or block.linked > size or block.tag in _HEADINGS:
        return 0
    return size + _MARK_WORTH * min(_MOST_MARKS, block.text.count(",") + block.text.count(". "))


def _with_inner(page: _Page, own: Sequence[int]) -> list[int]:
    """Each container's sum with those of all inside."""
    whole = list(own)
    for number in range(len(whole) - 1, 0, -1):
        whole[page.parents[number]] += whole[number]
    return whole


def _article(page: _Page, whole: Sequence[int]) -> int:
    """The container of the article."""
    heaviest: dict[int, int] = {}
    for number in range(1, len(whole)):
        parent = page.parents[number]
        if whole[number] > whole[heaviest[parent]] if parent in heaviest else whole[number] > 0:
            heaviest[parent] = number
    at = 0
    while at in heaviest:
        child = heaviest[at]
        if page.tags[child] in _PARTS or whole[child] < _ENTERED_FROM[page.kinds[child]] * whole[at]:
            break
        at = child
    return at


def _introduction(before: Sequence[Block]) -> list[Block]:
    """Of what stands before the article, the last paragraphs behind the title."""
    titles = [index for index, block in enumerate(before) if block.tag == "h1"]
    behind = before[titles[-1] + 1 :] if titles else []
    long = [block for block in behind if len(block.text) >= _INTRODUCTION_FROM]
    return [block for block in long if block.linked < _INTRODUCTION_LINKS * len(block.text)][-_INTRODUCTIONS:]


def _without_end(blocks: list[Block]) -> list[Block]:
    """Up to a line that says that other things follow, if it stands near the end."""
    total = sum(len(block.text) for block in blocks)
    left, end = 0, len(blocks)
    for index in range(len(blocks) - 1, 0, -1):
        text = blocks[index].text
        left += len(text)
        if left > _END_WITHIN * total:
            break
        if len(text) < _END_LINE and _END.match(text):
            end = index
    return blocks[:end]


def _joined(blocks: Sequence[Block], page: _Page) -> str:
    return "".join(_pieces(blocks, page)).strip()


def _pieces(blocks: Sequence[Block], page: _Page) -> Iterator[str]:
    previous: Block | None = None
    for block in blocks:
        if previous is not None:
            yield _between(previous, block, page)
        is_item = block.tag == "li" and (previous is None or previous.container != block.container)
        yield f"- {block.text}" if is_item else block.text
        previous = block


def _between(previous: Block, block: Block, page: _Page) -> str:
    above, own = page.parents[previous.container], page.parents[block.container]
    if previous.tag in _CELLS and block.tag in _CELLS:
        return " | " if above == own else "\n"
    return "\n" if previous.tag in _ITEMS and block.tag in _ITEMS and above == own else "\n\n"
