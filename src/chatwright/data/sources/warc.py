"""The source `warc`: pages of WARC files in a folder or a store, or of those that a list of paths names.

Common Crawl publishes such lists (`warc.paths.gz`); `prefix` is put before each line. Pages go to the cleaning stage
as HTML. Nothing is crawled here.
"""

from collections.abc import Iterator
from typing import Literal

from chatwright.data.decode import sound_text
from chatwright.data.document import UNKNOWN_LICENCE, Document, document_id
from chatwright.data.formats.compression import Budget, compression_of, decompressed
from chatwright.data.formats.lines import bounded_lines
from chatwright.data.formats.reading import Blob, counted
from chatwright.data.formats.web_archives import read_web_archive
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable
from chatwright.data.sources.files import blob_of, input_of, pattern_problems
from chatwright.data.sources.limited import Limited
from chatwright.data.sources.partition import Input, Partition, partitions_of
from chatwright.data.sources.permitted import Permitted, permitted
from chatwright.data.sources.places import listing_fingerprint, place_of, problem_with
from chatwright.foundation.errors import DataError
from chatwright.foundation.masking import masked

_LISTS = (".paths", ".paths.gz")


class Warc(Limited, Permitted):
    """Pages of web archives."""

    kind: Literal["warc"] = "warc"
    path: str  # a folder, a WARC file or a list of paths (`*.paths`, `*.paths.gz`), here or a URL
    include: tuple[str, ...] = ("**/*.warc", "**/*.warc.gz", "**/*.warc.zst")
    prefix: str = "https://data.commoncrawl.org/"  # before each line of a list; a folder or `s3://commoncrawl/`, too
    max_files: int | None = None  # the first so many of a list or folder
    domain: str | None = "web"
    licence: str = UNKNOWN_LICENCE  # where a page does not name its own

    def problems(self) -> Iterator[str]:
        """Addresses, patterns and caps."""
        yield from super().problems()
        for name, address in (("path", self.path), ("prefix", self.prefix)):
            if trouble := problem_with(address):
                yield f"`{name}` {masked(address)!r}: {trouble}"
        if self.max_files is not None and self.max_files < 1:
            yield f"`max_files` must be at least 1: {self.max_files}"
        yield from pattern_problems(self.include)


def fingerprint(config: Warc) -> str:
    """The settings, and size and time of each local file."""
    return listing_fingerprint(config, config.path, config.include)


def list_partitions(config: Warc) -> list[Partition]:
    """A partition a file.

    Raises:
        DataError: nothing is there.
    """
    inputs = _in_list(config) if config.path.endswith(_LISTS) else _in_folder(config)
    inputs = inputs[: config.max_files]
    if not inputs:
        raise DataError(f"`{config.path}` names no WARC file", hint="correct `path` or `include` of the source `warc`")
    return partitions_of("warc", inputs, max_bytes=1, max_inputs=1, name=lambda entry: str(entry["path"]))


def read_partition(config: Warc, partition: Partition, tally: Tally) -> Iterator[Document]:
    """Pages of one archive, as far as their owners allow."""
    for entry in partition.inputs:
        try:
            blob = _blob(config, entry)
            with blob.open() as stored:
                stream = decompressed(stored, compression_of(blob.name), Budget(blob.stored_bytes))
                pages = read_web_archive(stream, shown=entry["path"], tally=tally)
                for record in permitted(config, pages, tally, shown=entry["path"]):
                    source, place = f"warc:{config.path}", f"{entry['path']}#{record.place}"
                    yield Document(
                        id=document_id(source, place),
                        text=counted(sound_text(record.text), tally),
                        source=source,
                        path=place,
                        domain=config.domain or "web",
                        media=record.media,
                        licence=record.licence or config.licence,
                        licence_evidence=record.licence_evidence,
                        url=record.url,
                        fetched=record.fetched,
                        robots=record.robots,
                        tdm=record.tdm,
                    )
        except Unreadable as verdict:
            tally.drop(verdict.reason, path=entry["path"], detail=verdict.detail, characters=entry["bytes"])


def _in_folder(config: Warc) -> list[Input]:
    return [input_of(one) for one in place_of(config.path).list(config.include)]


def _in_list(config: Warc) -> list[Input]:
    """Lines of a list of paths; sizes are asked for when a file is read."""
    place = place_of(config.path)
    (listed,) = place.list(("*",))
    inputs: list[Input] = []
    with place.open(listed.relative) as stored:
        stream = decompressed(stored, compression_of(listed.relative), Budget(listed.size))
        for line in bounded_lines(stream):
            path = (line or b"").decode("utf-8", "replace").strip()
            if path:
                inputs.append({"path": path, "bytes": 1, "address": f"{config.prefix.rstrip('/')}/{path}"})
            if len(inputs) == config.max_files:
                break
    return inputs


def _blob(config: Warc, entry: Input) -> Blob:
    if "address" not in entry:
        return blob_of(place_of(config.path), entry)
    place = place_of(entry["address"])
    (one,) = place.list(("*",))
    return blob_of(place, input_of(one))
