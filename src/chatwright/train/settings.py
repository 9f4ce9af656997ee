"""What every stage that trains lets a recipe set: where it computes, and how often it logs, measures and saves."""

from pathlib import Path

from pydantic import Field

from chatwright.foundation.config import Config
from chatwright.foundation.devices import Placement, PrecisionName, settled_placement
from chatwright.train.loop import LoopConfig
from chatwright.train.ranks import Ranks


class TrainingConfig(Config):
    """Place and habits of a training; a stage adds what it learns from."""

    device: str = "auto"
    precision: PrecisionName = "auto"
    threads: int = Field(default=0, ge=0)  # 0: all usable cores
    recompute: bool = False  # activation checkpointing by block: less memory, a third more arithmetic, the same bits
    evaluate_every: int = Field(default=100, ge=1)  # steps
    heldout_tokens: int = Field(default=8192, ge=1)  # of each domain, for measurements within the stage
    checkpoint_every: int = Field(default=100, ge=1)  # steps
    keep_checkpoints: int = Field(default=2, ge=1)
    log_every: int = Field(default=10, ge=1)  # steps

    def settle(self, directory: Path, *, width: int) -> Placement:
        """The place for a network of this width, settled once for a run in `directory` and for all ranks."""
        with Ranks().first_ahead():  # one probe decides for all
            return settled_placement(
                directory, device=self.device, precision=self.precision, threads=self.threads, width=width
            )

    def loop(self, *, steps: int, seed: int, is_fitted: bool = False) -> LoopConfig:
        """The loop's habits over so many steps; `is_fitted` searches how much is computed at once."""
        return LoopConfig(
            steps=steps,
            checkpoint_every=self.checkpoint_every,
            keep_checkpoints=self.keep_checkpoints,
            evaluate_every=self.evaluate_every,
            log_every=self.log_every,
            recompute=self.recompute,
            is_fitted=is_fitted,
            seed=seed,
        )
