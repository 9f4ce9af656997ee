"""Where files are: a folder of this machine or an object store behind fsspec, listed and opened the same way.

Credentials come from the environment of each store's own client, never from a recipe.
"""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, Protocol, cast

from chatwright.data.formats.stored import not_read, stored_file
from chatwright.data.sandbox import Unreadable
from chatwright.data.stretch import Stretch
from chatwright.foundation import storage
from chatwright.foundation.config import Config, path_of
from chatwright.foundation.errors import ChatwrightError, DataError
from chatwright.foundation.masking import masked

# Schemes that a recipe may name, the module each needs, and the extra that brings it.
_SCHEMES = {
    "https": ("aiohttp", "https"),
    "http": ("aiohttp", "https"),
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gs"),
    "hf": ("huggingface_hub", ""),
    "memory": ("fsspec", ""),
}


class Listed(NamedTuple):
    """One file: its path below the root, the same for showing and storing, and what tells whether it changed."""

    relative: str
    shown: str  # a file name may be no valid Unicode
    size: int
    version: str


class Place(Protocol):
    """A folder or a single file."""

    @property
    def name(self) -> str:
        """The last part of its address, for people."""
        ...

    def list(self, include: Sequence[str]) -> list[Listed]:
        """Files that patterns below the folder name, sorted; hidden ones are not meant."""
        ...

    def version(self, relative: str) -> str:
        """What tells whether a file changed, empty if it is gone."""
        ...

    def open(self, relative: str) -> IO[bytes]:
        """A file as a stream that can seek where the store allows it; an error of disk or network is a `DataError`."""
        ...

    def path(self, relative: str) -> Path | None:
        """The file's path if it is one of this machine."""
        ...


def problem_with(address: str) -> str | None:
    """Why an address cannot be meant, None for a folder, a file or a URL of a known scheme."""
    if not address:
        return "it must name a folder, a file or a URL"
    if masked(address) != address:
        return "it must carry no name, password or key, which would stand in documents and reports"
    if "::" in address:
        return "chained addresses are not taken; archives are opened without them"
    scheme = scheme_of(address)
    if scheme and scheme not in _SCHEMES:
        return f"the scheme `{scheme}://` is not one of: {', '.join(_SCHEMES)}"
    return None


def scheme_of(address: str) -> str:
    """The scheme of a URL, empty for a path."""
    return address.split("://", 1)[0].lower() if "://" in address else ""


def listing_fingerprint(config: Config, path: str, include: Sequence[str]) -> str:
    """A source's settings, and each file's path, size and time of change; of a URL the settings alone.

    Asking a store would need the network: a remote folder is read anew when its settings change.
    """
    settings = config.model_dump(mode="json")
    if scheme_of(path):
        return storage.digest_json(settings)
    listed = [[one.shown, one.version] for one in place_of(path).list(include)]
    return storage.digest_json([settings, listed])


def place_of(address: str, stretch: Stretch | None = None) -> Place:
    """The folder, file or store that a recipe names.

    Args:
        address: a path, or a URL.
        stretch: stops what takes many requests, and repeats those that fail.

    Raises:
        DataError: it is missing, or the client of its store is not installed.
    """
    scheme = scheme_of(address)
    if not scheme:
        return _Folder.at(address)
    module, extra = _SCHEMES[scheme]
    if importlib.util.find_spec(module) is None:
        raise DataError(
            f"`{address}` cannot be read: `{scheme}://` needs the package `{module}`",
            hint=f"install it with `pip install 'chatwright[{extra}]'` and run the same command again",
        )
    return _Store.at(address, stretch or Stretch())


@dataclass(frozen=True)
class _Folder:
    """A folder of this machine, or one file of it."""

    root: Path
    name: str
    single: str = ""

    @classmethod
    def at(cls, address: str) -> "_Folder":
        path = path_of(address)
        if not path.exists():
            raise DataError(
                f"there is no folder `{address}`",
                cause=f"it was looked for at `{path.absolute()}`",
                hint="correct `path` of the source; it is relative to the current directory",
            )
        root = path if path.is_dir() else path.parent
        return cls(root, root.absolute().name, "" if path.is_dir() else path.name)

    def list(self, include: Sequence[str]) -> list[Listed]:
        """Links to folders are not followed."""
        if self.single:
            names = {self.single}
        else:
            found = (path for pattern in include for path in self.root.glob(pattern))
            names = {path.relative_to(self.root).as_posix() for path in found if path.is_file()}
        visible = (name for name in names if not any(part.startswith(".") for part in PurePosixPath(name).parts))
        listed = []
        for name in visible:
            status = (self.root / name).stat()
            listed.append(Listed(name, _shown(name), status.st_size, f"{status.st_size}-{status.st_mtime_ns}"))
        return sorted(listed)

    def version(self, relative: str) -> str:
        """Size and time of change."""
        with contextlib.suppress(OSError):
            status = (self.root / relative).stat()
            return f"{status.st_size}-{status.st_mtime_ns}"
        return ""

    def open(self, relative: str) -> IO[bytes]:
        """The file."""
        try:
            return stored_file((self.root / relative).open("rb"), name=_shown(relative))
        except OSError as error:
            raise Unreadable("not_readable", error.strerror or "") from None

    def path(self, relative: str) -> Path | None:
        """The file's path."""
        return self.root / relative


@dataclass(frozen=True)
class _Store:
    """A folder of an object store, or one file of it."""

    system: Any
    root: str
    address: str
    name: str
    stretch: Stretch
    single: str = ""

    @classmethod
    def at(cls, address: str, stretch: Stretch) -> "_Store":
        import fsspec

        with failures_named(address):
            system, root = fsspec.core.url_to_fs(address)
        is_file = stretch.ask(lambda: system.isfile(root), within=lambda: failures_named(address))
        single = root.rsplit("/", 1)[-1] if is_file else ""
        folder = root.rsplit("/", 1)[0] if single else root.rstrip("/")
        name = PurePosixPath(address.split("?", maxsplit=1)[0]).name
        return cls(system, folder, address, name, stretch, single)

    def list(self, include: Sequence[str]) -> list[Listed]:
        """One request for each pattern, and one for each file where the store lists names alone, as web servers do."""
        if self.single:
            found = {self._full(self.single): self._info(self._full(self.single))}
        else:
            found = {}
            for pattern in include:
                found |= self._matching(pattern)
        listed = []
        for name, info in self.stretch.through(found.items(), total=len(found)):
            relative = name.removeprefix(self.root).lstrip("/")
            is_hidden = any(part.startswith(".") for part in PurePosixPath(relative).parts)
            if info.get("type") == "file" and relative and not is_hidden:
                known = info if info.get("size") is not None else self._info(name)
                listed.append(Listed(relative, _shown(relative), int(known.get("size") or 0), _version(known)))
        return sorted(listed)

    def version(self, relative: str) -> str:
        """The store's own mark of a version."""
        self.system.invalidate_cache()
        return _version(self._info(self._full(relative)))

    def open(self, relative: str) -> IO[bytes]:
        """The object, read by ranges."""
        with failures_named(self.address):
            file = self.system.open(self._full(relative), "rb")
        return stored_file(file, name=f"{self.address}: {_shown(relative)}", failures=Exception)  # see failures_named

    def path(self, relative: str) -> Path | None:  # noqa: ARG002
        """None: it is not on this machine."""
        return None

    def _full(self, relative: str) -> str:
        return f"{self.root}/{relative}" if self.root else relative

    def _info(self, full: str) -> dict[str, Any]:
        return cast("dict[str, Any]", self._ask(lambda: self.system.info(full)))

    def _matching(self, pattern: str) -> dict[str, Any]:
        paths = f"{self.root}/{pattern}"
        return cast("dict[str, Any]", self._ask(lambda: self.system.glob(paths, detail=True)))

    def _ask(self, call: Callable[[], Any]) -> Any:
        return self.stretch.ask(call, within=lambda: failures_named(self.address))


def _version(info: dict[str, Any]) -> str:
    mark = next(
        (info[key] for key in ("ETag", "etag", "blob_id", "LastModified", "mtime", "created") if info.get(key)), ""
    )
    return f"{info.get('size')}-{mark.timestamp() if isinstance(mark, datetime) else mark}"


@contextlib.contextmanager
def failures_named(address: str) -> Iterator[None]:
    """Turn what a store's client raises into one error with the address and the next step."""
    try:
        yield
    except (ChatwrightError, Unreadable):
        raise
    except Exception as error:  # noqa: BLE001 - the border to clients of stores, whose errors have no common class
        hint = "check the address, the network and the store's credentials, then run the same command again"
        raise not_read(f"`{address}` could not be read", error, hint=hint) from error


def _shown(name: str) -> str:
    return name.encode(errors="surrogateescape").decode(errors="replace")
