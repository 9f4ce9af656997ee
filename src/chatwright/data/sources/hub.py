"""The source `hub`: files of a Hugging Face data set, streamed and never stored whole.

Parquet is read by row group; JSON Lines and CSV, packed or not, from their beginning. The text is taken as it is. Not
for scripts that build data sets: no code of a data set is ever run.
"""

import contextlib
import itertools
import re
from collections.abc import Iterator
from typing import IO, Any, Literal

from chatwright.data import limits
from chatwright.data.decode import sound_text
from chatwright.data.document import UNKNOWN_LANGUAGE, UNKNOWN_LICENCE, Document, document_id
from chatwright.data.formats.reading import Blob, book_sandbox, counted, reader_of
from chatwright.data.formats.record import Record
from chatwright.data.formats.stored import not_read, stored_file
from chatwright.data.formats.tables import read_row_group, row_groups
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable
from chatwright.data.sources.limited import Limited
from chatwright.data.sources.partition import Input, Listing, Partition, each_partition_of
from chatwright.foundation import storage
from chatwright.foundation.console import say
from chatwright.foundation.errors import DataError

_FORMATS = {"table": "Parquet", "lines": "JSON Lines", "separated": "CSV"}
_UNKNOWN_ROWS = -1  # the source's cap ends the reading
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DATASET = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


class Hub(Limited):
    """Documents of a data set on the Hugging Face hub."""

    kind: Literal["hub"] = "hub"
    dataset: str  # OWNER/NAME
    files: str = "**/*.parquet"  # pattern within the data set, such as `sample/10BT/*.parquet` or `*.jsonl.gz`
    revision: str = "main"  # a commit never moves; a branch is read at the commit it names when collecting begins
    text_key: str = "text"
    domain: str | None = None  # None takes the data set's name
    licence: str = UNKNOWN_LICENCE

    def problems(self) -> Iterator[str]:
        """A data set's name, a relative pattern, caps."""
        yield from super().problems()
        if not _DATASET.fullmatch(self.dataset):
            yield f"`dataset` must read OWNER/NAME: {self.dataset!r}"
        if not self.files or self.files.startswith("/") or ".." in self.files.split("/"):
            yield f"`files` is a pattern within the data set, such as `**/*.parquet`: {self.files!r}"


def fingerprint(config: Hub) -> str:
    """The settings alone: asking the hub would need the network. Name a commit to be sure of the content."""
    return storage.digest_json(config.model_dump(mode="json"))


def list_partitions(config: Hub) -> list[Partition]:
    """Row groups, or files of other formats, in the order of files; of Parquet as many as `max_documents` needs.

    Raises:
        DataError: the hub cannot be reached, refuses, or has no such data set or file.
    """
    return list(iter_partitions(config, Listing()))


def iter_partitions(config: Hub, listing: Listing) -> Iterator[Partition]:
    """The same, reading no more footers than it must.

    Raises:
        DataError: as `list_partitions`.
        StoppedError: a stop was asked for.
    """
    commit = listing.ask(lambda: _commit_of(config), within=lambda: _hub_named(config))
    if commit != config.revision:
        say(f"  {config.dataset}: `{config.revision}` is commit {commit}")
    yield from partitions_in(
        _file_system(), f"datasets/{config.dataset}@{commit}", config, commit=commit, listing=listing
    )


def read_partition(config: Hub, partition: Partition, tally: Tally) -> Iterator[Document]:
    """Documents of one partition.

    Raises:
        DataError: the hub cannot be reached.
    """
    with _hub_named(config):
        yield from documents_in(_file_system(), config, partition, tally)


def _commit_of(config: Hub, *, endpoint: str | None = None) -> str:
    """The commit that the revision names now: all partitions are read at it, even if a branch moves meanwhile."""
    if _COMMIT.fullmatch(config.revision):
        return config.revision
    from huggingface_hub import HfApi

    commit = HfApi(endpoint=endpoint).dataset_info(config.dataset, revision=config.revision).sha
    if not commit:
        raise ValueError(f"the hub names no commit for `{config.revision}`")
    return commit


def partitions_in(
    system: Any, root: str, config: Hub, *, commit: str, listing: Listing | None = None
) -> Iterator[Partition]:
    """Partitions of the files below `root` of a file system object (fsspec), which is the data set at `commit`.

    A file is looked into when its partitions are taken.
    """
    listing = listing or Listing()
    names = sorted(listing.ask(lambda: system.glob(f"{root}/{config.files}"), within=lambda: _hub_named(config)))
    if not names:
        raise DataError(
            f"`{config.dataset}` has no file that `files` names: {config.files}",
            hint="look at the data set's files on the hub and correct `files` or `revision`",
        )
    places: list[Input] = [{"file": name, "path": name.removeprefix(f"{root}/")} for name in names]
    found = listing.ahead(lambda place: _inputs_at(system, place, config), places, within=lambda: _hub_named(config))
    asked = (
        _unopened(place) if listing.names_suffice else next(found)
        for place in listing.through(places, total=len(places))
    )
    return each_partition_of(
        "hub",
        _as_many_as_needed(itertools.chain.from_iterable(asked), config.max_documents, commit),
        max_bytes=limits.PARTITION_BYTES * 4,
        max_inputs=limits.PARTITION_INPUTS,
        name=lambda entry: f"{entry['path']} rows {entry['first_row']} and on" if "group" in entry else entry["path"],
    )


def _as_many_as_needed(inputs: Iterator[Input], max_documents: int | None, commit: str) -> Iterator[Input]:
    """Inputs that have rows, as far as the cap on documents; of a file whose rows nobody knows, all."""
    left = max_documents
    for entry in inputs:
        entry["commit"] = commit
        if left is not None and entry["rows"] != _UNKNOWN_ROWS:
            entry["rows"] = min(entry["rows"], left)
            left -= entry["rows"]
        if entry["rows"]:
            yield entry
        if left == 0:
            return


def _unopened(place: Input) -> list[Input]:
    """A file of which the name is all that is wanted."""
    return [{**place, "rows": _UNKNOWN_ROWS, "bytes": 0}]


def _inputs_at(system: Any, place: Input, config: Hub) -> list[Input]:
    """A Parquet file's row groups, any other file as one."""
    name = place["file"]
    blob = _blob(system, name, place["path"])
    if blob.format not in _FORMATS:
        raise DataError(
            f"`{name}` of `{config.dataset}` is of no format that is read from the hub: {', '.join(_FORMATS.values())}",
            hint="narrow `files` of the source, such as to `**/*.parquet` or `*.jsonl.gz`",
        )
    if blob.format != "table" or blob.packing:
        return [{**place, "rows": _UNKNOWN_ROWS, "bytes": blob.stored_bytes}]
    try:
        with blob.open() as file:
            groups = row_groups(file, text_key=config.text_key)
    except Unreadable as verdict:
        raise DataError(
            f"`{name}` of `{config.dataset}` cannot be read: {verdict.detail or verdict.reason}",
            hint="correct `text_key` or `files` of the source",
        ) from None
    inputs, first = [], 0
    for number, group in enumerate(groups):
        inputs.append({**place, "group": number, "first_row": first, "rows": group.rows, "bytes": group.bytes})
        first += group.rows
    return inputs


def _blob(system: Any, name: str, shown: str) -> Blob:
    size = int(system.info(name).get("size") or 0)
    return Blob(name=shown, shown=shown, stored_bytes=size, open=lambda: _opened(system, name))


def _opened(system: Any, name: str) -> IO[bytes]:
    return stored_file(system.open(name, "rb"), name=name)


def documents_in(system: Any, config: Hub, partition: Partition, tally: Tally) -> Iterator[Document]:
    """Documents of a partition that `partitions_in` made."""
    for entry in partition.inputs:
        try:
            for record in _records(system, config, entry, tally):
                yield _document(config, entry, record, tally)
        except Unreadable as verdict:
            tally.drop(verdict.reason, path=entry["path"], detail=verdict.detail, characters=entry["bytes"])


def _records(system: Any, config: Hub, entry: Input, tally: Tally) -> Iterator[Record]:
    if "group" not in entry:
        with book_sandbox() as sandbox:  # what a reader asks for; no book is read here, so that no child starts
            reader = reader_of(text_key=config.text_key, books="book", sandbox=sandbox, tally=tally)
            yield from reader.records(_blob(system, entry["file"], entry["path"]))
        return
    with _opened(system, entry["file"]) as file:
        yield from read_row_group(
            file,
            entry["group"],
            first_row=entry["first_row"],
            max_rows=entry["rows"],
            text_key=config.text_key,
            shown=entry["path"],
            tally=tally,
        )


def _document(config: Hub, entry: Input, record: Record, tally: Tally) -> Document:
    """A record with the commit it was read at; its id is by the revision as the recipe names it.

    So a branch that moves on does not rename what stays, and `taken_down` keeps its meaning.
    """
    place = f"{entry['path']}#{record.place}"
    return Document(
        id=document_id(f"hub:{config.dataset}@{config.revision}", place),
        text=counted(sound_text(record.text), tally),
        source=f"hub:{config.dataset}@{entry['commit']}",
        path=place,
        domain=config.domain or config.dataset.rsplit("/", 1)[-1],
        title=record.title,
        licence=record.licence or config.licence,
        licence_evidence=record.licence_evidence if record.licence else "",
        language=record.language or UNKNOWN_LANGUAGE,
        url=record.url,
    )


def _file_system() -> Any:
    from huggingface_hub import HfFileSystem  # takes a while to import, and few runs need it

    return HfFileSystem()


@contextlib.contextmanager
def _hub_named(config: Hub) -> Iterator[None]:
    """Turn what the hub's client raises into one error with the data set's name and the next step."""
    from huggingface_hub.errors import HfHubHTTPError

    # The bases are the errors of whichever HTTP library this version of the client uses, and OSError.
    failures: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, ValueError)
    try:
        yield
    except failures as error:
        raise not_read(
            f"the data set `{config.dataset}` could not be read from the Hugging Face hub",
            error,
            hint="check the network and the name (a gated data set needs `HF_TOKEN`), then run the same command again",
        ) from error
