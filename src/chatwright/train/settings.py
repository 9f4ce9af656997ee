"""What every stage that trains lets a recipe set: where it computes, and how often it logs, measures and saves."""

from pathlib import Path

from pydantic import Field

from chatwright.foundation.config import Config
from chatwright.foundation.devices import Placement, PrecisionName, settled_placement
from chatwright.train.faults import FaultConfig
from chatwright.train.loop import LoopConfig
from chatwright.train.ranks import TIMEOUT_S, Ranks
from chatwright.train.reduction import ReductionName


class TrainingConfig(Config):
    """Place and habits of a training; a stage adds what it learns from."""

    device: str = "auto"
    precision: PrecisionName = "auto"
    threads: int = Field(default=0, ge=0)  # 0: all usable cores
    evaluate_every: int = Field(default=100, ge=1)  # steps
    heldout_tokens: int = Field(default=8192, ge=1)  # of each domain, for measurements within the stage
    checkpoint_every: int = Field(default=100, ge=1)  # steps
    keep_checkpoints: int = Field(default=2, ge=1)  # of the newest
    keep_every: int = Field(default=0, ge=0)  # checkpoints of steps that this divides stay for good; 0: none
    keep_best: bool = False  # the checkpoint with the lowest held-out loss stays, too
    save_in_background: bool = True  # training goes on while a copy of the state is written
    maximum_failed_saves: int = Field(default=3, ge=0)  # in a row
    log_every: int = Field(default=10, ge=1)  # steps
    faults: FaultConfig = FaultConfig()
    reduction: ReductionName = "fast"  # "exact": the same bits on any number of ranks
    collective_timeout_s: int = Field(default=TIMEOUT_S, ge=1)  # a rank that is silent so long is lost

    def settle(self, directory: Path, *, width: int) -> Placement:
        """The place for a network of this width, settled once for a run in `directory` and for all ranks."""
        with Ranks().first_ahead():  # one probe decides for all
            return settled_placement(
                directory, device=self.device, precision=self.precision, threads=self.threads, width=width
            )

    def loop(self, *, steps: int, seed: int) -> LoopConfig:
        """The loop's habits over so many steps."""
        habits = {name: getattr(self, name) for name in LoopConfig.model_fields if name not in ("steps", "seed")}
        return LoopConfig(steps=steps, seed=seed, **habits)
