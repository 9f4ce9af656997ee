"""Saved states of a run: published directories, found again by what verifies, never by name or pointer alone.

`Checkpoints` writes, finds and forgets them; `saving.py` does the writing beside the training.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chatwright.foundation import storage
from chatwright.foundation.console import say
from chatwright.foundation.errors import RefusedError, StorageFailedError, StorageFullError
from chatwright.foundation.memory import bytes_of

_WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_AVERAGE = "average.safetensors"
_STATE = "state.json"


class Checkpoint(NamedTuple):
    """Everything that the next step depends on."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]  # step, counts, fingerprints: small and JSON
    score: float | None = None  # held-out loss measured at this very step; lower is better
    average: dict[str, Tensor] | None = None  # of the weights over the run's tail, once that has begun

    @property
    def num_bytes(self) -> int:
        """What its tensors take."""
        return bytes_of([*self.weights.values(), *self.optimizer.values(), *(self.average or {}).values()])


class Retention(NamedTuple):
    """Which checkpoints stay. What is none of these goes, once a newer one is safe."""

    newest: int = 2  # so many of the newest
    every: int = 0  # those of steps that this divides stay for good; 0: none does
    best: bool = False  # the one with the lowest held-out loss


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: where they are kept, `step-00000400` and the like.
        retention: which of them stay.
    """

    def __init__(self, directory: Path, *, retention: Retention | None = None):
        self._directory = directory
        self._retention = retention or Retention()
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def directory(self) -> Path:
        """Where they are kept."""
        return self._directory

    def save(self, step: int, checkpoint: Checkpoint) -> None:
        """Publish one checkpoint, then delete those that need not stay. On failure the older ones stay as they are.

        Raises:
            StorageFullError: no room; names the newest checkpoint that is kept.
            StorageFailedError, OSError: the disk failed; nothing was published.
        """
        final = self._directory / _name(step)
        try:
            self._clear_leftovers()
            storage.require_free_space(self._directory, checkpoint.num_bytes + (1 << 20))
            with storage.publish(final, {"step": step, "score": checkpoint.score}) as scratch:
                save_file(_plain(checkpoint.weights), scratch / _WEIGHTS)
                save_file(_plain(checkpoint.optimizer), scratch / _OPTIMIZER)
                if checkpoint.average:
                    save_file(_plain(checkpoint.average), scratch / _AVERAGE)
                storage.write_json(scratch / _STATE, checkpoint.state)
        except StorageFullError as error:
            raise StorageFullError(error.what, kept=self._kept(), hint=error.hint) from error
        except SafetensorError as error:  # whatever the disk answers but `no space`; it is no OSError
            raise StorageFailedError(
                f"the checkpoint of step {step} could not be written: {error}",
                kept=self._kept(),
                hint="look at the disk, and run the same command again: it goes on where it stopped",
            ) from error
        storage.verify(final)  # read back before anything older goes
        self._retire(saved=final.name)

    @property
    def count(self) -> int:
        """How many there are, sound or not."""
        return len(self._names())

    def refusal(self) -> RefusedError:
        """Where there are checkpoints and none is sound: a person decides whether they are given up."""
        return RefusedError(
            f"no checkpoint in `{self._directory}` is sound: {', '.join(self._names()) or 'none is seen from here'}",
            cause="each was changed, cut or cannot be read; the lines above say which file",
            kept="all of them, and the log of the run",
            hint=f"put a sound copy of one back to go on from it, or delete `{self._directory}` to begin anew",
        )

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies; damaged ones are named and passed over."""
        step = self.newest_step()
        return None if step is None else self._read(step)

    def newest_step(self) -> int | None:
        """The step of the newest checkpoint that verifies; damaged ones are named and passed over."""
        storage.recover(self._directory)
        return next((_step(name) for name in reversed(self._names()) if self._is_sound(name)), None)

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of a step.

        Raises:
            RefusedError: it is missing or damaged.
        """
        storage.verify(self._directory / _name(step))
        return self._read(step)

    def best_step(self) -> int | None:
        """The step of the sound checkpoint with the lowest held-out loss, the earlier one among equals."""
        scored = sorted((score, name) for name in self._names() if (score := self._score(name)) is not None)
        return next((_step(name) for _, name in scored if self._is_sound(name)), None)

    def _read(self, step: int) -> Checkpoint:
        directory = self._directory / _name(step)
        weights, optimizer = load_file(directory / _WEIGHTS), load_file(directory / _OPTIMIZER)
        manifest = storage.read_manifest(directory)
        average = load_file(directory / _AVERAGE) if _AVERAGE in manifest.files else None
        state = storage.read_json(directory / _STATE)
        return Checkpoint(weights, optimizer, state, manifest.facts.get("score"), average)

    def _kept(self) -> str:
        newest = self._names()[-1:] or ["none"]
        return f"the newest checkpoint is `{newest[0]}` in `{self._directory}`"

    def _is_sound(self, name: str) -> bool:
        try:
            storage.verify(self._directory / name)
        except RefusedError as error:
            say(f"  passed over: {error.what}")
            return False
        except OSError as error:  # the disk or the network behind it
            say(f"  passed over: `{self._directory / name}` cannot be read: {error.strerror or error}")
            return False
        return True

    def _score(self, name: str) -> float | None:
        try:
            score = storage.read_manifest(self._directory / name).facts.get("score")
        except RefusedError:
            return None  # damaged: told where checkpoints are looked for
        return score if isinstance(score, float) else None

    def _retire(self, *, saved: str) -> None:
        """Forget what need not stay. What seems newer than `saved` was passed over as damaged: it does not count."""
        names = self._names()
        sound = names[: names.index(saved) + 1]
        rule = self._retention
        stays = set(sound[-rule.newest :])
        if rule.every:
            stays |= {name for name in sound if _step(name) % rule.every == 0}
        if rule.best:
            scored = [(score, name) for name in sound if (score := self._score(name)) is not None]
            stays |= {name for _, name in sorted(scored)[:1]}
        for name in names:
            if name not in stays:
                aside = self._directory / f".{name}.gone"  # a kill must not leave half of one under its name
                (self._directory / name).rename(aside)
                self._discard([aside])

    def _clear_leftovers(self) -> None:
        storage.recover(self._directory)
        self._discard(self._directory.glob(".step-*"))

    def _discard(self, directories: Iterable[Path]) -> None:
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)

    def _names(self) -> list[str]:
        return sorted(path.name for path in self._directory.glob("step-*") if path.is_dir())


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
