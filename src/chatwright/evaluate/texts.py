"""Texts to be measured, read exactly as they stand: every byte of them counts, so nothing is cleaned or repaired here.

Not the corpus, which collecting and cleaning make: these are files that somebody names for one measurement.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from chatwright.data.document import iter_documents
from chatwright.foundation import storage
from chatwright.foundation.errors import DataError

MAX_TEXT_BYTES = 64 << 20  # of one document
MAX_TEXTS = 1_000_000
PLAIN = (".txt", ".text", ".md")
LINES = (".jsonl", ".ndjson")
TABLES = (".parquet",)
_KNOWN = (*PLAIN, *LINES, *TABLES)


class Text(NamedTuple):
    """A document to measure."""

    id: str  # file, or file:line
    domain: str
    text: str


class Texts(NamedTuple):
    """What was read, and the digest of the files it came from."""

    texts: list[Text]
    digest: str
    num_empty: int  # documents without a byte, which have nothing to predict


def read_texts(path: Path, *, text_key: str = "text", domain_key: str = "domain", split: str | None = None) -> Texts:
    """Read a file, a folder of files, or a corpus directory of a run.

    A plain file is one document, a line of JSON Lines or a row of Parquet is one. The domain is what `domain_key`
    says, or else the folder below the path given, or else the file's own name.

    Args:
        path: what to read.
        text_key: key or column of the text.
        domain_key: key or column of the domain.
        split: of a corpus directory, only the documents of this split.

    Raises:
        DataError: nothing to read, or a file that is not what its name says; the place is named.
    """
    if (path / storage.MANIFEST).is_file():
        found = [Text(document.id, document.domain, document.text) for document in iter_documents(path, split=split)]
        digest = storage.read_manifest(path).content
        return _without_empty(found, digest, path)
    files = _files(path)
    found = []
    for file in files:
        found += _read_file(file, root=path, text_key=text_key, domain_key=domain_key)
        if len(found) > MAX_TEXTS:
            raise DataError(f"`{path}` holds more than {MAX_TEXTS} documents", hint="measure a part of them")
    shown = {file.relative_to(path).as_posix() if path.is_dir() else file.name: file for file in files}
    digest = storage.digest_json({name: storage.digest_file(file) for name, file in shown.items()})
    return _without_empty(found, digest, path)


def _without_empty(found: Sequence[Text], digest: str, path: Path) -> Texts:
    kept = [text for text in found if text.text]
    if not kept:
        raise DataError(f"`{path}` holds no text to measure", hint="name a file or folder with documents")
    return Texts(kept, digest, len(found) - len(kept))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix.lower() not in _KNOWN:
            raise DataError(f"`{path}` is of no kind that can be measured", hint=f"known: {', '.join(_KNOWN)}")
        return [path]
    if not path.is_dir():
        raise DataError(f"there is no file or folder `{path}`")
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    other = [file for file in files if file.suffix.lower() not in _KNOWN]
    if other:
        raise DataError(
            f"`{path}` holds {len(other)} files of other kinds, the first is `{other[0].name}`",
            hint=f"leave them out, or make them one of {', '.join(_KNOWN)}; `chatwright collect` reads more kinds",
        )
    return files


def _read_file(file: Path, *, root: Path, text_key: str, domain_key: str) -> list[Text]:
    if file.suffix.lower() in TABLES:
        return _read_table(file, text_key=text_key, domain_key=domain_key, domain=_domain_of(file, root))
    if file.stat().st_size > MAX_TEXT_BYTES and file.suffix.lower() in PLAIN:
        raise DataError(f"`{file}` has {file.stat().st_size} bytes, one document may have {MAX_TEXT_BYTES}")
    domain = _domain_of(file, root)
    if file.suffix.lower() in LINES:
        return list(_read_lines(file, text_key=text_key, domain_key=domain_key, domain=domain))
    try:
        return [Text(file.name, domain, file.read_bytes().decode())]
    except UnicodeDecodeError as error:
        raise DataError(f"`{file}` is not UTF-8 at byte {error.start}: {error.reason}") from None


def _domain_of(file: Path, root: Path) -> str:
    parts = file.relative_to(root).parts if root.is_dir() else ()
    return parts[0] if len(parts) > 1 else file.stem


def _read_lines(file: Path, *, text_key: str, domain_key: str, domain: str) -> Iterator[Text]:
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            if not line.strip():
                continue
            if len(line) > MAX_TEXT_BYTES:
                raise DataError(f"`{file}:{number}` has {len(line)} bytes, one document may have {MAX_TEXT_BYTES}")
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"`{file}:{number}` is not sound JSON: {error}") from None
            if not isinstance(value, dict) or not isinstance(value.get(text_key), str):
                raise DataError(f"`{file}:{number}` has no string under `{text_key}`", hint="name another key")
            told = value.get(domain_key)
            yield Text(f"{file.name}:{number}", told if isinstance(told, str) else domain, value[text_key])


def _read_table(file: Path, *, text_key: str, domain_key: str, domain: str) -> list[Text]:
    try:
        with pq.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            if text_key not in names:
                raise DataError(f"`{file}` has no column `{text_key}`, it has {', '.join(names)}")
            columns = [text_key, *([domain_key] if domain_key in names else [])]
            rows = opened.read(columns=columns).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"`{file}` is not sound Parquet: {error}") from error
    wrong = [number for number, row in enumerate(rows) if not isinstance(row[text_key], str)]
    if wrong:
        raise DataError(f"row {wrong[0]} of `{file}` has no text in `{text_key}`")
    return [
        Text(f"{file.name}:{number}", str(row.get(domain_key) or domain), row[text_key])
        for number, row in enumerate(rows)
    ]
