"""What the documents of a corpus say of themselves, counted for cards in one pass. No text of a document is kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chatwright.data.document import PART_PATTERN

_DAY = len("2026-01-31")
# RE2: linear. A name and a password before the host are no part of it.
_HOST = r"(?i)^https?://(?:[^/?#@]*@)?(?P<host>\[[^\]]*\]|[^/?#:\\]+)"
_HUB = r"^hub:(?P<version>.+@.+)$"


class Group(NamedTuple):
    """Documents that share a language, a licence, a domain name or a version of a data set."""

    label: str
    documents: int
    num_bytes: int


class Documents(NamedTuple):
    """Those of a corpus, by what they share; the largest groups first."""

    languages: list[Group] = []
    licences: list[Group] = []
    hosts: list[Group] = []  # of the web pages among them; most text first
    versions: list[Group] = []  # `OWNER/NAME@COMMIT` of data sets of the hub
    fetched: tuple[str, ...] = ()  # first and last day on which pages were fetched; empty where none was
    num_fetched: int = 0


def read_documents(corpus: Path) -> Documents:
    """Count the columns of a published corpus; one that a corpus of an earlier version lacks gives no group."""
    reading = _Reading()
    for path in sorted(corpus.glob(PART_PATTERN)):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=[n for n in file.schema_arrow.names if n in _WANTED]):
                reading.add(batch)
    return reading.done()


def _host(urls: Any) -> Any:
    return pc.utf8_lower(pc.struct_field(pc.extract_regex(urls.cast(pa.string()), _HOST), "host"))


def _version(sources: Any) -> Any:
    return pc.struct_field(pc.extract_regex(sources.cast(pa.string()), _HUB), "version")


# Column of a corpus -> what its values are grouped by; null for those of no group.
_LABELS: dict[str, Callable[[Any], Any]] = {
    "language": lambda values: values,
    "licence": lambda values: values,
    "url": _host,
    "source": _version,
}
_WANTED = frozenset({*_LABELS, "fetched", "text"})


class _Reading:
    def __init__(self) -> None:
        self._totals: dict[str, dict[str, list[int]]] = {column: {} for column in _LABELS}
        self._days: list[str] = []
        self._num_fetched = 0

    def add(self, batch: Any) -> None:
        names = batch.schema.names
        lengths = pc.binary_length(batch["text"].cast(pa.binary())) if "text" in names else pa.array([0] * len(batch))
        for column in self._totals.keys() & set(names):
            found = pa.table({"label": _LABELS[column](batch[column]), "bytes": lengths}).group_by("label")
            for row in found.aggregate([("bytes", "sum"), ("label", "count")]).to_pylist():
                if row["label"] is not None:
                    entry = self._totals[column].setdefault(str(row["label"]), [0, 0])
                    entry[0] += row["label_count"]
                    entry[1] += row["bytes_sum"] or 0
        if "fetched" in names:
            times = [when for when in batch["fetched"].to_pylist() if when]
            self._num_fetched += len(times)
            self._days += [min(times)[:_DAY], max(times)[:_DAY]] if times else []

    def done(self) -> Documents:
        return Documents(
            self._groups("language"),
            self._groups("licence"),
            sorted(self._groups("url"), key=lambda group: -group.num_bytes),
            self._groups("source"),
            (min(self._days), max(self._days)) if self._days else (),
            self._num_fetched,
        )

    def _groups(self, column: str) -> list[Group]:
        found = [Group(label, *entry) for label, entry in self._totals[column].items()]
        return sorted(found, key=lambda group: (-group.documents, group.label))
