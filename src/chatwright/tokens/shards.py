"""Token ids on disk: shards read where they lie, with document boundaries, domains and byte counts beside them.

Raw ids only: windows, packing and mixing are chosen when they are read (the idea of OLMo-core's files).
A shard is a few NumPy files (a format with magic, version and shape); `index.json` names them and their tokenizer.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from chatwright.foundation import storage
from chatwright.foundation.console import say
from chatwright.foundation.errors import RefusedError
from chatwright.tokens.blocks import CheckedTokens, digest_blocks

INDEX = "index.json"
FORMAT = "chatwright.tokens"
VERSION = 3  # 2: the ids of documents; 3: their scores
_WITHOUT_SCORES = 2  # read as well: all that it lacks is what curricula ask for
_REMEDY = "delete `tokens/` and run again"


class TokenDocument(NamedTuple):
    """One document as token ids, its end-of-text token left out."""

    ids: NDArray[Any]
    domain: str
    num_bytes: int  # of the text, as UTF-8
    number: int  # position within its split


class TextScores(NamedTuple):
    """What cleaning found of a document's text (data/scores.py), for orders of training."""

    characters: float = 0.0
    compression: float = 0.0
    flesch: float = 0.0
    mtld: float = 0.0


class ShardWriter:
    """Gathers documents and writes one shard."""

    def __init__(self, *, vocabulary_size: int, end_of_text: int):
        self._dtype = np.uint16 if vocabulary_size <= 1 << 16 else np.uint32
        self._end_of_text = end_of_text
        self._tokens: list[NDArray[Any]] = []
        self._ends: list[int] = []
        self._bytes: list[int] = []
        self._domains: list[int] = []
        self._documents: list[int] = []
        self._scores: list[TextScores] = []
        self._length = 0

    def add(
        self,
        ids: Sequence[int] | NDArray[Any],
        *,
        domain: int,
        num_bytes: int,
        document: str = "0",
        scores: TextScores = TextScores(),  # noqa: B008 - it is immutable
    ) -> None:
        """Append one document, followed by the end-of-text token; `document` is its id in hexadecimal digits."""
        tokens = np.empty(len(ids) + 1, self._dtype)
        tokens[:-1], tokens[-1] = ids, self._end_of_text
        self._tokens.append(tokens)
        self._length += len(tokens)
        self._ends.append(self._length)
        self._bytes.append(num_bytes)
        self._domains.append(domain)
        self._documents.append(int(document, 16))
        self._scores.append(scores)

    def save(self, stem: Path) -> dict[str, Any]:
        """Write the shard's files; returns its entry for the index."""
        tokens = np.concatenate(self._tokens) if self._tokens else np.empty(0, dtype=self._dtype)
        arrays = {
            "tokens": tokens,
            "ends": np.array(self._ends, dtype=np.int64),
            "bytes": np.array(self._bytes, dtype=np.int64),
            "domains": np.array(self._domains, dtype=np.int16),
            "documents": np.array(self._documents, dtype=np.uint64),
            "scores": np.array(self._scores, dtype=np.float32).reshape(-1),
        }
        digests = {}
        for kind, array in arrays.items():
            path = _array_path(stem, kind)
            _write_array(path, array)
            digests[kind] = storage.digest_file(path)
        return {
            "stem": stem.name,
            "tokens": self._length,
            "documents": len(self._ends),
            "bytes": int(sum(self._bytes)),
            "digest": storage.digest_json(digests),
            "digests": digests,
        }


def shard_files(directory: Path, entry: Mapping[str, Any]) -> list[Path]:
    """The files of a shard, by its entry of the index."""
    return [_array_path(directory / entry["stem"], kind) for kind in entry["digests"]]


def _array_path(stem: Path, kind: str) -> Path:
    return stem.with_name(f"{stem.name}.{kind}.npy")


def _write_array(path: Path, array: NDArray[Any]) -> None:
    """A `.npy` file by plain writes: NumPy's own writer hides that the disk is full."""
    with storage.publish_file(path) as scratch, scratch.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def write_index(
    directory: Path, shards: dict[str, list[dict[str, Any]]], *, tokenizer: str, vocabulary: int, domains: list[str]
) -> None:
    """Write `index.json` over the shards of each split."""
    head = {"format": FORMAT, "version": VERSION, "tokenizer": tokenizer, "vocabulary_size": vocabulary}
    storage.write_json(directory / INDEX, {**head, "domains": domains, "splits": shards})


class _Entry(NamedTuple):
    """What the index says of a shard."""

    stem: str
    tokens: int
    documents: int
    digest: str  # of all its arrays
    digests: dict[str, str]  # of each array's file


class _Shard(NamedTuple):
    tokens: CheckedTokens
    ends: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    domains: NDArray[np.int16]
    documents: NDArray[np.uint64]  # ids
    scores: NDArray[np.float32] | None = None  # those of a document stand together; None in files of version 2


class LeftOut(NamedTuple):
    """A damaged shard of which nothing is used."""

    shard: str  # stem of its files
    tokens: int
    documents: int
    reason: str


class Sighting(NamedTuple):
    """Where a document stands in the tokens."""

    split: str
    shard: str  # stem of its files
    first_token: int  # within the shard
    num_tokens: int  # its end-of-text token included


class TokenSplit:
    """The tokens of one split as one long stream over its shards."""

    def __init__(
        self, shards: list[_Shard], domains: list[str], digests: dict[str, str], left_out: Sequence[LeftOut] = ()
    ):
        self._shards = shards
        self._domains = domains
        self._starts = np.cumsum([0, *(len(shard.tokens) for shard in shards)])
        self._digests = digests
        self.digest = storage.digest_json(list(digests.values()))
        self.left_out = list(left_out)

    @property
    def identity(self) -> dict[str, Any]:
        """What a person can be told of a difference between two splits: sizes, documents in any order, each shard."""
        ids = np.concatenate([np.empty(0, np.uint64), *(shard.documents for shard in self._shards)])
        documents = storage.digest_bytes(np.sort(ids.astype("<u8")).tobytes())
        told: dict[str, Any] = {"training documents": len(ids), "training tokens": len(self)}
        shards = {f"shard {stem}": digest[:12] for stem, digest in self._digests.items()}
        return told | {"names of documents in any order": documents[:12]} | shards

    def __len__(self) -> int:
        """Tokens in all, end-of-text tokens included."""
        return int(self._starts[-1])

    def slice(self, start: int, length: int) -> NDArray[np.int64]:
        """`length` ids from position `start` of the stream, across shards.

        Raises:
            IndexError: the slice leaves the stream.
        """
        if start < 0 or length < 0 or start + length > len(self):
            raise IndexError(f"tokens {start}..{start + length} are outside 0..{len(self)}")
        pieces = []
        index = int(np.searchsorted(self._starts, start, side="right")) - 1
        while length > 0:
            offset = start - int(self._starts[index])
            piece = self._shards[index].tokens[offset : offset + length]
            pieces.append(piece)
            start, length, index = start + len(piece), length - len(piece), index + 1
        return np.concatenate(pieces).astype(np.int64) if pieces else np.empty(0, np.int64)

    @property
    def domains(self) -> list[str]:
        """Names of the domains of all splits."""
        return list(self._domains)

    def spans(self, domain: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First position in the stream and length of each document of a domain, end-of-text tokens included."""
        starts, lengths = [], []
        for base, shard in zip(self._starts, self._shards, strict=False):
            begins = np.concatenate(([0], shard.ends[:-1])) if len(shard.ends) else shard.ends
            chosen = shard.domains == self._domains.index(domain)
            starts.append(begins[chosen] + int(base))
            lengths.append((shard.ends - begins)[chosen])
        empty = np.empty(0, np.int64)
        return np.concatenate([empty, *starts]).astype(np.int64), np.concatenate([empty, *lengths]).astype(np.int64)

    def all_spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First position in the stream and length of every document, end-of-text tokens included, in stored order."""
        ends = [np.empty(0, np.int64)]
        ends += [shard.ends + int(base) for base, shard in zip(self._starts, self._shards, strict=False)]
        stops = np.concatenate(ends).astype(np.int64)
        starts = np.concatenate(([0], stops[:-1])).astype(np.int64) if len(stops) else stops
        return starts, stops - starts

    def documents(self) -> Iterator[TokenDocument]:
        """Every document in stored order."""
        number = 0
        for shard in self._shards:
            begin = 0
            for end, num_bytes, domain in zip(shard.ends, shard.num_bytes, shard.domains, strict=True):
                ids = shard.tokens[begin : int(end) - 1]
                yield TokenDocument(ids, self._domains[int(domain)], int(num_bytes), number)
                begin, number = int(end), number + 1

    def scores(self, name: str) -> NDArray[np.float64]:
        """One score of every document, in stored order; `name` is a field of `TextScores`.

        Raises:
            RefusedError: the shards were written before scores were kept.
        """
        column = TextScores._fields.index(name)
        found = [np.empty(0)]
        for shard in self._shards:
            if shard.scores is None:
                raise RefusedError("these token shards hold no scores of documents", hint=_REMEDY)
            found.append(shard.scores.reshape(-1, len(TextScores._fields))[:, column].astype(np.float64))
        return np.concatenate(found)


class TokenData:
    """A published `tokens/` directory."""

    def __init__(self, directory: Path):
        index = storage.read_json(directory / INDEX)
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            raise RefusedError(f"`{directory}` holds no chatwright tokens")
        if index.get("version") not in (_WITHOUT_SCORES, VERSION):
            raise RefusedError(
                f"`{directory}` was made by another version: {index.get('version')}, this reads {VERSION}",
                hint=_REMEDY,
            )
        self._directory = directory
        try:
            self.vocabulary_size = int(index["vocabulary_size"])
            self.tokenizer_digest = str(index["tokenizer"])
            self.domains = [str(domain) for domain in index["domains"]]
            self._entries = {name: [_entry(value) for value in listed] for name, listed in index["splits"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RefusedError(f"`{directory / INDEX}` is damaged: {error!r}", hint=_REMEDY) from error

    def split(self, name: str, *, skip_damaged: bool = False) -> TokenSplit:
        """Open one split after reading it once against the index's digests; later changes are found when they are met.

        Args:
            name: "train" or "heldout".
            skip_damaged: whether a damaged shard is left out, told and counted, instead of refused.

        Raises:
            RefusedError: a shard is missing, cut, changed or exchanged.
        """
        sound: dict[str, str] = {}
        shards, left_out = [], []
        for entry in self._entries.get(name, []):
            try:
                shards.append(self._open(entry))
            except RefusedError as error:
                if not skip_damaged:
                    raise
                left_out.append(LeftOut(entry.stem, entry.tokens, entry.documents, error.what))
                say(f"  left out: {entry.tokens:,} tokens of {entry.documents:,} documents: {error.what}")
            else:
                sound[entry.stem] = entry.digest
        return TokenSplit(shards, self.domains, sound, left_out)

    def find(self, document: str) -> list[Sighting]:
        """Every place of a document, by its id; reads the shards' ids and boundaries alone.

        Raises:
            RefusedError: a shard is missing, cut or changed.
        """
        found = []
        for split, entries in self._entries.items():
            for entry in entries:
                kinds = ("documents", "ends")
                stem = self._directory / entry.stem
                ids, ends = (
                    _read_array(_array_path(stem, kind), entry.documents, entry.digests[kind]) for kind in kinds
                )
                for row in map(int, np.flatnonzero(ids == np.uint64(int(document, 16)))):
                    begin = int(ends[row - 1]) if row else 0
                    found.append(Sighting(split, entry.stem, begin, int(ends[row]) - begin))
        return found

    def _open(self, entry: _Entry) -> _Shard:
        lengths = {
            "ends": entry.documents,
            "bytes": entry.documents,
            "domains": entry.documents,
            "documents": entry.documents,
        }
        if "scores" in entry.digests:
            lengths["scores"] = entry.documents * len(TextScores._fields)
        stem = self._directory / entry.stem
        tokens = _open_tokens(_array_path(stem, "tokens"), entry.tokens, entry.digests["tokens"])
        return _Shard(
            tokens, *(_read_array(_array_path(stem, kind), n, entry.digests[kind]) for kind, n in lengths.items())
        )


def _entry(value: dict[str, Any]) -> _Entry:
    stem, digests = str(value["stem"]), {str(kind): str(digest) for kind, digest in value["digests"].items()}
    if Path(stem).name != stem:
        raise ValueError(f"a shard outside its directory: {stem}")
    if storage.digest_json(digests) != value["digest"]:
        raise ValueError(f"the digests of shard {stem} do not fit each other")
    return _Entry(stem, int(value["tokens"]), int(value["documents"]), value["digest"], digests)


def _read_array(path: Path, length: int, digest: str) -> NDArray[Any]:
    """One array, memory-mapped; nothing is allocated by what the file says of itself."""
    return _mapped(path, length, digest, found=_digest_of(path, storage.digest_file))


def _open_tokens(path: Path, length: int, digest: str) -> CheckedTokens:
    """The ids, of which every block is checked again whenever it is read."""
    noted = _digest_of(path, digest_blocks)
    mapped = _mapped(path, length, digest, found=noted.sha256)
    offset = int(getattr(mapped, "offset", 0))
    return CheckedTokens(path, noted.blocks, dtype=mapped.dtype, length=length, offset=offset)


Digest = TypeVar("Digest")


def _digest_of(path: Path, digest: Callable[[Path], Digest]) -> Digest:
    try:
        return digest(path)
    except OSError as error:
        raise RefusedError(f"token shard `{path}` is damaged: {error}", hint=_REMEDY) from error


def _mapped(path: Path, length: int, digest: str, *, found: str) -> NDArray[Any]:
    if found != digest:
        raise RefusedError(f"token shard `{path}` is damaged: its SHA-256 differs from the index", hint=_REMEDY)
    try:
        array = np.lib.format.open_memmap(path, mode="r") if length else np.empty(0, dtype=np.int64)
    except (OSError, ValueError) as error:
        raise RefusedError(f"token shard `{path}` is damaged: {error}", hint=_REMEDY) from error
    if array.shape != (length,):
        raise RefusedError(
            f"token shard `{path}` is damaged: its shape is {array.shape}, its index says ({length},)", hint=_REMEDY
        )
    return array


def total(entries: Iterable[dict[str, Any]], key: str) -> int:
    """Sum of one figure over index entries."""
    return sum(int(entry[key]) for entry in entries)
