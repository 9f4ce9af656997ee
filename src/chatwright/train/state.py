"""All that the next step depends on, taken as one checkpoint and given back.

What a checkpoint holds is decided here alone; when it is saved is the loop's affair, how it is written saving.py's.
"""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from chatwright.foundation.memory import bytes_of
from chatwright.train.average import TailAverage
from chatwright.train.checkpoints import Checkpoint
from chatwright.train.faults import FaultGuard
from chatwright.train.fitted import FittedStepper
from chatwright.train.optimizers import Optimizer
from chatwright.train.patience import Patience
from chatwright.train.progress import Progress
from chatwright.train.resume import STATE_VERSION, Belonging, refuse_foreign
from chatwright.train.sharding import fill, in_main_memory, named_parts
from chatwright.train.step import Stepper

_COPIES = 4  # of the weights, at most: themselves, two moments, an average


class RunState(NamedTuple):
    """The parts of a training that a checkpoint keeps."""

    trained: nn.Module
    optimizer: Optimizer
    average: TailAverage
    stepper: Stepper
    fitted: FittedStepper
    guard: FaultGuard
    patience: Patience
    done: Progress
    belongs: Belonging
    circumstances: dict[str, Any]
    directory: Path

    @property
    def num_bytes(self) -> int:
        """What a checkpoint takes at most, whole."""
        return _COPIES * bytes_of(self.optimizer.parameters)

    def bytes_to_come(self, *, is_copied: bool) -> int:
        """What the run will hold beside a pass and does not hold yet: gradients, moments, the average, a copy to save.

        Args:
            is_copied: whether the copy that is saved lies in the memory that is meant.
        """
        weights, kept = bytes_of(self.optimizer.parameters), self.optimizer.full_bytes + self.average.full_bytes
        held = bytes_of([*self.optimizer.tensors().values(), *self.average.tensors().values()])
        return weights + max(0, kept - held) + (weights + kept if is_copied else 0)

    def snapshot(self, *, is_kept: bool) -> Checkpoint:
        """A copy in main memory where it is kept; shards are gathered by all ranks together."""
        held = (named_parts(self.trained), self.optimizer.tensors(), self.average.tensors())
        weights, optimizer, average = (in_main_memory(tensors, is_kept=is_kept) for tensors in held)
        return Checkpoint(weights, optimizer, self._numbers(), self.done.score, average)

    def restore(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Take everything from a checkpoint; returns its numbers.

        Raises:
            RefusedError: it belongs to another run.
        """
        state = checkpoint.state
        refuse_foreign(state, self.belongs, directory=self.directory)
        self.take_weights(checkpoint.weights)
        self.optimizer.load(checkpoint.optimizer)
        self.stepper.trust()
        self.stepper.load(state)
        self.fitted.positions = state.get("positions") or self.fitted.positions  # step 0 is saved before a search
        self.done.load(state)
        self.guard.load(state["guard"])
        self.patience.load(state["patience"])
        self.average.load(checkpoint.average or {}, state.get("average", {}))
        return state

    def take_weights(self, tensors: dict[str, Tensor]) -> None:
        """Give the trained parameters these values."""
        fill(self.trained, tensors.items())

    def _numbers(self) -> dict[str, Any]:
        """All of it that is no tensor; JSON."""
        return {
            "version": STATE_VERSION,
            **self.done.state(),
            **self.stepper.state(),
            "guard": self.guard.state(),
            "patience": self.patience.state(),
            "average": self.average.state(),
            "positions": self.fitted.positions,
            "circumstances": self.circumstances,
            **self.belongs.state(),
        }
