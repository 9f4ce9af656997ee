"""The kinds of sources, a closed table: a recipe names a kind, never code."""

from collections.abc import Iterator
from types import ModuleType
from typing import Annotated

from pydantic import Field

from chatwright.data.document import Document
from chatwright.data.report import Tally
from chatwright.data.sources import files, hub, python_docs, warc, website, wikipedia
from chatwright.data.sources.files import Files
from chatwright.data.sources.hub import Hub
from chatwright.data.sources.partition import Listing, Partition
from chatwright.data.sources.python_docs import PythonDocs
from chatwright.data.sources.warc import Warc
from chatwright.data.sources.website import Website
from chatwright.data.sources.wikipedia import Wikipedia
from chatwright.foundation.stopping import StopFlag

Source = Annotated[PythonDocs | Files | Hub | Warc | Website | Wikipedia, Field(discriminator="kind")]

_MODULES: dict[str, ModuleType] = {
    "python-docs": python_docs,
    "files": files,
    "hub": hub,
    "warc": warc,
    "website": website,
    "wikipedia": wikipedia,
}


def prepare(source: Source, *, stop: StopFlag) -> None:
    """Fetch what a source must have at hand before its partitions can be listed; nothing for most kinds.

    Raises:
        StoppedError: a stop was asked for; the same call goes on from there.
    """
    work = getattr(_MODULES[source.kind], "prepare", None)
    if work is not None:
        work(source, stop=stop)


def list_partitions(source: Source) -> list[Partition]:
    """A source's partitions in a fixed order, without reading its documents.

    Raises:
        DataError: the source is missing or empty.
    """
    partitions: list[Partition] = _MODULES[source.kind].list_partitions(source)
    return partitions


def iter_partitions(source: Source, listing: Listing) -> Iterator[Partition]:
    """As `list_partitions`, of some kinds listed no further than they are taken.

    Args:
        source: what is listed.
        listing: stops it, and asks a store again that does not answer.

    Raises:
        DataError: the source is missing or empty.
        StoppedError: a stop was asked for.
    """
    work = getattr(_MODULES[source.kind], "iter_partitions", None)
    yield from list_partitions(source) if work is None else work(source, listing)


def read_partition(source: Source, partition: Partition, tally: Tally) -> Iterator[Document]:
    """The raw documents of one partition; what gives none is counted in `tally` with its reason."""
    documents: Iterator[Document] = _MODULES[source.kind].read_partition(source, partition, tally)
    return documents


def fingerprint(source: Source) -> str:
    """A digest that changes when the source would give other documents; takes no network and less than a second."""
    digest: str = _MODULES[source.kind].fingerprint(source)
    return digest


__all__ = [
    "Files",
    "Hub",
    "Listing",
    "Partition",
    "PythonDocs",
    "Source",
    "Warc",
    "Website",
    "Wikipedia",
    "fingerprint",
    "iter_partitions",
    "list_partitions",
    "prepare",
    "read_partition",
]
