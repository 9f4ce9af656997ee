"""By what a stage knows its inputs: the digest of what stands there, so that it is done again when that is another.

A stage of the run says it in its manifest, a model of ours in its lineage. A model of others is known by the size and
time of each file that is read: hashing tens of gigabytes at every call would take minutes.
"""

from collections.abc import Iterable
from pathlib import Path

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError
from chatwright.model import directory
from chatwright.model.foreign import READ_SUFFIXES


def content_of(path: Path, run_dir: Path) -> str:
    """The digest of an input.

    Raises:
        RefusedError: it is a stage of the run that is not done yet.
    """
    if path.is_relative_to(run_dir):
        stage_dir = run_dir / path.relative_to(run_dir).parts[0]
        if not (stage_dir / storage.MANIFEST).is_file():
            raise RefusedError(
                f"`{stage_dir}` is not there yet", hint="run the stages before it: `chatwright run RECIPE`"
            )
        return storage.read_manifest(stage_dir).content
    if (path / directory.LINEAGE).is_file():
        return directory.digest_of(path)
    return _of_files(item for item in path.iterdir() if item.suffix in READ_SUFFIXES)


def former_content_of(path: Path, run_dir: Path) -> str:
    """The same as earlier versions knew it: a model from elsewhere by everything in its folder, read or not."""
    return content_of(path, run_dir) if path.is_relative_to(run_dir) else _of_files(path.iterdir())


def _of_files(paths: Iterable[Path]) -> str:
    found = [(path.name, path.stat()) for path in paths if path.exists()]
    return storage.digest_json(sorted((name, status.st_size, status.st_mtime_ns) for name, status in found))
