"""The only writer of files: whole directories published at once, logs appended a line at a time.

A directory is made beside its final place, synced, and renamed; a reader sees all of it or nothing.
Its `manifest.json` has the size and SHA-256 of every file. Not a cache and not a database.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.foundation.errors import BusyError, DamagedError, RefusedError, StorageFullError, UsageError

MANIFEST = "manifest.json"
MANIFEST_FORMAT = "chatwright.manifest"
MANIFEST_VERSION = 1
MAX_MANIFEST_BYTES = 64 << 20


class Manifest(NamedTuple):
    """What a published directory says of itself."""

    files: dict[str, dict[str, Any]]  # relative path -> {"bytes": int, "sha256": str}
    facts: dict[str, Any]  # what the publisher wrote beside the files: inputs, configuration, seconds
    content: str  # digest over the files alone: equal content, equal digest, whenever it was made


def digest_bytes(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return digest_bytes(text.encode("utf-8", "surrogatepass"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file for people and machines: indented, keys in the order given. NaN is refused."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path, *, max_bytes: int = MAX_MANIFEST_BYTES) -> Any:
    """Read a JSON file of at most `max_bytes`; damage is refused with the file's name."""
    try:
        if path.stat().st_size > max_bytes:
            raise DamagedError(f"`{path}` is too large for what it should be: {path.stat().st_size} bytes")
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RefusedError(f"`{path}` is missing", hint="check the path, or make the directory again") from None
    except OSError as error:
        raise RefusedError(f"`{path}` cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"`{path}` is not sound JSON: {error}", hint="make the directory again") from error


def sync_tree(directory: Path) -> None:
    """Make every file and name below `directory` durable, data first, then names."""
    for root, _, files in os.walk(directory, topdown=False):
        for name in files:
            _sync(Path(root, name))
        _sync(Path(root))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_manifest(directory: Path, facts: Mapping[str, Any] | None = None) -> Manifest:
    """Write `manifest.json` over all files below `directory`; returns what it says."""
    files = {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": digest_file(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path != directory / MANIFEST
    }
    told = json.loads(json.dumps(dict(facts or {}), allow_nan=False))  # as a reader will find it: keys are strings
    content = digest_json(files)
    head = {"format": MANIFEST_FORMAT, "version": MANIFEST_VERSION, "content": content}
    write_json(directory / MANIFEST, {**head, "seal": digest_json([content, told]), "facts": told, "files": files})
    return Manifest(files, told, content)


def read_manifest(directory: Path) -> Manifest:
    """Read a directory's manifest without reading its files. Refuses what is not ours or is newer."""
    value = read_json(directory / MANIFEST)
    if not isinstance(value, dict) or value.get("format") != MANIFEST_FORMAT:
        raise DamagedError(f"`{directory / MANIFEST}` is not a chatwright manifest")
    if not isinstance(value.get("version"), int) or not 1 <= value["version"] <= MANIFEST_VERSION:
        raise RefusedError(
            f"`{directory}` was made by another version: manifest version {value.get('version')}, this reads up to "
            f"{MANIFEST_VERSION}",
            hint="upgrade chatwright",
        )
    problem = _manifest_problem(value)
    if problem is not None:
        raise DamagedError(f"`{directory / MANIFEST}` is damaged: {problem}", hint="make the directory again")
    return Manifest(value["files"], value["facts"], value["content"])


def _manifest_problem(value: dict[str, Any]) -> str | None:
    files, facts = value.get("files"), value.get("facts")
    if not isinstance(files, dict) or value.get("content") != digest_json(files):
        return "its digest does not fit its list of files"
    if not isinstance(facts, dict) or value.get("seal") != digest_json([value["content"], facts]):
        return "its digest does not fit its facts"
    for name, entry in files.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return f"it names a file outside its directory: {name}"
        if not _is_entry(entry):
            return f"it lacks the size or the SHA-256 of {name}"
    return None


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("bytes")) is int and isinstance(entry.get("sha256"), str)


def verify(directory: Path) -> Manifest:
    """Check every file's size and SHA-256 against the manifest; the first damage found is named.

    Raises:
        RefusedError: a file is missing, is a link, or differs from the manifest.
    """
    manifest = read_manifest(directory)
    place = directory.resolve()
    for name, entry in manifest.files.items():
        path = directory / name
        if not path.is_file():
            raise RefusedError(f"`{directory}` is damaged: `{name}` is missing")
        if path.resolve() != place / name:
            raise RefusedError(f"`{directory}` is damaged: `{name}` is a link, or lies behind one")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise RefusedError(
                f"`{directory}` is damaged: `{name}` has {size} bytes, its manifest says {entry['bytes']}",
                cause="the file was changed or cut after it was saved",
            )
        if digest_file(path) != entry["sha256"]:
            raise RefusedError(
                f"`{directory}` is damaged: the SHA-256 of `{name}` differs from its manifest",
                cause="the file was changed after it was saved",
            )
    return manifest


def require_free_space(directory: Path, needed_bytes: int) -> None:
    """Refuse to begin a write for which the disk has no room.

    Raises:
        StorageFullError: with the bytes needed and the bytes free.
    """
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise StorageFullError(
            f"the disk of `{directory}` has no room: {needed_bytes} bytes needed, {free} free",
            kept="everything that was saved before",
            hint="free some space and run the same command again: it goes on where it stopped",
        )


@contextlib.contextmanager
def full_disk_named(directory: Path) -> Iterator[None]:
    """Turn the system's `no space left` into an error with the place and the next step."""
    try:
        yield
    except Exception as error:
        if not _says_full(error):
            raise
        free = shutil.disk_usage(directory).free
        raise StorageFullError(
            f"no space left on the disk of `{directory}` while saving: {free} bytes free",
            kept="everything that was saved before",
            hint="free some space and run the same command again: it goes on where it stopped",
        ) from error


def _says_full(error: Exception) -> bool:
    """Whether the system refused for want of space. Libraries in C++ and Rust keep its words, not its number."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in full
    return any(os.strerror(number) in str(error) for number in full)


def finish(scratch: Path, final: Path, facts: Mapping[str, Any] | None = None) -> Manifest:
    """Make `scratch` durable and put it in the place of `final`, whole.

    An older `final` is moved aside first and deleted last; `recover` puts it back if the process dies between.
    """
    with full_disk_named(final.parent):
        manifest = write_manifest(scratch, facts)
        sync_tree(scratch)
        _replace(scratch, final)
    return manifest


def _replace(scratch: Path, final: Path) -> None:
    """Rename `scratch` to `final`; if that fails, or does not last, an older `final` is back in its place."""
    aside = final.with_name(f".{final.name}.old")
    if final.exists() or final.is_symlink():
        _remove(aside)
        final.rename(aside)
    try:
        scratch.rename(final)
        _sync(final.parent)
    except OSError:
        if final.exists() and not scratch.exists():
            final.rename(scratch)  # renamed, but not known to last: it must not be found as if it were good
        if aside.exists():
            aside.rename(final)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    """Whatever stands there; of a link the link alone, since what it leads to is not ours."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def set_aside(damaged: Path) -> Path:
    """Move a damaged directory to `.NAME.damaged` beside it, for a person to look at; an older one there gives way.

    Returns:
        Where it stands now.
    """
    aside = damaged.with_name(f".{damaged.name}.damaged")
    _remove(aside)
    damaged.rename(aside)
    _sync(damaged.parent)
    return aside


def recover(parent: Path) -> None:
    """After a kill between the two renames of `finish`, put the older directory back in its place."""
    for aside in parent.glob(".*.old"):
        if not aside.is_dir():
            continue
        final = parent / aside.name[1 : -len(".old")]
        if final.exists():
            _remove(aside)
        else:
            aside.rename(final)


@contextlib.contextmanager
def publish(final: Path, facts: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """Yield a scratch directory; on success it becomes `final`, whole and durable, or nothing changes."""
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = final.with_name(f".{final.name}.partial")
    _remove(scratch)
    try:
        with full_disk_named(final.parent):
            scratch.mkdir()
            yield scratch
        finish(scratch, final, facts)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


@contextlib.contextmanager
def publish_file(final: Path) -> Iterator[Path]:
    """Yield a scratch path; on success that file takes the place of `final`, durable, or nothing changes."""
    if final.is_dir():
        raise UsageError(f"`{final}` is a folder", hint="name a file")
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = final.with_name(f".{final.name}.partial")
    try:
        with full_disk_named(final.parent):
            yield scratch
            _sync(scratch)
            scratch.rename(final)
            _sync(final.parent)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the directory for this process; a second process is refused at once. The lock dies with its holder."""
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
            raise BusyError(
                f"another process works on `{directory}`: {holder or 'unknown'}",
                hint="wait for it, stop it with Ctrl-C, or use another run directory",
            ) from None
        with full_disk_named(directory):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}".encode(), 0)
        yield
    finally:
        os.close(handle)


def is_held(directory: Path) -> bool:
    """Whether a process holds the directory (`exclusive`); nothing is kept by asking."""
    try:
        handle = os.open(directory / ".lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON object as a whole line; a kill loses at most this line, never the one after it.

    Raises:
        StorageFullError: the disk has no room for the line.
    """
    line = (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
    with full_disk_named(path.parent):
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line  # what a kill left torn must not swallow this line
            while line:
                line = line[os.write(handle, line) :]
        finally:
            os.close(handle)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read a JSON Lines log of ours; lines torn by a kill are passed over."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield value
