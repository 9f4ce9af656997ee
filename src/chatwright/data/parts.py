"""From work files to published parts: documents in their stable order, cut into files of bounded size."""

import dataclasses
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chatwright.data import limits
from chatwright.data.document import PART_PATTERN, Document, PartWriter, open_part, read_row_group
from chatwright.data.report import Totals
from chatwright.data.stretch import Stretch
from chatwright.foundation import storage
from chatwright.foundation.stopping import StopFlag


def kept_documents(
    paths: Sequence[Path],
    *,
    totals: Totals,
    by_source: Totals,
    without: Container[int] = (),
    clusters: Mapping[int, str] | None = None,
    stop: StopFlag | None = None,
) -> Iterator[Document]:
    """Documents of work files in order, counted as they pass.

    Args:
        paths: work files in the order of their partitions.
        totals: counts by domain.
        by_source: counts by source.
        without: positions over all files that are left out.
        clusters: duplicate clusters of positions, where they are other than the document's own.
        stop: asked now and then; with it a long reading says how far it is.

    Raises:
        StoppedError: a stop was asked for.
    """
    clusters = clusters or {}
    stored_documents = Stretch("write documents", stop=stop).through(_stored(paths), total=_number(paths))
    for position, stored in enumerate(stored_documents):
        if position not in without:
            document = dataclasses.replace(stored, cluster=clusters.get(position, stored.cluster))
            totals.add(document.domain, document)
            by_source.add(document.source, document)
            yield document


def _stored(paths: Sequence[Path]) -> Iterator[Document]:
    for path in paths:
        with open_part(path) as file:
            for group in range(file.num_row_groups):
                yield from read_row_group(file, group)


def _number(paths: Sequence[Path]) -> int:
    return sum(int(pq.read_metadata(path).num_rows) for path in paths)


def write_parts(documents: Iterator[Document], directory: Path, schema: pa.Schema) -> int:
    """Write `part-00000.parquet` and on, each published whole; returns the number of documents.

    Parts of an earlier try are replaced, so that the result depends on the documents alone.
    """
    for leftover in directory.glob(PART_PATTERN):
        leftover.unlink()
    written = 0
    pending = next(documents, None)
    index = 0
    while pending is not None:
        with (
            storage.publish_file(directory / f"part-{index:05d}.parquet") as scratch,
            PartWriter(scratch, schema) as writer,
        ):
            while pending is not None and writer.text_bytes < limits.PART_BYTES:
                writer.add(pending)
                pending = next(documents, None)
            written += writer.documents
        index += 1
    return written
