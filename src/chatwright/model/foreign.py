"""Where a model directory that nobody vouches for may lead: nowhere but to its own files."""

import stat
from pathlib import Path

from chatwright.foundation.errors import RefusedError

MAX_FILES = 10_000
READ_SUFFIXES = (".json", ".safetensors", ".jinja")  # of the files that opening a model reads


def require_own_files(directory: Path) -> None:
    """Refuse a directory with links out of it, devices or pipes among the files that are read.

    Raises:
        RefusedError: the first such file, by name.
    """
    for number, path in enumerate(sorted(directory.iterdir())):
        if number >= MAX_FILES:
            raise RefusedError(f"`{directory}` holds more than {MAX_FILES} files: that is no model directory")
        if path.suffix in READ_SUFFIXES:
            require_own_file(path)


def require_own_file(path: Path) -> None:
    """Refuse what is not a regular file of this directory; a file that is missing is not judged.

    The hub's own cache is let through: there, each file of `snapshots/REVISION` is a link into `blobs` beside it.

    Raises:
        RefusedError: a link that leads elsewhere, a device, a pipe or a directory.
    """
    try:
        kind = path.lstat().st_mode
    except OSError:
        return
    place = path.parent.resolve()
    if stat.S_ISLNK(kind):
        target = path.resolve()
        blobs = place.parent.parent / "blobs" if place.parent.name == "snapshots" else None
        if target.parent not in (place, blobs):
            raise RefusedError(
                f"`{path}` is a link that leads out of its directory",
                hint="copy the file itself there, if you trust where it comes from",
            )
        if not target.exists():
            raise RefusedError(f"`{path}` is a link to a file that is missing", hint="copy the model again")
        kind = target.stat().st_mode
    if not stat.S_ISREG(kind):
        raise RefusedError(f"`{path}` is not a regular file", hint="copy the model again")
