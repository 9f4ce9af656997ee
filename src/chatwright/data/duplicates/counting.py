"""Counts of hashes over a whole corpus, in memory that the corpus does not change: sorted runs on disk, merged.

Each partition counts its own in one file, ordered by key; `merged` joins the files in tiers, a few open at a time and
a bounded number of rows of each in memory. Not for texts: a key is all that is known of what was counted.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chatwright.data.stretch import Stretch
from chatwright.foundation.stopping import StopFlag

FAN_IN = 32  # files merged at once
BATCH_ROWS = 1 << 16  # of each in memory

SCHEMA = pa.schema([("key", pa.uint64()), ("group", pa.uint64()), ("first", pa.uint64()), ("count", pa.int64())])
_ROW = np.dtype([("key", "<u8"), ("group", "<u8"), ("first", "<u8"), ("count", "<i8")])

Rows = NDArray[Any]  # of `_ROW`: what was counted, the group it belongs to, where it stood first, how often


def rows_of(
    keys: Sequence[int],
    *,
    groups: Sequence[int] | None = None,
    firsts: Sequence[int] | None = None,
    counts: Sequence[int] | None = None,
) -> Rows:
    """Counts of keys that may recur, summed by key and ordered; each counts as one where `counts` does not say it."""
    rows = np.zeros(len(keys), _ROW)
    rows["key"] = keys
    rows["group"] = 0 if groups is None else groups
    rows["first"] = 0 if firsts is None else firsts
    rows["count"] = 1 if counts is None else counts
    return summed([rows])


def summed(pieces: Sequence[Rows]) -> Rows:
    """Rows of equal keys as one: their counts added, the least of their places."""
    rows = np.concatenate(pieces) if pieces else np.empty(0, _ROW)
    if not len(rows):
        return rows
    ordered = rows[np.argsort(rows["key"], kind="stable")]
    keys = ordered["key"]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    result = ordered[starts]
    result["first"] = np.minimum.reduceat(ordered["first"], starts)
    result["count"] = np.add.reduceat(ordered["count"], starts)
    return result


def table_of(rows: Rows) -> pa.Table:
    """Rows as a file keeps them."""
    return pa.table([pa.array(rows[name]) for name in SCHEMA.names], schema=SCHEMA)


def read_rows(path: Path) -> Iterator[Rows]:
    """Rows of a file in their order, a bounded number at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            rows = np.empty(batch.num_rows, _ROW)
            for name in SCHEMA.names:
                rows[name] = batch.column(name).to_numpy()
            yield rows


def merged(paths: Sequence[Path], scratch: Path, *, stop: StopFlag | None = None) -> Iterator[Rows]:
    """All counts of files that are each ordered by key, ordered by key, every key once.

    Args:
        paths: files of `SCHEMA`; they stay.
        scratch: a directory for the tiers between, which are removed when they have been read.
        stop: asked between batches.

    Raises:
        StoppedError: a stop was asked for.
    """
    tier, stretch = 0, Stretch(stop=stop)
    while len(paths) > FAN_IN:
        groups = [paths[start : start + FAN_IN] for start in range(0, len(paths), FAN_IN)]
        joined = [scratch / f"tier-{tier}-{number}.parquet" for number in range(len(groups))]
        for group, path in zip(groups, joined, strict=True):
            with pq.ParquetWriter(path, SCHEMA, compression="lz4") as writer:
                for rows in _merged_at_once(group):
                    stretch.check()
                    writer.write_table(table_of(rows))
        _discard(paths, scratch, tier - 1)
        paths, tier = joined, tier + 1
    for rows in _merged_at_once(paths):
        stretch.check()
        yield rows
    _discard(paths, scratch, tier - 1)


def _discard(paths: Sequence[Path], scratch: Path, tier: int) -> None:
    """Remove files of a tier of ours; what `merged` was handed is tier -1 and stays."""
    if tier >= 0:
        for path in paths:
            if path.parent == scratch:
                path.unlink()


def _merged_at_once(paths: Sequence[Path]) -> Iterator[Rows]:
    runs = [_Run(path) for path in paths]
    while True:
        for run in runs:
            run.fill()
        bounds = [int(run.rows["key"][-1]) for run in runs if not run.is_at_end]
        rows = summed([run.take_below(min(bounds, default=None)) for run in runs])
        if len(rows):
            yield rows
        if not bounds:
            return


class _Run:
    """One ordered file with the rows of it that are in memory."""

    def __init__(self, path: Path):
        self._batches = read_rows(path)
        self.rows = np.empty(0, _ROW)
        self.is_at_end = False

    def fill(self) -> None:
        """Read on unless a batch is there; keys are unique within a file, so each round takes all rows but one."""
        while not self.is_at_end and len(self.rows) < BATCH_ROWS:
            batch = next(self._batches, None)
            if batch is None:
                self.is_at_end = True
            else:
                self.rows = np.concatenate([self.rows, batch])

    def take_below(self, bound: int | None) -> Rows:
        """Rows whose key no other run can still bring; all, if there is no bound."""
        count = len(self.rows) if bound is None else int(np.searchsorted(self.rows["key"], np.uint64(bound)))
        taken, self.rows = self.rows[:count], self.rows[count:]
        return taken
