"""Saved states of a run: published directories, found again by what verifies, never by name or pointer alone."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from chatwright.foundation import storage
from chatwright.foundation.console import say
from chatwright.foundation.errors import RefusedError, StorageFullError

_WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"


class Checkpoint(NamedTuple):
    """Everything that the next step depends on."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]  # step, counts, fingerprints: small and JSON


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: where they are kept, `step-000400` and the like.
        keep: so many of the newest stay.
    """

    def __init__(self, directory: Path, *, keep: int = 2):
        self._directory = directory
        self._keep = keep
        directory.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, checkpoint: Checkpoint) -> None:
        """Publish one checkpoint, then delete those beyond `keep`. On a full disk the older ones stay as they are.

        Raises:
            StorageFullError: no room; names the newest checkpoint that is kept.
        """
        final = self._directory / f"step-{step:08d}"
        tensors = [*checkpoint.weights.values(), *checkpoint.optimizer.values()]
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        try:
            self._discard(self._directory.glob(".step-*"))  # left by a kill
            storage.require_free_space(self._directory, needed + (1 << 20))
            with storage.publish(final) as scratch:
                save_file(_plain(checkpoint.weights), scratch / _WEIGHTS)
                save_file(_plain(checkpoint.optimizer), scratch / _OPTIMIZER)
                storage.write_json(scratch / _STATE, checkpoint.state)
        except StorageFullError as error:
            newest = self._names()[-1:] or ["none"]
            raise StorageFullError(
                error.what, kept=f"the newest checkpoint is `{newest[0]}` in `{self._directory}`", hint=error.hint
            ) from error
        names = self._names()
        saved = names.index(final.name)
        # What seems newer than this one was passed over as damaged: it must not count among those that are kept.
        beyond = [*names[: max(0, saved + 1 - self._keep)], *names[saved + 1 :]]
        self._discard(self._directory / name for name in beyond)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies; damaged ones are named and passed over."""
        for name in reversed(self._names()):
            directory = self._directory / name
            try:
                storage.verify(directory)
            except RefusedError as error:
                say(f"  passed over: {error.what}")
                continue
            weights, optimizer = load_file(directory / _WEIGHTS), load_file(directory / _OPTIMIZER)
            return Checkpoint(weights, optimizer, storage.read_json(directory / _STATE))
        return None

    def _discard(self, directories: Iterable[Path]) -> None:
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)

    def _names(self) -> list[str]:
        return sorted(path.name for path in self._directory.glob("step-*") if path.is_dir())


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
