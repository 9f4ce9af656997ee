"""Which copies went and what stays instead, published beside the corpus: what tracing a document needs.

Not for documents that were dropped for another reason: those are in no place of the corpus, and neither is their text.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chatwright.data.document import open_part
from chatwright.foundation import storage

FILE = "copies.parquet"
EXACT = "exact_duplicate"
_SCHEMA = pa.schema([("id", pa.string()), ("of", pa.string()), ("reason", pa.string()), ("similarity", pa.float64())])
_ROWS = 100_000


class RemovedCopy(NamedTuple):
    """A document that went, and the one that stood for it then; that one may have gone as another's copy itself."""

    id: str
    of: str
    reason: str
    similarity: float


class StandsFor(NamedTuple):
    """The document of the corpus, or the last one known, that a copy went for."""

    id: str
    reason: str  # of the first step that was no exact copy
    similarity: float  # the least on the way


def write_removals(copies: Iterable[RemovedCopy], directory: Path) -> None:
    """Write the file; none if there are no copies."""
    path = directory / FILE
    path.unlink(missing_ok=True)
    waiting = iter(copies)
    first = next(waiting, None)
    if first is None:
        return
    with storage.publish_file(path) as scratch, pq.ParquetWriter(scratch, _SCHEMA, compression="zstd") as writer:
        for rows in _batches(first, waiting):
            writer.write_table(pa.table(list(map(list, zip(*rows, strict=True))), schema=_SCHEMA))


def _batches(first: RemovedCopy, rest: Iterator[RemovedCopy]) -> Iterator[list[RemovedCopy]]:
    rows = [first]
    for row in rest:
        if len(rows) == _ROWS:
            yield rows
            rows = []
        rows.append(row)
    yield rows


class Removals:
    """The copies that went from a published corpus; none for one of an earlier version.

    Raises:
        RefusedError: the file is damaged.
    """

    def __init__(self, corpus: Path):
        self._table = _SCHEMA.empty_table()
        if (corpus / FILE).is_file():
            with open_part(corpus / FILE) as file:
                self._table = file.read()

    def stands_for(self, id_: str) -> StandsFor | None:
        """What a document went for, followed to the end; None for one that did not go as a copy."""
        found: StandsFor | None = None
        seen: set[str] = set()
        while id_ not in seen and (step := next(self._where("id", {id_}), None)):
            seen.add(id_)  # a file that two sources name is a copy of its own id
            found = _behind(found, step)
            id_ = step.of
        return found

    def of(self, id_: str) -> dict[str, StandsFor]:
        """Every document that went for this one, by its id, whatever the number of steps."""
        found: dict[str, StandsFor] = {}
        waiting = {id_}
        while waiting:
            steps = [step for step in self._where("of", waiting) if step.id not in found and step.id != id_]
            for step in steps:
                first = StandsFor(step.of, step.reason, step.similarity)
                further = found.get(step.of)
                found[step.id] = first if further is None else _behind(first, RemovedCopy(step.of, id_, *further[1:]))
            waiting = {step.id for step in steps}
        return found

    def _where(self, column: str, values: set[str]) -> Iterator[RemovedCopy]:
        mask = pc.is_in(self._table[column], value_set=pa.array(sorted(values), pa.string()))
        return (RemovedCopy(*row.values()) for row in self._table.filter(mask).to_pylist())


def _behind(before: StandsFor | None, step: RemovedCopy) -> StandsFor:
    """One step more."""
    if before is None:
        return StandsFor(step.of, step.reason, step.similarity)
    reason = before.reason if before.reason != EXACT else step.reason
    return StandsFor(step.of, reason, min(before.similarity, step.similarity))
