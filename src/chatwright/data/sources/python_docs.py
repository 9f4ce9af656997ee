"""The source `python-docs`: the documentation that every Python installation carries, each text with its origin.

The language reference, docstrings of the standard library and of installed distributions, and their READMEs.
Modules are parsed, never imported. Not for documentation on the web.
"""

import importlib.metadata
import platform
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from chatwright.data import limits
from chatwright.data.decode import decode_text
from chatwright.data.document import UNKNOWN_LICENCE, Document, document_id
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable
from chatwright.data.sources.docstrings import module_text, quoted_characters
from chatwright.data.sources.partition import Input, Partition, partitions_of
from chatwright.foundation import storage
from chatwright.foundation.config import Config
from chatwright.foundation.errors import DataError

SOURCE = "python-docs"
MIN_DOCSTRING_CHARACTERS = 200

_PYTHON_LICENCE = "PSF-2.0"
_OURSELVES = "chatwright"
_ALL = "*"
_MAX_LICENCE_CHARACTERS = 100
_TEST_FOLDERS = {"test", "tests", "_tests", "idle_test", "testdata", "test_data"}
_TEST_FILE = re.compile(r"(test_.*|.*_tests?|conftest)\.py")
# A copy of another distribution inside one: its own documents, or nearly, stand there already.
_COPIES = {"_vendor", "vendor", "_vendored", "vendored", "_distutils"}
# Parts of the standard library's folder that are no library.
_NOT_LIBRARY = {"site-packages", "dist-packages", "pydoc_data", "ensurepip", "__pycache__", "lib2to3"}
# Generated code says so at its top; its docstrings are the same few sentences, thousands of times.
_GENERATED = re.compile(r"auto-?generated|(?:automatically )?generated (?:by|from|file|code)|@generated", re.IGNORECASE)
_HEAD_CHARACTERS = 1_000
# README lines that are pictures, badges or layout: nothing to read.
# No class holds the characters with which its pattern begins, so a failed match is never tried again inside itself.
_PICTURES = re.compile(r"\[?!\[[^\[\]\n]*\]\([^()\[\]]*\)(?:\]\([^()\[\]]*\))?")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_LAYOUT = (".. image::", ".. |", ":target:", ":alt:")


class PythonDocs(Config):
    """Documentation of this Python and of distributions installed beside it."""

    kind: Literal["python-docs"] = "python-docs"
    packages: tuple[str, ...] = ()  # names of distributions; ("*",) is all that are installed
    stdlib: bool = True
    exclude_tests: bool = True


class _Distribution(NamedTuple):
    name: str
    version: str
    found: importlib.metadata.Distribution

    @property
    def label(self) -> str:
        return f"{self.name}-{self.version}"


def fingerprint(config: PythonDocs) -> str:
    """Python's version, the settings, and each distribution with its version."""
    names = [one.label for one in _distributions(config)]
    return storage.digest_json([platform.python_version(), config.model_dump(mode="json"), names])


def list_partitions(config: PythonDocs) -> list[Partition]:
    """The reference, then the standard library, then packages, then READMEs; files in order of their paths.

    Raises:
        DataError: a named distribution is not installed.
    """
    partitions = []
    if config.stdlib:
        version = platform.python_version()
        partitions.append(Partition(label="language reference", part="reference", inputs=({"version": version},)))
        partitions += _module_partitions("stdlib", _stdlib_modules())
    chosen = _distributions(config)
    partitions += _module_partitions("packages", [entry for one in chosen for entry in _package_modules(one)])
    readmes = [{"name": one.name, "version": one.version, "bytes": 0} for one in chosen]
    if readmes:
        partitions.append(Partition(label="READMEs", part="readmes", inputs=tuple(readmes)))
    return partitions


def read_partition(config: PythonDocs, partition: Partition, tally: Tally) -> Iterator[Document]:
    """Documents of one partition."""
    if partition.part == "reference":
        yield from _reference(partition.inputs[0]["version"])
    elif partition.part == "readmes":
        for entry in partition.inputs:
            yield from _readme(entry, tally)
    else:
        for entry in partition.inputs:
            document = _module(config, entry, partition.part, tally)
            if document is not None:
                yield document


def _distributions(config: PythonDocs) -> list[_Distribution]:
    """The chosen distributions by name, the first on the path where one is installed twice."""
    if not config.packages:
        return []
    installed: dict[str, _Distribution] = {}
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata  # parsed anew each time it is asked for
        name = metadata["Name"]
        if name and _canonical(name) != _OURSELVES:
            installed.setdefault(_canonical(name), _Distribution(name, metadata["Version"], distribution))
    if _ALL in config.packages:
        return [installed[name] for name in sorted(installed)]
    missing = [name for name in config.packages if _canonical(name) not in installed]
    if missing:
        raise DataError(
            f"`packages` names what is not installed: {', '.join(missing)}",
            hint='install it, or name others; `packages = ["*"]` takes all that are installed',
        )
    return [installed[name] for name in sorted({_canonical(name) for name in config.packages})]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _module_partitions(part: str, inputs: list[Input]) -> list[Partition]:
    return partitions_of(
        part,
        inputs,
        max_bytes=limits.PYTHON_PARTITION_BYTES,
        max_inputs=limits.PARTITION_INPUTS,
        name=lambda entry: entry["path"],
    )


def _stdlib_modules() -> list[Input]:
    root = Path(sysconfig.get_paths()["stdlib"])
    version = platform.python_version()
    inputs = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if relative.parts[0].startswith("config-") or _NOT_LIBRARY.intersection(relative.parts):
            continue
        inputs.append(_module_input(path, relative.as_posix(), f"python-{version}", _PYTHON_LICENCE))
    return inputs


def _package_modules(one: _Distribution) -> list[Input]:
    licence = _licence(one.found)
    inputs = []
    for file in sorted(one.found.files or [], key=str):
        if file.suffix != ".py" or file.is_absolute() or ".." in file.parts:
            continue
        path = Path(str(file.locate()))
        if path.is_file():
            inputs.append(_module_input(path, file.as_posix(), one.label, licence))
    return inputs


def _module_input(path: Path, relative: str, package: str, licence: str) -> Input:
    size = path.stat().st_size
    return {"file": str(path), "path": relative, "package": package, "licence": licence, "bytes": size}


def _module(config: PythonDocs, entry: Input, domain: str, tally: Tally) -> Document | None:
    """One module's document, or None with the reason counted."""
    try:
        if config.exclude_tests and _is_test(entry["path"]):
            raise Unreadable("test")
        if domain == "packages" and _COPIES.intersection(PurePosixPath(entry["path"]).parts):
            raise Unreadable("vendored_copy")
        return _parsed_module(entry, domain)
    except Unreadable as verdict:
        path = f"{entry['package']}/{entry['path']}"
        tally.drop(verdict.reason, path=path, detail=verdict.detail, characters=entry["bytes"])
        return None


def _parsed_module(entry: Input, domain: str) -> Document:
    if entry["bytes"] > limits.MAX_SOURCE_FILE_BYTES:
        raise Unreadable("too_large", f"{entry['bytes']} bytes")
    try:
        decoded = decode_text(Path(entry["file"]).read_bytes())
    except OSError as error:
        raise Unreadable("unreadable_file", str(error)) from None
    if decoded is None:
        raise Unreadable("undecodable")
    if _GENERATED.search("\n".join(_comments(decoded.text[:_HEAD_CHARACTERS]))):
        raise Unreadable("generated_code")
    if quoted_characters(decoded.text) < MIN_DOCSTRING_CHARACTERS:
        raise Unreadable("few_docstrings")
    name = _module_name(entry["path"])
    module = module_text(name, decoded.text)
    if module.docstring_characters < MIN_DOCSTRING_CHARACTERS:
        raise Unreadable("few_docstrings", f"{module.docstring_characters} characters")
    path = f"{entry['package']}/{entry['path']}"
    language = "en" if domain == "stdlib" else "und"
    return _document(path, module.text, domain, title=name, licence=entry["licence"], language=language)


def _comments(source: str) -> Iterator[str]:
    """Comments that stand alone at the margin: those inside code speak of the code, not of the file."""
    return (line for line in source.split("\n") if line.startswith("#"))


def _document(path: str, text: str, domain: str, *, title: str, licence: str, language: str = "und") -> Document:
    return Document(
        id=document_id(SOURCE, path),
        text=text,
        source=SOURCE,
        path=path,
        domain=domain,
        title=title,
        licence=licence,
        licence_evidence=_evidence(licence),
        language=language,
    )


def _evidence(licence: str) -> str:
    if licence == UNKNOWN_LICENCE:
        return ""
    return "Python's own licence" if licence == _PYTHON_LICENCE else "package metadata"


def _is_test(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(_TEST_FOLDERS.intersection(parts[:-1])) or bool(_TEST_FILE.fullmatch(parts[-1]))


def _module_name(path: str) -> str:
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _reference(version: str) -> Iterator[Document]:
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        path = f"python-{version}/topics/{name}"
        yield _document(path, text, "language-reference", title=name, licence=_PYTHON_LICENCE, language="en")


def _readme(entry: Input, tally: Tally) -> Iterator[Document]:
    distribution = importlib.metadata.distribution(entry["name"])
    path = f"{entry['name']}-{entry['version']}/README"
    # Newer metadata keeps the text as the message's body, older as a header.
    metadata = distribution.metadata
    body = metadata.get_payload()  # type: ignore[attr-defined]
    text = readable_readme(str(body or "").strip() or str(metadata.get("Description") or ""))  # type: ignore[attr-defined]
    if not text:
        tally.drop("no_readme", path=path)
        return
    yield _document(path, text, "readmes", title=entry["name"], licence=_licence(distribution))


def readable_readme(text: str) -> str:
    """A README without pictures, badges, comments and HTML tags."""
    text = _TAG.sub("", _PICTURES.sub("", _without_comments(text)))
    return "\n".join(line for line in text.split("\n") if not line.lstrip().startswith(_LAYOUT)).strip()


def _without_comments(text: str) -> str:
    first, *pieces = text.split("<!--")
    for piece in pieces:
        inside, end, after = piece.partition("-->")
        first += after if end else inside
    return first


def _licence(distribution: importlib.metadata.Distribution) -> str:
    metadata = distribution.metadata
    for field in ("License-Expression", "License"):
        value = (metadata.get(field) or "").strip()  # type: ignore[attr-defined]
        # Some put the whole text of the licence there, which names nothing.
        if value and value != "UNKNOWN" and "\n" not in value and len(value) <= _MAX_LICENCE_CHARACTERS:
            return str(value)
    names = [
        line.rsplit("::", 1)[-1].strip()
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License ::")
    ]
    return " OR ".join(names) or UNKNOWN_LICENCE
