"""Caps of a source: how much of it is taken at most, so that no source drowns the others."""

from collections.abc import Iterator

from chatwright.data.document import Document
from chatwright.data.report import Tally
from chatwright.foundation.config import Config

OVER_CAP = "over_cap"


class Limited(Config):
    """A source with caps; None takes all. What is beyond is counted as `over_cap`."""

    max_documents: int | None = None
    max_bytes: int | None = None  # of text or HTML as collected, UTF-8

    def problems(self) -> Iterator[str]:
        """Caps that let something through."""
        for name in ("max_documents", "max_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield f"`{name}` must be at least 1: {value}"


class Cap:
    """Lets documents of one source pass in order until a cap is reached."""

    def __init__(self, source: Config):
        self._documents = getattr(source, "max_documents", None)
        self._bytes = getattr(source, "max_bytes", None)
        self.documents = 0
        self.bytes = 0

    @property
    def is_set(self) -> bool:
        """Whether there is one."""
        return self._documents is not None or self._bytes is not None

    @property
    def is_reached(self) -> bool:
        """Whether nothing more passes."""
        return self.filled >= 1.0

    @property
    def filled(self) -> float:
        """The share of the cap that is nearer to being reached; none without a cap."""
        by_documents = self.documents / self._documents if self._documents is not None else 0.0
        return max(by_documents, self.bytes / self._bytes if self._bytes is not None else 0.0)

    def count(self, document: Document) -> None:
        """Take a document."""
        self.add(1, len(document.text.encode("utf-8", "surrogatepass")))

    def add(self, documents: int, size: int) -> None:
        """Take documents of so many bytes together."""
        self.documents += documents
        self.bytes += size

    def through(self, documents: Iterator[Document], tally: Tally) -> Iterator[Document]:
        """Documents while the cap allows, each of the rest counted; the one that crosses `max_bytes` is the last."""
        for document in documents:
            if self.is_reached:
                tally.drop(OVER_CAP, path=document.path, id=document.id, characters=len(document.text))
                continue
            self.count(document)
            yield document
