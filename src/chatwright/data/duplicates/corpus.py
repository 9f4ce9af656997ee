"""Exact and near copies over all work files of a stage: who stays, who goes and why, and each document's cluster.

The rule. Documents are ranked: known licence first, then quality (to two decimals), then length, then the hash of the
content. A document that is like a better one that stays is its copy; the one that stays gives the cluster its id. A
document's split is that of its own content's hash and never another, so a document never moves between splits when
others are added: it can only go, as a copy of a better one. Copies that stay (`near = "mark"`) go all the same where
their own split is another than their cluster's, so no cluster lies in two splits.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chatwright.data.document import UNKNOWN_LICENCE
from chatwright.data.duplicates.config import DuplicatesConfig
from chatwright.data.duplicates.minhash import band_hashes
from chatwright.data.duplicates.pairs import Copies, ShingleFile, candidate_pairs, find_copies
from chatwright.data.duplicates.shingles import Hashes, shingles, word_hashes
from chatwright.data.stretch import Stretch
from chatwright.foundation.stopping import StopFlag

HASH_COLUMN = "content_hash"
BANDS_COLUMN = "bands"
WORK_COLUMNS = ((HASH_COLUMN, pa.binary(16)), (BANDS_COLUMN, pa.binary()))
_BYTES = 8  # of a band's value
_LEADER_BYTES = 8  # of a content hash in a cluster's id


class Removal(NamedTuple):
    """Why a document goes, and which one stays instead."""

    reason: str  # exact_duplicate, near_duplicate or near_duplicate_across_splits
    of: int  # position
    similarity: float


class Resolution(NamedTuple):
    """What became of the documents, by their position over all work files."""

    removed: dict[int, Removal]
    marked: dict[int, str]  # cluster of documents that stay as copies
    copies: int  # near copies found, removed or not
    candidates: int  # pairs that share a band
    compared: int  # pairs compared on their shingles

    def counts(self) -> dict[str, int]:
        """What the report says of the search."""
        return {"copies": self.copies, "candidate_pairs": self.candidates, "compared_pairs": self.compared}


def cluster_id(content: bytes) -> str:
    """The cluster that a document leads: 16 hexadecimal digits of its content's hash."""
    return content[:_LEADER_BYTES].hex()


def bands_of(words: Hashes, config: DuplicatesConfig) -> bytes | None:
    """A text's bands as a work file keeps them; None for a text without words, or if nobody asks for them."""
    if config.near == "off":
        return None
    found = shingles(words, size=config.shingle_words)
    return band_hashes(found, bands=config.bands, rows=config.rows).tobytes() if len(found) else None


def resolve(
    paths: Sequence[Path], config: DuplicatesConfig, *, scratch: Path, stop: StopFlag | None = None
) -> Resolution:
    """Find all copies.

    Args:
        paths: work files with `WORK_COLUMNS`, in the order of their partitions.
        config: what counts as a copy.
        scratch: a directory for files that are not needed afterwards.
        stop: asked now and then; with it a long search says how far it is.

    Raises:
        StoppedError: a stop was asked for.
    """
    facts = _read_facts(paths, stop=stop)
    removed = {position: Removal("exact_duplicate", of, 1.0) for position, of in _exact_copies(facts.hashes).items()}
    if config.near == "off" or not len(facts.hashes):
        return Resolution(removed, {}, 0, 0, 0)
    rank_of = _ranks(facts)
    found = _near_copies(paths, rank_of, removed, config, scratch, stop=stop)
    position_of = np.argsort(rank_of)
    marked: dict[int, str] = {}
    for rank, (of, similarity) in sorted(found.copies.items()):
        position, better = int(position_of[rank]), int(position_of[of])
        same_split = facts.splits[position] == facts.splits[better]
        if config.near == "mark" and same_split:
            marked[position] = cluster_id(facts.hashes[better].tobytes())
        else:
            reason = "near_duplicate" if config.near == "drop" else "near_duplicate_across_splits"
            removed[position] = Removal(reason, better, similarity)
    return Resolution(removed, marked, len(found.copies), found.candidates, found.compared)


class _Facts(NamedTuple):
    """What ranking needs of every document, in stored order."""

    hashes: NDArray[np.uint64]  # (documents, 2)
    splits: NDArray[np.bool_]  # held out or not
    licensed: NDArray[np.bool_]
    quality: NDArray[np.float64]
    characters: NDArray[np.int64]


def _read_facts(paths: Sequence[Path], *, stop: StopFlag | None) -> _Facts:
    columns = [HASH_COLUMN, "split", "licence", "quality", "characters"]
    heard = Stretch("read hashes", stop=stop).through(paths, total=len(paths))
    facts = [_facts_of(pq.read_table(path, columns=columns)) for path in heard]
    if not facts:
        return _Facts(np.empty((0, 2), np.uint64), *(np.empty(0, kind) for kind in (bool, bool, float, np.int64)))
    return _Facts(*(np.concatenate(column) for column in zip(*facts, strict=True)))


def _facts_of(table: pa.Table) -> _Facts:
    hashes = np.frombuffer(b"".join(table[HASH_COLUMN].to_pylist()), np.uint64).reshape(-1, 2)
    return _Facts(
        hashes,
        _equals(table["split"], "heldout"),
        ~_equals(table["licence"], UNKNOWN_LICENCE),
        table["quality"].to_numpy(),
        table["characters"].to_numpy(),
    )


def _equals(column: Any, value: str) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = pa.compute.equal(column, value).to_numpy()
    return result


def _exact_copies(hashes: NDArray[np.uint64]) -> dict[int, int]:
    """Positions whose text stood before, each with the position of the first.

    One stable sort over the hashes of the whole corpus: the first in stored order stays, whatever the workers.
    """
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    starts = np.flatnonzero(is_new)
    first = order[starts[np.cumsum(is_new) - 1]] if len(order) else order
    return {int(where): int(which) for where, which in zip(order[~is_new], first[~is_new], strict=True)}


def _ranks(facts: _Facts) -> NDArray[np.int64]:
    """Rank of each position, 0 the one to prefer."""
    keys = (
        facts.hashes[:, 1],
        facts.hashes[:, 0],
        -facts.characters,
        -np.round(facts.quality, 2),
        ~facts.licensed,
    )
    ranks = np.empty(len(facts.quality), np.int64)
    ranks[np.lexsort(keys)] = np.arange(len(ranks))
    return ranks


def _near_copies(
    paths: Sequence[Path],
    rank_of: NDArray[np.int64],
    removed: dict[int, Removal],
    config: DuplicatesConfig,
    scratch: Path,
    *,
    stop: StopFlag | None,
) -> Copies:
    table = _BandTable(paths, removed, config.bands, scratch / "bands.u64", stop=stop)
    bands = Stretch("find candidates", stop=stop).through(range(config.bands), total=config.bands)
    pairs = candidate_pairs((table.column(band), rank_of[table.positions]) for band in bands)
    wanted = np.zeros(len(rank_of), np.bool_)
    members = pairs.members()
    wanted[members] = True
    sets = ShingleFile(scratch / "shingles.u64")
    texts = Stretch("read candidates", stop=stop).through(_texts(paths, wanted[rank_of]), total=len(members))
    sets.fill(
        (int(rank_of[position]), shingles(word_hashes(text), size=config.shingle_words)) for position, text in texts
    )
    return find_copies(pairs, sets, threshold=config.threshold, stop=stop)


class _BandTable:
    """The bands of all documents that have some, a column a band, in a mapped scratch file."""

    def __init__(
        self, paths: Sequence[Path], removed: dict[int, Removal], bands: int, scratch: Path, *, stop: StopFlag | None
    ):
        rows = sum(pq.read_metadata(path).num_rows for path in paths)
        self._values = np.memmap(scratch, np.uint64, mode="w+", shape=(bands, max(1, rows)))
        kept_positions = [np.empty(0, np.int64)]
        start = filled = 0
        for path in Stretch("read bands", stop=stop).through(paths, total=len(paths)):
            column = pq.read_table(path, columns=[BANDS_COLUMN])[BANDS_COLUMN].to_pylist()
            kept = [row for row, value in enumerate(column) if value is not None and start + row not in removed]
            end = filled + len(kept)
            data = np.frombuffer(b"".join(column[row] for row in kept), np.uint64).reshape(-1, bands)
            self._values[:, filled:end] = data.T
            kept_positions.append(start + np.array(kept, np.int64))
            start, filled = start + len(column), end
        self.positions = np.concatenate(kept_positions)

    def column(self, band: int) -> Hashes:
        """One band's value of each document in `positions`."""
        return np.array(self._values[band, : len(self.positions)])


def _texts(paths: Sequence[Path], wanted: NDArray[np.bool_]) -> Iterator[tuple[int, str]]:
    """Position and text of the documents asked for; row groups without any are not read."""
    position = 0
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                places = np.flatnonzero(wanted[position : position + rows])
                if len(places):
                    texts = file.read_row_group(group, columns=["text"])["text"].take(pa.array(places))
                    yield from zip((position + places).tolist(), texts.to_pylist(), strict=True)
                position += rows
